//! Pools with failed backends: backups, panic, ejection and slow start.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::backend::{self, Backend};
use crate::support::peers::{reset, serving_one_at_a_time};
use crate::support::{Lb, TIME_LIMIT, eventually, http_get, static_list};

/// A short interval; each result changes the state. By TCP: the kernel accepts a check even if the backend is slow.
const CHECKED: &str = ", health: {tcp: {}, every: 100ms, timeout: 100ms, rise: 1, fall: 1}";

fn start(discover: &str, settings: &str) -> Lb {
    Lb::start(&format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web, no_backend: http-503}}}}
pools: {{web: {{discover: {discover}{settings}}}}}"
    ))
}

fn responder(lb: &Lb) -> String {
    http_get(lb.address("web"), "/").map_or_else(|error| error, |(_, body)| body)
}

fn state(lb: &Lb, address: SocketAddr) -> String {
    let backends = lb.backends();
    backends.into_iter().find(|backend| backend.0 == address.to_string()).unwrap().1
}

#[test]
fn a_backup_serves_only_while_no_primary_is_up() {
    let [mut first, mut second, backup] = ["first", "second", "backup"].map(Backend::http);
    let discover = format!(
        "[{{static: [{}, {}, {{address: {}, backup: true}}]}}]",
        first.address, second.address, backup.address
    );
    let lb = start(&discover, CHECKED);
    assert!((0..10).all(|_| responder(&lb) != "backup"));
    lb.when_logged(&format!("{}: backup", backup.address));
    first.kill();
    assert!((0..10).all(|_| responder(&lb) == "second"));
    second.kill();
    eventually("the backup serves", || (responder(&lb) == "backup").then_some(()));
    first.revive();
    eventually("the primary serves again", || (responder(&lb) == "first").then_some(()));
    assert!((0..10).all(|_| responder(&lb) == "first"));
}

#[test]
fn a_client_is_retried_on_a_backup_before_any_check_fails() {
    let [mut first, mut second, backup] = ["first", "second", "backup"].map(Backend::http);
    let discover = format!(
        "[{{static: [{}, {}, {{address: {}, backup: true}}]}}]",
        first.address, second.address, backup.address
    );
    let lb = start(&discover, "");
    first.kill();
    second.kill();
    assert!((0..10).all(|_| responder(&lb) == "backup"));
    assert_eq!(lb.metric("pointsman_failures_retried_total{pool=\"web\"}"), 20.0);
    let line = lb.when_logged("attempts=3");
    assert!(line.contains("connection refused") && !line.contains("backup"), "{line}");
}

#[test]
fn with_panic_a_pool_whose_checks_all_fail_is_used() {
    let backends = ["a", "b"].map(Backend::http);
    let lb = start(
        &static_list(&[backends[0].address, backends[1].address]),
        ", panic: 50%, health: {http: {path: /, body: no such thing}, every: 100ms, timeout: 100ms}",
    );
    lb.when_logged("panic: too few backends are up");
    let mut names: Vec<_> = (0..2).map(|_| responder(&lb)).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    lb.when_logged("too few are up, so all are used");
    assert_eq!(lb.status()["pools"][0]["panic"], true);
}

