//! Choosing, checking and failing over, as clients and operators see them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::backend::{self, Backend};
use crate::support::peers::is_reset;
use crate::support::{
    ClosedPort, Lb, SetAtTheEnd, TIME_LIMIT, accept_within, connect_to, eventually, http_get, listen_alone,
    static_list,
};

/// A busy machine has a second to answer a check; the fast interval is short.
const CHECKS: &str = "    health: {http: /health, every: 1s, timeout: 1s, fast_every: 100ms}\n";

fn lb(backends: &[&Backend], listener: &str, pool: &str) -> Lb {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p{listener}}}}}\npools:\n  p:\n    discover: {}\n{pool}",
        static_list(&addresses)
    ))
}

fn three() -> [Backend; 3] {
    ["a", "b", "c"].map(Backend::http)
}

fn names(backends: &[&Backend]) -> Vec<String> {
    backends.iter().map(|backend| backend.address.to_string()).collect()
}

fn responder(lb: &Lb) -> String {
    http_get(lb.address("l"), "/").unwrap().1
}

#[test]
fn equal_backends_get_requests_in_strict_rotation() {
    let [a, b, c] = three();
    let lb = lb(&[&a, &b, &c], "", "");
    let answers: String = (0..12).map(|_| responder(&lb)).collect();
    assert_eq!(answers, "abcabcabcabc");
}

#[test]
fn concurrent_requests_are_shared_exactly_evenly_by_several_workers() {
    let [a, b, c] = three();
    let lb = lb(&[&a, &b, &c], "", "");
    let (address, counts) = (lb.address("l"), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let name = http_get(address, "/").unwrap().1;
                    *counts.lock().unwrap().entry(name).or_insert(0) += 1;
                }
            });
        }
    });
    assert!(counts.into_inner().unwrap().into_values().eq([100, 100, 100]));
}

#[test]
fn weights_are_spread_out_smoothly() {
    let [a, b, c] = three();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    balance: weighted\n    discover:\n    \
         - static: [{{address: \"{}\", weight: 5}}, {}, {}]\n",
        a.address, b.address, c.address
    ));
    let answers: String = (0..14).map(|_| responder(&lb)).collect();
    assert_eq!(answers, "aabacaaaabacaa");
}

#[test]
fn least_connections_avoids_busy_backends() {
    let [a, b, c] = three();
    let lb = lb(&[&a, &b, &c], "", "    balance: least-connections\n");
    // Two idle connections are on two backends; the third backend gets all others.
    let open: Vec<_> = (0..2).map(|_| connect_to(lb.address("l")).unwrap()).collect();
    eventually("both are routed", || (lb.logged(&["routed"]).len() == 2).then_some(()));
    let answers: Vec<_> = (0..5)
        .map(|_| {
            let answer = responder(&lb);
            // The next choice must count its end.
            eventually("closed", || {
                // The place at the backend, which is freed last.
                let status = lb.status();
                let backends = status["pools"][0]["backends"].as_array().unwrap();
                (backends.iter().map(|backend| backend["active"].as_u64().unwrap()).sum::<u64>() == 2)
                    .then_some(())
            });
            answer
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    drop(open);
    lb.when_idle();
}

#[test]
fn a_backend_gets_nothing_before_its_first_check_has_passed() {
    let healthy = Arc::<AtomicBool>::default();
    let (is_healthy, early_request) = (Arc::clone(&healthy), Arc::<AtomicBool>::default());
    let too_early = Arc::clone(&early_request);
    let slow = Backend::serving(move |mut stream| {
        let Some(request) = backend::read_request(&mut stream) else { return };
        let health = request.starts_with("GET /health");
        if !health && !is_healthy.load(Ordering::SeqCst) {
            too_early.store(true, Ordering::SeqCst);
        }
        let status = if health && !is_healthy.load(Ordering::SeqCst) { "503 No" } else { "200 OK" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow");
    });
    let quick = Backend::http("quick");
    let lb = lb(&[&slow, &quick], "", CHECKS);
    lb.when_up(names(&[&quick]));
    for _ in 0..20 {
        assert_eq!(responder(&lb), "quick");
    }
    eventually("its check fails", || {
        let error = lb.status()["pools"][0]["backends"][0]["checks"][0]["error"].clone();
        error.as_str()?.contains("status 503, not 2xx").then_some(())
    });
    healthy.store(true, Ordering::SeqCst);
    lb.when_up(names(&[&slow, &quick]));
    assert!(
        !early_request.load(Ordering::SeqCst),
        "a client's request came to a backend that had not passed a check"
    );
}

#[test]
fn killing_a_backend_under_load_fails_no_new_connection() {
    let [mut a, b, c] = three();
    let lb = lb(&[&a, &b, &c], "", CHECKS);
    lb.when_up(names(&[&a, &b, &c]));
    let (address, stop) = (lb.address("l"), AtomicBool::new(false));
    let served = AtomicUsize::new(0);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    match http_get(address, "/") {
                        Ok(_) => _ = served.fetch_add(1, Ordering::SeqCst),
                        Err(error) => errors.lock().unwrap().push((began, error)),
                    }
                }
            });
        }
        let stopping = SetAtTheEnd(&stop);
        let more = || {
            let before = served.load(Ordering::SeqCst);
            eventually("more are served", || (served.load(Ordering::SeqCst) > before + 100).then_some(()));
        };
        more();
        a.kill();
        let end = Instant::now();
        eventually("it is down", || lb.backends().iter().any(|backend| backend.1 == "down").then_some(()));
        more();
        drop(stopping);
        // Only connections to the killed backend may fail.
        let errors = errors.lock().unwrap();
        let late: Vec<_> = errors.iter().filter(|(began, _)| *began > end).collect();
        assert!(late.is_empty(), "{late:?}");
        assert!(errors.len() <= 8, "{errors:?}");
    });
    assert!(lb.metric("pointsman_failures_retried_total{pool=\"p\"}") > 0.0);
    assert_eq!(
        lb.metric("pointsman_client_visible_failures_total{pool=\"p\",reason=\"connect_failed\"}"),
        0.0
    );
    assert!(lb.log().contains("connection refused\" attempts=2"), "the log tells of the second attempt");
    a.revive();
    lb.when_up(names(&[&a, &b, &c]));
    lb.when_idle();
}

