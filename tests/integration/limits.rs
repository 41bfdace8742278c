//! Connection limits per backend, and the queue of a pool.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::backend::{self, Backend};
use crate::support::peers::{accept_speaker, connect, is_reset, reset, speaker};
use crate::support::{Lb, eventually, http_get, join_within, listen_alone, static_list};

const QUEUE: &str = "pointsman_queue_length{pool=\"p\"}";

fn config(backends: &[SocketAddr], listener: &str, pool: &str) -> String {
    let discover = static_list(backends);
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p{listener}}}}}\npools:\n  p:\n    discover: {discover}\n{pool}"
    )
}

/// A balancer in front of one server of the test.
fn in_front_of_one(limits: &str) -> (Lb, TcpListener) {
    let server = listen_alone();
    let lb = Lb::start(&config(&[server.local_addr().unwrap()], "", &format!("    limits: {{{limits}}}\n")));
    (lb, server)
}

fn when_waiting(lb: &Lb, n: usize) {
    eventually(&format!("{n} wait"), || (lb.metric(QUEUE) == n as f64).then_some(()));
    assert_eq!(lb.status()["pools"][0]["queue"], n);
}

#[test]
fn clients_of_a_full_backend_use_another_one_or_are_refused() {
    let (small, large) = (Backend::echo(), Backend::echo());
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    limits: {{connections: 3}}\n    discover:\n    \
         - static: [{{address: \"{}\", name: small, connections: 1}}, {{address: \"{}\", name: large}}]\n",
        small.address, large.address
    ));
    let mut open: Vec<_> = (0..4)
        .map(|n| {
            let mut client = connect(&lb);
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            eventually("routed", || (lb.logged(&["routed"]).len() == n + 1).then_some(()));
            client
        })
        .collect();
    assert_eq!((small.accepted.load(Ordering::SeqCst), large.accepted.load(Ordering::SeqCst)), (1, 3));
    assert_eq!(lb.logged(&["routed", "backend=large", "small: full"]).len(), 2, "{}", lb.log());
    is_reset(&mut connect(&lb));
    let line = lb.when_logged("no backend");
    for word in ["reason=limited", "small: full; large: full", "attempts=0"] {
        assert!(line.contains(word), "{line}");
    }
    lb.when_logged("reason=limited bytes_in=0");
    assert_eq!(lb.metric("pointsman_client_visible_failures_total{pool=\"p\",reason=\"limited\"}"), 1.0);
    // A closed connection makes room for one.
    open.pop();
    eventually("a place is free", || (lb.logged(&["closed", "backend=large"]).len() == 1).then_some(()));
    let mut client = connect(&lb);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn queued_clients_are_served_in_order() {
    let (lb, server) = in_front_of_one("connections: 1, queue: 10");
    let mut open = vec![(speaker(&lb, 'a'), accept_speaker(&server).0)];
    let mut waiting = Vec::new();
    for (n, word) in ('b'..='e').enumerate() {
        waiting.push(speaker(&lb, word));
        when_waiting(&lb, n + 1);
    }
    let mut order = String::new();
    for client in waiting {
        open.clear(); // the slot is free
        let (stream, word) = accept_speaker(&server);
        order.push(word);
        open.push((client, stream));
    }
    assert_eq!(order, "bcde");
    when_waiting(&lb, 0);
    let routed = lb.logged(&["routed"]);
    assert!(
        !routed[0].contains("queued_ms") && routed[1..].iter().all(|line| line.contains("queued_ms=")),
        "{routed:?}"
    );
}

#[test]
fn after_the_queue_timeout_a_client_gets_the_no_backend_response() {
    let server = listen_alone();
    let lb = Lb::start(&config(
        &[server.local_addr().unwrap()],
        ", no_backend: http-503",
        "    limits: {connections: 1, queue: 10, queue_timeout: 300ms}\n",
    ));
    let _first = speaker(&lb, 'a');
    let _at_server = accept_speaker(&server);
    let began = Instant::now();
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
    assert!(began.elapsed() >= Duration::from_millis(300), "only {:?}", began.elapsed());
    let line = lb.when_logged("no backend");
    let (_, queued) = line.split_once("queued_ms=").unwrap();
    let queued: f64 = queued.split_ascii_whitespace().next().unwrap().parse().unwrap();
    assert!(line.contains("reason=limited") && queued >= 300.0, "{line}");
    lb.when_logged("reason=limited bytes_in=");
    when_waiting(&lb, 0);
}

#[test]
fn the_queue_has_a_limit() {
    let servers = [(); 2].map(|()| listen_alone());
    let addresses = servers.each_ref().map(|server| server.local_addr().unwrap());
    let lb = Lb::start(&config(&addresses, "", "    limits: {connections: 1, queue: 2}\n"));
    let _open: Vec<_> = servers.iter().map(|server| (speaker(&lb, 'x'), accept_speaker(server))).collect();
    let waiting: Vec<_> = (0..4).map(|_| connect(&lb)).collect();
    when_waiting(&lb, 4);
    is_reset(&mut connect(&lb));
    lb.when_logged("reason=limited");
    assert_eq!(lb.metric(QUEUE), 4.0);
    drop(waiting);
    when_waiting(&lb, 0);
}

#[test]
fn a_disconnecting_client_frees_its_queue_slot() {
    let (lb, server) = in_front_of_one("connections: 1, queue: 3");
    let first = (speaker(&lb, 'a'), accept_speaker(&server).0);
    let (silent, broken) = (connect(&lb), speaker(&lb, 'b'));
    when_waiting(&lb, 2);
    drop(silent);
    lb.when_logged("reason=client_closed");
    reset(broken);
    lb.when_logged("reason=client_reset");
    when_waiting(&lb, 0);
    // The next client is served as if the queue had been empty.
    let _next = speaker(&lb, 'c');
    when_waiting(&lb, 1);
    drop(first);
    assert_eq!(accept_speaker(&server).1, 'c');
    eventually("two were routed", || (lb.logged(&["routed"]).len() == 2).then_some(()));
}

#[test]
fn a_client_that_half_closed_stays_in_the_queue() {
    let (lb, server) = in_front_of_one("connections: 1, queue: 3");
    let first = (speaker(&lb, 'a'), accept_speaker(&server).0);
    let early = speaker(&lb, 'b');
    early.shutdown(Shutdown::Write).unwrap();
    when_waiting(&lb, 1);
    // This one sends only while it is queued.
    let mut late = connect(&lb);
    when_waiting(&lb, 2);
    late.write_all(b"c").unwrap();
    late.shutdown(Shutdown::Write).unwrap();
    drop(first);
    for (mut client, expected) in [(early, 'b'), (late, 'c')] {
        let (mut stream, word) = accept_speaker(&server);
        assert_eq!(word, expected);
        stream.write_all(b"answer").unwrap();
        drop(stream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }
    assert!(lb.logged(&["reason=client_closed bytes_in=0"]).is_empty());
}

#[test]
fn a_backend_that_comes_up_serves_queued_clients() {
    let ready = Arc::<AtomicBool>::default();
    let is_ready = Arc::clone(&ready);
    let second = Backend::serving(move |mut stream| {
        let Some(request) = backend::read_request(&mut stream) else { return };
        let status = if is_ready.load(Ordering::SeqCst) { "200 OK" } else { "503 No" };
        let body = if request.starts_with("GET /health") { "" } else { "second" };
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    });
    let first = Backend::serving(|mut stream| {
        if backend::read_request(&mut stream).is_some_and(|request| request.starts_with("GET /health")) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        } else {
            let _ = stream.read(&mut [0]); // holds its connection
        }
    });
    let lb = Lb::start(&config(
        &[first.address, second.address],
        "",
        "    limits: {connections: 1, queue: 5, queue_timeout: 1m}\n    health: {http: /health, every: 1s, timeout: 1s, fast_every: 100ms, rise: 1}\n",
    ));
    lb.when_up(vec![first.address.to_string()]);
    let mut holding = connect(&lb);
    holding.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    lb.when_logged("routed");
    let address = lb.address("l");
    let queued = std::thread::spawn(move || http_get(address, "/").unwrap());
    when_waiting(&lb, 1);
    ready.store(true, Ordering::SeqCst);
    assert_eq!(join_within(queued, "the one that waited is served"), (200, "second".to_owned()));
}

#[test]
fn without_backends_no_client_stays_queued() {
    let mut echo = Backend::echo();
    let lb = Lb::start(&config(
        &[echo.address],
        "",
        "    limits: {connections: 1, queue: 5, queue_timeout: 1m}\n    health: {tcp: {}, every: 100ms, fall: 1}\n",
    ));
    lb.when_up(vec![echo.address.to_string()]);
    let mut first = connect(&lb);
    first.write_all(b"x").unwrap();
    first.read_exact(&mut [0]).unwrap();
    let mut waiting = [connect(&lb), connect(&lb)];
    when_waiting(&lb, 2);
    echo.kill();
    waiting.iter_mut().for_each(is_reset);
    when_waiting(&lb, 0);
}

#[test]
fn a_reload_that_raises_the_limit_serves_queued_clients() {
    let server = listen_alone();
    let with = |limits: &str| {
        config(
            &[server.local_addr().unwrap()],
            "",
            &format!("    limits: {{{limits}, queue: 5, queue_timeout: 1m}}\n"),
        )
    };
    let lb = Lb::start(&with("connections: 1"));
    let mut waiting: Vec<_> = ('a'..='e').map(|word| speaker(&lb, word)).collect();
    let mut at_server = vec![accept_speaker(&server)];
    when_waiting(&lb, 4);
    assert!(lb.reload(&with("connections: 3")).contains("applied"));
    at_server.extend([accept_speaker(&server), accept_speaker(&server)]);
    when_waiting(&lb, 2);
    // A lower limit keeps existing connections.
    assert!(lb.reload(&with("connections: 2")).contains("applied"));
    let end = |waiting: &mut Vec<TcpStream>, (stream, word): (TcpStream, char)| {
        drop(stream);
        let ended = lb.logged(&["closed"]).len() + 1;
        waiting[word as usize - 'a' as usize].shutdown(Shutdown::Both).unwrap();
        eventually("closed", || (lb.logged(&["closed"]).len() == ended).then_some(()));
    };
    end(&mut waiting, at_server.remove(0));
    assert_eq!(lb.metric(QUEUE), 2.0);
    end(&mut waiting, at_server.remove(0));
    at_server.push(accept_speaker(&server));
    when_waiting(&lb, 1);
}

#[test]
fn a_drain_ends_queued_clients_at_its_time_limit() {
    let server = listen_alone();
    let mut lb = Lb::start(&format!(
        "runtime: {{drain: {{timeout: 300ms}}}}\n{}",
        config(
            &[server.local_addr().unwrap()],
            "",
            "    limits: {connections: 1, queue: 5, queue_timeout: 1m}\n"
        )
    ));
    let _first = speaker(&lb, 'a');
    let _at_server = accept_speaker(&server);
    let mut waiting = connect(&lb);
    when_waiting(&lb, 1);
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(3));
    assert_eq!(lb.logged(&["closed", "reason=drain_timeout"]).len(), 2, "{}", lb.log());
    assert!(matches!(waiting.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_failed_connect_holds_no_connection_slot() {
    let mut http = Backend::http("a");
    let lb = Lb::start(&config(&[http.address], "", "    limits: {connections: 1}\n"));
    http.kill();
    for n in 1..=3 {
        is_reset(&mut connect(&lb));
        eventually("turned away", || {
            (lb.logged(&["closed", "reason=connect_failed"]).len() == n).then_some(())
        });
    }
    http.revive();
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
}

#[test]
fn many_queued_clients_are_all_served_and_never_above_the_limit() {
    const CLIENTS: usize = 300;
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (entered, highest) = (Arc::clone(&now), Arc::clone(&most));
    let busy = Backend::serving(move |stream| {
        highest.fetch_max(entered.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        let answered = stream.try_clone().unwrap();
        entered.fetch_sub(1, Ordering::SeqCst);
        backend::http(answered, "busy");
    });
    let lb = Lb::start(&config(
        &[busy.address],
        "",
        &format!("    limits: {{connections: 3, queue: {CLIENTS}, queue_timeout: 1m}}\n"),
    ));
    let address = lb.address("l");
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| http_get(address, "/").unwrap().1)).collect();
        assert!(clients.into_iter().all(|client| client.join().unwrap() == "busy"));
    });
    let (now, most) = (now.load(Ordering::SeqCst), most.load(Ordering::SeqCst));
    assert!(now == 0 && most <= 3, "{most} at once");
    assert!(!lb.logged(&["queued_ms="]).is_empty());
    when_waiting(&lb, 0);
    lb.when_idle();
    assert_eq!(lb.status()["pools"][0]["backends"][0]["active"], 0);
}

#[test]
fn the_log_names_the_load_factor_as_the_reason() {
    let backends = [Backend::echo(), Backend::echo()];
    let lb = Lb::start(&config(
        &backends.each_ref().map(|backend| backend.address),
        "",
        "    balance: ring-hash\n    hash: {load_factor: 1.25}\n",
    ));
    // One at a time: workers that choose at the same instant do not see each other's choice.
    let one = |n: usize| {
        let client = connect(&lb);
        eventually("it is routed", || (lb.logged(&["routed"]).len() == n).then_some(()));
        client
    };
    let _open: Vec<_> = (1..=4).map(one).collect();
    let routed = lb.logged(&["routed"]);
    let count = |backend: &Backend| {
        let to = format!(" backend={} ", backend.address);
        routed.iter().filter(|line| line.contains(&to)).count()
    };
    // Without the load factor all connections of one client go to one backend.
    assert_eq!([count(&backends[0]), count(&backends[1])].iter().max(), Some(&3), "{routed:#?}");
    let elsewhere: Vec<_> =
        routed.iter().filter(|line| line.contains(": above its share (load_factor)")).collect();
    assert_eq!(elsewhere.len(), 1, "{routed:#?}");
}
