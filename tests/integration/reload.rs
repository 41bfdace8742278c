//! Reload: changes apply, the rest continues undisturbed, and an invalid file changes nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::{Lb, SetAtTheEnd, connect_to, eventually, free_port, http_get, static_list};

fn config(port: u16, backends: &[SocketAddr], more: &str) -> String {
    format!(
        "listeners:\n  l: {{bind: 127.0.0.1:{port}, pool: p}}\npools:\n  p:\n    discover: {}\n    \
         health: {{http: /health, every: 1s, timeout: 1s}}\n{more}",
        static_list(backends)
    )
}

/// Runs `act` while four clients send requests, each on a new connection. No request may fail; returns the number of
/// served ones.
fn under_clients(address: SocketAddr, act: impl FnOnce()) -> usize {
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = || {
            while !stop.load(Ordering::SeqCst) {
                http_get(address, "/").unwrap();
                served.fetch_add(1, Ordering::SeqCst);
            }
        };
        let clients = [(); 4].map(|()| scope.spawn(client));
        // Stops the clients even after a panic: the scope waits for its threads.
        let acted = std::panic::catch_unwind(AssertUnwindSafe(act));
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().unwrap();
        }
        acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    served.into_inner()
}

#[test]
fn a_hundred_valid_and_invalid_reloads_fail_no_new_connection() {
    let backends = ["a", "b", "c"].map(Backend::http);
    let all: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let port = free_port();
    let lb = Lb::start(&config(port, &all, ""));
    let served = under_clients(lb.address("l"), || {
        for round in 0..100 {
            let word = match round % 5 {
                0 => lb.reload(&config(port, &all[..2], "")),
                // Only one problem, so one line: a second line could be mistaken for that of the next reload.
                1 => lb.reload(&config(port, &all, "    balance: fair\n")),
                2 => lb.reload(&config(port, &all, "    balance: least-connections\n")),
                3 => lb.reload(&config(port, &all, "    balance: round-robin\n    keepalive: 30s\n")),
                _ => {
                    let extra = format!("  q: {{discover: {}}}\n", static_list(&all[1..]));
                    let more = config(port, &all, &extra)
                        .replace("pools:", "  m: {bind: 127.0.0.1:0, pool: q}\npools:");
                    lb.reload(&more)
                }
            };
            let wanted = if round % 5 == 1 { "reload refused" } else { "reload applied" };
            assert!(word.contains(wanted), "{word}");
        }
    });
    assert!(served > 100, "hardly anything was served");
    assert_eq!(lb.metric("pointsman_client_visible_failures_total{pool=\"p\",reason=\"no_backend\"}"), 0.0);
}

#[test]
fn an_invalid_file_changes_nothing_and_its_errors_are_logged() {
    let backend = Backend::http("a");
    let lb = Lb::start(&config(0, &[backend.address], ""));
    let word = lb.reload("listeners: {l: {bind: 127.0.0.1:0, pool: q}}\npools: {p: {discover: [{static: [1.2.3.4:5]}], helth: 1}}\n");
    assert!(word.contains("reload refused"));
    // All problems are logged, a line each.
    for problem in ["unknown key \\\"helth\\\"", "names the pool"] {
        let line = lb.when_logged(problem);
        assert!(line.contains("reload refused") && line.contains("pointsman.yaml:"), "{line}");
    }
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
}

#[test]
fn a_port_in_use_fails_the_whole_reload() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let lb = Lb::start(&config(0, &[a.address], ""));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("  m: {{bind: {}, pool: p}}\npools:", taken.local_addr().unwrap());
    let word = lb.reload(&config(0, &[b.address], "").replace("pools:", &more));
    assert!(word.contains("reload refused") && word.contains("another program has it"), "{word}");
    assert_eq!(http_get(lb.address("l"), "/").unwrap().1, "a");
}

#[test]
fn replaced_backends_serve_until_the_new_ones_do() {
    let blue = Backend::http("blue");
    let green = Backend::http("green");
    let port = free_port();
    // The kernel answers these checks: if the first one failed, no backend would be left.
    let config = |backend: SocketAddr| {
        let config = config(port, &[backend], "");
        let by_tcp =
            config.replace("http: /health, every: 1s, timeout: 1s", "tcp: {}, every: 2s, timeout: 2s");
        assert_ne!(by_tcp, config);
        by_tcp
    };
    let lb = Lb::start(&config(blue.address));
    let address = lb.address("l");
    under_clients(address, || {
        for round in 0..10 {
            let (next, name) = if round % 2 == 0 { (&green, "green") } else { (&blue, "blue") };
            lb.reload(&config(next.address));
            let answer = http_get(address, "/").unwrap().1;
            assert_eq!(answer, name, "a reload is applied when it has taken effect");
        }
    });
}