/// Of thirty connections one after another, how many reach each backend. `then` is called after each of them.
fn shares_of_thirty(address: SocketAddr, mut then: impl FnMut()) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..30 {
        *shares.entry(http_get(address, "/").unwrap().1).or_insert(0) += 1;
        then();
    }
    shares
}

/// Fifteen of thirty connections for each of these two.
fn equal_shares(names: [&str; 2]) -> BTreeMap<String, u32> {
    names.map(|name| (name.to_owned(), 15)).into()
}

#[test]
fn a_dead_backend_without_checks_leaves_the_others_equal_shares() {
    let (dead, [a, b, _]) = (ClosedPort::new(), three());
    let with_the_dead_one_at = |place| {
        let mut addresses = vec![a.address, b.address];
        addresses.insert(place, dead.address);
        static_list(&addresses)
    };
    for workers in [1, 2] {
        let mut config = format!("runtime: {{workers: {workers}}}\nlisteners:\n");
        for place in 0..3 {
            config += &format!("  l{place}: {{bind: 127.0.0.1:0, pool: p{place}}}\n");
        }
        config += "pools:\n";
        for place in 0..3 {
            config += &format!("  p{place}: {{discover: {}}}\n", with_the_dead_one_at(place));
        }
        let lb = Lb::start(&config);
        for place in 0..3 {
            let shares = shares_of_thirty(lb.address(&format!("l{place}")), || ());
            assert_eq!(shares, equal_shares(["a", "b"]), "the dead one at {place}, {workers} workers");
            // It stays in the rotation: its place is tried again and again.
            let retried = lb.metric(&format!("pointsman_failures_retried_total{{pool=\"p{place}\"}}"));
            assert!(retried >= 10.0, "{retried} retries");
        }
    }
}

#[test]
fn a_backend_that_fails_and_is_taken_down_leaves_the_others_equal_shares() {
    for (dead, others) in [(0, ["b", "c"]), (1, ["a", "c"]), (2, ["a", "b"])] {
        let mut backends = three();
        // Its live connections take it down: the next check is due in an hour.
        let lb =
            lb(&backends.each_ref(), "", "    health: {http: /health, every: 1h, timeout: 20s, fall: 3}\n");
        lb.when_up(names(&backends.each_ref()));
        backends[dead].kill();
        let retried = || lb.metric("pointsman_failures_retried_total{pool=\"p\"}");
        let when_down_after_the_third = || {
            if retried() == 3.0 {
                eventually("it is down", || (lb.backends()[dead].1 == "down").then_some(()));
            }
        };
        let shares = shares_of_thirty(lb.address("l"), when_down_after_the_third);
        assert_eq!(shares, equal_shares(others));
        assert_eq!(retried(), 3.0);
    }
}

