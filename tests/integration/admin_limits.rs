//! The limits of the admin server: size, pace and number of requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::{
    Lb, SetAtTheEnd, TIME_LIMIT, address_of_this_machine, connect_to, http_get, join_within, static_list,
};
use socket2::{Domain, Socket, Type};

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

/// The beginning of the response to a request, which the server need not read to its end.
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
fn a_too_long_header_is_refused() {
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
fn a_too_long_body_is_refused_with_and_without_its_length() {
    let (lb, backend) = balancer();
    let path = format!("/api/v1/pools/web/backends/{}", backend.address);
    let host = lb.admin();
    let head = format!("PATCH {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
    let body = " ".repeat(200_000);
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    assert!(answer(&lb, request.as_bytes()).starts_with("http/1.1 413 "));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert!(answer(&lb, chunked.as_bytes()).starts_with("http/1.1 413 "));
}

#[test]
fn a_connection_may_send_several_requests_and_head_requests() {
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
fn expect_continue_is_answered_before_the_body() {
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
    // A client without permission is refused before the body.
    let foreign = format!("{}\r\nOrigin: http://evil.example", lb.admin());
    assert!(answer(&lb, expect(&foreign).as_bytes()).starts_with("http/1.1 403 "));
    assert!(answer(&lb, expect("evil.example").as_bytes()).starts_with("http/1.1 421 "));
}

#[test]
fn a_flood_of_admin_requests_delays_neither_clients_nor_checks() {
    const BACKENDS: usize = 200;
    /// The interval and the timeout of checks, long enough for a busy machine.
    const EVERY: Duration = Duration::from_secs(8);
    // One server at two hundred addresses.
    let server = Backend::serving_at("0.0.0.0:0".parse().unwrap(), |stream| {
        crate::support::backend::http(stream, "a");
    });
    let port = server.unwrap();
    let port = (port.address.port(), port);
    let addresses: Vec<_> =
        (0..BACKENDS).map(|n| format!("127.0.1.{}:{}", n + 1, port.0).parse().unwrap()).collect();
    let lb = Lb::start(&format!(
        "log: {{connections: false}}\nlisteners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{discover: {}, health: {{http: /health, every: {EVERY:?}, timeout: {EVERY:?}}}}}}}",
        static_list(&addresses)
    ));
    let checks = || {
        let text = lb.get("/metrics").1;
        let series = |line: &&str| line.starts_with("pointsman_health_checks_total{");
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        text.lines().filter(series).map(value).sum::<f64>()
    };
    // Incomplete requests.
    let half: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = open(&lb);
            stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    let (stop, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (before, began) = (checks(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(lb.get("/api/v1/status").0, 200);
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let stopping = SetAtTheEnd(&stop);
        let mut slowest = Duration::ZERO;
        // The flood and the server share the cores: a late check is not a lost one.
        while began.elapsed() < 2 * EVERY || checks() < before + BACKENDS as f64 {
            let sent_at = Instant::now();
            let answer = http_get(lb.address("web"), "/");
            slowest = slowest.max(sent_at.elapsed());
            let in_time = began.elapsed() <= 3 * TIME_LIMIT;
            assert!(
                in_time && answer == Ok((200, "a".to_owned())),
                "{answer:?} after {} checks",
                checks() - before
            );
        }
        drop(stopping);
        assert!(slowest < TIME_LIMIT, "{slowest:?}");
    });
    println!("{} checks in {:?}, beside {requests:?} questions", checks() - before, began.elapsed());
    let down = lb.logged(&["backend down"]);
    assert!(down.is_empty(), "{down:?}");
    drop(half);
}

#[test]
fn seven_hundred_incomplete_requests_do_not_delay_a_health_check() {
    /// Half of the time that the server waits for the head of a request.
    const SOON: Duration = Duration::from_secs(5);
    let (lb, _backend) = balancer();
    let mut half = Vec::new();
    // A few more than the number of slots, and then many.
    for count in [300, 700] {
        half.resize_with(count, || {
            let mut stream = open(&lb);
            stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost:").unwrap();
            stream
        });
        let began = Instant::now();
        for path in ["/heartbeat", "/ready", "/api/v1/status"] {
            assert_eq!(lb.get(path).0, 200);
        }
        println!("answered after {:?}", began.elapsed());
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

/// Sends a request and reads nothing, with a small receive buffer.
fn send_without_reading(lb: &Lb, path: &str) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&lb.admin().into()).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    socket.send(request.as_bytes()).unwrap();
    socket
}

/// Sends ninety remote requests for `remote_path`, then a local one for `local`; returns how many remote ones are
/// answered before the local one.
fn answered_before(lb: &Lb, outside: IpAddr, remote_path: &str, local: &str) -> usize {
    let answered = AtomicUsize::new(0);
    let mut remote: Vec<_> = (0..90)
        .map(|_| {
            let stream = TcpStream::connect((outside, lb.admin().port())).unwrap();
            stream.set_read_timeout(Some(3 * TIME_LIMIT)).unwrap();
            (stream.try_clone().unwrap(), stream)
        })
        .collect();
    std::thread::scope(|scope| {
        let (mut writers, readers): (Vec<_>, Vec<_>) = remote.drain(..).unzip();
        for mut stream in readers {
            let answered = &answered;
            scope.spawn(move || {
                stream.read_exact(&mut [0; 13]).unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
                stream.read_to_end(&mut Vec::new()).unwrap();
            });
        }
        for stream in &mut writers {
            write!(stream, "GET {remote_path} HTTP/1.1\r\nHost: pointsman\r\nConnection: close\r\n\r\n")
                .unwrap();
        }
        assert_eq!(lb.get(local).0, 200);
        let before = answered.load(Ordering::Relaxed);
        println!("{before} times {remote_path} before {local}");
        before
    })
}

/// Asserts that few remote requests are answered before a local one, in the best of several attempts, as the machine may
/// be busy.
fn is_answered_early(lb: &Lb, outside: IpAddr, remote: &str, local: &str) {
    let mut counts = Vec::new();
    while counts.len() < 5 {
        counts.push(answered_before(lb, outside, remote, local));
        if counts.last().is_some_and(|count| *count < 30) {
            return;
        }
    }
    panic!("{counts:?} of 90 came first");
}

#[test]
fn long_answers_for_remote_clients_do_not_delay_a_local_client() {
    let Some(outside) = address_of_this_machine() else { return };
    let lb = many_backends(600, "0.0.0.0:0");
    is_answered_early(&lb, outside, "/metrics", "/heartbeat");
}

#[test]
fn remote_clients_that_list_connections_do_not_delay_a_local_client() {
    let Some(outside) = address_of_this_machine() else { return };
    let backend = Backend::http("a");
    let lb = Lb::start(&format!(
        "admin: {{bind: 0.0.0.0:0}}\nlog: {{connections: false}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: {}}}}}",
        static_list(&[backend.address])
    ));
    let open: Vec<_> = (0..400).map(|_| TcpStream::connect(lb.address("web")).unwrap()).collect();
    let path = "/api/v1/connections?limit=10000";
    is_answered_early(&lb, outside, path, path);
    drop(open);
}

/// A balancer with that many unreachable backends.
fn many_backends(count: usize, admin: &str) -> Lb {
    let addresses: Vec<_> =
        (0..count).map(|n| format!("127.9.{}.{}:9", n / 250, n % 250 + 1).parse().unwrap()).collect();
    Lb::start(&format!(
        "admin: {{bind: '{admin}'}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: {}}}}}",
        static_list(&addresses)
    ))
}

/// The limit of unread bytes for the clients on this machine, in KiB.
const WAITING: u64 = 64 * 1024;

#[test]
fn slow_readers_of_the_events_do_not_fill_memory() {
    let lb = many_backends(1500, "127.0.0.1:0");
    let uptime = || lb.status()["uptime_seconds"].as_f64().unwrap();
    let before = lb.resident_kib();
    let readers: Vec<_> = (0..60).map(|_| send_without_reading(&lb, "/api/v1/events")).collect();
    // Each second has a new snapshot, and no client reads it.
    let began = uptime();
    let mut largest = 0;
    while uptime() < began + 15.0 {
        largest = largest.max(lb.resident_kib().saturating_sub(before));
        assert!(largest < WAITING, "{largest} KiB more than before");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{largest} KiB more than before");
    drop(readers);
}
