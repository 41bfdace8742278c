//! Discovery by a Docker engine: rare sequences and failures, with a fake engine. `docker/labels.rs` tests with a real one.

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::support::engine::{EventStreams, head};
use crate::support::{Lb, TIME_LIMIT, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A fake engine with a scripted list and events.
#[derive(Clone)]
struct ScriptedEngine {
    folder: Arc<TempDir>,
    state: Arc<Mutex<EngineScript>>,
}

#[derive(Default)]
struct EngineScript {
    /// The numbers of the containers in its list.
    running: Vec<u8>,
    /// The numbers of the containers whose HEALTHCHECK fails.
    unhealthy: Vec<u8>,
    /// The label `pointsman.name` of each container, if set.
    label: Option<String>,
    /// The requested paths, in order.
    requests: Vec<String>,
    /// Past events, with their times in nanoseconds since the epoch.
    events: Vec<(u64, String)>,
    /// The subscriptions to its events.
    subscribers: EventStreams,
    /// Open connections without a response.
    silent: Vec<UnixStream>,
    failure: FailureMode,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum FailureMode {
    #[default]
    None,
    /// It refuses subscriptions to its events.
    EventsRefused,
    /// It accepts connections and does not respond.
    Silent,
    /// It does not respond to a list before there is a subscription to its events.
    NoListBeforeEvents,
}

impl ScriptedEngine {
    fn start(running: &[u8], failure: FailureMode) -> Self {
        let state = EngineScript { running: running.to_vec(), failure, ..EngineScript::default() };
        let engine =
            Self { folder: Arc::new(tempfile::tempdir().unwrap()), state: Arc::new(Mutex::new(state)) };
        let (listener, theirs) = (UnixListener::bind(socket(&engine.folder)).unwrap(), engine.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let engine = theirs.clone();
                std::thread::spawn(move || engine.answer(stream));
            }
        });
        engine
    }

    fn state(&self) -> MutexGuard<'_, EngineScript> {
        self.state.lock().unwrap()
    }

    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        stream.set_write_timeout(Some(TIME_LIMIT))?;
        let head = head(&mut stream)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut state = self.state();
        state.requests.push(path.clone());
        let body = match state.failure {
            FailureMode::Silent => {
                state.silent.push(stream); // keeps it open
                return Ok(());
            }
            FailureMode::EventsRefused if path.contains("/events") => {
                // A slow refusal: the list comes first.
                let before = listings(&state);
                drop(state);
                eventually("its list is requested", || (listings(&self.state()) > before).then_some(()));
                return stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
            }
            _ if path.contains("/events") => {
                let (since, state) = (since(&path).unwrap_or_default(), &mut *state);
                let past = state.events.iter().filter(|(at, _)| *at >= since);
                let past: Vec<_> = past.map(|(_, event)| event.as_str()).collect();
                return state.subscribers.subscribe(stream, &past);
            }
            _ if path.contains("/version") => json!({"ApiVersion": "1.41", "Version": "20.10.24"}),
            _ if path.contains("/containers/json") => {
                if state.failure == FailureMode::NoListBeforeEvents {
                    drop(state);
                    eventually("a subscription", || self.since());
                    state = self.state();
                }
                let health = |n: &u8| if state.unhealthy.contains(n) { " (unhealthy)" } else { "" };
                state.running.iter().map(|n| container(*n, health(n), state.label.as_deref())).collect()
            }
            // Inspecting the first container hangs.
            _ if path.contains(&id(1)) => {
                state.silent.push(stream);
                return Ok(());
            }
            _ => json!({"State": {"Health": {"Log": [{"Output": "the disk is full\n"}]}}}),
        };
        drop(state);
        let body = body.to_string();
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(answer.as_bytes())
    }

    /// Changes the list, without an event.
    fn list(&self, running: &[u8]) {
        self.state().running = running.to_vec();
    }

    /// Sends an event; its time in nanoseconds since the epoch.
    fn send_event(&self, action: &str, n: u8) -> u64 {
        let now = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
        let attributes = json!({"name": name(n), "pool": "web"});
        let actor = json!({"ID": id(n), "Attributes": attributes});
        let event = json!({"Type": "container", "Action": action, "Actor": actor, "timeNano": now});
        let state = &mut *self.state();
        state.subscribers.send(&event);
        state.events.push((now, event.to_string()));
        now
    }

    /// The `since` of the last subscription.
    fn since(&self) -> Option<u64> {
        self.state().requests.iter().rev().find_map(|path| since(path))
    }

    /// The number of requests for its list.
    fn listings(&self) -> usize {
        listings(&self.state())
    }

    /// Waits for `more` more requests for its list.
    fn when_listed(&self, more: usize) {
        let before = self.listings();
        eventually("the list is requested", || (self.listings() >= before + more).then_some(()));
    }
}