#[test]
fn with_panic_connections_stay_open_while_checks_fail() {
    let ended = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&ended);
    // Slow enough for several ticks of a worker; its check never passes.
    let backend = serving_one_at_a_time(move |mut stream| {
        let theirs = Arc::clone(&theirs);
        std::thread::spawn(move || {
            let mut request = [0; 512];
            let read = stream.read(&mut request).unwrap_or(0);
            // A check that timed out before its request is no client, either.
            if read == 0 || request[..read].starts_with(b"GET /health") {
                let _ =
                    stream.write_all(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            let waited = stream.read(&mut request).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            theirs.fetch_or(!waited, Ordering::SeqCst);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow");
        });
    });
    let lb = start(
        &static_list(&[backend]),
        ", panic: 50%, on_down: reset, health: {http: /health, every: 100ms, timeout: 100ms, rise: 1, fall: 1}",
    );
    lb.when_logged("panic: too few backends are up");
    assert_eq!((responder(&lb).as_str(), responder(&lb).as_str()), ("slow", "slow"));
    assert!(!ended.load(Ordering::SeqCst), "{}", lb.log());
    assert!(lb.logged(&["reason=backend_down"]).is_empty(), "{}", lb.log());
}

#[test]
fn a_backend_that_resets_clients_is_ejected_and_tried_again() {
    let broken = Arc::new(AtomicBool::new(true));
    let theirs = Arc::clone(&broken);
    let moody = serving_one_at_a_time(move |mut stream| {
        let mut request = [0; 512];
        let _ = stream.read(&mut request);
        if theirs.load(Ordering::SeqCst) {
            return reset(stream);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nmoody");
    });
    let sound = Backend::http("sound");
    let lb = start(&static_list(&[moody, sound.address]), ", eject: {failures: 3, for: 10s}");
    eventually("it is ejected", || {
        responder(&lb);
        (state(&lb, moody) == "ejected").then_some(())
    });
    let line = lb.when_logged("backend ejected");
    assert!(line.contains("3 failures in a row") && line.contains("ejected for 10s"), "{line}");
    assert!((0..6).all(|_| responder(&lb) == "sound"));
    broken.store(false, Ordering::SeqCst);
    eventually("it serves again", || (responder(&lb) == "moody").then_some(()));
    lb.when_logged("its ejection time is over");
}

#[test]
fn a_backend_much_slower_than_the_others_is_ejected() {
    // Far above the others' latency on a busy machine.
    const DELAY: Duration = Duration::from_secs(1);
    let slow = Backend::serving(|mut stream| {
        let _ = backend::read_request(&mut stream);
        std::thread::sleep(DELAY);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow");
    });
    let others = ["a", "b"].map(Backend::http);
    let lb = start(
        &static_list(&[slow.address, others[0].address, others[1].address]),
        ", eject: {failures: off, for: 10m, slow: {factor: 3, floor: 700ms, answers: 3, every: 3s}}",
    );
    // Enough connections for a judgment at each evaluation.
    eventually("it is ejected", || {
        std::thread::scope(|scope| _ = [(); 6].map(|()| scope.spawn(|| responder(&lb))));
        (state(&lb, slow.address) == "ejected").then_some(())
    });
    let line = lb.when_logged("backend ejected");
    assert!(line.contains("median response time"), "{line}");
    assert!((0..10).all(|_| responder(&lb) != "slow"));
}

#[test]
fn slow_start_raises_the_share_gradually() {
    let [early, mut late] = ["early", "late"].map(Backend::http);
    late.kill();
    let lb = start(&static_list(&[early.address, late.address]), &format!(", slow_start: 6s{CHECKED}"));
    let ramp = |of: &Backend| {
        let backends = lb.status()["pools"][0]["backends"].as_array().unwrap().clone();
        let one = backends.into_iter().find(|b| b["name"] == of.address.to_string()).unwrap();
        if one["state"] == "up" { one["ramp"].as_u64().unwrap() } else { 0 }
    };
    eventually("the early one has its full share", || (ramp(&early) == 100).then_some(()));
    late.revive();
    lb.when_up(vec![early.address.to_string(), late.address.to_string()]);
    let (mut names, began) = (Vec::new(), Instant::now());
    while ramp(&late) < 100 {
        assert!(began.elapsed() < TIME_LIMIT, "its share does not grow: {}", ramp(&late));
        names.push(responder(&lb));
    }
    let count = |name: &str| names.iter().filter(|answered| *answered == name).count();
    assert!(count("late") < count("early"), "{names:?}");
    let names: Vec<_> = (0..20).map(|_| responder(&lb)).collect();
    assert_eq!(names.iter().filter(|name| *name == "late").count(), 10, "{names:?}");
}

#[test]
fn a_change_of_the_serving_tier_is_logged_but_not_at_the_start() {
    let [mut primary, mut backup] = ["primary", "backup"].map(Backend::http);
    let discover =
        format!("[{{static: [{}, {{address: {}, backup: true}}]}}]", primary.address, backup.address);
    let lb = start(&discover, &format!(", panic: 60%{CHECKED}"));
    assert!(!lb.log().contains("panic") && !lb.log().contains("are used"), "{}", lb.log());
    primary.kill();
    lb.when_logged("no primary is up: backups are used");
    backup.kill();
    lb.when_logged("panic: too few backends are up, so all are used");
    backup.revive();
    eventually("it is logged again", || (lb.logged(&["no primary is up"]).len() == 2).then_some(()));
    primary.revive();
    lb.when_logged("primaries are used again");
}
