//! A drain: open connections finish, within a time limit.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::backend::{self, Backend};
use crate::support::peers::is_reset;
use crate::support::{Lb, TIME_LIMIT, connect_to, eventually, http_get, join_within, static_list};

fn lb(backend: &Backend, drain: &str) -> Lb {
    Lb::start(&format!(
        "runtime: {{drain: {drain}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}\n",
        static_list(&[backend.address])
    ))
}

fn connect(lb: &Lb) -> TcpStream {
    let mut stream = connect_to(lb.address("l")).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

#[test]
fn open_connections_finish_and_new_ones_are_refused() {
    let echo = Backend::echo();
    let mut lb = lb(&echo, "{timeout: 30s}");
    let address = lb.address("l");
    let mut open: Vec<_> = (0..10).map(|_| connect(&lb)).collect();
    lb.signal("TERM");
    lb.when_logged("drain started open=10");
    assert_eq!(lb.get("/ready").0, 503);
    assert_eq!(lb.get("/heartbeat").0, 200);
    eventually("new connections are refused", || {
        connect_to(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    lb.when_logged("drain progress open=10 oldest_ms=");
    for client in &mut open {
        client.write_all(b"y").unwrap();
        let mut answer = [0];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"y");
    }
    drop(open);
    assert_eq!(lb.when_ended().code(), Some(0));
    lb.when_logged("drain done");
}

#[test]
fn connections_that_do_not_finish_in_time_are_reset_and_change_the_exit_code() {
    let echo = Backend::echo();
    let mut lb = lb(&echo, "{timeout: 600ms}");
    let clients: Vec<_> = (0..100).map(|_| connect(&lb)).collect();
    lb.signal("INT");
    for mut client in clients {
        is_reset(&mut client);
    }
    assert_eq!(lb.when_ended().code(), Some(3));
    // The process ends only when it has closed all of them.
    assert_eq!(lb.logged(&["closed", "reason=drain_timeout"]).len(), 100, "{}", lb.log());
}

#[test]
fn a_second_signal_resets_the_open_connections_and_ends_at_once() {
    let echo = Backend::echo();
    let mut lb = lb(&echo, "{timeout: 60s}");
    let mut client = connect(&lb);
    lb.signal("TERM");
    lb.when_logged("drain started");
    let began = Instant::now();
    lb.signal("TERM");
    is_reset(&mut client);
    assert_eq!(lb.when_ended().code(), Some(3));
    assert!(began.elapsed() < TIME_LIMIT);
}

#[test]
fn a_second_signal_during_the_grace_period_ends_at_once_although_clients_keep_coming() {
    let echo = Backend::echo();
    let mut lb = lb(&echo, "{grace: 60s, timeout: 60s}");
    let address = lb.address("l");
    let mut client = connect(&lb);
    // Its port may belong to another test soon after its end.
    let ended = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&ended);
    let clients = std::thread::spawn(move || {
        while !stop.load(SeqCst) && connect_to(address).is_ok_and(|mut stream| stream.write_all(b"x").is_ok())
        {
        }
    });
    lb.signal("TERM");
    lb.when_logged("drain started");
    lb.signal("TERM");
    is_reset(&mut client);
    assert_eq!(lb.when_ended().code(), Some(3));
    ended.store(true, SeqCst);
    assert!(lb.logged(&["did not close in time"]).is_empty(), "{}", lb.log());
    join_within(clients, "the clients");
}

#[test]
fn during_the_grace_period_it_is_not_ready_and_still_accepts() {
    let backend = Backend::http("a");
    let mut lb = lb(&backend, "{grace: 4s}");
    let address = lb.address("l");
    lb.signal("TERM");
    lb.when_logged("drain started");
    assert_eq!(lb.get("/ready").0, 503);
    assert_eq!(http_get(address, "/").unwrap().1, "a");
    assert_eq!(lb.when_ended().code(), Some(0));
}

/// The kernel completes handshakes before the balancer accepts: such a client is connected and must be served.
#[test]
fn a_drain_serves_every_client_whose_handshake_is_complete() {
    let backend = Backend::http("a");
    for _ in 0..5 {
        let mut lb = lb(&backend, "{timeout: 30s}");
        let address = lb.address("l");
        let begun = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let begun = Arc::clone(&begun);
                std::thread::spawn(move || {
                    let (mut served, began) = (0, Instant::now());
                    loop {
                        assert!(began.elapsed() < 3 * TIME_LIMIT, "the listener is still open");
                        let Ok(mut stream) = connect_to(address) else { return served };
                        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
                        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                        let mut answer = String::new();
                        stream.read_to_string(&mut answer).unwrap();
                        assert!(answer.ends_with('a'), "{answer:?}");
                        if served == 0 {
                            begun.fetch_add(1, SeqCst);
                        }
                        served += 1;
                    }
                })
            })
            .collect();
        eventually("traffic of each client", || {
            (begun.load(SeqCst) == 8 && lb.logged(&["closed"]).len() > 50).then_some(())
        });
        lb.signal("TERM");
        for client in clients {
            assert!(join_within(client, "the listener closes") > 0);
        }
        assert_eq!(lb.when_ended().code(), Some(0));
    }
}

