//! Discovery by Consul's catalog. Debian has no Consul, so the server is one in the test that speaks the protocol as its
//! documentation describes it ("Health HTTP Endpoint", "Blocking Queries"): no real Consul was used.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::etcd::{backends_outlive, config, names, urls};
use crate::support::backend::{Backend, read_request};
use crate::support::{ClosedPort, Lb, eventually, http_get};

/// An agent of Consul with one service.
struct FakeConsul {
    server: Backend,
    state: Arc<Catalog>,
}

#[derive(Default)]
struct Catalog {
    service: Mutex<CatalogState>,
    changed: Condvar,
}

#[derive(Default)]
struct CatalogState {
    index: u64,
    instances: Vec<Value>,
    /// The heads of the requests, in order.
    requests: Vec<String>,
    /// The token that it requires.
    token: Option<String>,
}

impl FakeConsul {
    fn start(instances: Vec<Value>) -> Self {
        let state = Arc::<Catalog>::default();
        *state.service.lock().unwrap() = CatalogState { index: 10, instances, ..CatalogState::default() };
        let catalog = Arc::clone(&state);
        Self { server: Backend::serving(move |stream| catalog.answer(stream)), state }
    }

    /// Changes the service; the index grows.
    fn set(&self, instances: Vec<Value>) {
        self.change(|state| {
            state.index += 1;
            state.instances = instances;
        });
    }

    fn change(&self, change: impl FnOnce(&mut CatalogState)) {
        change(&mut self.state.service.lock().unwrap());
        self.state.changed.notify_all();
    }

    /// The requests so far, each as its path and query.
    fn queries(&self) -> Vec<String> {
        let state = self.state.service.lock().unwrap();
        state.requests.iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
    }
}

impl Catalog {
    fn answer(&self, mut stream: TcpStream) {
        let Some(head) = read_request(&mut stream) else { return };
        let mut state = self.service.lock().unwrap();
        state.requests.push(head.clone());
        let parameter = |name: &str| {
            let query = head.split(' ').nth(1)?.split_once('?')?.1;
            query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        let token = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("x-consul-token: ").map(str::to_owned));
        if state.token.is_some() && state.token != token {
            let body = format!("rpc error: Permission denied: token {}", token.unwrap_or_default());
            let _ = stream.write_all(reply("403 Forbidden", 0, &body).as_bytes());
            return;
        }
        let index = parameter("index").map_or(0, |index| index.parse().unwrap());
        let wait = parameter("wait").map_or(0, |wait| wait.strip_suffix("ms").unwrap().parse().unwrap());
        let deadline = Instant::now() + Duration::from_millis(wait);
        // It blocks while its index is the given one; after it went backwards, until it is above that again.
        while index > 0 && state.index <= index && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
        let body = Value::from(state.instances.clone()).to_string();
        let answer = reply("200 OK", state.index, &body);
        drop(state);
        let _ = stream.write_all(answer.as_bytes());
    }
}

fn reply(status: &str, index: u64, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nX-Consul-Index: {index}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// An instance with a check in this status.
fn instance(id: &str, address: SocketAddr, status: &str, output: &str) -> Value {
    json!({
        "Node": {"Node": "node-1", "Address": address.ip().to_string()},
        "Service": {"ID": id, "Service": "web", "Address": "", "Port": address.port(), "Weights": {"Passing": 3, "Warning": 1}},
        "Checks": [
            {"Node": "node-1", "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing", "Output": "Agent alive"},
            {"Node": "node-1", "CheckID": format!("service:{id}"), "Name": "port", "Status": status, "Output": output},
        ],
    })
}

fn passing(id: &str, backend: &Backend) -> Value {
    instance(id, backend.address, "passing", "")
}

fn source(endpoints: &[SocketAddr], more: &str) -> String {
    format!("{{consul: {{service: web, endpoints: [{}]{more}}}}}", urls(endpoints))
}

#[test]
fn instances_are_backends_and_their_checks_count() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let consul = FakeConsul::start(vec![passing("web-1", &a), passing("web-2", &b)]);
    let lb = Lb::start(&config(&source(&[consul.server.address], "")));
    lb.when_up(names(&["web-1", "web-2"]));
    let critical = instance("web-2", b.address, "critical", "connection refused\n");
    consul.set(vec![passing("web-1", &a), critical]);
    lb.when_up(names(&["web-1"]));
    let (_, state, cause) = lb.backends().into_iter().find(|backend| backend.0 == "web-2").unwrap();
    assert_eq!(state, "down");
    assert!(cause.contains("the check \"port\" in Consul is critical: connection refused"), "{cause}");
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
    // With a warning it stays in use, with its other weight.
    consul.set(vec![passing("web-1", &a), instance("web-2", b.address, "warning", "slow")]);
    lb.when_up(names(&["web-1", "web-2"]));
    lb.when_logged("backend weight pool=p backend=web-2 weight=1");
    consul.set(vec![passing("web-2", &b)]);
    lb.when_up(names(&["web-2"]));
    let gone = lb.when_logged("backend gone");
    assert!(gone.contains("backend=web-1") && gone.contains("no longer in consul web at http://"), "{gone}");
    consul.set(vec![]);
    assert!(lb.when_logged("result=empty").contains("no instance of the service"));
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
}