#[test]
fn failed_live_connections_count_as_failed_checks() {
    let [mut a, b, _] = three();
    // The checks alone would take half a minute.
    let lb = lb(&[&a, &b], "", "    health: {http: /health, every: 30s, timeout: 20s}\n");
    a.kill();
    let began = Instant::now();
    while lb.backends()[0].1 != "down" {
        assert_eq!(responder(&lb), "b");
        assert!(began.elapsed() < TIME_LIMIT);
    }
    assert!(lb.backends()[0].2.contains("a client's connection failed: connection refused"));
}

#[test]
fn no_backend_is_tried_twice_and_no_more_than_the_attempts() {
    let mut dead: Vec<_> = (0..5).map(|_| Backend::http("x")).collect();
    let last = Backend::http("last");
    let all: Vec<&Backend> = dead.iter().chain([&last]).collect();
    let addresses: Vec<SocketAddr> = all.iter().map(|backend| backend.address).collect();
    dead.iter_mut().for_each(Backend::kill);
    let config = |attempts: u32| {
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools:\n  p:\n    discover: {}\n    \
             connect: {{attempts: {attempts}}}\n",
            static_list(&addresses)
        )
    };
    let patient = Lb::start(&config(6));
    assert_eq!(http_get(patient.address("l"), "/").unwrap(), (200, "last".to_owned()));
    assert!(patient.when_logged("routed").contains("attempts=6"));
    let hasty = Lb::start(&config(2));
    assert_eq!(http_get(hasty.address("l"), "/").unwrap().0, 503);
    assert!(hasty.when_logged("no backend conn=").contains("attempts=2"));
    hasty.when_logged("reason=connect_failed");
}

