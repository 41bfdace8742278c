//! Discovery by keys in etcd, with the server of Debian (`apt-get install etcd-server`); without it the tests are skipped,
//! unless `POINTSMAN_REQUIRE_TOOLS=1`. What no real server does on demand is tested with one in the test.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::interoperability::{Server, local_port};
use crate::support::backend::{Backend, read_request};
use crate::support::{ClosedPort, Lb, connect_to, eventually, http_get};
use crate::tls_checks::{authority, issue};

/// A server with its data in its folder.
struct EtcdServer {
    server: Server,
    address: SocketAddr,
}

impl EtcdServer {
    /// Starts it; `None` if it is not installed.
    fn start() -> Option<Self> {
        Self::start_with("http", &[])
    }

    fn start_with(scheme: &str, more: &[&str]) -> Option<Self> {
        let (address, peer) = (local_port(), local_port());
        let [client, peer] = [format!("{scheme}://{address}"), format!("http://{peer}")];
        let cluster = format!("default={peer}");
        let arguments = [
            ["--data-dir", "data"],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &cluster],
        ];
        let arguments: Vec<&str> = arguments.as_flattened().iter().chain(more).copied().collect();
        let server = Server::start("etcd", "etcd-server", &arguments, "", address)?;
        Some(Self { server, address })
    }

    /// A request to its gateway, until it is answered: it may have no leader yet.
    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        eventually(&format!("etcd answers {path}"), || post(self.address, "", path, body).ok())
    }

    #[track_caller]
    fn put(&self, key: &str, value: &str) {
        self.post("/v3/kv/put", &json!({"key": BASE64.encode(key), "value": BASE64.encode(value)}));
    }

    #[track_caller]
    fn delete(&self, key: &str) {
        self.post("/v3/kv/deleterange", &json!({"key": BASE64.encode(key)}));
    }

    /// Discards the history of all keys before now.
    #[track_caller]
    fn compact(&self) {
        let now = self.post("/v3/kv/range", &json!({"key": BASE64.encode("none")}));
        self.post("/v3/kv/compaction", &json!({"revision": now["header"]["revision"], "physical": true}));
    }
}

/// One request, with a token unless it is empty; an error unless the status is 200.
fn post(address: SocketAddr, token: &str, path: &str, body: &Value) -> Result<Value, String> {
    let mut stream = connect_to(address).map_err(|error| error.to_string())?;
    let body = body.to_string();
    let length = body.len();
    let token = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{token}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let answer = std::io::read_to_string(stream).map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
            serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
        }
        _ => Err(answer),
    }
}

/// A source that relies on its watch: it reads the keys again only in an hour.
fn discover(endpoints: &[SocketAddr]) -> String {
    format!("{{etcd: {{prefix: /web/, endpoints: [{}]}}, every: 1h}}", urls(endpoints))
}

/// The endpoints in the configuration, without brackets.
pub(crate) fn urls(endpoints: &[SocketAddr]) -> String {
    endpoints.iter().map(|address| format!("'http://{address}'")).collect::<Vec<_>>().join(", ")
}

/// A pool with this source.
pub(crate) fn config(source: &str) -> String {
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\n\
         pools: {{p: {{balance: weighted, discover: [{source}]}}}}\n"
    )
}

/// Ends the server of a source whose backend is `a`, which is used meanwhile, and starts it again with other backends.
#[track_caller]
pub(crate) fn backends_outlive<S>(
    lb: &Lb,
    server: &mut S,
    end: impl FnOnce(&mut S),
    start: impl FnOnce(&mut S),
    then: &[&str],
) {
    assert!(lb.logged(&["resolve failed"]).is_empty(), "{}", lb.log());
    end(server);
    let line = lb.when_logged("resolve failed");
    assert!(
        line.contains("connection refused") && line.contains("the last conclusive answer stays in use"),
        "{line}"
    );
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
    start(server);
    lb.when_logged("resolved again");
    lb.when_up(names(then));
    assert!(lb.logged(&["from=up"]).is_empty(), "{}", lb.log());
}

pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn keys_are_backends_and_changes_take_effect_at_once() {
    let Some(etcd) = EtcdServer::start() else { return };
    let [a, b, c] = ["a", "b", "c"].map(Backend::http);
    etcd.put("/web/one", &a.address.to_string());
    etcd.put("/web/two", &json!({"address": b.address.to_string(), "weight": 2}).to_string());
    etcd.put("/webs/other", "10.0.0.1:80");
    let lb = Lb::start(&config(&discover(&[etcd.address])));
    lb.when_up(names(&["one", "two"]));
    let weight = |name: &str| {
        let status = lb.status();
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        backends.iter().find(|backend| backend["name"] == name).map(|backend| backend["weight"].clone())
    };
    assert_eq!((weight("one"), weight("two")), (Some(1.into()), Some(2.into())));
    // The regular read is in an hour: these changes come by the watch.
    etcd.put("/web/three", &c.address.to_string());
    lb.when_up(names(&["one", "three", "two"]));
    etcd.put("/web/two", &json!({"address": b.address.to_string(), "weight": 3, "backup": true}).to_string());
    lb.when_logged("backend weight pool=p backend=two weight=3");
    etcd.delete("/web/one");
    etcd.delete("/web/two");
    lb.when_up(names(&["three"]));
    let gone = lb.when_logged("backend gone");
    assert!(gone.contains(&format!("no longer in etcd /web/ at http://{}", etcd.address)), "{gone}");
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "c");
    etcd.delete("/web/three");
    assert!(lb.when_logged("result=empty").contains("no key under the prefix is a valid backend"));
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
}