#[test]
fn without_healthcheck_the_checks_of_consul_do_not_count() {
    let a = Backend::http("a");
    let consul = FakeConsul::start(vec![instance("web-1", a.address, "critical", "")]);
    // A name may also have an IPv6 address, at which there is no server.
    let source = source(&[consul.server.address], ", healthcheck: false").replace("127.0.0.1", "localhost");
    let lb = Lb::start(&config(&source));
    lb.when_up(names(&["web-1"]));
}

#[test]
fn queries_block_and_an_index_that_goes_backwards_starts_over() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let consul = FakeConsul::start(vec![passing("web-1", &a)]);
    let lb = Lb::start(&config(&source(
        &[consul.server.address],
        ", wait: 1s, tags: [v1, 'a&b'], datacenter: dc1",
    )));
    lb.when_up(names(&["web-1"]));
    let query = "/v1/health/service/web?tag=v1&tag=a%26b&dc=dc1";
    let blocking = format!("{query}&index=10&wait=1000ms");
    let three = || Some(consul.queries()).filter(|queries| queries.len() >= 3);
    let queries = eventually("two queries have blocked", three);
    assert_eq!(queries[..3], [query.to_owned(), blocking.clone(), blocking]);
    // As after the restore of a snapshot.
    let before = consul.queries().len();
    consul.change(|state| {
        state.index = 4;
        state.instances = vec![passing("web-2", &b)];
    });
    lb.when_up(names(&["web-2"]));
    let restarted = format!("{query}&index=4&wait=1000ms");
    let queries = eventually("it blocks again", || {
        Some(consul.queries()).filter(|queries| queries.contains(&restarted))
    });
    assert!(queries[before..].contains(&query.to_owned()), "{queries:?}");
    // With 0 a query would not block.
    consul.change(|state| state.index = 0);
    eventually("it blocks with another index", || {
        consul.queries().contains(&format!("{query}&index=1&wait=1000ms")).then_some(())
    });
}

#[test]
fn the_token_is_sent_and_is_in_no_message() {
    let a = Backend::http("a");
    let consul = FakeConsul::start(vec![passing("web-1", &a)]);
    consul.change(|state| state.token = Some("s3cret-token".to_owned()));
    let token = |folder: &Path, text: &str| {
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join("token")).unwrap();
    };
    let config = config(&source(&[consul.server.address], ", token_file: token"));
    let lb = Lb::start_in(&config, |folder| token(folder, "wrong-s3cret\n"));
    let line = lb.when_logged("resolve failed");
    assert!(
        line.contains("GET /v1/health/service/web at http://")
            && line
                .contains("status 403: rpc error: Permission denied: token ***; check the user or the token"),
        "{line}"
    );
    token(lb.folder(), "s3cret-token\n");
    lb.when_up(names(&["web-1"]));
    std::fs::remove_file(lb.folder().join("token")).unwrap();
    // The query that blocks has the token; the next one has none.
    consul.set(vec![passing("web-1", &a)]);
    let lines = lb.when_logged_times(2, &["resolve failed"]);
    assert!(lines[1].contains("the token file token cannot be read: No such file"), "{lines:?}");
    assert!(!lb.log().contains("s3cret"), "{}", lb.log());
    assert!(!lb.status().to_string().contains("s3cret"));
}

#[test]
fn backends_outlive_the_agent_and_another_endpoint_is_tried() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let mut consul = FakeConsul::start(vec![passing("web-1", &a)]);
    let closed = ClosedPort::new();
    let lb = Lb::start(&config(&source(&[closed.address, consul.server.address], "")));
    lb.when_up(names(&["web-1"]));
    backends_outlive(
        &lb,
        &mut consul,
        |consul| consul.server.kill(),
        |consul| {
            consul.set(vec![passing("web-1", &a), passing("web-2", &b)]);
            consul.server.revive();
        },
        &["web-1", "web-2"],
    );
}

#[test]
fn an_instance_that_can_be_no_backend_is_logged_once() {
    let a = Backend::http("a");
    let mut named = passing("web-2", &a);
    named["Service"]["Address"] = json!("web.example.com");
    let consul = FakeConsul::start(vec![passing("web-1", &a), named.clone()]);
    let lb = Lb::start(&config(&source(&[consul.server.address], "")));
    lb.when_up(names(&["web-1"]));
    let line = lb.when_logged("entry invalid");
    assert!(line.contains("entry=\"web-2 on node-1\"") && line.contains("is no IP address"), "{line}");
    let reads = || lb.metric("pointsman_resolutions_total{pool=\"p\",result=\"ok\"}");
    let before = reads();
    consul.set(vec![passing("web-1", &a), named]);
    eventually("it is read again", || (reads() > before).then_some(()));
    assert_eq!(lb.logged(&["entry invalid"]).len(), 1);
    consul.set(vec![passing("web-1", &a)]);
    lb.when_logged("entry no longer invalid");
}

#[test]
fn another_program_at_the_endpoint_is_recognized() {
    let other = Backend::http("no JSON");
    let lb = Lb::start(&config(&source(&[other.address], "")));
    let line = lb.when_logged("resolve failed");
    assert!(
        line.contains("the header x-consul-index is missing") && line.contains("check the endpoint"),
        "{line}"
    );
}
