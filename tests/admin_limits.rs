//! What the admin server bears: requests of every size and pace, and many of them at once.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::{Lb, PATIENCE, SetAtTheEnd, connect_to, http_get, join_within, static_list};

fn balancer() -> (Lb, Backend) {
    let backend = Backend::http("a");
    let lb = Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: {}}}}}",
        static_list(&[backend.address])
    ));
    (lb, backend)
}

fn open(lb: &Lb) -> TcpStream {
    connect_to(lb.admin()).unwrap()
}

/// The head of the next answer.
fn head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "it ended: {head:?}");
    }
    head.to_lowercase()
}

/// The beginning of the answer to a request, of which the other side need not take everything.
fn answer(lb: &Lb, request: &[u8]) -> String {
    let stream = open(lb);
    let mut writer = stream.try_clone().unwrap();
    let request = request.to_vec();
    let writing = std::thread::spawn(move || _ = writer.write_all(&request));
    let head = head(&mut BufReader::new(stream));
    join_within(writing, "the request is sent or refused");
    head
}

#[test]
fn a_header_that_is_too_long_is_refused() {
    let (lb, _backend) = balancer();
    let request = |length: usize| {
        format!("GET /heartbeat HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(length))
    };
    assert!(answer(&lb, request(4_000).as_bytes()).starts_with("http/1.1 200 "));
    assert!(answer(&lb, request(100_000).as_bytes()).starts_with("http/1.1 431 "));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    let refused = answer(&lb, long.as_bytes());
    assert!(refused.starts_with("http/1.1 414 ") || refused.starts_with("http/1.1 431 "), "{refused}");
}

#[test]
fn a_body_that_is_too_long_is_refused_whether_its_length_is_told_or_not() {
    let (lb, backend) = balancer();
    let path = format!("/api/v1/pools/web/backends/{}", backend.address);
    let host = lb.admin();
    let head = format!("PATCH {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
    let body = " ".repeat(200_000);
    let told = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    assert!(answer(&lb, told.as_bytes()).starts_with("http/1.1 413 "));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert!(answer(&lb, chunked.as_bytes()).starts_with("http/1.1 413 "));
}

#[test]
fn a_connection_may_ask_again_and_for_heads_alone() {
    let (lb, _backend) = balancer();
    let mut stream = open(&lb);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..3 {
        stream.write_all(b"HEAD /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let head = head(&mut reader);
        assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\ncontent-length: "), "{head}");
        assert!(head.contains("\r\ncache-control: no-store\r\n"), "{head}");
    }
    // Without a body in between, the next answer begins where the last one ended.
    stream.write_all(b"GET /heartbeat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.ends_with(r#"{"status":"alive"}"#), "{rest}");
}

#[test]
fn who_asks_first_whether_to_send_a_body_is_told() {
    let (lb, backend) = balancer();
    let path = format!("/api/v1/pools/web/backends/{}", backend.address);
    let expect = |host: &str| {
        format!(
            "PATCH {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: 12\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut stream = open(&lb);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    stream.write_all(expect(&lb.admin().to_string()).as_bytes()).unwrap();
    assert!(head(&mut reader).starts_with("http/1.1 100 "));
    stream.write_all(br#"{"weight":1}"#).unwrap();
    assert!(head(&mut reader).starts_with("http/1.1 200 "));
    // Whoever may not is told so at once.
    let foreign = format!("{}\r\nOrigin: http://evil.example", lb.admin());
    assert!(answer(&lb, expect(&foreign).as_bytes()).starts_with("http/1.1 403 "));
    assert!(answer(&lb, expect("evil.example").as_bytes()).starts_with("http/1.1 421 "));
}

#[test]
fn a_flood_of_questions_holds_up_neither_clients_nor_checks() {
    const BACKENDS: usize = 200;
    /// As long as checks may take on a busy machine.
    const EVERY: Duration = Duration::from_secs(3);
    // One server at two hundred addresses.
    let server =
        Backend::serving_at("0.0.0.0:0".parse().unwrap(), |stream| support::backend::http(stream, "a"));
    let port = server.unwrap();
    let port = (port.address.port(), port);
    let addresses: Vec<_> =
        (0..BACKENDS).map(|n| format!("127.0.1.{}:{}", n + 1, port.0).parse().unwrap()).collect();
    let lb = Lb::start(&format!(
        "log: {{connections: false}}\nlisteners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: {}, health: {{http: /health, every: 3s, timeout: 3s}}}}}}",
        static_list(&addresses)
    ));
    let checks = || {
        let text = lb.get("/metrics").1;
        let series = |line: &&str| line.starts_with("pointsman_health_checks_total{");
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        text.lines().filter(series).map(value).sum::<f64>()
    };
    // Half requests, which are never completed.
    let half: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = open(&lb);
            stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (before, began) = (checks(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(lb.get("/api/v1/status").0, 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let stopping = SetAtTheEnd(&stop);
        let mut slowest = Duration::ZERO;
        // Two cores carry the flood, both of its ends: a late check is no lost one.
        while began.elapsed() < 2 * EVERY || checks() < before + BACKENDS as f64 {
            let asked_at = Instant::now();
            let answer = http_get(lb.address("web"), "/");
            slowest = slowest.max(asked_at.elapsed());
            let in_time = began.elapsed() <= 3 * PATIENCE;
            assert!(
                in_time && answer == Ok((200, "a".to_owned())),
                "{answer:?} after {} checks",
                checks() - before
            );
        }
        drop(stopping);
        assert!(slowest < PATIENCE, "{slowest:?}");
    });
    println!("{} checks in {:?}, beside {asked:?} questions", checks() - before, began.elapsed());
    let down = lb.logged(&["backend down"]);
    assert!(down.is_empty(), "{down:?}");
    drop(half);
}
