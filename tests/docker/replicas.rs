//! Replicas at a real engine. Pointsman is a process on the host.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::support::{Lb, connect_to, join_within};
use super::*;

/// Like [`SERVER`], but with keep-alive connections and a long backlog.
fn keep_alive_server() -> String {
    SERVER.replace("    def do_GET", "    protocol_version = 'HTTP/1.1'\n    def do_GET").replace(
        "http.server.Thr",
        "http.server.ThreadingHTTPServer.request_queue_size = 128\nhttp.server.Thr",
    )
}

/// The replicas of one test, removed at the end.
struct Group(String);

impl Group {
    fn new(what: &str) -> Self {
        Self(unique(what))
    }

    /// A configuration with one pool of these replicas; `more` has further keys.
    fn config(&self, more: &str) -> String {
        let command = serde_json::to_string(&["python", "-c", &keep_alive_server()]).unwrap();
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools:\n  p:\n    \
             balance: least-connections\n    health: {{http: /, every: 1s, timeout: 1s, fast_every: 200ms, rise: 1, fall: 5}}\n    \
             replicas: {{image: \"python:3.13-slim\", port: 5000, group: {}, command: {command}, stop_timeout: 1s, {more}}}",
            self.0
        )
    }

    /// The containers with the label, in any state.
    fn containers(&self) -> Vec<String> {
        let filter = format!("label=pointsman.replicas={}", self.0);
        docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]).lines().map(str::to_owned).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let all = self.containers();
        if !all.is_empty() {
            if std::thread::panicking() {
                all.iter().for_each(|container| describe(container));
            }
            let all: Vec<_> = all.iter().map(String::as_str).collect();
            docker(&[&["rm", "-f", "-v"], &all[..]].concat());
        }
    }
}

