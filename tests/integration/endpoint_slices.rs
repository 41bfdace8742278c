//! Discovery by the EndpointSlices of Kubernetes. There is no cluster here, so the API server is one in the test that speaks
//! the protocol as the documentation describes it ("Kubernetes API Concepts"): no real one was used.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::etcd::{backends_outlive, config, names, urls};
use crate::support::backend::{Backend, read_request};
use crate::support::{ClosedPort, Lb, eventually, http_get, skip};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb";

/// An API server with the slices of one Service.
struct FakeApiServer {
    server: Backend,
    state: Arc<ApiStore>,
}

#[derive(Default)]
struct ApiStore {
    state: Mutex<ApiState>,
    changed: Condvar,
}

#[derive(Default)]
struct ApiState {
    /// The version after the last change.
    version: u64,
    slices: BTreeMap<String, Value>,
    /// The changes, each with its version; a watch can begin at any version that is not below `oldest`.
    history: Vec<(u64, Value)>,
    oldest: u64,
    /// The paths and queries of the requests, in order.
    requests: Vec<String>,
    /// The token that it requires.
    token: Option<String>,
    /// Whether watches are silent for good.
    silent: bool,
    /// What it does with a watch instead of answering it.
    watch_status: Option<(&'static str, &'static str)>,
}

impl FakeApiServer {
    fn start(slices: &[Value]) -> Self {
        let state = Arc::<ApiStore>::default();
        let store = Arc::clone(&state);
        let api = Self { server: Backend::serving(move |stream| store.answer(stream)), state };
        api.change(|state| state.version = 100);
        slices.iter().for_each(|slice| api.put(slice));
        api
    }

    /// Adds or replaces a slice.
    fn put(&self, slice: &Value) {
        self.change(|state| {
            let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
            let kind = if state.slices.contains_key(&name) { "MODIFIED" } else { "ADDED" };
            let slice = state.record(kind, slice);
            state.slices.insert(name, slice);
        });
    }

    fn delete(&self, name: &str) {
        self.change(|state| {
            let slice = state.slices.remove(name).unwrap();
            state.record("DELETED", &slice);
        });
    }

    fn change(&self, change: impl FnOnce(&mut ApiState)) {
        change(&mut self.state.state.lock().unwrap());
        self.state.changed.notify_all();
    }

    fn requests(&self) -> Vec<String> {
        self.state.state.lock().unwrap().requests.clone()
    }

    fn source(&self, more: &str) -> String {
        source(&[self.server.address], more)
    }
}

impl ApiState {
    /// Adds a change to the history; returns the slice with its version.
    fn record(&mut self, kind: &str, slice: &Value) -> Value {
        self.version += 1;
        let mut slice = slice.clone();
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push((self.version, json!({"type": kind, "object": slice})));
        slice
    }
}

impl ApiStore {
    fn answer(&self, mut stream: TcpStream) {
        let Some(head) = read_request(&mut stream) else { return };
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let mut state = self.state.lock().unwrap();
        state.requests.push(path.clone());
        let token = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("authorization: bearer ").map(str::to_owned)
        });
        let watches = path.contains("&watch=true");
        let answer = match state.watch_status {
            _ if state.token.is_some() && state.token != token => {
                let message = format!("Unauthorized: {}", token.unwrap_or_default());
                refusal("401 Unauthorized", &message)
            }
            Some((status, message)) if watches => refusal(status, message),
            _ if watches => {
                drop(state);
                let _ = self.watch(&mut stream, &path);
                return;
            }
            _ => {
                let items: Vec<_> = state.slices.values().collect();
                let version = state.version.to_string();
                let list = json!({"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
                    "metadata": {"resourceVersion": version}, "items": items});
                reply("200 OK", &list.to_string())
            }
        };
        drop(state);
        let _ = stream.write_all(answer.as_bytes());
    }

    fn watch(&self, stream: &mut TcpStream, path: &str) -> std::io::Result<()> {
        let parameter = |name: &str| -> u64 {
            let value = path.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            value.unwrap().parse().unwrap()
        };
        let mut seen = parameter("resourceVersion");
        let deadline = Instant::now() + Duration::from_secs(parameter("timeoutSeconds"));
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        let mut state = self.state.lock().unwrap();
        while state.silent || Instant::now() < deadline {
            let expired = seen < state.oldest;
            let mut events = String::new();
            if expired {
                let status = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410,
                    "message": format!("too old resource version: {seen} ({})", state.oldest)});
                writeln!(events, "{}", json!({"type": "ERROR", "object": status})).unwrap();
            } else if !state.silent {
                for (version, event) in &state.history {
                    if *version > seen {
                        writeln!(events, "{event}").unwrap();
                        seen = *version;
                    }
                }
            }
            if !events.is_empty() {
                drop(state);
                chunk(stream, &events)?;
                state = self.state.lock().unwrap();
            }
            if expired {
                break;
            }
            state = if state.silent {
                self.changed.wait(state).unwrap()
            } else {
                let left = deadline.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, left).unwrap().0
            };
        }
        // Other objects have changed meanwhile: the version is a later one.
        state.version += 10;
        let object =
            json!({"kind": "EndpointSlice", "metadata": {"resourceVersion": state.version.to_string()}});
        drop(state);
        chunk(stream, &format!("{}\n", json!({"type": "BOOKMARK", "object": object})))?;
        stream.write_all(b"0\r\n\r\n")
    }
}