#[test]
fn connected_clients_are_served_although_listener_and_pool_are_removed() {
    let echo = Backend::echo();
    let discover = static_list(&[echo.address]);
    let keep = format!("  k: {{bind: 127.0.0.1:0, pool: k}}\npools:\n  k: {{discover: {discover}}}\n");
    let both = keep.replace(
        "pools:\n",
        &format!("  l: {{bind: 127.0.0.1:0, pool: p}}\npools:\n  p: {{discover: {discover}}}\n"),
    );
    let start = "runtime: {max_connections: 1}\nlisteners:\n";
    let lb = Lb::start(&format!("{start}{both}"));
    // One is served, the others wait in the kernel or in the queue.
    let connect = |n: u8| {
        let mut stream = connect_to(lb.address("l")).unwrap();
        stream.write_all(&[n]).unwrap();
        stream
    };
    let clients: Vec<_> = (0..4).map(connect).collect();
    lb.when_logged("routed conn=");
    lb.reload(&format!("{start}{keep}"));
    // Their order depends on the workers.
    std::thread::scope(|scope| {
        for (n, mut stream) in (0..).zip(clients) {
            scope.spawn(move || {
                let mut answer = [0xff];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [n]);
            });
        }
    });
}

#[test]
fn open_connections_survive_every_change() {
    let (echo, other) = (Backend::echo(), Backend::http("b"));
    let port = free_port();
    let settings = format!(
        "listeners:\n  l: {{bind: 127.0.0.1:{port}, pool: p}}\npools:\n  p:\n    discover: {}\n",
        static_list(&[echo.address])
    );
    let lb = Lb::start(&settings);
    let mut client = connect_to(lb.address("l")).unwrap();
    let mut exchange = || {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    };
    exchange();
    // Another algorithm, another address, another backend, and finally another listener and pool.
    lb.reload(&format!("{settings}    balance: least-connections\n"));
    exchange();
    lb.reload(&settings.replace(&format!(":{port}"), ":0"));
    exchange();
    lb.reload(&settings.replace(&echo.address.to_string(), &other.address.to_string()));
    exchange();
    let discover = static_list(&[other.address]);
    lb.reload(&format!(
        "listeners: {{n: {{bind: 127.0.0.1:0, pool: q}}}}\npools: {{q: {{discover: {discover}}}}}\n"
    ));
    exchange();
    assert_eq!(http_get(lb.address("n"), "/").unwrap().1, "b");
}

#[test]
fn a_changed_bind_opens_the_new_address_before_it_closes_the_old() {
    let backend = Backend::http("a");
    let (old, new) = (free_port(), free_port());
    let lb = Lb::start(&config(old, &[backend.address], ""));
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let reached = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            // A client that tries the old address and then the new one is always served.
            while !stop.load(Ordering::SeqCst) {
                let answer = http_get(address(old), "/").or_else(|_| http_get(address(new), "/"));
                assert_eq!(answer.unwrap().1, "a");
                reached.fetch_add(1, Ordering::SeqCst);
            }
        });
        let stopping = SetAtTheEnd(&stop);
        lb.reload(&config(new, &[backend.address], ""));
        eventually("the old address is closed", || connect_to(address(old)).is_err().then_some(()));
        let before = reached.load(Ordering::SeqCst);
        eventually("the new one serves", || (reached.load(Ordering::SeqCst) > before + 10).then_some(()));
        drop(stopping);
        client.join().unwrap();
    });
}

#[test]
fn remaining_backends_keep_health_and_counters_and_removed_ones_leave() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let lb = Lb::start(&config(0, &[a.address, b.address], ""));
    lb.when_up(vec![a.address.to_string(), b.address.to_string()]);
    for _ in 0..4 {
        http_get(lb.address("l"), "/").unwrap();
    }
    lb.reload(&config(0, &[a.address], ""));
    eventually("b is gone", || (lb.backends().len() == 1).then_some(()));
    lb.when_logged("backend gone");
    assert_eq!(lb.status()["pools"][0]["backends"][0]["connections"], 2);
    assert_eq!(lb.logged(&["backend joining", &a.address.to_string()]).len(), 1, "a was checked afresh");
    // A returning backend inherits nothing.
    lb.reload(&config(0, &[a.address, b.address], ""));
    lb.when_up(vec![a.address.to_string(), b.address.to_string()]);
    assert_eq!(lb.status()["pools"][0]["backends"][1]["connections"], 0);
}

#[test]
fn connections_of_a_removed_backend_end_within_on_leave() {
    let echo = Backend::echo();
    let other = Backend::http("b");
    let settings = |backend: SocketAddr| {
        let discover = static_list(&[backend]);
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {discover}, on_leave: {{close: 700ms}}}}}}\n"
        )
    };
    let lb = Lb::start(&settings(echo.address));
    let mut client = connect_to(lb.address("l")).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    // Measured from before the reload, as the time until the backend leaves has no bound.
    let began = Instant::now();
    lb.reload(&settings(other.address));
    lb.when_logged("backend draining");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
    lb.when_logged("reason=backend_left");
    lb.when_logged("backend gone");
}

#[test]
fn the_log_of_connections_can_be_switched_off_and_on() {
    let backend = Backend::http("a");
    let without_connections = format!("log: {{connections: false}}\n{}", config(0, &[backend.address], ""));
    let lb = Lb::start(&without_connections);
    http_get(lb.address("l"), "/").unwrap();
    lb.when_idle();
    lb.reload(&config(0, &[backend.address], ""));
    http_get(lb.address("l"), "/").unwrap();
    lb.when_logged("closed conn=");
    assert_eq!(lb.logged(&["routed conn="]).len(), 1);
}
