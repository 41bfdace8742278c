//! Time limits, tested from below and above. A second, longer limit in the same run must not expire first: a busy
//! machine delays both, so it fails no test.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::peers::{connect, pair};
use crate::support::{Lb, eventually, static_list};

/// How long a silent connection lasts; asserts its close reason. `half_closed`: its client has sent FIN.
fn end_of_silence(timeouts: &str, half_closed: bool, expected: &str) -> Duration {
    let began = Instant::now();
    let (lb, mut client, _server) = pair(&format!("    timeouts: {{{timeouts}}}\n"));
    let address = client.local_addr().unwrap();
    if half_closed {
        client.shutdown(Shutdown::Write).unwrap();
    }
    let _ = client.read(&mut [0]);
    let took = began.elapsed();
    let line = lb.when_logged_times(1, &["closed conn=", &format!("client={address} ")]).remove(0);
    assert!(line.contains(&format!("reason={expected} ")), "{line}\n{}", lb.log());
    took
}

#[test]
fn an_idle_connection_ends_soon_after_its_limit() {
    let took = end_of_silence("idle: 1s, lifetime: 5s", false, "idle_timeout");
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_half_closed_connection_ends_soon_after_its_limit() {
    let took = end_of_silence("half_closed: 1s, lifetime: 5s", true, "half_closed_timeout");
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_connection_ends_soon_after_its_lifetime() {
    let took = end_of_silence("lifetime: 1s, idle: 5s", false, "lifetime");
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[test]
fn the_half_closed_limit_does_not_apply_to_open_connections() {
    end_of_silence("half_closed: 500ms, idle: 3s", false, "idle_timeout");
}

#[test]
fn a_drain_resets_connections_soon_after_its_limit() {
    let backend = Backend::echo();
    let discover = static_list(&[backend.address]);
    let mut lb = Lb::start(&format!(
        "runtime: {{drain: {{timeout: 1s}}}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\n\
         pools: {{p: {{discover: {discover}, timeouts: {{lifetime: 6s}}}}}}\n"
    ));
    let _client = connect(&lb);
    lb.when_logged("routed conn=");
    let began = Instant::now();
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(3));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    let line = lb.when_logged("closed conn=");
    assert!(line.contains("reason=drain_timeout"), "{line}");
    // The log reports the progress once a second.
    let lines = lb.logged(&["drain progress"]).len();
    assert!(lines as u64 <= took.as_secs(), "{lines} times in {took:?}");
}

/// How long a drain with one lasting connection still accepts, and how long it then waits for that connection. The file
/// of a Unix socket disappears when no new connections are accepted.
fn parts_of_a_drain(grace: &str, timeout: &str) -> [Duration; 2] {
    let backend = Backend::echo();
    let (folder, discover) = (tempfile::tempdir().unwrap(), static_list(&[backend.address]));
    let path = folder.path().join("l.sock");
    let mut lb = Lb::start(&format!(
        "runtime: {{drain: {{grace: {grace}, timeout: {timeout}}}}}\n\
         listeners: {{l: {{bind: \"unix:{}\", pool: p}}}}\npools: {{p: {{discover: {discover}}}}}\n",
        path.display()
    ));
    let _client = UnixStream::connect(&path).unwrap();
    lb.when_logged("routed conn=");
    let began = Instant::now();
    lb.signal("TERM");
    eventually("no new connections are accepted", || (!path.exists()).then_some(()));
    let accepted = began.elapsed();
    assert_eq!(lb.when_ended().code(), Some(3));
    let waited = began.elapsed() - accepted;
    lb.when_logged(&format!("drain started open=1 grace={grace} timeout={timeout}"));
    [accepted, waited]
}

#[test]
fn the_grace_of_a_drain_does_not_count_against_its_timeout() {
    let [accepted, waited] = parts_of_a_drain("6s", "400ms");
    assert!(accepted >= Duration::from_secs(6), "{accepted:?}");
    // If the grace were added to the timeout, or the timeout multiplied by ten, it would be the longer part.
    assert!(waited < accepted / 2, "{waited:?} after {accepted:?}");
    assert!(accepted + waited >= Duration::from_millis(6400), "{accepted:?} and {waited:?}");
}

#[test]
fn the_grace_of_a_drain_ends_soon_after_its_length() {
    let [accepted, waited] = parts_of_a_drain("300ms", "6s");
    assert!(accepted >= Duration::from_millis(300), "{accepted:?}");
    assert!(accepted < waited / 2, "{accepted:?} before {waited:?}");
}