fn chunk(stream: &mut TcpStream, data: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes())
}

fn reply(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn refusal(status: &str, message: &str) -> String {
    let code: u16 = status.split(' ').next().unwrap().parse().unwrap();
    reply(
        status,
        &json!({"kind": "Status", "status": "Failure", "message": message, "code": code}).to_string(),
    )
}

/// A slice with one Pod. Here Pods differ in their ports, so each has a slice of its own.
fn slice(pod: &str, address: SocketAddr, [ready, serving, terminating]: [bool; 3]) -> Value {
    json!({
        "metadata": {"name": format!("web-{pod}"), "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": address.port()}],
        "endpoints": [{
            "addresses": [address.ip()],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "nodeName": "node-1",
            "zone": "zone-a",
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod},
        }],
    })
}

fn ready(pod: &str, backend: &Backend) -> Value {
    slice(pod, backend.address, [true, true, false])
}

fn source(endpoints: &[SocketAddr], more: &str) -> String {
    format!("{{kubernetes: {{service: web, namespace: shop, endpoints: [{}]{more}}}}}", urls(endpoints))
}

#[test]
fn pods_are_backends_and_changes_take_effect_at_once() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let api = FakeApiServer::start(&[ready("a", &a)]);
    // The watch lasts for ten minutes: these changes come by it.
    let lb = Lb::start(&config(&api.source(", wait: 10m, port: http")));
    lb.when_up(names(&["a"]));
    api.put(&ready("b", &b));
    lb.when_up(names(&["a", "b"]));
    api.put(&slice("b", b.address, [false, false, false]));
    lb.when_up(names(&["a"]));
    let (_, state, cause) = lb.backends().into_iter().find(|backend| backend.0 == "b").unwrap();
    assert_eq!(state, "down");
    assert!(cause.contains("Kubernetes reports that the Pod is not ready"), "{cause}");
    api.put(&ready("b", &b));
    lb.when_up(names(&["a", "b"]));
    api.delete("web-a");
    lb.when_up(names(&["b"]));
    let gone = lb.when_logged("backend gone");
    assert!(
        gone.contains("backend=a")
            && gone.contains("no longer in kubernetes web port http in shop at http://"),
        "{gone}"
    );
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "b");
    api.delete("web-b");
    assert!(lb.when_logged("result=empty").contains("no endpoint of the Service can be a backend"));
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
    let requests = api.requests();
    let watch =
        format!("{SLICES}&watch=true&allowWatchBookmarks=true&resourceVersion=101&timeoutSeconds=600");
    assert_eq!(requests, [SLICES.to_owned(), watch]);
}

#[test]
fn a_pod_that_is_shut_down_and_still_serves_is_a_backup() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let api = FakeApiServer::start(&[ready("a", &a), ready("b", &b)]);
    let lb = Lb::start(&config(&api.source("")));
    lb.when_up(names(&["a", "b"]));
    let tier = |name: &str| {
        let status = lb.status();
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        backends.iter().find(|backend| backend["name"] == name).map(|backend| backend["tier"].clone())
    };
    api.put(&slice("a", a.address, [false, true, true]));
    eventually("the Pod is a backup", || (tier("a") == Some(1.into())).then_some(()));
    for _ in 0..10 {
        assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "b");
    }
    api.put(&slice("b", b.address, [false, false, false]));
    lb.when_up(names(&["a"]));
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
    // It serves no longer.
    api.put(&slice("a", a.address, [false, false, true]));
    eventually("it is gone", || tier("a").is_none().then_some(()));
}

#[test]
fn without_healthcheck_readiness_does_not_count() {
    let a = Backend::http("a");
    let api = FakeApiServer::start(&[slice("a", a.address, [false, false, false])]);
    // A name may also have an IPv6 address, at which there is no server.
    let source = api.source(", healthcheck: false").replace("127.0.0.1", "localhost");
    let lb = Lb::start(&config(&source));
    lb.when_up(names(&["a"]));
}

#[test]
fn watches_follow_one_another_and_an_old_version_is_listed_again() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::http);
    let api = FakeApiServer::start(&[ready("a", &a)]);
    let lb = Lb::start(&config(&api.source(", wait: 1s")));
    lb.when_up(names(&["a"]));
    let watch = |version: u64| {
        format!("{SLICES}&watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=1")
    };
    // The second one continues at the bookmark of the first.
    eventually("two watches", || (api.requests().len() >= 3).then_some(()));
    assert_eq!(api.requests()[..3], [SLICES.to_owned(), watch(101), watch(111)]);
    api.put(&ready("b", &b));
    lb.when_up(names(&["a", "b"]));
    // As if many changes had happened between two watches.
    api.change(|state| {
        state.version += 1000;
        state.oldest = state.version;
        state.history.clear();
        state.slices.clear();
    });
    api.put(&ready("c", &c));
    lb.when_up(names(&["c"]));
    assert_eq!(api.requests().iter().filter(|request| *request == SLICES).count(), 2);
    // The server may refuse such a watch before it begins, too.
    api.change(|state| state.watch_status = Some(("410 Gone", "too old resource version")));
    eventually("it lists again", || {
        let lists = api.requests().iter().filter(|request| *request == SLICES).count();
        (lists >= 4).then_some(())
    });
    assert!(lb.logged(&["resolve failed"]).is_empty(), "{}", lb.log());
}

