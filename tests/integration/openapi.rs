//! The OpenAPI document against the running server: paths, methods, and the schema of each response.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::engine::FakeEngine;
use crate::support::peers::connect;
use crate::support::tool::python_tool;
use crate::support::{Lb, Limited, TOOL, connect_to, eventually, static_list};
use serde_json::{Value, json};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// A balancer with two pools, and its backends. One pool uses weights and has shadows; the other one has an additional,
/// unreachable backend.
fn balancer(admin: &str, log: bool) -> (Lb, [Backend; 2]) {
    let backends = ["a", "b"].map(Backend::http);
    let [a, b] = backends.each_ref().map(|backend| backend.address);
    let (discover, with_closed) =
        (static_list(&[a, b]), static_list(&[a, b, CLOSED_ADDRESS.parse().unwrap()]));
    let config = format!(
        "admin: {{bind: 127.0.0.1:0{admin}}}
log: {{connections: {log}}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}, l: {{bind: 127.0.0.1:0, pool: other}}}}
pools:
  web: {{discover: {discover}, balance: weighted, shadow: true, health: {{http: /health, every: 1s, timeout: 1s}}}}
  other: {{discover: {with_closed}}}"
    );
    let lb = Lb::start_in(&config, |folder| {
        std::fs::write(folder.join("token"), TOKEN).unwrap();
    });
    (lb, backends)
}

const TOKEN: &str = "a-token-for-the-tests";
/// An address without a listener.
const CLOSED_ADDRESS: &str = "127.0.0.1:1";
/// Paths whose errors have the schema of their other responses.
const OWN_SHAPE: [&str; 3] = ["/rep", "/add", "/rm"];

fn document(lb: &Lb) -> Value {
    serde_json::from_str(&lb.get("/api/v1/openapi.json").1).unwrap()
}

