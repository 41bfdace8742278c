//! Finding backends among containers: what an engine can do to its readers that a real one does only at times. A
//! stand-in of the test's own tells what it is told to tell; the real engine's tests are in `docker/labels.rs`.

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::support::engine::{EventStreams, head};
use crate::support::{Lb, PATIENCE, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An engine that tells of containers which do not exist.
#[derive(Clone)]
struct Engine {
    folder: Arc<TempDir>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The numbers of the containers that its list has.
    running: Vec<u8>,
    /// Those of them whose HEALTHCHECK fails.
    unhealthy: Vec<u8>,
    /// The label `pointsman.name` of each container, if set.
    label: Option<String>,
    /// What it was asked, in order.
    asked: Vec<String>,
    /// What has happened, and when, in nanoseconds since the epoch.
    events: Vec<(u64, String)>,
    /// The subscriptions to its events.
    subscribers: EventStreams,
    /// Connections without an answer.
    silent: Vec<UnixStream>,
    mood: Mood,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Well,
    /// It lets nobody listen to its events.
    Secretive,
    /// It takes connections and says nothing.
    Silent,
}

impl Engine {
    fn start(running: &[u8], mood: Mood) -> Self {
        let state = State { running: running.to_vec(), mood, ..State::default() };
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = head(&mut stream)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut state = self.state();
        state.asked.push(path.clone());
        let body = match state.mood {
            Mood::Silent => {
                state.silent.push(stream); // keeps it open
                return Ok(());
            }
            Mood::Secretive if path.contains("/events") => {
                // As one that takes its time: its list is there before.
                let before = readings(&state);
                drop(state);
                eventually("its list is asked for", || (readings(&self.state()) > before).then_some(()));
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
                let health = |n: &u8| if state.unhealthy.contains(n) { " (unhealthy)" } else { "" };
                state.running.iter().map(|n| container(*n, health(n), state.label.as_deref())).collect()
            }
            // Of the first one it never tells more, as of one that is stuck.
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

    /// What its list has from now on; nobody is told.
    fn list(&self, running: &[u8]) {
        self.state().running = running.to_vec();
    }

    /// Tells of an event, which happens now, by nanoseconds since the epoch.
    fn tell(&self, action: &str, n: u8) -> u64 {
        let now = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
        let attributes = json!({"name": name(n), "pool": "web"});
        let actor = json!({"ID": id(n), "Attributes": attributes});
        let event = json!({"Type": "container", "Action": action, "Actor": actor, "timeNano": now});
        let state = &mut *self.state();
        state.subscribers.send(&event);
        state.events.push((now, event.to_string()));
        now
    }

    /// Since when the last subscriber wanted events.
    fn since(&self) -> Option<u64> {
        self.state().asked.iter().rev().find_map(|path| since(path))
    }

    /// How often its list was asked for.
    fn readings(&self) -> usize {
        readings(&self.state())
    }

    /// Waits until its list has been asked for so many times more.
    fn when_read(&self, more: usize) {
        let before = self.readings();
        eventually("the list is read", || (self.readings() >= before + more).then_some(()));
    }
}

fn readings(state: &State) -> usize {
    state.asked.iter().filter(|path| path.contains("/containers/json")).count()
}

/// Since when a request wants events, in nanoseconds since the epoch.
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

/// A configuration that finds its backends with this engine.
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
fn start(running: &[u8], mood: Mood) -> (Lb, Engine) {
    let engine = Engine::start(running, mood);
    (lb(&engine.folder), engine)
}

fn names(all: &[u8]) -> Vec<String> {
    all.iter().map(|n| name(*n)).collect()
}

#[test]
fn events_are_subscribed_to_before_the_first_reading_and_those_of_the_last_seconds_are_wanted_too() {
    let (lb, engine) = start(&[1, 2], Mood::Well);
    lb.when_up(names(&[1, 2]));
    let asked = engine.state().asked.clone();
    let first = |what: &str| asked.iter().position(|path| path.contains(what)).unwrap();
    assert!(first("/events") < first("/containers/json"), "{asked:?}");
    let age = UNIX_EPOCH.elapsed().unwrap() - Duration::from_nanos(engine.since().unwrap());
    assert!((3..60).contains(&age.as_secs()), "{age:?}");
}

#[test]
fn a_label_forges_no_line_of_the_log_and_fills_no_metric() {
    let forged = "2026-01-01T00:00:00.000Z  INFO closed conn=1 reason=client_closed";
    let long = "x".repeat(300 * 1024);
    for label in [format!("web\n{forged}"), "\x1b[2J\u{9b}31m".into(), "\u{202e}1-bew".into(), long] {
        let engine = Engine::start(&[1, 2], Mood::Well);
        engine.state().label = Some(label.clone());
        let lb = lb(&engine.folder);
        lb.when_up(names(&[1, 2]));
        let told = lb.when_logged_times(2, &["container label ignored", "pointsman.name"]);
        assert!(told.iter().all(|line| line.len() < 1000), "{told:?}");
        engine.when_read(1);
        let log = lb.log();
        assert!(!log.lines().any(|line| line.starts_with(forged)), "{log}");
        assert!(!log.contains(|c: char| c != '\n' && pointsman::sanitize::is_unsafe(c)), "{log:?}");
        for path in ["/metrics", "/api/v1/status"] {
            let body = lb.get(path).1;
            assert!(!body.contains(&label) && body.len() < 100 * 1024, "{path}: {} bytes", body.len());
        }
    }
}

#[test]
fn an_end_is_believed_before_the_list_knows_of_it() {
    let (lb, engine) = start(&[1, 2], Mood::Well);
    lb.when_up(names(&[1, 2]));
    engine.tell("die", 1);
    lb.when_up(names(&[2]));
    // The list, which still has it, brings it back neither at the next reading nor at the one after that.
    for _ in 0..2 {
        engine.tell("pause", 2);
        engine.when_read(1);
    }
    lb.when_up(names(&[2]));
    assert_eq!(lb.logged(&["backend joining", "backend=web-1"]).len(), 1);
    engine.tell("start", 1);
    lb.when_up(names(&[1, 2]));
}

#[test]
fn one_that_was_restarted_is_another_one_however_fast_it_was() {
    let (lb, engine) = start(&[1, 2], Mood::Well);
    lb.when_up(names(&[1, 2]));
    engine.tell("die", 1);
    engine.tell("start", 1);
    let joined = |n: u8| lb.logged(&["backend joining", &format!("backend={} ", name(n))]).len();
    eventually("it joins again", || (joined(1) == 2).then_some(()));
    assert_eq!(lb.logged(&["backend gone", "backend=web-1 "]).len(), 1);
    lb.when_up(names(&[1, 2]));
    assert_eq!(joined(2), 1);
}

#[test]
fn a_start_that_is_heard_after_the_list_has_it_is_no_restart() {
    let (lb, engine) = start(&[1], Mood::Well);
    lb.when_up(names(&[1]));
    engine.when_read(1); // the one soon after the first
    // As when the list is asked for between the engine's noting of a start and its event's arrival.
    engine.list(&[1, 2]);
    engine.tell("rename", 1);
    lb.when_up(names(&[1, 2]));
    engine.tell("start", 2);
    engine.list(&[1, 2, 3]);
    engine.tell("start", 3);
    lb.when_up(names(&[1, 2, 3]));
    let gone = lb.logged(&["backend gone", "backend=web-2 "]);
    assert!(gone.is_empty(), "{gone:?}");
}

#[test]
fn why_one_is_unhealthy_is_asked_while_everything_else_goes_on() {
    let (lb, engine) = start(&[1, 2, 3], Mood::Well);
    lb.when_up(names(&[1, 2, 3]));
    engine.state().unhealthy = vec![1, 2];
    engine.tell("health_status: unhealthy", 1);
    let told = Instant::now();
    for n in [1, 2] {
        let down = lb.when_logged(&format!("backend down pool=p backend={}", name(n)));
        assert!(down.contains("its HEALTHCHECK fails"), "{down}");
    }
    engine.tell("die", 3);
    lb.when_logged("backend gone pool=p backend=web-3");
    assert!(told.elapsed() < Duration::from_secs(5), "as long as a request to the engine may take");
    let cause = |n: u8| Some(lb.backends().into_iter().find(|backend| backend.0 == name(n))?.2);
    eventually("the one that tells", || {
        (cause(2)? == "its HEALTHCHECK fails: the disk is full").then_some(())
    });
    assert_eq!(cause(1).unwrap(), "its HEALTHCHECK fails");
}

#[test]
fn another_port_is_served_before_the_old_one_is_left() {
    let engine = Engine::start(&[1], Mood::Well);
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
fn what_the_list_learns_after_the_event_is_seen_as_well() {
    let (lb, engine) = start(&[1], Mood::Well);
    lb.when_up(names(&[1]));
    engine.when_read(1); // the one soon after the first: from now on nothing is expected for half a minute
    engine.tell("rename", 1);
    engine.when_read(1);
    let told = Instant::now();
    engine.list(&[1, 2]);
    lb.when_up(names(&[1, 2]));
    // At its leisure it would have been half a minute.
    assert!(told.elapsed() < PATIENCE, "{:?}", told.elapsed());
}

#[test]
fn a_storm_of_events_is_no_storm_of_readings() {
    let (lb, engine) = start(&[1], Mood::Well);
    lb.when_up(names(&[1]));
    let before = engine.readings();
    for n in 2..=200 {
        engine.list(&(1..=n).collect::<Vec<_>>());
        engine.tell("start", n);
    }
    lb.when_up(names(&(1..=200).collect::<Vec<_>>()));
    assert!(engine.readings() - before < 50, "{} readings", engine.readings() - before);
}

#[test]
fn an_engine_that_comes_back_is_read_anew_and_who_stayed_is_undisturbed() {
    let (lb, engine) = start(&[1, 2], Mood::Well);
    lb.when_up(names(&[1, 2]));
    let told = engine.tell("rename", 1);
    engine.when_read(1);
    engine.list(&[2, 3]);
    engine.state().subscribers.close();
    lb.when_up(names(&[2, 3]));
    assert_eq!(engine.since(), Some(told + 1), "what was heard is not wanted again");
    engine.list(&[2]);
    eventually("its events are subscribed to", || (engine.state().subscribers.count() > 0).then_some(()));
    engine.tell("die", 3);
    lb.when_up(names(&[2]));
    assert_eq!(lb.logged(&["backend joining", "backend=web-2"]).len(), 1);
    assert!(lb.logged(&["resolve failed"]).is_empty(), "it was there all the time");
}

#[test]
fn an_engine_that_forbids_it_is_told_of_and_asked_less_and_less() {
    let (lb, engine) = start(&[1], Mood::Secretive);
    let told = lb.when_logged("resolve failed");
    assert!(told.contains("forbids it") && told.contains("/events"), "{told}");
    let asked = || engine.state().asked.iter().filter(|path| path.contains("/events")).count();
    let began = Instant::now();
    eventually("five times", || (asked() >= 5).then_some(()));
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
    engine.state().mood = Mood::Well;
    lb.when_up(names(&[1]));
    lb.when_logged("resolved again");
    assert!(lb.logged(&["resolve failed"]).len() <= asked());
}

#[test]
fn an_engine_that_is_not_there_or_says_nothing_is_told_of_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let told = lb(&folder).when_logged("resolve failed");
    assert!(told.contains("there is no such socket") && told.contains("-v /var/run/docker.sock"), "{told}");
    drop(UnixListener::bind(socket(&folder)).unwrap());
    let told = lb(&folder).when_logged("resolve failed");
    assert!(told.contains("connection refused; does the engine run?"), "{told}");
    let (silent, _engine) = start(&[1], Mood::Silent);
    let told = silent.when_logged("resolve failed");
    assert!(told.contains("did not answer within 5s"), "{told}");
    let told = Lb::start(&config("tcp://127.0.0.1:1")).when_logged("resolve failed");
    assert!(told.contains("tcp://127.0.0.1:1") && told.contains("does the engine run?"), "{told}");
}