fn listings(state: &EngineScript) -> usize {
    state.requests.iter().filter(|path| path.contains("/containers/json")).count()
}

/// The `since` of a request, in nanoseconds since the epoch.
fn since(path: &str) -> Option<u64> {
    let (_, since) = path.split_once("since=")?;
    let (seconds, nanos) = since.split('&').next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + nanos.parse::<u64>().ok()?)
}

fn id(n: u8) -> String {
    format!("{n:064x}")
}

fn name(n: u8) -> String {
    format!("web-{n}")
}

fn container(n: u8, health: &str, label: Option<&str>) -> Value {
    let mut container = json!({
        "Id": id(n), "Names": [format!("/{}", name(n))], "Labels": {"pool": "web"}, "State": "running",
        "Status": format!("Up 3 seconds{health}"), "Ports": [{"PrivatePort": 5000, "Type": "tcp"}],
        "NetworkSettings": {"Networks": {"n": {"IPAddress": format!("127.9.0.{n}"), "IPPrefixLen": 24}}}
    });
    if let Some(label) = label {
        container["Labels"]["pointsman.name"] = json!(label);
    }
    container
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("engine.sock")
}

/// A configuration with this engine.
fn config(engine: &str) -> String {
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools: {{p: {{discover: \
         [{{docker: {{label: pool=web, engine: \"{engine}\"}}}}]}}}}"
    )
}

fn lb(folder: &TempDir) -> Lb {
    Lb::start(&config(&format!("unix://{}", socket(folder).display())))
}

/// A balancer and its engine.
fn start(running: &[u8], failure: FailureMode) -> (Lb, ScriptedEngine) {
    let engine = ScriptedEngine::start(running, failure);
    (lb(&engine.folder), engine)
}

fn names(all: &[u8]) -> Vec<String> {
    all.iter().map(|n| name(*n)).collect()
}

#[test]
fn the_subscription_does_not_wait_for_the_first_list_and_includes_recent_events() {
    let (lb, engine) = start(&[1, 2], FailureMode::NoListBeforeEvents);
    lb.when_up(names(&[1, 2]));
    let age = UNIX_EPOCH.elapsed().unwrap() - Duration::from_nanos(engine.since().unwrap());
    assert!((3..60).contains(&age.as_secs()), "{age:?}");
}

#[test]
fn an_engine_without_containers_of_the_label_reports_an_empty_list() {
    let (lb, _engine) = start(&[], FailureMode::None);
    let results =
        |result: &str| lb.metric(&format!("pointsman_resolutions_total{{pool=\"p\",result=\"{result}\"}}"));
    eventually("the list is read", || (results("empty") > 0.0).then_some(()));
    assert_eq!(results("ok"), 0.0);
}

#[test]
fn a_label_cannot_forge_a_log_line_or_fill_a_metric() {
    let forged = "2026-01-01T00:00:00.000Z  INFO closed conn=1 reason=client_closed";
    let long = "x".repeat(300 * 1024);
    for label in [format!("web\n{forged}"), "\x1b[2J\u{9b}31m".into(), "\u{202e}1-bew".into(), long] {
        let engine = ScriptedEngine::start(&[1, 2], FailureMode::None);
        engine.state().label = Some(label.clone());
        let lb = lb(&engine.folder);
        lb.when_up(names(&[1, 2]));
        let lines = lb.when_logged_times(2, &["container label ignored", "pointsman.name"]);
        assert!(lines.iter().all(|line| line.len() < 1000), "{lines:?}");
        eventually("it is listed again", || (engine.listings() >= 2).then_some(()));
        let log = lb.log();
        assert!(!log.lines().any(|line| line.starts_with(forged)), "{log}");
        assert!(!log.contains(|c: char| c != '\n' && pointsman_core::sanitize::is_unsafe(c)), "{log:?}");
        for path in ["/metrics", "/api/v1/status"] {
            let body = lb.get(path).1;
            assert!(!body.contains(&label) && body.len() < 100 * 1024, "{path}: {} bytes", body.len());
        }
    }
}

#[test]
fn an_exit_counts_before_the_list_shows_it() {
    let (lb, engine) = start(&[1, 2], FailureMode::None);
    lb.when_up(names(&[1, 2]));
    engine.send_event("die", 1);
    lb.when_up(names(&[2]));
    // The list still has it, but the next listings do not bring it back.
    for _ in 0..2 {
        engine.send_event("pause", 2);
        engine.when_listed(1);
    }
    lb.when_up(names(&[2]));
    assert_eq!(lb.logged(&["backend joining", "backend=web-1"]).len(), 1);
    engine.send_event("start", 1);
    lb.when_up(names(&[1, 2]));
}

#[test]
fn a_restarted_container_is_another_backend_however_fast_it_was() {
    let (lb, engine) = start(&[1, 2], FailureMode::None);
    lb.when_up(names(&[1, 2]));
    engine.send_event("die", 1);
    engine.send_event("start", 1);
    let joined = |n: u8| lb.logged(&["backend joining", &format!("backend={} ", name(n))]).len();
    eventually("it joins again", || (joined(1) == 2).then_some(()));
    assert_eq!(lb.logged(&["backend gone", "backend=web-1 "]).len(), 1);
    lb.when_up(names(&[1, 2]));
    assert_eq!(joined(2), 1);
}

#[test]
fn a_start_event_after_the_container_is_listed_is_no_restart() {
    let (lb, engine) = start(&[1], FailureMode::None);
    lb.when_up(names(&[1]));
    eventually("the first repetition", || (engine.listings() >= 2).then_some(()));
    // The list is requested after a start, but before its event arrives.
    engine.list(&[1, 2]);
    engine.send_event("rename", 1);
    lb.when_up(names(&[1, 2]));
    engine.send_event("start", 2);
    engine.list(&[1, 2, 3]);
    engine.send_event("start", 3);
    lb.when_up(names(&[1, 2, 3]));
    let gone = lb.logged(&["backend gone", "backend=web-2 "]);
    assert!(gone.is_empty(), "{gone:?}");
}

#[test]
fn inspecting_an_unhealthy_container_delays_nothing_else() {
    let (lb, engine) = start(&[1, 2, 3], FailureMode::None);
    lb.when_up(names(&[1, 2, 3]));
    engine.state().unhealthy = vec![1, 2];
    engine.send_event("health_status: unhealthy", 1);
    let began = Instant::now();
    for n in [1, 2] {
        let down = lb.when_logged(&format!("backend down pool=p backend={}", name(n)));
        assert!(down.contains("its HEALTHCHECK fails"), "{down}");
    }
    engine.send_event("die", 3);
    lb.when_logged("backend gone pool=p backend=web-3");
    assert!(began.elapsed() < Duration::from_secs(5), "the timeout of a request to the engine");
    let cause = |n: u8| Some(lb.backends().into_iter().find(|backend| backend.0 == name(n))?.2);
    eventually("the reason is known", || {
        (cause(2)? == "its HEALTHCHECK fails: the disk is full").then_some(())
    });
    assert_eq!(cause(1).unwrap(), "its HEALTHCHECK fails");
}

#[test]
fn a_new_port_is_up_before_the_old_one_leaves() {
    let engine = ScriptedEngine::start(&[1], FailureMode::None);
    let [old, new] = [(); 2].map(|()| TcpListener::bind("127.9.0.1:0").unwrap());
    let config = |at: &TcpListener| {
        let port = at.local_addr().unwrap().port();
        config(&format!("unix://{}", socket(&engine.folder).display()))
            .replace("label: pool=web", &format!("label: pool=web, port: {port}"))
            .replace("}}]}}", "}}], health: {tcp: {}}}}")
    };
    let lb = Lb::start(&config(&old));
    lb.when_up(names(&[1]));
    lb.reload(&config(&new));
    let line = |what: &str, at: &TcpListener| {
        let words = [what, &format!("address={} ", at.local_addr().unwrap())];
        let log = lb.log();
        log.lines().position(|line| words.iter().all(|word| line.contains(word)))
    };
    let gone = eventually("the old one is gone", || line("backend gone", &old));
    let up = line("backend up", &new);
    assert!(up.is_some_and(|up| up < gone), "{}", lb.log());
}

#[test]
fn a_list_that_changes_after_its_event_is_read_again() {
    let (lb, engine) = start(&[1], FailureMode::None);
    lb.when_up(names(&[1]));
    eventually("the first repetition", || (engine.listings() >= 2).then_some(()));
    let before = engine.listings();
    engine.send_event("rename", 1);
    eventually("it is listed after the event", || (engine.listings() > before).then_some(()));
    let began = Instant::now();
    engine.list(&[1, 2]);
    lb.when_up(names(&[1, 2]));
    // The regular interval is half a minute.
    assert!(began.elapsed() < TIME_LIMIT, "{:?}", began.elapsed());
}

#[test]
fn many_events_cause_few_listings() {
    let (lb, engine) = start(&[1], FailureMode::None);
    lb.when_up(names(&[1]));
    let before = engine.listings();
    for n in 2..=200 {
        engine.list(&(1..=n).collect::<Vec<_>>());
        engine.send_event("start", n);
    }
    lb.when_up(names(&(1..=200).collect::<Vec<_>>()));
    assert!(engine.listings() - before < 50, "{} listings", engine.listings() - before);
}

#[test]
fn after_a_reconnect_the_list_is_read_and_remaining_backends_are_not_affected() {
    let (lb, engine) = start(&[1, 2], FailureMode::None);
    lb.when_up(names(&[1, 2]));
    let event_time = engine.send_event("rename", 1);
    engine.when_listed(1);
    engine.list(&[2, 3]);
    engine.state().subscribers.close();
    lb.when_up(names(&[2, 3]));
    assert_eq!(engine.since(), Some(event_time + 1), "no event twice");
    engine.list(&[2]);
    eventually("its events are subscribed to", || (engine.state().subscribers.count() > 0).then_some(()));
    engine.send_event("die", 3);
    lb.when_up(names(&[2]));
    assert_eq!(lb.logged(&["backend joining", "backend=web-2"]).len(), 1);
    assert!(lb.logged(&["resolve failed"]).is_empty(), "a short interruption is no failure");
}

#[test]
fn an_engine_that_refuses_events_is_reported_and_retried_with_back_off() {
    let (lb, engine) = start(&[1], FailureMode::EventsRefused);
    let line = lb.when_logged("resolve failed");
    assert!(line.contains("forbids it") && line.contains("/events"), "{line}");
    let subscriptions = || engine.state().requests.iter().filter(|path| path.contains("/events")).count();
    let began = Instant::now();
    eventually("five times", || (subscriptions() >= 5).then_some(()));
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
    engine.state().failure = FailureMode::None;
    lb.when_up(names(&[1]));
    lb.when_logged("resolved again");
    assert!(lb.logged(&["resolve failed"]).len() <= subscriptions());
}

#[test]
fn an_unreachable_engine_is_reported_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let line = lb(&folder).when_logged("resolve failed");
    assert!(line.contains("there is no such socket") && line.contains("-v /var/run/docker.sock"), "{line}");
    drop(UnixListener::bind(socket(&folder)).unwrap());
    let line = lb(&folder).when_logged("resolve failed");
    assert!(line.contains("connection refused; does the engine run?"), "{line}");
    let (silent, _engine) = start(&[1], FailureMode::Silent);
    let line = silent.when_logged("resolve failed");
    assert!(line.contains("did not answer within 5s"), "{line}");
    let line = Lb::start(&config("tcp://127.0.0.1:1")).when_logged("resolve failed");
    assert!(line.contains("tcp://127.0.0.1:1") && line.contains("does the engine run?"), "{line}");
}
