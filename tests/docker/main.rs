//! Pointsman in Docker: the real engine, the real image, the Compose files as a user starts them.
//!
//! Skipped without an engine, unless `POINTSMAN_REQUIRE_DOCKER=1`.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod alone;
mod applications;
mod clients;
mod databases;
mod engine;
mod forwarder;
mod ha;
mod image;
mod kernel_plane;
mod labels;
mod monitoring;
mod networks;
mod package;
mod replicas;
mod scale;
mod srv;
mod subnet;
mod swap;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clients::{Clients, Request};
use engine::{
    Container, Network, Project, bare_engine, configuration, describe, docker, engine, engine_to_change,
    inspect, ip, logs, pointsman, remove, unique,
};
use support::{connect_to, eventually, http_get, join_within};

/// The time limit of a condition. On a busy machine the engine may take ten seconds to start a container, and a server in it
/// has needed more than a minute until it listened.
pub const TIME_LIMIT: Duration = Duration::from_secs(150);
/// The ports of the listener and of the admin server in all configurations.
const WEB: u16 = 8080;
const ADMIN: u16 = 9900;
/// The port of the demo backend.
const BACKEND: u16 = 5000;

/// A server in Python on that port, which responds with its container's host name.
const SERVER: &str = "
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = socket.gethostname().encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('', 5000), Handler).serve_forever()";

/// The backends of the first pool that are up: name and address.
fn up(lb: IpAddr) -> BTreeMap<String, IpAddr> {
    let Ok((_, status)) = http_get((lb, ADMIN).into(), "/api/v1/status") else { return BTreeMap::new() };
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let backends = status["pools"][0]["backends"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let address = |value: &serde_json::Value| text(value).parse::<SocketAddr>().unwrap().ip();
    let up = backends.iter().filter(|backend| backend["state"] == "up");
    up.map(|backend| (text(&backend["name"]), address(&backend["address"]))).collect()
}

/// Waits until `count` backends are up.
fn when_up(lb: IpAddr, count: usize) -> BTreeMap<String, IpAddr> {
    eventually(&format!("{count} backends are up"), || Some(up(lb)).filter(|up| up.len() == count))
}

/// The demo with three backends up: the project, Pointsman's container and its address.
fn demo() -> (Project, String, IpAddr) {
    let project = Project::new("compose/demo.yaml", 3);
    project.up();
    let lb = project.container("pointsman");
    let address = ip(&lb);
    // A reverse lookup that fails leaves a backend without a name for ten seconds.
    eventually("three backends are up, known by name", || {
        let up = up(address);
        (up.len() == 3 && up.keys().all(|name| name.contains(project.name()))).then_some(())
    });
    (project, lb, address)
}

fn failures(requests: &[Request]) -> Vec<&Request> {
    requests.iter().filter(|request| !request.served()).collect()
}

#[test]
fn requests_through_the_published_port_rotate_strictly() {
    let Some(_engine) = engine() else { return };
    let (project, lb, _) = demo();
    let address = project.published("pointsman", "8080");
    let answers: Vec<_> = (0..10).map(|_| http_get(address, "/").unwrap()).collect();
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(answers[..3].iter().collect::<BTreeSet<_>>().len(), 3, "{answers:?}");
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer, &answers[index % 3], "{answers:?}");
    }
    // The names are those of the containers, and the log has the backend of each request.
    eventually("the log has all", || {
        (logs(&lb).lines().filter(|line| line.contains("routed")).count() == 10).then_some(())
    });
    let (status, _) = http_get(project.published("pointsman", "9900"), "/ready").unwrap();
    assert_eq!(status, 200);
}

#[test]
fn killing_a_backend_breaks_only_its_own_connections() {
    let Some(_engine) = engine() else { return };
    let (project, lb, address) = demo();
    // Not so many requests that a busy machine cannot answer the checks in time.
    let clients = Clients::start(50, Duration::from_millis(100), (address, WEB).into());
    let mut requests = clients.wait_for(500);
    let victim = project.container("backend");
    let name = docker(&["inspect", "--format", "{{.Name}}", &victim]);
    let name = name.trim_start_matches('/');
    docker(&["kill", &victim]);
    requests.extend(clients.wait_for(2000));
    requests.extend(clients.stop());
    let out =
        |line: &str| line.contains(name) && (line.contains("backend down") || line.contains("backend gone"));
    let log =
        eventually("the log says that it is out", || Some(logs(&lb)).filter(|log| log.lines().any(out)));
    for failed in failures(&requests) {
        // Its `closed` line: it was routed to the killed backend, and broke with it. A client's port may be reused.
        let client = format!(":{} ", failed.port);
        let mut ends = log.lines().filter(|line| line.contains("closed") && line.contains(&client));
        let killed = |line: &str| {
            line.contains(&format!("backend={name}."))
                && (line.contains("reason=backend_reset") || line.contains("reason=backend_closed"))
        };
        assert!(ends.any(killed), "{failed:?} was not with {name}\n{log}");
    }
    when_up(address, 2);
}

