//! A fake Docker engine. Its containers do not exist, and it fails on demand. It implements a part of the Engine API,
//! version 1.41.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{TIME_LIMIT, eventually};

/// A running fake engine; its socket is in its own temporary folder.
#[derive(Clone)]
pub struct FakeEngine {
    folder: Arc<TempDir>,
    state: Arc<Mutex<FakeEngineState>>,
}

#[derive(Default)]
pub struct FakeEngineState {
    /// By id, in the order of creation.
    pub containers: BTreeMap<String, FakeContainer>,
    /// The bodies of the requests that created containers.
    pub created: Vec<Value>,
    /// The number of starts that succeed before all fail; `None`: all succeed.
    pub starts_left: Option<usize>,
    /// The number of lists in which ended containers still run.
    pub lag: u32,
    /// Starts succeed, but report an error.
    pub unsure: bool,
    /// The number of removals that fail.
    pub removals_fail: u32,
    /// While true, starts do not finish.
    pub busy: bool,
    /// Missing images.
    pub missing: Vec<String>,
    /// The open subscriptions to its events.
    pub events: EventStreams,
    next: u16,
}

#[derive(Clone, Debug)]
pub struct FakeContainer {
    pub name: String,
    /// `created`, `running`, `restarting` or `exited`.
    pub state: &'static str,
    pub labels: Value,
    pub address: String,
    pub exit_code: u8,
}

type Response = (u16, Value);

impl FakeEngine {
    pub fn start() -> Self {
        let engine = Self { folder: Arc::new(tempfile::tempdir().unwrap()), state: Arc::default() };
        engine.listen();
        engine
    }

    /// A fake engine that does not listen yet.
    pub fn unreachable() -> Self {
        Self { folder: Arc::new(tempfile::tempdir().unwrap()), state: Arc::default() }
    }

