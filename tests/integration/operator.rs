//! Changes by an operator while the balancer runs.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::backend::Backend;
use crate::support::{Lb, TIME_LIMIT, connect_to, eventually, http_get};

fn two_backends(settings: &str) -> (Lb, [Backend; 2]) {
    let backends = ["a", "b"].map(Backend::http);
    let discover = format!(
        "[{{static: [{{address: {}, name: a}}, {{address: {}, name: b}}]}}]",
        backends[0].address, backends[1].address
    );
    let lb = Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: {discover}{settings}}}}}"
    ));
    (lb, backends)
}

/// The backends that answer this many requests.
fn answers(lb: &Lb, requests: usize) -> Vec<String> {
    (0..requests).map(|_| http_get(lb.address("web"), "/").unwrap().1).collect()
}

fn state(lb: &Lb, name: &str) -> (String, String) {
    let backends = lb.backends();
    let (_, state, cause) = backends.into_iter().find(|backend| backend.0 == name).unwrap();
    (state, cause)
}

#[test]
fn an_operator_drains_a_backend_and_enables_it_again() {
    let (lb, _backends) = two_backends(", on_drain: close, health: {http: /health, every: 1s, timeout: 1s}");
    lb.when_up(vec!["a".into(), "b".into()]);
    let address = lb.address("web");
    let mut open: Vec<_> = (0..2).map(|_| connect_to(address).unwrap()).collect();
    eventually("both are routed", || (lb.logged(&["routed conn="]).len() == 2).then_some(()));
    let a = "/api/v1/pools/web/backends/a";
    let (status, body) = lb.request("PATCH", a, r#"{"state": "draining"}"#);
    assert_eq!(status, 200, "{body}");
    let now: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&now["state"], &now["name"]), (&"draining".into(), &"a".into()));
    assert_eq!(state(&lb, "a"), ("draining".into(), "drained by an operator at 127.0.0.1".into()));
    assert!(answers(&lb, 6).iter().all(|name| name == "b"));
    lb.when_logged("reason=operator");
    assert_eq!(lb.logged(&["closed", "backend=a", "reason=operator"]).len(), 1);
    // The connection to the other backend stays open.
    let ended = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_err() || answer.is_empty()
    };
    let ended: Vec<_> = open.iter_mut().map(ended).collect();
    assert_eq!(ended.iter().filter(|ended| **ended).count(), 1, "{ended:?}");
    let (status, body) = lb.request("PATCH", a, r#"{"state": "maintenance"}"#);
    assert_eq!((status, state(&lb, "a").0), (200, "maintenance".into()), "{body}");
    assert_eq!(lb.request("PATCH", a, r#"{"state": "up"}"#).0, 200);
    lb.when_up(vec!["a".into(), "b".into()]);
    let names = answers(&lb, 6);
    assert_eq!(names.iter().filter(|name| *name == "a").count(), 3, "{names:?}");
}

#[test]
fn two_operators_at_once_leave_one_backend_eligible() {
    let (lb, _backends) = two_backends("");
    let drain = |name: &str| {
        let path = format!("/api/v1/pools/web/backends/{name}");
        lb.request("PATCH", &path, r#"{"state": "draining", "unless_last": true}"#).0
    };
    for _ in 0..30 {
        let mut statuses = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(|| drain("a")), scope.spawn(|| drain("b")));
            [a, b].map(|thread| thread.join().unwrap())
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{:?}", lb.backends());
        for name in ["a", "b"] {
            let path = format!("/api/v1/pools/web/backends/{name}");
            assert_eq!(lb.request("PATCH", &path, r#"{"state": "up"}"#).0, 200);
        }
    }
}

#[test]
fn a_weight_change_by_an_operator_takes_effect_at_once() {
    let (lb, backends) = two_backends(", balance: weighted");
    let b = format!("/api/v1/pools/web/backends/{}", backends[1].address);
    let (status, body) = lb.request("PATCH", &b, r#"{"weight": 3}"#);
    assert_eq!(status, 200, "{body}");
    let count = |names: Vec<String>| names.iter().filter(|name| *name == "b").count();
    assert_eq!(count(answers(&lb, 8)), 6);
    assert_eq!(lb.request("PATCH", &b, r#"{"weight": 0}"#).0, 200);
    assert_eq!(count(answers(&lb, 8)), 0);
    eventually("the log says why", || (lb.logged(&["routed", "b: weight 0"]).len() == 8).then_some(()));
    assert_eq!(lb.logged(&["operator", "backend=b", "by=", "weight=3"]).len(), 1);
}

#[test]
fn an_impossible_change_is_refused_and_changes_nothing() {
    let (lb, _backends) = two_backends("");
    let code = |path: &str, body: &str| {
        let (status, answer) = lb.request("PATCH", path, body);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"]["hint"].is_string(), "{answer}");
        (status, answer["error"]["code"].as_str().unwrap().to_owned())
    };
    let a = "/api/v1/pools/web/backends/a";
    for body in
        ["", "{", "{}", r#"{"state": "on"}"#, r#"{"weight": -1}"#, r#"{"weight": 257}"#, r#"{"wait": 1}"#]
    {
        let (status, code) = code(a, body);
        assert!((400..=422).contains(&status) && code == "bad_request", "{body}: {status} {code}");
    }
    // As in the configuration: round-robin ignores weights.
    assert_eq!(code(a, r#"{"state": "draining", "weight": 7}"#), (409, "weight_not_heeded".into()));
    assert!(lb.request("PATCH", a, r#"{"weight": 7}"#).1.contains("balance: weighted"));
    for weight in [0, 1] {
        assert_eq!(lb.request("PATCH", a, &format!("{{\"weight\": {weight}}}")).0, 200);
    }
    assert_eq!(code("/api/v1/pools/wob/backends/a", r#"{"weight": 1}"#), (404, "no_such_pool".into()));
    assert_eq!(code("/api/v1/pools/web/backends/c", r#"{"weight": 1}"#), (404, "no_such_backend".into()));
    assert!(lb.backends().iter().all(|(_, state, _)| state == "up"));
    // A page with its own name for this machine is not the operator.
    let mut stream = connect_to(lb.admin()).unwrap();
    let body = r#"{"state": "draining"}"#;
    let head = format!("PATCH {a} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n");
    let rest = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(format!("{head}{rest}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert_eq!(state(&lb, "a").0, "up");
}