#[test]
fn a_connection_that_is_cut_off_without_an_error_is_noticed() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let api = FakeApiServer::start(&[ready("a", &a)]);
    api.change(|state| state.silent = true);
    let lb = Lb::start(&config(&api.source(", wait: 1s")));
    lb.when_up(names(&["a"]));
    eventually("it watches", || (api.requests().len() >= 2).then_some(()));
    api.put(&ready("b", &b));
    lb.when_up(names(&["a", "b"]));
    assert!(lb.logged(&["backend gone"]).is_empty(), "{}", lb.log());
    api.change(|state| state.silent = false);
}

#[test]
fn the_token_is_sent_and_is_in_no_message() {
    let a = Backend::http("a");
    let api = FakeApiServer::start(&[ready("a", &a)]);
    api.change(|state| state.token = Some("s3cret-token".to_owned()));
    let lb = Lb::start_in(&config(&api.source(", token_file: token")), |folder| {
        std::fs::write(folder.join("token"), "wrong-s3cret\n").unwrap();
    });
    let line = lb.when_logged("resolve failed");
    assert!(
        line.contains("GET /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices at http://")
            && line.contains("status 401: Unauthorized: ***; check the user or the token"),
        "{line}"
    );
    // Tokens of Pods expire and are replaced in the file.
    std::fs::write(lb.folder().join("new"), "s3cret-token\n").unwrap();
    std::fs::rename(lb.folder().join("new"), lb.folder().join("token")).unwrap();
    lb.when_up(names(&["a"]));
    assert!(!lb.log().contains("s3cret"), "{}", lb.log());
    assert!(!lb.status().to_string().contains("s3cret"));
}

#[test]
fn without_the_right_to_watch_changes_are_late_and_the_log_has_a_warning() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let api = FakeApiServer::start(&[ready("a", &a)]);
    api.change(|state| state.watch_status = Some(("403 Forbidden", "cannot watch resource endpointslices")));
    let lb = Lb::start(&config(&api.source("")));
    lb.when_up(names(&["a"]));
    let line = lb.when_logged("connections end at once");
    assert!(line.contains("cannot watch resource endpointslices; check the user or the token"), "{line}");
    api.put(&ready("b", &b));
    lb.when_up(names(&["a", "b"]));
}

#[test]
fn backends_outlive_the_api_server_and_another_endpoint_is_tried() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let mut api = FakeApiServer::start(&[ready("a", &a)]);
    let closed = ClosedPort::new();
    let lb = Lb::start(&config(&source(&[closed.address, api.server.address], "")));
    lb.when_up(names(&["a"]));
    backends_outlive(
        &lb,
        &mut api,
        |api| api.server.kill(),
        |api| {
            api.put(&ready("b", &b));
            api.server.revive();
        },
        &["a", "b"],
    );
}

#[test]
fn an_endpoint_that_can_be_no_backend_is_logged_once() {
    let a = Backend::http("a");
    let api = FakeApiServer::start(&[ready("a", &a)]);
    let mut other = ready("b", &a);
    other["ports"] = json!([{"name": "http", "port": 1}, {"name": "metrics", "port": 2}]);
    api.put(&other);
    let lb = Lb::start(&config(&api.source("")));
    lb.when_up(names(&["a"]));
    let line = lb.when_logged("entry invalid");
    assert!(
        line.contains("entry=\"web-b\"") && line.contains("it has several ports: http, metrics"),
        "{line}"
    );
    api.delete("web-b");
    lb.when_logged("entry no longer invalid");
    assert_eq!(lb.logged(&["entry invalid"]).len(), 1);
}

#[test]
fn another_program_at_the_endpoint_is_recognized() {
    let other = Backend::http("no JSON");
    let lb = Lb::start(&config(&source(&[other.address], "")));
    let line = lb.when_logged("resolve failed");
    assert!(
        line.contains("the reply is not that of Kubernetes") && line.contains("check the endpoint"),
        "{line}"
    );
}

#[test]
fn outside_of_a_pod_the_namespace_must_be_set() {
    if Path::new("/var/run/secrets/kubernetes.io").exists() {
        return skip("", "this runs in a Pod");
    }
    let a = Backend::http("a");
    let api = FakeApiServer::start(&[ready("a", &a)]);
    let lb = Lb::start(&config(&api.source("").replace(", namespace: shop", "")));
    let line = lb.when_logged("resolve failed");
    assert!(
        line.contains("the namespace file /var/run/secrets/") && line.contains("set `namespace`"),
        "{line}"
    );
}