#[test]
fn with_all_backends_stopped_it_responds_at_once_and_recovers() {
    /// The time from the first healthy backend to the first response.
    const BACK: Duration = Duration::from_secs(10);
    let Some(_engine) = engine() else { return };
    let (project, lb, address) = demo();
    let started = inspect(&lb, "{{.State.StartedAt}}");
    let web = SocketAddr::new(address, WEB);
    let backends = project.containers("backend");
    project.compose(&["stop", "-t", "0", "backend"]);
    when_up(address, 0);
    for _ in 0..5 {
        let (status, body) = http_get(web, "/").unwrap();
        assert_eq!((status, body.trim()), (503, "No backend is available."));
    }
    // At once: no backend was tried.
    eventually("the log has all", || {
        let log = logs(&lb);
        let turned_away: Vec<_> = log.lines().filter(|line| line.contains("no backend conn=")).collect();
        assert!(turned_away.iter().all(|line| line.contains("attempts=0")), "{turned_away:#?}");
        (turned_away.len() == 5).then_some(())
    });
    assert_eq!(http_get((address, ADMIN).into(), "/heartbeat").unwrap().0, 200);
    let (healthy, served) = std::thread::scope(|scope| {
        scope.spawn(|| project.compose(&["start", "backend"]));
        let healthy = eventually("a backend is healthy", || {
            let healthy = |id: &String| {
                // A starting container has no address yet.
                let text = inspect(id, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
                let address: IpAddr = text.parse().ok()?;
                let answer = http_get((address, BACKEND).into(), "/health").ok()?;
                (answer.0 == 200).then(Instant::now)
            };
            backends.iter().find_map(healthy)
        });
        // Meanwhile Compose starts the others, one after the other.
        let served = eventually("it serves again", || {
            let request = Request::make(web, "/");
            request.served().then_some(request.at)
        });
        (healthy, served)
    });
    assert!(served.saturating_duration_since(healthy) < BACK, "{:?}", served - healthy);
    assert_eq!(inspect(&lb, "{{.State.StartedAt}}"), started);
}

/// A client that has received the first byte of a stream of ten seconds, and waits for the rest.
struct StreamReader(JoinHandle<std::io::Result<Vec<u8>>>);

impl StreamReader {
    const BYTES: usize = 1_000_000;

    fn start(web: SocketAddr) -> Self {
        let mut stream = connect_to(web).unwrap();
        let bytes = Self::BYTES;
        let request =
            format!("GET /stream?bytes={bytes}&seconds=10 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        Self(std::thread::spawn(move || {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).map(|_| rest)
        }))
    }

    /// Waits for the end; every byte must be there.
    fn when_whole(self) {
        let answer = join_within(self.0, "the stream is read to its end").unwrap();
        let head = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(answer.len() - head, Self::BYTES);
        // Byte i of a stream is i % 251.
        assert!(answer[head..].iter().enumerate().all(|(i, byte)| usize::from(*byte) == i % 251));
    }
}

#[test]
fn stopping_it_finishes_streams_and_refuses_new_connections() {
    let Some(_engine) = engine() else { return };
    let (_project, lb, address) = demo();
    let web = SocketAddr::new(address, WEB);
    let readers: Vec<_> = (0..10).map(|_| StreamReader::start(web)).collect();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| docker(&["stop", "-t", "40", &lb]));
        let error = eventually("new connections are refused", || connect_to(web).err());
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(!stopping.is_finished());
        readers.into_iter().for_each(StreamReader::when_whole);
    });
    assert_eq!(inspect(&lb, "{{.State.ExitCode}}"), "0");
    let log = logs(&lb);
    assert!(log.contains("drain progress") && log.contains("drain done"), "{log}");
}

#[test]
fn the_drain_demo_breaks_no_connection() {
    let Some(_engine) = engine() else { return };
    let project = Project::new("compose/drain.yaml", 3);
    // It fails if a connection was broken or refused too early, or if none was refused.
    let account = project.compose(&["run", "--rm", "-e", "TERM_AFTER=3", "traffic"]);
    assert!(account.contains("SIGTERM sent to Pointsman"), "{account}");
    assert!(account.contains("Pointsman ended"), "{account}");
}
