//! The admin API, as an operator's tools use it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::peers::{connect, is_reset};
use crate::support::{Lb, SetAtTheEnd, connect_to, eventually, http_get, static_list};
use serde_json::{Value, json};

/// Status and answer of a request.
pub(crate) fn send(lb: &Lb, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, answer) = lb.request(method, path, body);
    (status, serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {status} {answer:?}")))
}

pub(crate) fn get(lb: &Lb, path: &str) -> Value {
    let (status, answer) = send(lb, "GET", path, "");
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// Status and code of a request that is refused.
pub(crate) fn refused(lb: &Lb, method: &str, path: &str, body: &str) -> (u16, String) {
    let (status, answer) = send(lb, method, path, body);
    assert!(answer["error"]["message"].is_string() && answer["error"]["hint"].is_string(), "{answer}");
    (status, answer["error"]["code"].as_str().unwrap().to_owned())
}

/// Waits for an event of this kind.
pub(crate) fn event(lb: &Lb, kind: &str) -> Value {
    eventually(&format!("the event {kind}"), || {
        let events = get(lb, "/api/v1/journal?limit=10000");
        events["events"].as_array().unwrap().iter().find(|event| event["kind"] == kind).cloned()
    })
}

/// A balancer named `l` in front of a pool named `p`.
pub(crate) fn balancer(discover: &str, pool: &str) -> String {
    format!("listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {discover}{pool}}}}}")
}

/// The sorted answers to `n` requests.
pub(crate) fn names(lb: &Lb, n: usize) -> Vec<String> {
    let mut names: Vec<_> = (0..n).map(|_| http_get(lb.address("l"), "/").unwrap().1).collect();
    names.sort();
    names
}

#[test]
fn a_list_instead_of_an_object_is_refused() {
    let a = Backend::http("a");
    let lb = Lb::start(&balancer(&format!("[{{static: [{{address: {}, name: a}}]}}]", a.address), ""));
    for (method, path, body) in [
        ("PATCH", "/api/v1/pools/p/backends/a", r#"["draining", 0]"#),
        ("PATCH", "/api/v1/pools/p/backends/a", "[]"),
        ("POST", "/api/v1/check", "[]"),
        ("POST", "/api/v1/check", r#"["p", "a"]"#),
    ] {
        let (status, code) = refused(&lb, method, path, body);
        assert!(matches!(status, 400 | 422) && code == "bad_request", "{method} {body}: {status} {code}");
    }
    assert_eq!(get(&lb, "/api/v1/pools/p/backends/a")["state"], "up");
    assert_eq!(get(&lb, "/api/v1/pools/p/backends/a")["weight"], 1);
}

#[test]
fn a_single_connection_is_closed_or_reset() {
    let echo = Backend::echo();
    let lb = Lb::start(&balancer(&static_list(&[echo.address]), ""));
    let mut clients: Vec<_> = (0..3).map(|_| connect(&lb)).collect();
    let number = |client: &TcpStream| {
        let path = format!("/api/v1/connections?client={}", client.local_addr().unwrap());
        eventually("it is routed", || {
            let open = &get(&lb, &path)["connections"][0];
            open["backend"].is_string().then(|| open["conn"].as_u64()).flatten()
        })
    };
    let numbers: Vec<_> = clients.iter().map(number).collect();
    let delete = |path: String| send(&lb, "DELETE", &path, "");
    let (status, was) = delete(format!("/api/v1/connections/{}", numbers[0]));
    assert_eq!((status, &was["backend"]), (200, &json!(echo.address.to_string())), "{was}");
    is_reset(&mut clients[0]);
    assert_eq!(delete(format!("/api/v1/connections/{}?how=close", numbers[1])).0, 200);
    assert_eq!(clients[1].read(&mut [0]).unwrap(), 0);
    // The third one is unaffected.
    clients[2].write_all(b"x").unwrap();
    clients[2].read_exact(&mut [0]).unwrap();
    for conn in &numbers[..2] {
        lb.when_logged(&format!("closed conn={conn} "));
        assert_eq!(lb.logged(&["closed", &format!("conn={conn} "), "reason=operator"]).len(), 1);
    }
    assert_eq!(event(&lb, "connection_closed")["conn"], numbers[0]);
    assert_eq!(delete(format!("/api/v1/connections/{}", numbers[0])).0, 404);
    assert_eq!(refused(&lb, "DELETE", "/api/v1/connections/x", ""), (400, "bad_request".into()));
    let path = format!("/api/v1/connections/{}?how=gently", numbers[2]);
    assert_eq!(refused(&lb, "DELETE", &path, ""), (400, "bad_request".into()));
}

#[test]
fn a_queued_connection_can_be_closed() {
    let echo = Backend::echo();
    let limits = ", limits: {connections: 1, queue: 5, queue_timeout: 1m}";
    let lb = Lb::start(&balancer(&static_list(&[echo.address]), limits));
    let mut holder = connect(&lb);
    holder.write_all(b"x").unwrap();
    holder.read_exact(&mut [0]).unwrap();
    let mut waiting = connect(&lb);
    let path = format!("/api/v1/connections?client={}", waiting.local_addr().unwrap());
    let open = eventually("it waits", || {
        let open = get(&lb, &path)["connections"][0].clone();
        (lb.status()["pools"][0]["queue"] == 1 && open["conn"].is_u64()).then_some(open)
    });
    assert_eq!(open["backend"], Value::Null);
    assert_eq!(send(&lb, "DELETE", &format!("/api/v1/connections/{}", open["conn"]), "").0, 200);
    is_reset(&mut waiting);
    eventually("the queue is empty", || (lb.status()["pools"][0]["queue"] == 0).then_some(()));
}

#[test]
fn connections_and_decisions_can_be_filtered() {
    let (echo, other) = (Backend::echo(), Backend::echo());
    let discover = format!(
        "[{{static: [{{address: {}, name: a}}, {{address: {}, name: b}}]}}]",
        echo.address, other.address
    );
    let lb = Lb::start(&balancer(&discover, ""));
    let clients: Vec<_> = (0..4).map(|_| connect(&lb)).collect();
    let all = eventually("all are routed", || {
        let all = get(&lb, "/api/v1/connections");
        let routed = |open: &Value| open["backend"].is_string();
        (all["total"] == 4 && all["connections"].as_array().unwrap().iter().all(routed)).then_some(all)
    });
    let since = |open: &Value| open["since"].as_f64().unwrap();
    let ages: Vec<_> = all["connections"].as_array().unwrap().iter().map(since).collect();
    assert!(ages.is_sorted(), "the oldest first: {ages:?}");
    let count = |kind: &str, query: &str| {
        let answer = get(&lb, &format!("/api/v1/{kind}?{query}"));
        (answer[kind].as_array().unwrap().len(), answer["total"].as_u64())
    };
    assert_eq!(count("connections", "limit=1"), (1, Some(4)));
    assert_eq!(count("connections", "limit=0"), (0, Some(4)));
    assert_eq!(count("connections", "backend=a"), (2, Some(2)));
    assert_eq!(count("connections", &format!("backend={}&pool=p", other.address)), (2, Some(2)));
    assert_eq!(count("connections", "client=127.0.0.1"), (4, Some(4)));
    assert_eq!(count("connections", "client=127.0.0.2"), (0, Some(0)));
    assert_eq!(count("decisions", "limit=3"), (3, None));
    assert_eq!(count("decisions", "backend=b"), (2, None));
    let one = format!("client={}", clients[1].local_addr().unwrap());
    assert_eq!(count("decisions", &one), (1, None));
    for kind in ["connections", "decisions"] {
        for wrong in
            ["limit=10001", "limit=-1", "limit=", "client=somebody", "client=127.0.0.1:x", "colour=red"]
        {
            let path = format!("/api/v1/{kind}?{wrong}");
            assert_eq!(refused(&lb, "GET", &path, ""), (400, "bad_request".into()), "{path}");
        }
        let path = format!("/api/v1/{kind}?pool=nobody");
        assert_eq!(refused(&lb, "GET", &path, ""), (404, "no_such_pool".into()));
    }
}

#[test]
fn a_requested_check_runs_and_its_result_is_returned() {
    let mut a = Backend::http("a");
    let health = ", health: {http: /health, every: 1h, timeout: 20s, rise: 1, fall: 1}";
    let lb = Lb::start(&balancer(&format!("[{{static: [{{address: {}, name: a}}]}}]", a.address), health));
    let state = |body: &str| {
        let (status, answer) = send(&lb, "POST", "/api/v1/check", body);
        assert_eq!((status, &answer["pending"]), (200, &json!(0)), "{answer}");
        answer["backends"][0]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(r#"{"pool": "p", "backend": "a"}"#), "up");
    a.kill();
    // The next check is due in an hour.
    assert_eq!(state(r#"{"pool": "p"}"#), "down");
    a.revive();
    assert_eq!(state("{}"), "up");
    // An empty body, whatever its type, means all.
    assert_eq!(state(""), "up");
    assert_eq!(event(&lb, "check_requested")["backend"], "a");
    assert_eq!(refused(&lb, "POST", "/api/v1/check", r#"{"backend": "a"}"#), (400, "bad_request".into()));
    assert_eq!(refused(&lb, "POST", "/api/v1/check", r#"{"pool": "q"}"#), (404, "no_such_pool".into()));
}

#[test]
fn a_requested_check_has_a_time_limit() {
    let a = Backend::http("a");
    let silent = Backend::serving(|mut stream| _ = stream.read_to_end(&mut Vec::new()));
    let health = ", health: {http: /health, every: 1h, timeout: 20s, grace: 1h}";
    let lb = Lb::launch(&balancer(&static_list(&[a.address, silent.address]), health));
    lb.when_logged("admin listening");
    let (status, answer) = send(&lb, "POST", "/api/v1/check", r#"{"pool": "p"}"#);
    assert_eq!((status, &answer["pending"]), (202, &json!(1)), "{answer}");
}

#[test]
fn a_reload_returns_its_result() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let config = balancer(&static_list(&[a.address]), "");
    let lb = Lb::start(&config);
    lb.rewrite(&format!("runtime: {{workers: 7}}\n{}", balancer(&static_list(&[b.address]), "")));
    let (status, answer) = send(&lb, "POST", "/api/v1/reload", "");
    assert_eq!((status, answer), (200, json!({"listeners": 1, "pools": 1, "restart": ["runtime.workers"]})));
    assert_eq!(names(&lb, 2), ["b"; 2]);
    assert_eq!(event(&lb, "reload_applied")["by"], "an operator at 127.0.0.1");
    lb.rewrite("listeners: {l: {bnd: 127.0.0.1:0, pool: q}}\npools: {p: {discover: []}}");
    let (status, answer) = send(&lb, "POST", "/api/v1/reload", "");
    let error = &answer["error"];
    assert_eq!((status, &error["code"]), (422, &json!("invalid_configuration")));
    let message = error["message"].as_str().unwrap();
    for problem in ["pointsman.yaml:2:", "\"bnd\"", "\"discover\"", "did you mean"] {
        assert!(message.contains(problem), "{message}");
    }
    assert!(event(&lb, "reload_refused")["problems"].as_array().unwrap().len() >= 2);
    assert_eq!(names(&lb, 2), ["b"; 2]);
    // An address in use.
    let taken = b.address;
    lb.rewrite(&config.replace("127.0.0.1:0", &taken.to_string()));
    assert_eq!(refused(&lb, "POST", "/api/v1/reload", ""), (409, "not_possible".into()));
    // There is no file to reload.
    let lb = Lb::with_arguments(&["forward", "127.0.0.1:0", &taken.to_string(), "--admin", "127.0.0.1:0"]);
    lb.when_logged("admin listening");
    assert_eq!(refused(&lb, "POST", "/api/v1/reload", ""), (409, "no_file".into()));
}

#[test]
fn a_drain_equals_sigterm_and_is_answered_before_the_end() {
    let echo = Backend::echo();
    let drain = "runtime: {drain: {timeout: 45s}}";
    let mut lb = Lb::start(&format!("{drain}\n{}", balancer(&static_list(&[echo.address]), "")));
    let mut client = connect(&lb);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let (status, answer) = send(&lb, "POST", "/api/v1/drain", "");
    assert_eq!((status, answer), (202, json!({"open": 1, "timeout_seconds": 45.0})));
    eventually("it is not ready", || (lb.get("/ready").0 == 503).then_some(()));
    assert_eq!(refused(&lb, "POST", "/api/v1/drain", ""), (409, "draining".into()));
    assert_eq!(refused(&lb, "POST", "/api/v1/reload", ""), (409, "draining".into()));
    assert_eq!(event(&lb, "drain_started")["by"], "an operator at 127.0.0.1");
    client.write_all(b"y").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(lb.when_ended().code(), Some(0));
}

#[test]
fn the_returned_configuration_is_the_active_one() {
    let a = Backend::http("a");
    let lb = Lb::start(&balancer(&static_list(&[a.address]), ", balance: weighted, panic: 25%"));
    let config = get(&lb, "/api/v1/config");
    assert_eq!(
        (&config["pools"]["p"]["panic"], &config["pools"]["p"]["connect"]["attempts"]),
        (&json!("25%"), &json!(3))
    );
    // JSON is YAML: applied again, it is the same.
    lb.rewrite(&format!("# It has an admin: section.\n{config}"));
    let (status, answer) = send(&lb, "POST", "/api/v1/reload", "");
    assert_eq!((status, &answer["restart"]), (200, &json!([])), "{answer}");
    assert_eq!(get(&lb, "/api/v1/config"), config);
    assert_eq!(names(&lb, 2), ["a"; 2]);
}

#[test]
fn the_history_has_one_entry_per_second() {
    let a = Backend::http("a");
    let lb = Lb::start(&balancer(&format!("[{{static: [{{address: {}, name: a}}]}}]", a.address), ""));
    let sum = |history: &Value, path: &str| {
        let column = history.pointer(path).and_then(Value::as_array);
        column.map_or(0, |column| column.iter().filter_map(Value::as_u64).sum::<u64>())
    };
    eventually("there is a history", || {
        get(&lb, "/api/v1/history")["pools"]["p"]["active"].as_array().filter(|a| !a.is_empty()).map(|_| ())
    });
    names(&lb, 6);
    lb.when_idle();
    let paths = ["/listeners/l/connections", "/pools/p/connections", "/backends/p/a/connections"];
    // An entry counts a connection when it opens, and its bytes when it ends.
    let history = eventually("all are there", || {
        let (history, status) = (get(&lb, "/api/v1/history"), lb.status());
        let bytes = ["bytes_in", "bytes_out"].iter().all(|part| {
            status["listeners"][0][*part] == sum(&history, &format!("/listeners/l/{part}"))
                && status["pools"][0][*part] == sum(&history, &format!("/backends/p/a/{part}"))
        });
        (bytes && paths.iter().all(|path| sum(&history, path) == 6)).then_some(history)
    });
    assert_eq!(history["step_seconds"], 1);
    let status = lb.status();
    let (listener, pool) = (&status["listeners"][0], &status["pools"][0]);
    for part in ["bytes_in", "bytes_out"] {
        assert_eq!(sum(&history, &format!("/listeners/l/{part}")), listener[part].as_u64().unwrap());
        assert_eq!(sum(&history, &format!("/backends/p/a/{part}")), pool[part].as_u64().unwrap());
        assert!(listener[part].as_u64().unwrap() > 0);
    }
    assert_eq!((&listener["connections"], &pool["connections"]), (&json!(6), &json!(6)));
    assert!(pool["backends"][0]["connect_ms"].as_f64().unwrap() > 0.0, "{pool}");
    assert!(pool["backends"][0]["first_byte_ms"].as_f64().unwrap() > 0.0, "{pool}");
    assert_eq!(pool["backends"][0]["sources"], json!(["static"]));
    assert_eq!(pool["tiers"], json!([{"tier": 0, "backends": 1, "up": 1}]));
}

#[test]
fn totals_keep_the_counts_of_a_backend_that_left() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let lb = Lb::start(&balancer(&static_list(&[a.address]), ""));
    names(&lb, 3);
    lb.when_idle();
    assert!(lb.reload(&balancer(&static_list(&[b.address]), "")).contains("applied"));
    lb.when_logged("backend gone");
    names(&lb, 2);
    lb.when_idle();
    let status = lb.status();
    assert_eq!(status["listeners"][0]["connections"], 5, "{status}");
    assert_eq!(status["pools"][0]["connections"], 5, "{status}");
    assert_eq!(status["pools"][0]["backends"][0]["connections"], 2, "{status}");
}

/// A request with a token and more headers; the whole response.
fn raw(lb: &Lb, request: &str, headers: &[&str]) -> String {
    let mut stream = connect_to(lb.admin()).unwrap();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!("{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", lb.admin());
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn with_a_token_changes_need_it() {
    let a = Backend::http("a");
    let config = format!(
        "admin: {{bind: 127.0.0.1:0, token_file: token}}\n{}",
        balancer(&static_list(&[a.address]), ", health: {http: /health}")
    );
    let lb = Lb::start_in(&config, |folder| {
        std::fs::write(folder.join("token"), "the-first-token-of-all\n").unwrap();
    });
    let post = |token: &str| raw(&lb, "POST /api/v1/check", &[&format!("Authorization: Bearer {token}")]);
    assert!(post("the-first-token-of-all").starts_with("HTTP/1.1 200 "));
    let answer = post("another-token-than-that");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nwww-authenticate: bearer\r\n"), "{answer}");
    assert!(lb.when_logged("a wrong token").contains("127.0.0.1"));
    // From loopback too, and for every change.
    for (method, path) in [
        ("PATCH", "/api/v1/pools/p/backends/a"),
        ("POST", "/api/v1/pools/p/backends"),
        ("DELETE", "/api/v1/pools/p/backends/a"),
        ("DELETE", "/api/v1/connections/1"),
        ("POST", "/api/v1/check"),
        ("POST", "/api/v1/reload"),
        ("POST", "/api/v1/drain"),
    ] {
        assert_eq!(refused(&lb, method, path, "{}"), (401, "unauthorized".into()), "{method} {path}");
    }
    assert_eq!(get(&lb, "/api/v1/status")["ready"], true);
    let foreign = ["Authorization: Bearer the-first-token-of-all", "Origin: http://evil.example"];
    let answer = raw(&lb, "POST /api/v1/check", &foreign);
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("foreign_origin"), "{answer}");
    assert!(!lb.log().contains("the-first-token"));
    // A new one is valid after the next reload.
    std::fs::write(lb.folder().join("token"), "the-second-one-of-all").unwrap();
    assert!(post("the-first-token-of-all").starts_with("HTTP/1.1 200 "));
    lb.signal("HUP");
    lb.when_logged("reload applied");
    assert!(post("the-first-token-of-all").starts_with("HTTP/1.1 401 "));
    assert!(post("the-second-one-of-all").starts_with("HTTP/1.1 200 "));
    // An unreadable one changes nothing.
    std::fs::write(lb.folder().join("token"), "short").unwrap();
    lb.signal("HUP");
    assert!(lb.when_logged("reload refused").contains("shorter than 16"));
    assert!(post("the-second-one-of-all").starts_with("HTTP/1.1 200 "));
}

#[test]
fn an_unreadable_token_file_fails_the_start() {
    let config = "admin: {bind: 127.0.0.1:0, token_file: nowhere}
listeners: {l: {bind: 127.0.0.1:0, pool: p}}
pools: {p: {discover: [{static: [127.0.0.1:1]}]}}";
    let mut lb = Lb::launch(config);
    assert_eq!(lb.when_ended().code(), Some(2));
    let line = lb.when_logged("could not start");
    assert!(line.contains("nowhere") && line.contains("No such file"), "{line}");
}

#[test]
fn a_page_of_another_origin_changes_nothing() {
    let a = Backend::http("a");
    let lb = Lb::start(&balancer(&static_list(&[a.address]), ""));
    let post = |origin: &str| raw(&lb, "POST /api/v1/check", &[&format!("Origin: {origin}")]);
    assert!(post(&format!("http://{}", lb.admin())).starts_with("HTTP/1.1 200 "));
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        assert!(post(origin).starts_with("HTTP/1.1 403 "), "{origin}");
    }
    // These are the body types that a form can send.
    let body = "{\"state\": \"draining\"}";
    let headers = ["Content-Type: text/plain", &format!("Content-Length: {}", body.len())];
    let answer = raw(&lb, &format!("PATCH /api/v1/pools/p/backends/{}", a.address), &headers);
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
}

#[test]
fn many_requests_for_the_connections_do_not_starve_clients() {
    let echo = Backend::echo();
    let lb = Lb::start(&balancer(&static_list(&[echo.address]), ""));
    let open: Vec<_> = (0..200).map(|_| connect(&lb)).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (status, _) = lb.get("/api/v1/connections?limit=10000");
                    assert_eq!(status, 200);
                }
            });
        }
        let _stopping = SetAtTheEnd(&stop);
        for client in &open {
            let mut client = client;
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}
