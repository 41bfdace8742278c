//! The event stream: each event arrives once, when it happens.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crate::support::backend::Backend;
use crate::support::{
    Lb, TIME_LIMIT, address_of_this_machine, connect_to, eventually, http_get, static_list,
};

const PATH: &str = "/api/v1/events";

/// A client of the stream.
struct Reader(BufReader<TcpStream>);

#[derive(Debug)]
struct ReceivedEvent {
    kind: String,
    id: Option<u64>,
    data: serde_json::Value,
}

impl Reader {
    fn open(lb: &Lb, seen: Option<u64>) -> Self {
        Self::open_at(lb.admin(), seen)
    }

    fn open_at(admin: SocketAddr, seen: Option<u64>) -> Self {
        let mut stream = connect_to(admin).unwrap();
        let seen = seen.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        // HTTP/1.0, so that the body comes without chunks.
        write!(stream, "GET {PATH} HTTP/1.0\r\nHost: localhost\r\n{seen}\r\n").unwrap();
        Self(BufReader::new(stream))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event; `None`: the stream has ended.
    fn next(&mut self) -> Option<ReceivedEvent> {
        let mut event = ReceivedEvent { kind: String::new(), id: None, data: serde_json::Value::Null };
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < TIME_LIMIT, "no event comes: {event:?}");
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("id", id)) => event.id = Some(id.parse().unwrap()),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if line.is_empty() && !event.kind.is_empty() => return Some(event),
                _ => {}
            }
        }
    }

    /// The next event of that kind.
    fn next_of(&mut self, kind: &str) -> ReceivedEvent {
        self.next_that(kind, |event| event.kind == kind)
    }

    /// The next event for which `is` is true.
    fn next_that(&mut self, what: &str, is: impl Fn(&ReceivedEvent) -> bool) -> ReceivedEvent {
        eventually(&format!("an event comes: {what}"), || {
            Some(self.next().expect("the stream goes on")).filter(|event| is(event))
        })
    }
}

fn started() -> (Lb, Backend) {
    let backend = Backend::http("a");
    let discover = static_list(&[backend.address]);
    let config = format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: {discover}}}}}"
    );
    (Lb::start(&config), backend)
}