    pub fn listen(&self) {
        let (listener, engine) = (UnixListener::bind(self.socket()).unwrap(), self.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let engine = engine.clone();
                std::thread::spawn(move || engine.serve(stream));
            }
        });
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Its address for a configuration.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn state(&self) -> MutexGuard<'_, FakeEngineState> {
        self.state.lock().unwrap()
    }

    /// The names of the containers in that state, sorted.
    pub fn names(&self, state: &str) -> Vec<String> {
        let all = self.state();
        let mut names: Vec<_> =
            all.containers.values().filter(|one| one.state == state).map(|one| one.name.clone()).collect();
        names.sort();
        names
    }

    /// The number of containers in any state.
    pub fn count(&self) -> usize {
        self.state().containers.len()
    }

    /// The address of a running replica, by its name.
    pub fn address_of(&self, replica: &str) -> String {
        let state = self.state();
        let mut found = state.containers.values().filter(|one| one.state == "running");
        let one = found.find(|one| one.labels["pointsman.name"] == replica || one.name == replica);
        one.map(|one| one.address.clone()).unwrap_or_default()
    }

    /// Starts a container that is no replica.
    pub fn run(&self, name: &str, labels: Value) {
        let id = self.state().create(name, labels);
        self.set(&id, "running", "start");
    }

    /// Kills a replica.
    pub fn kill(&self, replica: &str) {
        self.set(&self.find(replica, "running"), "exited", "die");
    }

    /// Kills a container that the engine restarts by its restart policy, with [`restart`](Self::restart).
    pub fn crash(&self, replica: &str) {
        self.set(&self.find(replica, "running"), "restarting", "die");
    }

    /// Starts a container in that state again.
    pub fn restart(&self, replica: &str, from: &str) {
        self.set(&self.find(replica, from), "running", "start");
    }

    /// The container of a replica.
    fn find(&self, replica: &str, state: &str) -> String {
        let all = self.state();
        let mut found = all.containers.iter().filter(|(_, one)| one.state == state);
        let is = |one: &FakeContainer| one.labels["pointsman.name"] == replica || one.name == replica;
        found.find(|(_, one)| is(one)).map(|(id, _)| id.clone()).unwrap()
    }

    /// Sends at least `bytes` bytes of events about a container that is no replica.
    pub fn send_other_events(&self, bytes: usize) {
        const PADDING: usize = 16 << 10;
        let attributes = json!({"name": "other", "padding": "x".repeat(PADDING)});
        let actor = json!({"ID": format!("{:064x}", 0xffff), "Attributes": attributes});
        let event = json!({"Type": "container", "Action": "rename", "Actor": actor, "timeNano": 1});
        for _ in 0..bytes.div_ceil(PADDING) {
            self.state().events.send(&event);
        }
    }

    fn set(&self, id: &str, to: &'static str, action: &str) {
        let mut state = self.state();
        if let Some(container) = state.containers.get_mut(id) {
            container.state = to;
        }
        state.send_event(action, id);
    }

    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        stream.set_write_timeout(Some(TIME_LIMIT))?;
        let head = head(&mut stream)?;
        let length = head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body)?;
        let first = head.lines().next().unwrap_or_default().to_owned();
        let (method, path) = first.split_once(' ').unwrap_or_default();
        let path = path.split(' ').next().unwrap_or_default();
        if path.contains("/events") {
            return self.state().events.subscribe(stream, &[]);
        }
        let (status, body) = self.answer(method, path, &serde_json::from_slice(&body).unwrap_or_default());
        let body = if status == 204 { String::new() } else { body.to_string() };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} So\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes())
    }

    fn answer(&self, method: &str, path: &str, body: &Value) -> Response {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut parts = path.split('/').skip_while(|part| !["version", "containers"].contains(part)).skip(1);
        let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let name = query.split('&').find_map(|pair| pair.strip_prefix("name="));
        match (method, first, second) {
            ("GET", "", _) => (200, json!({"ApiVersion": "1.41", "Version": "20.10.24"})),
            ("GET", "json", _) => self.list(query.contains("all=true")),
            ("POST", "create", _) => self.create(name.unwrap_or_default(), body),
            ("POST", id, "start") => self.start_one(id),
            ("POST", id, "stop") => {
                self.set(id, "exited", "die");
                (204, Value::Null)
            }
            ("POST", id, "rename") => {
                let (mut state, name) = (self.state(), name.unwrap_or_default().to_owned());
                state.containers.entry(id.to_owned()).and_modify(|one| one.name = name);
                state.send_event("rename", id);
                (204, Value::Null)
            }
            ("GET", id, "json") => match self.state().containers.get(id) {
                Some(one) => (200, inspected(one)),
                None => (404, json!({"message": "No such container"})),
            },
            ("DELETE", id, _) => {
                let mut state = self.state();
                if state.removals_fail > 0 {
                    state.removals_fail -= 1;
                    return (500, json!({"message": "not now"}));
                }
                state.send_event("destroy", id);
                match state.containers.remove(id) {
                    Some(_) => (204, Value::Null),
                    None => (404, json!({"message": "No such container"})),
                }
            }
            _ => (500, json!({"message": format!("an unexpected request: {method} {path}")})),
        }
    }

    fn list(&self, all: bool) -> Response {
        let mut state = self.state();
        let lagging = state.lag > 0 && state.containers.values().any(|one| one.state == "exited");
        state.lag -= u32::from(lagging);
        let shown =
            |one: &FakeContainer| if lagging && one.state == "exited" { "running" } else { one.state };
        let there = state.containers.iter().filter(|(_, one)| all || shown(one) == "running");
        let summary = |(id, one): (&String, &FakeContainer)| {
            let network = json!({"IPAddress": one.address, "IPPrefixLen": 24});
            json!({
                "Id": id, "Names": [format!("/{}", one.name)], "Labels": one.labels, "State": shown(one),
                "Status": "Up 3 seconds", "Created": u64::from_str_radix(&id[..4], 16).unwrap(), "Ports": [],
                "NetworkSettings": {"Networks": if one.state == "running" { json!({"n": network}) } else { json!({}) }}
            })
        };
        (200, there.map(summary).collect())
    }

    fn create(&self, name: &str, body: &Value) -> Response {
        let mut state = self.state();
        let image = body["Image"].as_str().unwrap_or_default();
        if state.missing.iter().any(|missing| missing == image) {
            return (404, json!({"message": format!("No such image: {image}")}));
        }
        if state.containers.values().any(|one| one.name == name) {
            return (
                409,
                json!({"message": format!("Conflict. The container name {name} is already in use")}),
            );
        }
        state.created.push(body.clone());
        let id = state.create(name, body["Labels"].clone());
        (201, json!({"Id": id, "Warnings": []}))
    }

    fn start_one(&self, id: &str) -> Response {
        if let Some(left) = &mut self.state().starts_left {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return (500, json!({"message": "the disk is full"})),
            }
        }
        eventually("the engine is no longer busy", || (!self.state().busy).then_some(()));
        self.set(id, "running", "start");
        match self.state().unsure {
            true => (500, json!({"message": "not sure"})),
            false => (204, Value::Null),
        }
    }
}