#[test]
fn a_drained_listener_refuses_clients_until_it_is_put_back() {
    let echo = Backend::echo();
    let config = format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}, other: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}\n",
        static_list(&[echo.address])
    );
    let lb = Lb::start(&config);
    let (address, path) = (lb.address("l"), "/api/v1/listeners/l");
    let is_refused =
        |address| connect_to(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    let mut open = connect(&lb);
    let (code, reply) = lb.request("PATCH", path, r#"{"state": "draining"}"#);
    let reply: serde_json::Value = serde_json::from_str(&reply).unwrap();
    assert_eq!((code, &reply["state"], &reply["active"]), (200, &"draining".into(), &1.into()));
    // The reply comes when it is closed.
    assert!(is_refused(address));
    assert!(!is_refused(lb.address("other")));
    assert_eq!(lb.metric("pointsman_listener_draining{listener=\"l\"}"), 1.0);
    lb.when_logged("listener draining listener=l open=1 by=");
    assert_eq!(lb.get("/ready").0, 200);
    let forecast = |path: &str| -> serde_json::Value { serde_json::from_str(&lb.get(path).1).unwrap() };
    assert_eq!(forecast("/api/v1/drain?listener=l")["open"], 1);
    eventually("the other connection has ended", || {
        (forecast("/api/v1/drain?listener=other")["open"] == 0).then_some(())
    });
    assert_eq!(lb.get("/api/v1/drain?listener=none").0, 404);
    // Neither a reload nor a repeated request changes anything.
    lb.reload(&config.replace("pool: p}}", "pool: p, max_connections: 9}}"));
    assert_eq!(lb.request("PATCH", path, r#"{"state": "draining"}"#).0, 200);
    assert!(is_refused(address));
    assert_eq!(lb.logged(&["listener draining"]).len(), 1);
    open.write_all(b"y").unwrap();
    open.read_exact(&mut [0]).unwrap();
    assert_eq!(lb.request("PATCH", path, r#"{"state": "up"}"#).0, 200);
    connect(&lb);
    open.write_all(b"z").unwrap();
    open.read_exact(&mut [0]).unwrap();
    assert_eq!(lb.metric("pointsman_listener_draining{listener=\"l\"}"), 0.0);
    lb.when_logged("listener up listener=l by=");
    assert_eq!(lb.request("PATCH", "/api/v1/listeners/none", r#"{"state": "up"}"#).0, 404);
    assert_eq!(lb.request("PATCH", path, r#"{"state": "maintenance"}"#).0, 422);
}

#[test]
fn draining_a_listener_serves_every_client_whose_handshake_is_complete() {
    let echo = Backend::echo();
    let lb = lb(&echo, "{timeout: 30s}");
    let address = lb.address("l");
    for _ in 0..20 {
        let (served, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stopped.load(SeqCst) {
                        let Ok(mut stream) = connect_to(address) else { continue };
                        let mut answer = [0];
                        stream
                            .write_all(b"x")
                            .and_then(|()| stream.read_exact(&mut answer))
                            .expect("it was accepted");
                        served.fetch_add(1, SeqCst);
                    }
                });
            }
            let before = served.load(SeqCst);
            eventually("clients are served", || (served.load(SeqCst) > before + 8).then_some(()));
            let drained = lb.request("PATCH", "/api/v1/listeners/l", r#"{"state": "draining"}"#).0;
            stopped.store(true, SeqCst);
            assert_eq!(drained, 200);
        });
        assert_eq!(lb.request("PATCH", "/api/v1/listeners/l", r#"{"state": "up"}"#).0, 200);
    }
}

/// A balancer at its limit of one connection, whose only listener an operator drains: it cannot close before that connection
/// ends, as another one waits in its queue.
struct Closing {
    lb: Lb,
    drained: std::thread::JoinHandle<()>,
    _open: TcpStream,
    _waiting: TcpStream,
    _echo: Backend,
}

impl Closing {
    fn start() -> Self {
        let echo = Backend::echo();
        let lb = Lb::start(&format!(
            "runtime: {{max_connections: 1, drain: {{timeout: 300ms}}}}
listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools: {{p: {{discover: {}}}}}",
            static_list(&[echo.address])
        ));
        let open = connect(&lb);
        // The kernel completes its handshake, and it is accepted only when the first one has ended.
        let waiting = connect_to(lb.address("l")).unwrap();
        let admin = lb.admin();
        let drained = std::thread::spawn(move || {
            let mut stream = connect_to(admin).unwrap();
            let body = r#"{"state": "draining"}"#;
            let request = format!(
                "PATCH /api/v1/listeners/l HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        lb.when_logged("listener draining listener=l open=1");
        Self { lb, drained, _open: open, _waiting: waiting, _echo: echo }
    }

    /// Sends SIGTERM, which must end the process although the listener cannot close.
    fn stop(mut self) {
        self.lb.signal("TERM");
        self.lb.when_logged("drain started");
        assert!(!self.drained.is_finished(), "a connection still waits to be accepted");
        assert_eq!(self.lb.when_ended().code(), Some(3));
        join_within(self.drained, "the request ends with the process");
    }
}

#[test]
fn a_listener_that_cannot_close_yet_delays_no_signal() {
    Closing::start().stop();
}

#[test]
fn a_hand_over_does_not_wait_for_a_listener_that_cannot_close_yet() {
    let closing = Closing::start();
    closing.lb.signal("USR2");
    let failed = closing.lb.when_logged("hand-over failed");
    assert!(failed.contains("is closing") && failed.contains("runtime.max_connections"), "{failed}");
    let pid = closing.lb.pid();
    eventually("the process that was to take over has ended", || {
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().is_empty().then_some(())
    });
    // Nor does a signal wait for the hand-over.
    closing.lb.signal("USR2");
    closing.lb.when_logged_times(2, &["hand-over started"]);
    closing.stop();
}

#[test]
fn a_signal_during_the_start_ends_it() {
    let backend = Backend::serving(|mut stream| {
        let _ = backend::read_request(&mut stream); // and never answers
        std::thread::sleep(Duration::from_secs(5));
    });
    let mut lb = Lb::launch(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}, health: {{http: /, every: 30s, timeout: 30s}}}}}}\n",
        static_list(&[backend.address])
    ));
    lb.when_logged("backend joining");
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(0));
}

fn forecast(lb: &Lb) -> serde_json::Value {
    let (status, body) = lb.get("/api/v1/drain");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn a_forecast_follows_from_how_long_connections_have_lasted() {
    let echo = Backend::echo();
    let lb = lb(&echo, "{timeout: 30s}");
    let mut open: Vec<_> = (0..5).map(|_| connect(&lb)).collect();
    let before = forecast(&lb);
    assert_eq!(
        (&before["open"], &before["observed"], &before["at_limit"]),
        (&5.into(), &0.into(), &5.into())
    );
    assert!(before["sentence"].as_str().unwrap().contains("there is no forecast"), "{before}");
    for _ in 0..50 {
        connect(&lb);
    }
    eventually("the short ones have ended", || (forecast(&lb)["observed"] == 50).then_some(()));
    // From some age on, they are older than any connection that has ended.
    let last = eventually("none of the five is expected to end", || {
        let now = forecast(&lb);
        (now["at_limit"] == 5).then_some(now)
    });
    let sentence = last["sentence"].as_str().unwrap();
    assert!(
        sentence.contains("5 open connections, 30 s left; 5 expected to reach the time limit, among them"),
        "{last}"
    );
    let named = last["longest_idle"].as_array().unwrap();
    assert_eq!(named.len(), 3);
    let ours: Vec<_> = open.iter().map(|stream| stream.local_addr().unwrap().to_string()).collect();
    assert!(named.iter().all(|one| ours.contains(&one["client"].as_str().unwrap().to_owned())), "{last}");
    assert!(named.is_sorted_by(|a, b| a["idle_ms"].as_u64() >= b["idle_ms"].as_u64()), "{last}");
    // A forecast drains nothing.
    assert_eq!(lb.status()["phase"], "serving");
    open[0].write_all(b"y").unwrap();
    open[0].read_exact(&mut [0]).unwrap();
    // Of a backend: on_drain keeps its connections, so that they have no limit.
    let (status, body) = lb.get(&format!("/api/v1/drain?pool=p&backend={}", echo.address));
    let of_backend: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &of_backend["open"], &of_backend["time_left_ms"]),
        (200, &5.into(), &().into()),
        "{body}"
    );
    assert_eq!(lb.get("/api/v1/drain?pool=p&backend=other").0, 200);
    assert_eq!((lb.get("/api/v1/drain?pool=q").0, lb.get("/api/v1/drain?backend=a").0), (404, 400));
}

#[test]
fn the_last_connections_are_reset_one_by_one_and_idle_ones_first() {
    let echo = Backend::echo();
    let mut lb = lb(&echo, "{timeout: 4s, spread: 3s}");
    let busy = connect(&lb);
    let idle: Vec<_> = (0..8).map(|_| connect(&lb)).collect();
    // Returns when its connection is reset.
    let moves = |mut stream: TcpStream, pause: Option<Duration>| {
        std::thread::spawn(move || {
            stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
            loop {
                if let Some(pause) = pause {
                    std::thread::sleep(pause);
                    if stream.write_all(b"y").is_err() {
                        return Instant::now();
                    }
                }
                match stream.read(&mut [0]) {
                    Ok(1..) => {}
                    Ok(_) => panic!("a FIN would make a truncated stream look complete"),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return Instant::now(),
                    Err(error) => panic!("{error}"),
                }
            }
        })
    };
    let idle: Vec<_> = idle.into_iter().map(|stream| moves(stream, None)).collect();
    let busy = moves(busy, Some(Duration::from_millis(20)));
    lb.signal("TERM");
    let mut ends: Vec<_> = idle.into_iter().map(|thread| join_within(thread, "a reset")).collect();
    let busy = join_within(busy, "the reset of the busy one");
    assert_eq!(lb.when_ended().code(), Some(3));
    ends.sort();
    assert!(ends[7] - ends[0] > Duration::from_millis(500), "{:?}", ends[7] - ends[0]);
    // With one worker it is the last one; with two, each has its own order.
    assert!(ends.iter().filter(|end| **end < busy).count() >= 4, "{ends:?} {busy:?}");
    let cut = lb.when_logged("drain timed out");
    assert!(cut.contains("cut=9"), "{cut}");
}

#[test]
fn connections_that_are_reset_before_the_end_change_the_exit_code() {
    let echo = Backend::echo();
    let mut lb = lb(&echo, "{timeout: 60s, spread: 60s}");
    // The last one of each worker would be reset after a minute; it finishes.
    let mut open: Vec<_> = (0..200).map(|_| connect(&lb)).collect();
    lb.signal("TERM");
    lb.when_logged("reason=drain_timeout");
    open.clear();
    assert_eq!(lb.when_ended().code(), Some(3));
    lb.when_logged("drain timed out");
}