fn set(lb: &Lb, backend: &Backend, state: &str) {
    let path = format!("/api/v1/pools/web/backends/{}", backend.address);
    let (status, body) = lb.request("PATCH", &path, &format!(r#"{{"state": "{state}"}}"#));
    assert_eq!(status, 200, "{body}");
}

#[test]
fn a_stream_has_the_status_the_decisions_and_each_change() {
    let (lb, backend) = started();
    let mut reader = Reader::open(&lb, None);
    let hello = reader.next_of("hello");
    assert_eq!(hello.data["version"], env!("CARGO_PKG_VERSION"));
    let status = reader.next_of("status");
    assert_eq!(status.data["pools"][0]["backends"][0]["state"], "up");
    http_get(lb.address("web"), "/").unwrap();
    let decisions = reader.next_of("decisions");
    assert_eq!(decisions.data["decisions"][0]["address"], backend.address.to_string());
    set(&lb, &backend, "draining");
    let events = [reader.next_of("event"), reader.next_of("event")];
    assert_eq!(events[0].data["kind"], "operator_change");
    assert_eq!(
        (&events[1].data["kind"], &events[1].data["to"]),
        (&"state_changed".into(), &"draining".into())
    );
    assert_eq!(
        (&events[1].data["reason"], &events[1].data["cause"]),
        (&"operator_draining".into(), &"drained by an operator at 127.0.0.1".into())
    );
    assert_eq!(events[1].id, events[1].data["id"].as_u64());
    let next = || Some(reader.next_of("status")).filter(|s| s.data["pools"][0]["up"] == 0);
    eventually("the status shows it", next);
}

#[test]
fn a_reconnect_resumes_after_the_last_event_without_repeating_it() {
    let (lb, backend) = started();
    set(&lb, &backend, "draining");
    let mut reader = Reader::open(&lb, Some(0));
    let draining = reader.next_that("it drains", |event| event.data["to"] == "draining").id.unwrap();
    drop(reader);
    set(&lb, &backend, "up");
    let mut reader = Reader::open(&lb, Some(draining));
    let missed = reader.next_of("event");
    assert_eq!((missed.id, &missed.data["tier"]), (Some(draining + 1), &"none".into()));
    let back = reader.next_that("it is up", |event| event.data["state"] == "up");
    assert_eq!(back.id, Some(draining + 2));
    // The id of another process, which had more events.
    let mut reader = Reader::open(&lb, Some(1_000_000));
    assert_eq!(reader.next_of("event").id, Some(1));
}

#[test]
fn a_followed_stream_does_not_delay_the_shutdown() {
    let (mut lb, _backend) = started();
    let mut reader = Reader::open(&lb, None);
    reader.next_of("status");
    lb.signal("TERM");
    eventually("the stream ends", || reader.next().is_none().then_some(()));
    assert_eq!(lb.when_ended().code(), Some(0));
    assert_eq!(lb.logged(&["INFO stopped"]).len(), 1);
}

#[test]
fn surplus_streams_are_refused_until_another_one_ends() {
    let (lb, _backend) = started();
    let mut readers: Vec<_> = (0..64).map(|_| Reader::open(&lb, None)).collect();
    readers.iter_mut().for_each(|reader| drop(reader.next_of("hello")));
    let (status, body) = lb.get(PATH);
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("too_many_streams"), "{body}");
    drop(readers);
    eventually("there is a place again", || {
        Reader::open(&lb, None).line().filter(|line| line.contains(" 200 ")).map(drop)
    });
}

#[test]
fn remote_streams_do_not_use_the_slots_of_local_ones() {
    let Some(outside) = address_of_this_machine() else { return };
    let backend = Backend::http("a");
    let lb = Lb::start(&format!(
        "admin: {{bind: 0.0.0.0:0}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: {}}}}}",
        static_list(&[backend.address])
    ));
    let remote = (outside, lb.admin().port()).into();
    let mut readers: Vec<_> = (0..64).map(|_| Reader::open_at(remote, None)).collect();
    readers.iter_mut().for_each(|reader| drop(reader.next_of("hello")));
    assert!(Reader::open_at(remote, None).line().unwrap().contains(" 503 "));
    let mut local = Reader::open_at(([127, 0, 0, 1], remote.port()).into(), None);
    local.next_of("status");
    assert_eq!(lb.get("/api/v1/logs").0, 200);
}

#[test]
fn a_line_of_the_log_has_the_same_number_in_every_reply() {
    let (lb, _backend) = started();
    for _ in 0..5 {
        http_get(lb.address("web"), "/").unwrap();
    }
    lb.when_logged_times(5, &["closed conn="]);
    let numbered = |query: &str| -> Vec<(u64, String)> {
        let reply = lb.get(&format!("/api/v1/logs{query}")).1;
        let field = |event: &str, name: &str| {
            event.lines().find_map(|line| line.strip_prefix(name).map(ToOwned::to_owned))
        };
        let events = reply
            .split("\n\n")
            .filter_map(|event| Some((field(event, "id: ")?.parse().unwrap(), field(event, "data: ")?)));
        events.collect()
    };
    let all = numbered("");
    assert_eq!(
        all.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        Vec::from_iter(1..=all.len() as u64)
    );
    let last = numbered("?lines=3");
    assert_eq!(last.len(), 3);
    for line in last {
        assert!(all.contains(&line), "{line:?} is not in {all:#?}");
    }
}

#[test]
fn with_a_state_directory_a_stream_continues_after_a_crash() {
    let (state, backend) = (tempfile::tempdir().unwrap(), Backend::http("a"));
    let config = format!(
        "runtime: {{state: {}}}
listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools: {{p: {{discover: [{{static: [{}]}}]}}}}",
        state.path().display(),
        backend.address
    );
    let lb = Lb::start(&config);
    let mut reader = Reader::open(&lb, Some(0));
    let hello = reader.next().unwrap();
    let mut last = 0;
    while last < hello.data["latest"].as_u64().unwrap() {
        last = reader.next_of("event").id.unwrap();
    }
    drop(lb);
    let lb = Lb::start(&config);
    let mut reader = Reader::open(&lb, Some(last));
    let again = reader.next().unwrap();
    assert_eq!((&*hello.kind, &*again.kind), ("hello", "hello"));
    assert_ne!(hello.data["started"], again.data["started"], "the page learns of the restart");
    loop {
        let event = reader.next_of("event");
        last += 1;
        assert_eq!(event.id, Some(last));
        if event.data["kind"] == "started" {
            break;
        }
    }
}