fn listed(answer: &(u16, String)) -> Vec<String> {
    assert_eq!(answer.0, 200, "{}", answer.1);
    let body: Value = serde_json::from_str(&answer.1).unwrap();
    serde_json::from_value(body["message"]["replicas"].clone()).unwrap()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn replicas_are_started_removed_replaced_and_found_again() {
    let Some(_engine) = bare_engine() else { return };
    let group = Group::new("replicas");
    let config = group.config("min: 1, max: 4");
    let lb = Lb::start(&config);
    lb.when_up(strings(&["Server 1"]));
    let all = listed(&lb.request("POST", "/add", r#"{"n": 1, "hostnames": ["Server 4"]}"#));
    assert_eq!(all, strings(&["Server 1", "Server 4"]));
    lb.when_up(all);
    // The host name is a safe form of the name, and each replica gets its name.
    let hosts: BTreeSet<_> = (0..4).map(|_| http_get(lb.address("l"), "/").unwrap().1).collect();
    assert_eq!(hosts, BTreeSet::from(["Server-1".to_owned(), "Server-4".to_owned()]));
    let fourth = format!("{}-Server-4", group.0);
    let environment = inspect(&fourth, "{{json .Config.Env}}");
    for variable in ["SERVER_ID=4", "SERVER_NAME=Server 4"] {
        assert!(environment.contains(variable), "{environment}");
    }
    // A killed replica is replaced under its name, by another container.
    let killed = inspect(&fourth, "{{.Id}}");
    docker(&["kill", &fourth]);
    lb.when_logged("replica exited pool=p replica=\"Server 4\"");
    lb.when_up(strings(&["Server 1", "Server 4"]));
    eventually("only one is left", || {
        let all = group.containers();
        (all.len() == 2 && !all.contains(&killed)).then_some(())
    });
    eventually("the replacement is counted", || {
        (lb.metric("pointsman_replica_respawns_total{pool=\"p\"}") == 1.0).then_some(())
    });
    // They run while Pointsman is stopped, and after its restart.
    let before = group.containers();
    drop(lb);
    let lb = Lb::start(&config);
    lb.when_up(strings(&["Server 1", "Server 4"]));
    assert_eq!(group.containers(), before);
    // An addition above the maximum adds none.
    let answer = lb.request("POST", "/add", r#"{"n": 9}"#);
    assert_eq!(answer.0, 409, "{}", answer.1);
    assert_eq!(group.containers(), before);
    let left = listed(&lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["Server 4"]}"#));
    assert_eq!(left, strings(&["Server 1"]));
    assert_eq!(listed(&lb.get("/rep")), left);
    eventually("it is removed", || (group.containers().len() == 1).then_some(()));
}

#[test]
fn an_addition_that_the_engine_refuses_is_explained_and_leaves_nothing() {
    let Some(_engine) = bare_engine() else { return };
    let group = Group::new("nothing");
    let config = group.config("min: 0, max: 4");
    let lb = Lb::start(&config.replace("python:3.13-slim", "there-is-no-such-image"));
    let (status, body) = lb.request("POST", "/add", r#"{"n": 2}"#);
    assert_eq!(status, 404, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let message = "<Error> the engine has no image \"there-is-no-such-image\": build or pull it first";
    assert_eq!(body, json!({"message": message, "status": "failure"}));
    let lb = Lb::start(&config.replace("command: [\"python\"", "command: [\"no-such-program\""));
    let (status, body) = lb.request("POST", "/add", r#"{"n": 2}"#);
    assert!(
        status == 502 && body.contains("no-such-program") && body.contains("nothing was added"),
        "{body}"
    );
    drop(lb);
    let lb = Lb::start(&group.config("min: 0, network: no-such-network"));
    let (status, body) = lb.request("POST", "/add", r#"{"n": 2}"#);
    assert!(status == 502 && body.contains("no-such-network"), "{status} {body}");
    assert!(group.containers().is_empty());
}

/// Clients that send several requests on a connection, one after the other, and then open a new connection.
struct KeepAliveClients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl KeepAliveClients {
    fn start(count: usize, address: SocketAddr) -> Self {
        /// Requests on one connection, and the pause between them.
        const REQUESTS: usize = 20;
        const PAUSE: Duration = Duration::from_millis(100);
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                let mut lost = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = match connect_to(address) {
                        Ok(stream) => stream,
                        Err(error) => {
                            lost.push(error.to_string());
                            continue;
                        }
                    };
                    for _ in 0..REQUESTS {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        match get(&mut stream) {
                            Ok(()) => _ = served.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                lost.push(error);
                                break;
                            }
                        }
                        std::thread::sleep(PAUSE);
                    }
                }
                lost
            })
        };
        Self { threads: (0..count).map(client).collect(), stop, served }
    }

    /// Waits until each client has been served `each` more requests, on average.
    fn wait_for(&self, each: usize) {
        let wanted = self.served.load(Ordering::Relaxed) + each * self.threads.len();
        let deadline = Instant::now() + TIME_LIMIT;
        while self.served.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "they are not served");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the clients; returns the number of served requests, and the errors of the failed ones.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self
            .threads
            .into_iter()
            .flat_map(|thread| join_within(thread, "a client's last request"))
            .collect();
        (self.served.load(Ordering::Relaxed), lost)
    }
}

/// One request on a keep-alive connection.
fn get(stream: &mut TcpStream) -> Result<(), String> {
    let error = |error: std::io::Error| error.to_string();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").map_err(error)?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    loop {
        let n = stream.read(&mut part).map_err(error)?;
        if n == 0 {
            return Err(format!("it ended after {:?}", String::from_utf8_lossy(&answer)));
        }
        answer.extend(&part[..n]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let whole = length.and_then(|length| length.parse().ok()) == Some(body.len());
        match head.starts_with("HTTP/1.1 200") {
            true if whole => return Ok(()),
            true => {}
            false => return Err(head.to_owned()),
        }
    }
}

#[test]
fn the_number_follows_the_load_without_losing_a_request_or_flapping() {
    let Some(_engine) = bare_engine() else { return };
    let group = Group::new("scale");
    let times = "up_after: 1s, down_after: 3s, cooldown: 1s, step: 3";
    let more = format!("min: 2, max: 5, autoscale: {{connections_per_backend: 10, {times}}}");
    let lb = Lb::start(&group.config(&more));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    let address = lb.address("l");
    let running = |count: usize| {
        let status = || lb.status()["pools"][0].clone();
        let deadline = Instant::now() + TIME_LIMIT;
        while status()["up"] != count || group.containers().len() != count {
            assert!(Instant::now() < deadline, "never {count} up: {}", status()["replicas"]);
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let short = Clients::start(2, Duration::from_millis(50), address);
    let few = KeepAliveClients::start(8, address);
    let many = KeepAliveClients::start(36, address);
    running(5);
    let (served, lost) = many.stop();
    assert!(lost.is_empty() && served > 100, "{served} {lost:?}");
    running(2);
    // With a constant load the number stays, for longer than a change takes.
    few.wait_for(40);
    running(2);
    let (served, lost) = few.stop();
    assert!(lost.is_empty() && served > 100, "{served} {lost:?}");
    let requests = short.stop();
    assert!(requests.len() > 50 && failures(&requests).is_empty(), "{:?}", failures(&requests));
    // Up and then down: it has reversed once.
    let decisions: Value = serde_json::from_str(&lb.get("/api/v1/replicas").1).unwrap();
    let decisions = decisions["pools"]["p"]["decisions"].as_array().unwrap().clone();
    let ups = decisions.iter().map(|decision| decision["to"].as_u64() > decision["from"].as_u64());
    let ups: Vec<_> = ups.collect();
    assert!(ups.len() <= 6 && ups.is_sorted_by(|before, after| before >= after), "{decisions:#?}");
    assert!(decisions.iter().all(|decision| decision["cause"].as_str().unwrap().contains("10 each")));
}

/// The Compose example. Pointsman stops first, as it would replace the replicas; their network is removed last.
struct Example {
    group: Group,
    project: Project,
}

impl Drop for Example {
    fn drop(&mut self) {
        for lb in self.project.containers("pointsman") {
            docker(&["kill", &lb]);
        }
    }
}

#[test]
fn the_compose_example_starts_its_backends_and_executes_operator_commands() {
    let Some(_engine) = engine() else { return };
    if !super::engine::image("python:3.13-slim") {
        return;
    }
    let group = Group::new("compose");
    let owner = std::fs::metadata("/var/run/docker.sock").unwrap().gid();
    let project = Project::new("compose/replicas.yaml", 0)
        .with("GROUP", &group.0)
        .with("DOCKER_GID", &owner.to_string())
        // Only the test itself removes replicas.
        .with("DOWN_AFTER", "1h");
    let example = Example { group, project };
    let project = &example.project;
    project.compose(&["up", "-d"]);
    let lb = ip(&project.container("pointsman"));
    when_up(lb, 2);
    let operator = |arguments: &[&str]| -> Value {
        let answer = project.compose(&[&["run", "--rm", "operator"], arguments].concat());
        serde_json::from_str(answer.lines().last().unwrap()).unwrap()
    };
    let listed =
        |names: &[&str]| json!({"message": {"N": names.len(), "replicas": names}, "status": "successful"});
    assert_eq!(operator(&["list"]), listed(&["Server 1", "Server 2"]));
    assert_eq!(operator(&["add", "1", "Server 9"]), listed(&["Server 1", "Server 2", "Server 9"]));
    when_up(lb, 3);
    // They are on Pointsman's network, and respond with their names.
    let answers: BTreeSet<_> = (0..6)
        .map(|_| http_get((lb, WEB).into(), "/home").unwrap().1)
        .map(|body| body.trim().to_owned())
        .collect();
    let hello = |id: &str| format!("{{\"message\":\"Hello from Server: {id}\",\"status\":\"successful\"}}");
    assert_eq!(answers, ["1", "2", "9"].map(hello).into());
    assert_eq!(operator(&["remove", "1", "Server 9"]), listed(&["Server 1", "Server 2"]));
    eventually("it is removed", || (example.group.containers().len() == 2).then_some(()));
    // A remote client may read, but not change.
    assert_eq!(http_get((lb, ADMIN).into(), "/rep").unwrap().0, 200);
    let mut stream = connect_to((lb, ADMIN)).unwrap();
    let request = format!(
        "POST /add HTTP/1.1\r\nHost: {lb}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: 8\r\n\r\n{{\"n\": 1}}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 403 ") && answer.contains("\"status\":\"failure\""), "{answer}");
}