/// A request with an optional JSON body; the head and the body of the response.
fn raw(lb: &Lb, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = connect_to(lb.admin()).unwrap();
    let (host, length) = (lb.admin(), body.len());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\
         Content-Type: application/json\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[test]
fn every_path_has_exactly_the_documented_methods() {
    let (lb, _backends) = balancer("", true);
    for (path, operations) in document(&lb)["paths"].as_object().unwrap() {
        let described: BTreeSet<_> =
            METHODS.into_iter().filter(|method| operations.get(method.to_lowercase()).is_some()).collect();
        let live = path.replace("{pool}", "web").replace("{backend}", "nobody").replace("{id}", "0");
        for method in METHODS.into_iter().filter(|method| !described.contains(method)) {
            let (status, head, body) = raw(&lb, method, &live, "");
            assert_eq!(status, 405, "{method} {path}: {body}");
            let allow = head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap().to_uppercase();
            let allowed: BTreeSet<_> = allow.split(',').map(str::trim).filter(|m| *m != "HEAD").collect();
            assert_eq!(allowed, described, "{path}");
            let body: Value = serde_json::from_str(&body).unwrap();
            let (word, wanted) = match OWN_SHAPE.contains(&live.as_str()) {
                true => (&body["status"], "failure"),
                false => (&body["error"]["code"], "method_not_allowed"),
            };
            assert_eq!(word, wanted, "{method} {path}: {body}");
        }
        for method in described {
            // Tested below: one streams forever, the other one ends the process.
            if live != "/api/v1/events" && live != "/api/v1/drain" {
                assert_ne!(raw(&lb, method, &live, "").0, 405, "{method} {path}");
            }
        }
    }
}

/// Validates a response against its schema.
fn check(document: &Value, method: &str, path: &str, status: u16, content_type: &str, body: &str) {
    let operation = &document["paths"][path][method.to_lowercase()];
    let described = &operation["responses"][status.to_string()];
    let described = match described["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => described,
    };
    let (media, content) = described["content"]
        .as_object()
        .and_then(|content| content.iter().next())
        .unwrap_or_else(|| panic!("{method} {path}: {status} is not described: {body}"));
    assert!(content_type.starts_with(media.as_str()), "{method} {path}: {content_type}");
    if media != "application/json" {
        return;
    }
    let mut schema = content["schema"].clone();
    schema["components"] = document["components"].clone();
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.set_default_draft(boon::Draft::V2020_12);
    compiler.add_resource("schema.json", schema).unwrap();
    let index = compiler.compile("schema.json", &mut schemas).unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    if let Err(error) = schemas.validate(&body, index) {
        panic!("{method} {path}: {status}: {error:#}\n{body:#}");
    }
}

/// Sends a request and validates the response against the schema of `path`.
fn send(lb: &Lb, document: &Value, [method, path, live]: [&str; 3], body: &str, wanted: u16) -> String {
    let (status, head, answer) = raw(lb, method, live, body);
    assert_eq!(status, wanted, "{method} {live}: {answer}");
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
    check(document, method, path, status, content_type, &answer);
    answer
}

#[test]
fn every_response_matches_its_schema() {
    let (mut lb, backends) = balancer("", true);
    let document = document(&lb);
    let mut requested = BTreeSet::new();
    let mut send = |method: &str, path: &str, live: &str, body: &str, wanted: u16| {
        requested.insert((method.to_owned(), path.to_owned()));
        send(&lb, &document, [method, path, live], body, wanted)
    };
    let mut open = [connect(&lb), connect(&lb)];
    for client in &mut open {
        client.write_all(b"GET /slow HTTP/1.1\r\n").unwrap();
    }
    crate::support::http_get(lb.address("web"), "/").unwrap();
    eventually("they are routed", || (lb.logged(&["routed"]).len() == 3).then_some(()));
    for path in ["/heartbeat", "/ready", "/metrics", "/api/v1/openapi.json", "/api/v1/config"] {
        send("GET", path, path, "", 200);
    }
    let one = format!("/api/v1/pools/web/backends/{}", backends[0].address);
    let (list, backend) = ("/api/v1/pools/{pool}/backends", "/api/v1/pools/{pool}/backends/{backend}");
    send("GET", "/api/v1/pools", "/api/v1/pools", "", 200);
    send("GET", "/api/v1/pools/{pool}", "/api/v1/pools/web", "", 200);
    send("GET", "/api/v1/pools/{pool}", "/api/v1/pools/nobody", "", 404);
    send("GET", list, "/api/v1/pools/web/backends", "", 200);
    send("GET", backend, &one, "", 200);
    send("GET", backend, "/api/v1/pools/web/backends/nobody", "", 404);
    send("PATCH", backend, &one, r#"{"weight": 3}"#, 200);
    send("PATCH", backend, &one, r#"{"state": "maintenance"}"#, 200);
    send("PATCH", backend, &one, r#"{"state": "up"}"#, 200);
    send("PATCH", backend, &one, "{}", 400);
    send("PATCH", backend, &one, r#"{"weight": "much"}"#, 422);
    send("PATCH", backend, &one, &" ".repeat(70_000), 413);
    let new = r#"{"address": "127.0.0.1:1", "name": "new", "weight": 2, "backup": true}"#;
    send("POST", list, "/api/v1/pools/web/backends", new, 201);
    send("POST", list, "/api/v1/pools/web/backends", new, 409);
    send("POST", list, "/api/v1/pools/web/backends", "[]", 422);
    send("DELETE", backend, "/api/v1/pools/web/backends/new", "", 200);
    send("DELETE", backend, &one, "", 409);
    let (connections, decisions) = ("/api/v1/connections", "/api/v1/decisions");
    let listed: Value = serde_json::from_str(&send("GET", connections, connections, "", 200)).unwrap();
    send("GET", connections, "/api/v1/connections?limit=x", "", 400);
    send("GET", connections, "/api/v1/connections?pool=x", "", 404);
    eventually("one was tried in vain", || {
        crate::support::http_get(lb.address("l"), "/").unwrap();
        let reply: Value = serde_json::from_str(&lb.get("/api/v1/decisions?pool=other").1).unwrap();
        reply["decisions"].as_array().unwrap().iter().any(|one| one["failed"] != json!([])).then_some(())
    });
    send("GET", decisions, decisions, "", 200);
    let conn = listed["connections"][0]["conn"].as_u64().unwrap();
    let end = "/api/v1/connections/{id}";
    send("DELETE", end, &format!("/api/v1/connections/{conn}"), "", 200);
    send("DELETE", end, "/api/v1/connections/987654321", "", 404);
    send("POST", "/api/v1/check", "/api/v1/check", "{}", 200);
    send("POST", "/api/v1/check", "/api/v1/check", r#"{"pool": "web", "host": 1}"#, 422);
    send("POST", "/api/v1/reload", "/api/v1/reload", "", 200);
    let (plan, undo) = ("/api/v1/reload/plan", "/api/v1/reload/undo");
    send("POST", undo, undo, "", 409);
    let before = std::fs::read_to_string(lb.folder().join("pointsman.yaml")).unwrap();
    lb.rewrite(&format!("{before}\nruntime: {{records: 99}}\n"));
    let planned = send("POST", plan, plan, "", 200);
    assert!(planned.contains("records"), "{planned}");
    send("POST", "/api/v1/reload", "/api/v1/reload", "", 200);
    send("POST", undo, undo, "", 200);
    lb.rewrite("listeners: {}");
    send("POST", plan, plan, "", 422);
    send("POST", "/api/v1/reload", "/api/v1/reload", "", 422);
    let problems = "/api/v1/problems";
    eventually("that is a problem", || lb.get(problems).1.contains("reload_rejected").then_some(()));
    send("GET", problems, "/api/v1/problems?window=1m", "", 200);
    send("GET", problems, "/api/v1/problems?window=x", "", 400);
    let events: Value =
        serde_json::from_str(&send("GET", "/api/v1/journal", "/api/v1/journal", "", 200)).unwrap();
    let kinds: BTreeSet<_> =
        events["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    let wanted = [
        "endpoints_changed",
        "check_result_changed",
        "state_changed",
        "weight_changed",
        "operator_change",
        "backend_added",
        "backend_removed",
        "connection_closed",
        "check_requested",
        "reload_applied",
        "reload_refused",
    ];
    assert!(wanted.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    send("GET", "/api/v1/journal", "/api/v1/journal?after=-1", "", 400);
    let (why, story) = ("/api/v1/why", "/api/v1/story");
    let reply: Value =
        serde_json::from_str(&send("GET", why, "/api/v1/why?client=127.0.0.1", "", 200)).unwrap();
    for what in ["decision", "open", "ended"] {
        assert!(
            reply["connections"].as_array().unwrap().iter().any(|one| one[what] != Value::Null),
            "{what}"
        );
    }
    send("GET", why, &format!("/api/v1/why?conn={conn}"), "", 200);
    send("GET", why, "/api/v1/why?conn=987654321", "", 200);
    send("GET", why, &format!("/api/v1/why?pool=web&backend={}", backends[0].address), "", 200);
    send("GET", why, "/api/v1/why?pool=web&backend=new", "", 200);
    send("GET", why, "/api/v1/why?pool=web&backend=nobody", "", 404);
    for wrong in ["", "?pool=web", "?conn=1&client=unix", "?conn=1&limit=0", "?client=somebody", "?conn=%ff"]
    {
        send("GET", why, &format!("/api/v1/why{wrong}"), "", 400);
    }
    send("GET", story, story, "", 200);
    send("GET", story, "/api/v1/story?since=90s&pool=web", "", 200);
    send("GET", story, "/api/v1/story?since=long", "", 400);
    send("GET", story, "/api/v1/story?pool=nobody", "", 404);
    let shadow = "/api/v1/pools/{pool}/shadow";
    send("GET", shadow, "/api/v1/pools/web/shadow", "", 200);
    send("GET", shadow, "/api/v1/pools/other/shadow", "", 409);
    send("GET", shadow, "/api/v1/pools/nobody/shadow", "", 404);
    send("GET", shadow, "/api/v1/pools/%ff/shadow", "", 400);
    let lines = send("GET", "/api/v1/logs", "/api/v1/logs?lines=1", "", 200);
    assert_eq!(lines.matches("event: line").count(), 1, "{lines}");
    send("GET", "/api/v1/logs", "/api/v1/logs?lines=all", "", 400);
    // Without replicas.
    send("GET", "/api/v1/replicas", "/api/v1/replicas", "", 200);
    send("GET", "/rep", "/rep", "", 404);
    send("POST", "/add", "/add", r#"{"n": 1}"#, 404);
    send("DELETE", "/rm", "/rm", r#"{"n": 1}"#, 404);
    eventually("there is a history", || {
        let history: Value = serde_json::from_str(&lb.get("/api/v1/history").1).unwrap();
        history["pools"]["web"]["active"].as_array().filter(|active| active.len() > 1).map(|_| ())
    });
    send("GET", "/api/v1/history", "/api/v1/history", "", 200);
    send("GET", "/api/v1/status", "/api/v1/status", "", 200);
    let hand_over = "/api/v1/hand-over";
    send("POST", hand_over, hand_over, r#"{"socket": "/nonexistent/socket"}"#, 409);
    send("POST", hand_over, hand_over, r#"{"socket": 1}"#, 422);
    let (all, one) = ("/api/v1/listeners", "/api/v1/listeners/{listener}");
    send("GET", all, all, "", 200);
    for (code, path) in [(200, "/api/v1/listeners/web"), (404, "/api/v1/listeners/none")] {
        send("GET", one, path, "", code);
        send("PATCH", one, path, r#"{"state": "draining"}"#, code);
        send("PATCH", one, path, r#"{"state": "up"}"#, code);
    }
    send("PATCH", one, "/api/v1/listeners/web", r#"{"state": "closed"}"#, 422);
    let drain = "/api/v1/drain";
    send("GET", drain, "/api/v1/drain?listener=web", "", 200);
    send("GET", drain, "/api/v1/drain?listener=none", "", 404);
    send("GET", drain, drain, "", 200);
    send("GET", drain, "/api/v1/drain?pool=web&backend=new", "", 200);
    send("GET", drain, "/api/v1/drain?pool=nobody", "", 404);
    send("GET", drain, "/api/v1/drain?backend=new", "", 400);
    // The drain ends the process.
    send("POST", "/api/v1/drain", "/api/v1/drain", "", 202);
    eventually("it is not ready", || (lb.get("/ready").0 == 503).then_some(()));
    send("GET", "/ready", "/ready", "", 503);
    send("POST", "/api/v1/drain", "/api/v1/drain", "", 409);
    send("GET", "/api/v1/journal", "/api/v1/journal", "", 200);
    let methods = |(path, operations): (&String, &Value)| {
        let described = operations.as_object().unwrap().keys().map(|method| method.to_uppercase());
        let described = described.filter(|method| METHODS.contains(&method.as_str()));
        described.map(|method| (method, path.clone())).collect::<Vec<_>>()
    };
    let mut described: BTreeSet<_> =
        document["paths"].as_object().unwrap().iter().flat_map(methods).collect();
    described.remove(&("GET".to_owned(), "/api/v1/events".to_owned()));
    assert_eq!(requested, described, "every operation was tried");
    drop(open);
    assert_eq!(lb.when_ended().code(), Some(0));
}

#[test]
fn every_response_about_replicas_matches_its_schema() {
    let (engine, server) = (FakeEngine::unreachable(), Backend::http("a"));
    let config = format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools: {{p: {{replicas: {{image: web, port: {}, engine: \"{}\", min: 1, max: 3}}}}}}",
        server.address.port(),
        engine.address()
    );
    let lb = Lb::start(&config);
    let document = document(&lb);
    let send = |method: &str, path: &str, query: &str, body: &str, wanted: u16| {
        send(&lb, &document, [method, path, &format!("{path}{query}")], body, wanted)
    };
    send("GET", "/rep", "", "", 503);
    send("POST", "/add", "", r#"{"n": 1}"#, 503);
    send("DELETE", "/rm", "", r#"{"n": 1}"#, 503);
    send("GET", "/api/v1/replicas", "", "", 200);
    engine.listen();
    eventually("the engine answers", || (lb.get("/rep").0 == 200).then_some(()));
    eventually("the minimum is there", || (engine.names("running").len() == 1).then_some(()));
    send("GET", "/rep", "", "", 200);
    // In JSON, 1.0 is an integer.
    let reply = send("POST", "/add", "?pool=p", r#"{"n": 1.0, "hostnames": ["Server 4"]}"#, 200);
    assert!(reply.contains("Server 4"), "{reply}");
    for (body, status) in [
        (r#"{"n": 0}"#, 400),
        (r#"{"n": 1.5}"#, 400),
        ("[]", 400),
        (r#"{"n": 1, "hostnames": ["Server 4"]}"#, 409),
        (r#"{"n": 9}"#, 409),
        (&" ".repeat(70_000), 413),
    ] {
        send("POST", "/add", "", body, status);
    }
    send("GET", "/rep", "?pool=q", "", 404);
    send("GET", "/rep", "?pool=p&pool=q", "", 400);
    send("DELETE", "/rm", "", r#"{"n": 1, "hostnames": ["Server 5"]}"#, 404);
    for path in ["/api/v1/replicas", "/api/v1/status", "/api/v1/pools"] {
        let reply = send("GET", path, "", "", 200);
        assert!(reply.contains("Server 4") && reply.contains("last_decision"), "{reply}");
    }
    send("DELETE", "/rm", "", r#"{"n": 1, "hostnames": ["Server 4"]}"#, 200);
    send("DELETE", "/rm", "", r#"{"n": 1}"#, 409);
}

#[test]
fn every_refusal_without_a_token_matches_its_schema() {
    let (lb, _backends) = balancer(", token_file: token", true);
    let document = document(&lb);
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in
            operations.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let live = path.replace("{pool}", "web").replace("{backend}", "nobody").replace("{id}", "0");
            let change = method != "get";
            assert_eq!(
                operation["security"],
                if change { json!([{"token": []}]) } else { Value::Null },
                "{path}"
            );
            if change {
                let (status, head, answer) = raw(&lb, &method.to_uppercase(), &live, "{}");
                assert_eq!(status, 401, "{method} {path}: {answer}");
                let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
                check(&document, method, path, status, content_type, &answer);
                assert!(
                    head.lines().any(|line| line == "www-authenticate: bearer"),
                    "{method} {path}: {head}"
                );
            }
        }
    }
}

#[test]
fn generated_requests_get_documented_responses() {
    let Some(tool) = python_tool("schemathesis") else { return };
    let (mut lb, _backends) = balancer(", token_file: token", false);
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(tool)
        .current_dir(folder.path())
        .arg("--config-file")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml"))
        .args(["run", &format!("http://{}/api/v1/openapi.json", lb.admin())])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .output_within(TOOL)
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(lb.is_running() && lb.get("/ready").0 == 200);
    assert!(!lb.log().contains("panicked"), "{}", lb.log());
}