#[test]
fn an_invalid_value_is_logged_once_and_leaves_the_other_backends_alone() {
    let Some(etcd) = EtcdServer::start() else { return };
    let [a, b, c] = ["a", "b", "c"].map(Backend::http);
    etcd.put("/web/one", &a.address.to_string());
    etcd.put("/web/two", &b.address.to_string());
    let source = discover(&[etcd.address]).replace("every: 1h", "every: 100ms");
    let lb = Lb::start(&config(&source));
    lb.when_up(names(&["one", "two"]));
    etcd.put("/web/two", r#"{"adress": "10.0.0.1:80"}"#);
    let line = lb.when_logged("entry invalid");
    assert!(line.contains("WARN") && line.contains("entry=\"/web/two\""), "{line}");
    assert!(line.contains(r#"unknown key \"adress\""#) && line.contains("did you mean"), "{line}");
    // It is read many more times, and not logged again.
    let reads = || lb.metric("pointsman_resolutions_total{pool=\"p\",result=\"ok\"}");
    let before = reads();
    eventually("it is read again", || (reads() > before + 5.0).then_some(()));
    assert_eq!(lb.logged(&["entry invalid"]).len(), 1);
    // A change of another key arrives, and the backend keeps its last valid address.
    etcd.put("/web/three", &c.address.to_string());
    lb.when_up(names(&["one", "three", "two"]));
    assert!(lb.logged(&["from=up"]).is_empty(), "{}", lb.log());
    // A message of the watch that is longer than any buffer.
    etcd.put("/web/large", &"x".repeat(1_000_000));
    assert!(lb.when_logged("entry=\"/web/large\"").chars().count() < 1000);
    etcd.put("/web/two", &b.address.to_string());
    lb.when_logged("entry no longer invalid");
}

#[test]
fn backends_outlive_the_server_and_all_keys_are_read_again_when_it_is_back() {
    let Some(mut etcd) = EtcdServer::start() else { return };
    let [a, b] = ["a", "b"].map(Backend::http);
    etcd.put("/web/one", &a.address.to_string());
    // This version of etcd may drop a deletion at the revision of a compaction from a watch that begins there
    // (etcd-io/etcd#18089); the regular read finds it.
    let lb = Lb::start(&config(&discover(&[etcd.address]).replace("every: 1h", "every: 500ms")));
    lb.when_up(names(&["one"]));
    etcd.server.kill();
    let line = lb.when_logged("resolve failed");
    assert!(
        line.contains(&format!("at http://{}: ", etcd.address)) && line.contains("connection refused"),
        "{line}"
    );
    assert!(line.contains("the last conclusive answer stays in use"), "{line}");
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
    etcd.server.restart(etcd.address);
    // Which of these the balancer sees by a read and which by the watch depends on when it connects.
    etcd.put("/web/two", &b.address.to_string());
    etcd.delete("/web/one");
    etcd.compact();
    lb.when_logged("resolved again");
    lb.when_up(names(&["two"]));
    etcd.put("/web/one", &a.address.to_string());
    etcd.compact();
    lb.when_up(names(&["one", "two"]));
}

#[test]
fn a_server_that_hangs_is_noticed_by_the_regular_read() {
    let Some(etcd) = EtcdServer::start() else { return };
    let a = Backend::http("a");
    etcd.put("/web/one", &a.address.to_string());
    let lb = Lb::start(&config(&discover(&[etcd.address]).replace("every: 1h", "every: 300ms")));
    lb.when_up(names(&["one"]));
    etcd.server.signal("STOP");
    let line = lb.when_logged("result=timeout");
    assert!(line.contains("no response within 5s"), "{line}");
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
    etcd.server.signal("CONT");
    lb.when_logged("resolved again");
    assert!(lb.logged(&["from=up"]).is_empty(), "{}", lb.log());
}

#[test]
fn another_endpoint_is_tried_and_one_that_fails_is_no_outage() {
    let Some(etcd) = EtcdServer::start() else { return };
    let (a, closed) = (Backend::http("a"), ClosedPort::new());
    etcd.put("/web/one", &a.address.to_string());
    let lb = Lb::start(&config(&discover(&[closed.address, etcd.address])));
    lb.when_up(names(&["one"]));
    assert!(lb.logged(&["resolve failed"]).is_empty(), "{}", lb.log());
}

/// Copies bytes until either side ends, but nothing more to `to` once `cut` is set.
fn copy(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    use std::io::Read;
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !cut.load(Ordering::SeqCst) && to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_watch_that_the_network_cuts_off_silently_is_noticed() {
    let Some(etcd) = EtcdServer::start() else { return };
    let [a, b] = ["a", "b"].map(Backend::http);
    etcd.put("/web/one", &a.address.to_string());
    // Each connection has its own cut.
    let cuts = Arc::<Mutex<Vec<Arc<AtomicBool>>>>::default();
    let (all, server) = (Arc::clone(&cuts), etcd.address);
    let network = Backend::serving(move |client| {
        let Ok(stream) = connect_to(server) else { return };
        // The watch may be silent for longer than the tests' time limit.
        let _ = stream.set_read_timeout(None);
        let cut = Arc::<AtomicBool>::default();
        all.lock().unwrap().push(Arc::clone(&cut));
        let (from, to) = (client.try_clone().unwrap(), stream.try_clone().unwrap());
        let thread = std::thread::spawn(move || copy(from, to, &AtomicBool::new(false)));
        copy(stream, client, &cut);
        let _ = thread.join();
    });
    let lb = Lb::start(&config(&discover(&[network.address]).replace("every: 1h", "every: 500ms")));
    lb.when_up(names(&["one"]));
    let opened = || cuts.lock().unwrap().len();
    // The first read, and the watch.
    eventually("the watch is open", || (opened() >= 2).then_some(()));
    cuts.lock().unwrap().iter().for_each(|cut| cut.store(true, Ordering::SeqCst));
    etcd.put("/web/two", &b.address.to_string());
    lb.when_up(names(&["one", "two"]));
}

#[test]
fn a_user_logs_in_and_the_password_is_in_no_message() {
    let Some(etcd) = EtcdServer::start() else { return };
    let [a, b] = ["a", "b"].map(Backend::http);
    etcd.put("/web/one", &a.address.to_string());
    let root = json!({"name": "root", "password": "s3cret!"});
    etcd.post("/v3/auth/user/add", &root);
    etcd.post("/v3/auth/role/add", &json!({"name": "root"}));
    etcd.post("/v3/auth/user/grant", &json!({"user": "root", "role": "root"}));
    etcd.post("/v3/auth/enable", &json!({}));
    let source = format!(
        "{{etcd: {{prefix: /web/, endpoints: 'http://{}', user: root, password_file: secret}}, every: 300ms}}",
        etcd.address
    );
    let password = |folder: &Path, text: &str| {
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join("secret")).unwrap();
    };
    let lb = Lb::start_in(&config(&source), |folder| password(folder, "wrong-s3cret\n"));
    let line = lb.when_logged("resolve failed");
    assert!(line.contains("/v3/auth/authenticate") && line.contains("authentication failed"), "{line}");
    password(lb.folder(), "s3cret!\n");
    lb.when_up(names(&["one"]));
    // All tokens end, and the next read logs in again.
    let token = |answer: Value| answer["token"].as_str().unwrap().to_owned();
    let own = || token(etcd.post("/v3/auth/authenticate", &root));
    post(etcd.address, &own(), "/v3/auth/disable", &json!({})).unwrap();
    etcd.put("/web/two", &b.address.to_string());
    etcd.post("/v3/auth/enable", &json!({}));
    lb.when_up(names(&["one", "two"]));
    let failures = || lb.logged(&["resolve failed"]).len();
    let reads = || lb.metric("pointsman_resolutions_total{pool=\"p\",result=\"ok\"}");
    let (before, failed) = (reads(), failures());
    eventually("it is read with the new token", || (reads() > before + 3.0).then_some(()));
    assert_eq!(failures(), failed, "{}", lb.log());
    std::fs::remove_file(lb.folder().join("secret")).unwrap();
    assert!(!lb.log().contains("s3cret"), "{}", lb.log());
    assert!(!lb.status().to_string().contains("s3cret"));
}

#[test]
fn the_certificate_of_the_server_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    if !(authority(path, "ca") && authority(path, "other") && issue(path, "server", "IP:127.0.0.1")) {
        return;
    }
    let [cert, key] = ["server.pem", "server.key"].map(|file| path.join(file).display().to_string());
    let Some(etcd) = EtcdServer::start_with("https", &["--cert-file", &cert, "--key-file", &key]) else {
        return;
    };
    let source = |ca: &str| {
        let ca = path.join(ca).display().to_string();
        let url = format!("https://{}", etcd.address);
        config(&format!("{{etcd: {{prefix: /web/, endpoints: '{url}', tls: {{ca_file: {ca}}}}}}}"))
    };
    let lb = Lb::start(&source("other.pem"));
    let line = lb.when_logged("no authority in");
    assert!(line.contains("resolve failed") && line.contains("other.pem"), "{line}");
    let lb = Lb::start(&source("ca.pem"));
    assert!(lb.when_logged("resolve failed").contains("no key under the prefix"), "{}", lb.log());
}

/// A server in the test that has one backend at the first read, and another one later. So many of its watches are
/// canceled; the next ones stay open. Returns it with the requests for watches.
fn fake_etcd(first: SocketAddr, second: SocketAddr, canceled: usize) -> (Backend, Arc<Mutex<Vec<String>>>) {
    let (reads, watches) = (Arc::<Mutex<usize>>::default(), Arc::<Mutex<Vec<String>>>::default());
    let seen = Arc::clone(&watches);
    let fake = Backend::serving(move |mut stream| {
        let Some(request) = read_request(&mut stream) else { return };
        let reply = |body: Value| {
            let body = body.to_string();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        };
        if request.starts_with("POST /v3/kv/range ") {
            let mut reads = reads.lock().unwrap();
            *reads += 1;
            let (name, address, revision) =
                if *reads == 1 { ("one", first, "5") } else { ("two", second, "9") };
            let key = BASE64.encode(format!("/web/{name}"));
            let kvs =
                [json!({"key": key, "value": BASE64.encode(address.to_string()), "mod_revision": revision})];
            let _ = stream.write_all(reply(json!({"header": {"revision": revision}, "kvs": kvs})).as_bytes());
            return;
        }
        let body = request.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        let cancel = {
            let mut watches = seen.lock().unwrap();
            watches.push(body);
            watches.len() <= canceled
        };
        let created = json!({"result": {"created": true}});
        let end = json!({"result": {"canceled": true, "compact_revision": "8"}});
        let text = if cancel { format!("{created}\n{end}\n") } else { format!("{created}\n") };
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(format!("{head}{:x}\r\n{text}\r\n", text.len()).as_bytes());
        let _ = std::io::read_to_string(stream);
    });
    (fake, watches)
}

#[test]
fn after_a_compaction_all_keys_are_read_again() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let (fake, watches) = fake_etcd(a.address, b.address, 1);
    let lb = Lb::start(&config(&discover(&[fake.address])));
    lb.when_up(names(&["two"]));
    eventually("the second watch is open", || (watches.lock().unwrap().len() == 2).then_some(()));
    // A compaction is no outage.
    assert!(lb.logged(&["resolve failed"]).is_empty(), "{}", lb.log());
    lb.when_logged_times(1, &["backend gone", "backend=one"]);
}

#[test]
fn watches_that_always_end_are_reported_once() {
    let [a, b] = ["a", "b"].map(Backend::http);
    let (fake, watches) = fake_etcd(a.address, b.address, usize::MAX);
    let lb = Lb::start(&config(&discover(&[fake.address])));
    let line = lb.when_logged("connections end at once");
    assert!(line.contains("WARN") && line.contains("the changes before revision 8 are compacted"), "{line}");
    let before = watches.lock().unwrap().len();
    eventually("it tries again", || (watches.lock().unwrap().len() > before + 1).then_some(()));
    lb.when_logged_times(1, &["connections end at once"]);
    lb.when_up(names(&["two"]));
}