#[test]
fn with_all_backends_down_clients_get_the_no_backend_response() {
    let mut backend = Backend::http("a");
    backend.kill();
    let discover = static_list(&[backend.address]);
    let mut lb = Lb::start(&format!(
        "listeners:\n  reset: {{bind: 127.0.0.1:0, pool: p}}\n  close: {{bind: 127.0.0.1:0, pool: p, no_backend: close}}\n  \
         http: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}\npools:\n  p:\n    discover: {discover}\n{CHECKS}"
    ));
    is_reset(&mut connect_to(lb.address("reset")).unwrap());
    assert_eq!(connect_to(lb.address("close")).unwrap().read(&mut [0]).unwrap(), 0);
    // A clean close also after data: unread data does not turn it into a reset.
    for _ in 0..20 {
        let mut stream = connect_to(lb.address("close")).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(http_get(lb.address("http"), "/").unwrap(), (503, "No backend is available.\n".to_owned()));
    // At once: no backend was tried.
    let line = lb.when_logged("listener=http pool=p algorithm=round-robin");
    assert!(line.contains("no backend") && line.contains("attempts=0"), "{line}");
    assert!(lb.is_running());
    assert_eq!(lb.get("/heartbeat").0, 200);
    backend.revive();
    lb.when_up(names(&[&backend]));
    assert_eq!(http_get(lb.address("http"), "/").unwrap().1, "a");
}

#[test]
fn a_listener_that_refuses_listens_only_while_a_backend_is_up() {
    let mut backend = Backend::http("a");
    let lb = lb(&[&backend], ", no_backend: refuse", CHECKS);
    lb.when_up(names(&[&backend]));
    let address = lb.address("l");
    // It listens a moment after its backend is up.
    eventually("it serves", || http_get(address, "/").ok().filter(|answer| answer.1 == "a"));
    backend.kill();
    let refused = || {
        let result = connect_to(address);
        result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
    };
    eventually("connections are refused", refused);
    backend.revive();
    eventually("and accepted again", || http_get(address, "/").ok().filter(|answer| answer.1 == "a"));
}

#[test]
fn a_listener_serves_no_more_connections_than_its_limit() {
    let backend = Backend::echo();
    let lb = lb(&[&backend], ", max_connections: 2", "");
    let open: Vec<_> = (0..2).map(|_| connect_to(lb.address("l")).unwrap()).collect();
    eventually("both are routed", || (lb.logged(&["routed"]).len() == 2).then_some(()));
    is_reset(&mut connect_to(lb.address("l")).unwrap());
    lb.when_logged("reason=limited");
    drop(open);
    lb.when_idle();
    let mut fourth = connect_to(lb.address("l")).unwrap();
    fourth.write_all(b"x").unwrap();
    fourth.read_exact(&mut [0]).unwrap();
}

#[test]
fn at_the_limit_of_the_process_connections_wait_and_are_not_lost() {
    let backend = Backend::echo();
    let discover = static_list(&[backend.address]);
    let lb = Lb::start(&format!(
        "runtime: {{max_connections: 3, workers: 1}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\n\
         pools: {{p: {{discover: {discover}}}}}\n"
    ));
    let exchange = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    let mut open: Vec<_> = (0..10).map(|_| connect_to(lb.address("l")).unwrap()).collect();
    lb.when_logged("the limit of connections is reached");
    // One at a time: each closed connection admits the next one.
    for mut stream in open.drain(..) {
        exchange(&mut stream);
    }
}

#[test]
fn on_down_closes_or_resets_open_connections() {
    for (policy, end) in [
        ("close", "reason=backend_down"),
        ("reset", "reason=backend_down"),
        ("{close: 600ms}", "reason=backend_down"),
    ] {
        let healthy = Arc::new(AtomicBool::new(true));
        let is_healthy = Arc::clone(&healthy);
        let checked = Backend::serving(move |mut stream| {
            if let Some(_request) = backend::read_request(&mut stream) {
                let status = if is_healthy.load(Ordering::SeqCst) { "200 OK" } else { "500 No" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        let echo = Backend::echo();
        let lb = lb(
            &[&echo],
            "",
            &format!(
                "    health: {{http: /health, every: 1s, timeout: 1s, fast_every: 50ms, port: {}}}\n    on_down: {policy}\n",
                checked.address.port()
            ),
        );
        lb.when_up(names(&[&echo]));
        let mut client = connect_to(lb.address("l")).unwrap();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        // Measured from before the failure, as the time until the state change has no bound.
        let began = Instant::now();
        healthy.store(false, Ordering::SeqCst);
        lb.when_logged("backend down");
        match policy {
            "reset" => is_reset(&mut client),
            _ => assert_eq!(client.read(&mut [0]).unwrap(), 0),
        }
        if policy.starts_with('{') {
            assert!(began.elapsed() >= Duration::from_millis(600), "ended too early: {:?}", began.elapsed());
        }
        lb.when_logged(end);
    }
}

#[test]
fn by_default_connections_of_a_backend_that_is_down_stay_open() {
    let echo = listen_alone();
    let address = echo.local_addr().unwrap();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {}\n    health: {{tcp: {{}}, every: 50ms, timeout: 40ms}}\n",
        static_list(&[address])
    ));
    let mut client = connect_to(lb.address("l")).unwrap();
    client.write_all(b"x").unwrap();
    // Connections of checks arrive here too; only the client's sends data.
    let mut server = eventually("the connection", || {
        let (mut stream, _) = accept_within(&echo);
        stream.read_exact(&mut [0]).ok().map(|()| stream)
    });
    // It listens no more and keeps its port.
    socket2::SockRef::from(&echo).shutdown(std::net::Shutdown::Both).unwrap();
    lb.when_logged("backend down");
    server.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");
}

#[test]
fn a_json_log_has_every_line_and_field() {
    let backend = Backend::http("a");
    let directory = tempfile::tempdir().unwrap();
    let mut lb = Lb::launch(&format!(
        "log: {{format: json, directory: \"{}\"}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}\n",
        directory.path().display(),
        static_list(&[backend.address])
    ));
    lb.when_logged("admin listening");
    let line = |log: &str, message: &str| {
        let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.find(|line| line["message"] == message)
    };
    let listening = line(&lb.log(), "listening").unwrap();
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(http_get(address, "/").unwrap().1, "a");
    let closed = eventually("closed", || line(&lb.log(), "closed"));
    let routed = line(&lb.log(), "routed").unwrap();
    for (key, value) in [("listener", "l"), ("pool", "p"), ("algorithm", "round-robin"), ("skipped", "")] {
        assert_eq!(routed[key], value, "{routed}");
    }
    assert_eq!(routed["attempts"], 1);
    assert_eq!(routed["conn"], closed["conn"]);
    assert_eq!(closed["bytes_in"], 49);
    assert!(closed["duration_ms"].is_number() && closed["first_byte_ms"].is_number());
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(0));
    // The file equals standard error.
    let files: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let file = files.iter().find(|path| path.ends_with("pointsman.log")).unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    assert!(line(&text, "stopped").is_some() && line(&text, "routed").is_some(), "{text}");
}