impl FakeEngineState {
    fn create(&mut self, name: &str, labels: Value) -> String {
        self.next += 1;
        let id = format!("{:04x}{:060x}", self.next, self.next);
        let container = FakeContainer {
            name: name.to_owned(),
            state: "created",
            labels,
            address: format!("127.9.{}.{}", self.next >> 8, self.next & 255),
            exit_code: 3,
        };
        self.containers.insert(id.clone(), container);
        id
    }

    fn send_event(&mut self, action: &str, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        let mut attributes = container.labels.as_object().cloned().unwrap_or_default();
        attributes.insert("name".to_owned(), container.name.clone().into());
        let actor = json!({"ID": id, "Attributes": attributes});
        let event = json!({"Type": "container", "Action": action, "Actor": actor, "timeNano": 1});
        self.events.send(&event);
    }
}

/// The subscriptions to an engine's events. Each has a queue and a writing thread, so that a subscriber that does not
/// read blocks neither the engine nor the other subscribers.
#[derive(Default)]
pub struct EventStreams {
    open: Vec<EventStream>,
}

struct EventStream {
    queue: Sender<Arc<[u8]>>,
    /// Bytes in the queue, and of the line that is being written.
    unwritten: Arc<AtomicUsize>,
}

impl EventStreams {
    /// Answers a request for events: those of `past` now, and all later ones.
    pub fn subscribe(&mut self, stream: UnixStream, past: &[&str]) -> io::Result<()> {
        // No write timeout: the test judges how long a subscriber takes to read.
        stream.set_write_timeout(None)?;
        let (queue, queued) = channel();
        let unwritten = Arc::<AtomicUsize>::default();
        let subscriber = EventStream { queue, unwritten: Arc::clone(&unwritten) };
        subscriber.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..].into());
        for event in past {
            subscriber.send(format!("{event}\n").into_bytes().into());
        }
        std::thread::spawn(move || write_queued(stream, queued, &unwritten));
        self.open.push(subscriber);
        Ok(())
    }

    /// Sends an event to all subscribers. Never waits.
    pub fn send(&mut self, event: &Value) {
        let line: Arc<[u8]> = format!("{event}\n").into_bytes().into();
        self.open.retain(|stream| stream.send(Arc::clone(&line)));
    }

    /// The number of subscribers whose connection is open; a closed one is noticed at a write.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The bytes still to be written to open subscriptions.
    pub fn unwritten(&self) -> usize {
        self.open.iter().map(|stream| stream.unwritten.load(Ordering::SeqCst)).sum()
    }

    /// Ends all subscriptions after their queued lines are written.
    pub fn close(&mut self) {
        self.open.clear();
    }
}

impl EventStream {
    /// Whether the subscription is still open.
    fn send(&self, line: Arc<[u8]>) -> bool {
        self.unwritten.fetch_add(line.len(), Ordering::SeqCst);
        self.queue.send(line).is_ok()
    }
}

/// Writes the queue until the subscriber closes its connection, or the queue ends.
fn write_queued(mut stream: UnixStream, queued: Receiver<Arc<[u8]>>, unwritten: &AtomicUsize) {
    for line in &queued {
        if stream.write_all(&line).is_err() {
            break;
        }
        unwritten.fetch_sub(line.len(), Ordering::SeqCst);
    }
    // Later lines are dropped and not counted.
    drop(queued);
    unwritten.store(0, Ordering::SeqCst);
    let _ = stream.shutdown(Shutdown::Both);
}

fn inspected(one: &FakeContainer) -> Value {
    let network = json!({"IPAddress": one.address, "IPPrefixLen": 24});
    json!({
        "Name": format!("/{}", one.name), "State": {"ExitCode": one.exit_code, "OOMKilled": false},
        "NetworkSettings": {"Networks": {"n": network}}
    })
}

/// Reads the head of a request, and nothing else.
pub fn head(stream: &mut UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? > 0 {
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
