//! The demo, as a user starts it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::support::{Lb, TIME_LIMIT, connect_to, end_child, eventually, http_get, http_get_on, output_of};

fn demo(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("POINTSMAN_LOG").env_remove("RUST_LOG").spawn().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The number in front of `word` in the summary.
fn number(summary: &str, word: &str) -> u64 {
    let before = summary.split(word).next().unwrap().trim_end();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn one_run_of_the_script_breaks_only_requests_at_a_killed_backend() {
    let child = demo(&["--exit-after", "31s", "--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    // The script takes half a minute.
    let Output { status, stdout, stderr } = output_of(child, 6 * TIME_LIMIT, "the demo");
    let (summary, log) = (text(&stdout), text(&stderr));
    assert!(status.success(), "{status}\n{summary}\n{log}");
    assert!(number(&summary, "requests answered") > 300, "{summary}");
    assert_eq!(number(&summary, "failed."), 0, "{summary}\n{log}");
    // At 30 requests a second of 15 ms each, the killed backend hardly ever has more than one open.
    assert!(number(&summary, "broke because") <= 3, "{summary}");
    for backend in ["a", "b", "c", "d"] {
        assert!(summary.contains(&format!("{backend} ")), "{backend} answered no request: {summary}");
    }
    for (backend, words) in [("b", "backend down"), ("d", "backend joining"), ("d", "backend gone")] {
        let logged =
            log.lines().any(|line| line.contains(words) && line.contains(&format!("backend={backend} ")));
        assert!(logged, "{words} of {backend} is missing\n{log}");
    }
    let returned = log.lines().any(|line| line.contains("backend=b") && line.contains("from=down to=up"));
    assert!(returned, "{log}");
    assert!(log.lines().any(|line| line.contains("routed") && line.contains("b: down")), "{log}");
}

#[test]
fn taken_ports_are_replaced_and_a_signal_stops_the_demo() {
    // This test or another program has the default ports.
    let _taken = ["127.0.0.1:8080", "127.0.0.1:9900", "127.0.0.2:5000"].map(TcpListener::bind);
    let mut child = demo(&["--balance", "least-connections", "--exit-after", "60s"]);
    let (lines, received) = mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let address = eventually("it prints its address", || {
        let line = received.recv_timeout(TIME_LIMIT).unwrap();
        let (_, after) = line.split_once("try `curl http://")?;
        Some(after.split('/').next().unwrap().parse().unwrap())
    });
    let (status, body) = http_get(address, "/").unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with("Response from "), "{body}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    let output = output_of(child, TIME_LIMIT, "the demo ends by a signal");
    assert!(output.status.success());
    assert!(text(&output.stdout).contains(" 0 failed."), "{}", text(&output.stdout));
}

#[test]
fn a_given_address_that_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--bind", "--admin"] {
        let output = output_of(demo(&[flag, &address]), TIME_LIMIT, flag);
        assert_eq!(output.status.code(), Some(2), "{flag}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
    }
}

/// A running demo, without a terminal.
struct Demo {
    child: Child,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Demo {
    fn drop(&mut self) {
        end_child(&mut self.child);
    }
}

impl Demo {
    fn start() -> Self {
        let mut child = demo(&["--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let (lines, received) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            // Reads on when no one wants the lines, so that the demo can write them.
            for line in stderr.lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let addresses = eventually("it prints its addresses", || {
            let line = received.recv_timeout(TIME_LIMIT).unwrap();
            let (_, after) = line.split_once("try `curl http://")?;
            let (listener, after) = after.split_once("/`, and open http://")?;
            Some([listener.parse().unwrap(), after.split('/').next().unwrap().parse().unwrap()])
        });
        Self { child, listener: addresses[0], admin: addresses[1] }
    }

    /// A request to the admin server; status and body.
    fn request(&self, method: &str, path: &str, body: &str, headers: &str) -> (u16, Value) {
        let host =
            if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.admin) };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        let mut stream = connect_to(self.admin).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn state(&self) -> Value {
        let (status, state) = self.request("GET", "/demo/state", "", "");
        assert_eq!(status, 200, "{state}");
        state
    }

    /// Does something, and returns the state after it.
    #[track_caller]
    fn act(&self, action: &Value) -> Value {
        let (status, state) = self.request("POST", "/demo/actions", &action.to_string(), "");
        assert_eq!(status, 200, "{action}: {state}");
        state
    }

    /// A pool in the status; null: there is none.
    fn pool(&self, name: &str) -> Value {
        let (_, status) = self.request("GET", "/api/v1/status", "", "");
        let pools = status["pools"].as_array().unwrap();
        pools.iter().find(|pool| pool["name"] == name).cloned().unwrap_or_default()
    }

    /// Waits until a backend of the pool is in that state.
    #[track_caller]
    fn when(&self, backend: &str, state: &str) -> Value {
        eventually(&format!("{backend} is {state}"), || {
            let pool = self.pool("web");
            let all = pool["backends"].as_array().unwrap().clone();
            all.into_iter().find(|one| one["name"] == backend && one["state"] == state)
        })
    }
}

/// What the state says of a backend.
fn backend<'a>(state: &'a Value, name: &str) -> &'a Value {
    let all = state["backends"].as_array().unwrap();
    all.iter().find(|backend| backend["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn what_is_done_to_a_backend_of_the_demo_is_seen_in_the_status() {
    let demo = Demo::start();
    assert_eq!(demo.state()["playing"], "story");
    let state = demo.act(&json!({"action": "kill", "backend": "b"}));
    // A learner who does something plays alone from then on.
    assert_eq!((&state["playing"], &backend(&state, "b")["process"]), (&Value::Null, &json!("killed")));
    assert!(state["caption"].as_str().unwrap().starts_with("b is killed"), "{state}");
    demo.when("b", "down");
    demo.act(&json!({"action": "restart", "backend": "b"}));
    demo.when("b", "up");
    demo.act(&json!({"action": "pause", "backend": "c"}));
    let cause = demo.when("c", "down")["cause"].to_string();
    assert!(!cause.contains("refused"), "a paused backend accepts connections: {cause}");
    demo.act(&json!({"action": "resume", "backend": "c"}));
    demo.when("c", "up");
    let state = demo.act(&json!({"action": "add"}));
    assert_eq!((&backend(&state, "d")["process"], &state["room"]), (&json!("running"), &json!(4)));
    demo.when("d", "up");
    demo.act(&json!({"action": "flap", "backend": "d"}));
    assert_eq!(backend(&demo.act(&json!({"action": "settle", "backend": "d"})), "d")["flapping"], false);
    demo.act(&json!({"action": "remove", "backend": "d"}));
    eventually("d has left", || {
        let pool = demo.pool("web");
        let mut all = pool["backends"].as_array().unwrap().iter();
        all.all(|one| one["name"] != "d" || one["state"] == "gone").then_some(())
    });
    let before = ["a", "b"].map(|name| demo.when(name, "up")["address"].clone());
    demo.act(&json!({"action": "swap_addresses"}));
    eventually("each has the address of the other", || {
        let after = ["a", "b"].map(|name| demo.when(name, "up")["address"].clone());
        (after[0] == before[1] && after[1] == before[0]).then_some(())
    });
}

#[test]
fn the_algorithm_changes_while_connections_stay_and_two_are_compared() {
    let demo = Demo::start();
    // The clients of the demo have other addresses.
    let open = connect_to(demo.listener).unwrap();
    eventually("it is routed", || {
        let (_, open) = demo.request("GET", "/api/v1/connections?client=127.0.0.1", "", "");
        open["connections"][0]["backend"].as_str().map(|_| ())
    });
    demo.act(&json!({"action": "balance", "algorithm": "least-connections"}));
    assert_eq!(demo.pool("web")["algorithm"], "least-connections");
    let state = demo.act(&json!({"action": "compare", "algorithm": "maglev"}));
    assert_eq!(state["sides"][1]["algorithm"], "maglev");
    demo.act(&json!({"action": "clients", "kind": "few"}));
    eventually("both pools answer the same clients", || {
        let state = demo.state();
        let sides = state["sides"].as_array().unwrap();
        let answered = sides.iter().all(|side| {
            side["answered"].as_u64() > Some(8)
                && side["p99_ms"].as_f64() > Some(1.0)
                && side["clients"].as_array().unwrap().len() == 8
        });
        answered.then_some(())
    });
    assert_eq!(demo.pool("compared")["algorithm"], "maglev");
    demo.act(&json!({"action": "compare", "algorithm": null}));
    assert_eq!(demo.pool("compared"), Value::Null);
    let (status, body) = http_get_on(open, "/").unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with("Response from "), "{body}");
}

#[test]
fn health_that_says_all_is_well_hides_errors_until_the_checks_ask_for_more() {
    let demo = Demo::start();
    demo.act(&json!({"action": "fail", "backend": "a"}));
    eventually("clients get errors", || (demo.state()["sides"][0]["errors"].as_u64()? > 2).then_some(()));
    demo.when("a", "up");
    demo.act(&json!({"action": "check_path", "path": "/"}));
    demo.when("a", "down");
    demo.act(&json!({"action": "check_every", "every": "off"}));
    demo.when("a", "up");
    let state = demo.act(&json!({"action": "play", "script": "health"}));
    assert_eq!((&state["playing"], &state["check"]["path"]), (&json!("health"), &json!("/health")));
    assert_eq!(backend(&state, "b")["failing"], true);
    assert_eq!(demo.act(&json!({"action": "stop"}))["playing"], Value::Null);
    let state = demo.act(&json!({"action": "reset"}));
    assert_eq!(backend(&state, "b")["failing"], false);
}

#[test]
fn the_demo_refuses_what_is_not_possible_and_what_is_not_allowed() {
    let demo = Demo::start();
    demo.act(&json!({"action": "kill", "backend": "a"}));
    for (body, status, code) in [
        (r#"{"action": "kill", "backend": "a"}"#, 409, "not_now"),
        (r#"{"action": "kill", "backend": "h"}"#, 404, "no_such_backend"),
        (r#"{"action": "kill", "backend": "z"}"#, 422, "bad_request"),
        (r#"{"action": "rate", "per_second": 0}"#, 400, "bad_request"),
        ("{", 400, "bad_request"),
    ] {
        let (answered, error) = demo.request("POST", "/demo/actions", body, "");
        assert_eq!((answered, &error["error"]["code"]), (status, &json!(code)), "{body}: {error}");
    }
    let restart = r#"{"action": "restart", "backend": "a"}"#;
    for (headers, status) in [
        ("Origin: http://evil.example\r\n", 403),
        ("X-Forwarded-For: 192.0.2.1\r\n", 403),
        ("Host: evil.example\r\n", 421),
    ] {
        let (answered, error) = demo.request("POST", "/demo/actions", restart, headers);
        assert_eq!(answered, status, "{headers}: {error}");
    }
    assert_eq!(demo.request("GET", "/demo/state", "", "Host: evil.example\r\n").0, 421);
    assert_eq!(demo.request("GET", "/demo/actions", "", "").0, 405);
    assert_eq!(backend(&demo.state(), "a")["process"], "killed");
}

#[test]
fn only_the_demo_can_be_played_with() {
    let lb = Lb::start(
        "listeners: {web: {bind: '127.0.0.1:0', pool: web}}\n\
         pools: {web: {discover: [{static: ['127.0.0.1:9']}]}}",
    );
    assert_eq!(lb.get("/demo/state").0, 404);
    assert_eq!(lb.request("POST", "/demo/actions", r#"{"action": "kill", "backend": "a"}"#).0, 404);
}
