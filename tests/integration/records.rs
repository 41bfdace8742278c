//! The records of connections that are kept in memory (`runtime.records`), and what `why` tells of a client.

use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::access_lists::connect_from;
use crate::support::backend::Backend;
use crate::support::peers::{is_reset, reset};
use crate::support::{
    ClosedPort, Lb, Limited, accept_within, eventually, http_get_on, listen_alone, static_list,
};

fn config(records: usize, backends: &[SocketAddr], raw: SocketAddr) -> String {
    let (backends, raw) = (static_list(backends), static_list(&[raw]));
    format!(
        "runtime: {{workers: 1, records: {records}}}
listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}, r: {{bind: 127.0.0.1:0, pool: raw}}}}
pools: {{p: {{discover: {backends}}}, raw: {{discover: {raw}}}}}"
    )
}

fn json(lb: &Lb, path: &str) -> Value {
    let (status, body) = lb.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn pointsman(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let output = command.args(arguments).env_clear().output_in_time().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Requests that succeed, each on its own connection from 127.0.0.1.
fn succeed(lb: &Lb, requests: usize) {
    let (url, number) = (format!("http://{}/", lb.address("l")), requests.to_string());
    let report: Value =
        serde_json::from_str(&pointsman(&["bench", &url, "-n", &number, "-c", "4", "--json"])).unwrap();
    assert_eq!(report["succeeded"], requests, "{report}");
    lb.when_idle();
}

#[test]
fn failures_and_retries_are_found_after_thousands_of_successes() {
    let (b, raw, gone) = (Backend::http("b"), listen_alone(), ClosedPort::new());
    let raw_address = raw.local_addr().unwrap();
    let lb = Lb::start(&config(20, &[gone.address, b.address], raw_address));
    // One of two is retried, as round-robin begins with each backend once.
    for _ in 0..2 {
        let client = connect_from("127.0.4.1", lb.address("l"));
        assert_eq!(http_get_on(client, "/").unwrap().1, "b");
    }
    // One gets no backend.
    lb.reload(&config(20, &[gone.address], raw_address));
    let _ = connect_from("127.0.4.1", lb.address("l")).read(&mut [0]);
    // One fails after its decision.
    let mut client = connect_from("127.0.4.2", lb.address("r"));
    let (server, _) = accept_within(&raw);
    lb.when_logged("routed conn=4 ");
    reset(server);
    is_reset(&mut client);
    lb.when_idle();
    let before = json(&lb, "/api/v1/why?client=127.0.4.1");
    assert_eq!([&before["summary"]["connections"], &before["summary"]["failed"]], [3, 1], "{before:#}");

    lb.reload(&config(20, &[b.address], raw_address));
    succeed(&lb, 3000);

    let why = json(&lb, "/api/v1/why?client=127.0.4.1");
    let summary = &why["summary"];
    let retried = summary["retried"].as_u64().unwrap();
    assert!(retried >= 1, "{why:#}");
    assert_eq!(summary["connections"], retried + 1, "{why:#}");
    assert_eq!([&summary["closed_normally"], &summary["failed"]], [retried, 1], "{why:#}");
    assert_eq!([&summary["without_backend"], &summary["end_unknown"]], [1, 0], "{why:#}");
    let newest = &why["connections"][0];
    assert_eq!(newest["ended"]["reason"], "connect_failed", "{why:#}");
    assert_eq!(newest["decision"]["failed"].as_array().unwrap().len(), 1, "{why:#}");
    let decisions = json(&lb, "/api/v1/decisions?client=127.0.4.1&limit=50");
    assert_eq!(decisions["decisions"].as_array().unwrap().len() as u64, retried + 1, "{decisions:#}");

    // The decision of a connection that failed later, by its number.
    let why = json(&lb, "/api/v1/why?client=127.0.4.2");
    let one = &why["connections"][0];
    assert_eq!(one["ended"]["reason"], "backend_reset", "{why:#}");
    assert_eq!(one["decision"]["backend"], raw_address.to_string(), "{why:#}");
    let by_number = json(&lb, &format!("/api/v1/why?conn={}", one["conn"]));
    assert!(by_number.get("summary").is_none(), "{by_number:#}");
    assert_eq!(by_number["connections"][0]["ended"], one["ended"], "{by_number:#}");

    // The successes have a ring of 20, whose size a reload changes.
    assert_eq!(json(&lb, "/api/v1/why?client=127.0.0.1")["summary"]["closed_normally"], 20);
    lb.reload(&config(100, &[b.address], raw_address));
    succeed(&lb, 200);
    assert_eq!(json(&lb, "/api/v1/why?client=127.0.0.1")["summary"]["closed_normally"], 100);
    let found = json(&lb, "/api/v1/why?client=127.0.4.1");
    assert_eq!(found["summary"]["connections"], retried + 1, "{found:#}");
    lb.reload(&config(10, &[b.address], raw_address));
    assert_eq!(json(&lb, "/api/v1/why?client=127.0.0.1")["summary"]["closed_normally"], 10);
    let unknown = json(&lb, "/api/v1/why?client=192.0.2.1");
    let text = unknown["sentences"][1]["text"].as_str().unwrap();
    let beginning = "known are the open connections, the last 10 decisions (since ";
    assert!(text.starts_with(beginning), "{text}");
    assert!(unknown.get("summary").is_none(), "{unknown:#}");
}

#[test]
fn why_of_a_client_begins_with_a_summary() {
    let (b, raw) = (Backend::http("b"), listen_alone());
    let raw_address = raw.local_addr().unwrap();
    let lb = Lb::start(&config(500, &[b.address], raw_address));
    succeed(&lb, 40);
    let _open = (connect_from("127.0.0.1", lb.address("r")), accept_within(&raw));
    lb.when_logged("routed conn=41 ");
    let admin = lb.admin().to_string();
    let out = pointsman(&["why", "127.0.0.1", "--admin", &admin]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "127.0.0.1");
    let (first, went) = lines[1].split_once(" ago: ").unwrap();
    assert!(first.starts_with("127.0.0.1 made 41 connections that are remembered, the first "), "{out}");
    assert_eq!(went, format!("40 to p/{} and 1 to raw/{}", b.address, raw_address));
    assert_eq!(lines[2..5], ["1 is open and 40 closed normally", "the newest 10 of them follow", ""]);
    assert_eq!(out.matches("was accepted by the listener").count(), 10);
    let why = json(&lb, "/api/v1/why?client=127.0.0.1&limit=2");
    assert_eq!(
        why["summary"]["sentences"].as_array().unwrap()[..],
        why["sentences"].as_array().unwrap()[..2]
    );
    assert_eq!(why["summary"]["backends"][0]["connections"], 40, "{why:#}");

    // A failure is named.
    lb.reload(&config(500, &[ClosedPort::new().address], raw_address));
    let _ = connect_from("127.0.0.1", lb.address("l")).read(&mut [0]);
    eventually("its end is kept", || {
        let out = pointsman(&["why", "127.0.0.1", "--admin", &admin]);
        out.contains("1 is open, 40 closed normally and 1 failed visibly for the client (connect_failed)")
            .then_some(())
    });
}
