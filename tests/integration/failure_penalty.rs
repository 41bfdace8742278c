//! Failure penalties: backends that accept connections and then fail them get fewer connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::peers::{Server, connect, reset};
use crate::support::{Lb, eventually, static_list};

fn balancing(servers: &[&Server], pool: &str) -> Lb {
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let discover = static_list(&addresses);
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {discover}\n{pool}"
    ))
}

/// How a server handles a connection.
type End = fn(TcpStream);

/// Sends a byte and then holds its connection until the client closes it.
fn hold(mut stream: TcpStream) {
    let _ = stream.write_all(b"x");
    let _ = stream.read(&mut [0]);
}

/// Echoes each byte.
fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

/// Clients in turn; returns the answered ones, which stay open.
fn clients(lb: &Lb, n: usize) -> Vec<TcpStream> {
    let client = |_| {
        let mut client = connect(lb);
        client.read_exact(&mut [0]).is_ok().then_some(client)
    };
    (0..n).filter_map(client).collect()
}

#[test]
fn a_backend_that_fails_each_connection_at_once_gets_few() {
    let cases: [(&str, End); 4] =
        [("least-connections", reset), ("least-connections", drop), ("random-two", reset), ("ewma", drop)];
    for (algorithm, end) in cases {
        let (failing, holding) = (Server::new(end), Server::new(hold));
        let lb = balancing(&[&failing, &holding], &format!("    balance: {algorithm}\n"));
        let open = clients(&lb, 300);
        // By its open connections alone, of which it never has any, it would get 299.
        let got = failing.accepted();
        assert!((5..100).contains(&got), "{algorithm}: {got} of 300 were lost to a backend that fails");
        assert_eq!(holding.accepted(), open.len());
        let active = || lb.status()["pools"][0]["backends"][0]["active"].as_u64();
        eventually("a penalty is not counted as an open connection", || (active() == Some(0)).then_some(()));
    }
}

#[test]
fn a_backend_that_has_recovered_gets_its_share_again() {
    static SOUND: AtomicBool = AtomicBool::new(false);
    let failing =
        Server::new(|stream| if SOUND.load(Ordering::SeqCst) { hold(stream) } else { reset(stream) });
    let holding = Server::new(hold);
    let lb = balancing(&[&failing, &holding], "    balance: least-connections\n");
    drop(clients(&lb, 50));
    let lost = failing.accepted();
    SOUND.store(true, Ordering::SeqCst);
    // It is chosen only after its last failure penalty has ended.
    eventually("it gets a connection", || {
        lb.when_idle();
        drop(clients(&lb, 1));
        (failing.accepted() > lost).then_some(())
    });
    let before = (failing.accepted(), holding.accepted());
    lb.when_idle();
    let open = clients(&lb, 20);
    assert_eq!((failing.accepted() - before.0, holding.accepted() - before.1), (10, 10));
    assert_eq!(open.len(), 20);
}

#[test]
fn a_client_that_leaves_before_an_answer_does_not_count_against_the_backend() {
    let (a, b) = (Server::new(echo), Server::new(echo));
    let lb = balancing(
        &[&a, &b],
        "    balance: least-connections\n    eject: {failures: 3, for: 1m, at_most: 100%}\n",
    );
    let routed = |n: usize| eventually("routed", || (lb.logged(&["routed"]).len() == n).then_some(()));
    // Four on each; those of the second one stay open.
    let mut open: Vec<_> = (1..=8).map(|n| (connect(&lb), routed(n)).0).collect();
    let mut index = 0;
    open.retain(|_| (index += 1, index % 2 == 0).1);
    eventually("four have ended", || (lb.logged(&["closed"]).len() == 4).then_some(()));
    eventually("all eight are accepted", || (a.accepted() == 4 && b.accepted() == 4).then_some(()));
    let second =
        if a.accepted() == 4 && lb.logged(&["closed", &a.address.to_string()]).len() == 4 { &b } else { &a };
    let before = second.accepted();
    for n in 1..=10 {
        let client = connect(&lb);
        routed(8 + n);
        if n % 2 == 0 {
            reset(client);
        } else {
            drop(client);
        }
        eventually("closed", || (lb.logged(&["closed"]).len() == 4 + n).then_some(()));
    }
    let mut client = connect(&lb);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert_eq!(
        second.accepted(),
        before,
        "the backend with four connections was taken for less busy\n{}",
        lb.log()
    );
    assert!(lb.logged(&["ejected"]).is_empty(), "{}", lb.log());
}

#[test]
fn resets_before_the_first_byte_eject_a_backend_and_clean_closes_do_not() {
    fn after_first_byte(mut stream: TcpStream, end: fn(TcpStream)) {
        if stream.read(&mut [0]).is_ok_and(|n| n > 0) {
            end(stream);
        }
    }
    let resetting = Server::new(|stream| after_first_byte(stream, reset));
    let closing = Server::new(|stream| after_first_byte(stream, drop));
    let lb = balancing(&[&resetting, &closing], "    eject: {failures: 3, for: 1m, at_most: 100%}\n");
    let send_byte = || {
        let mut client = connect(&lb);
        client.write_all(b"x").unwrap();
        let _ = client.read(&mut [0]);
    };
    let line = eventually("it is ejected", || {
        send_byte();
        lb.logged(&["backend ejected"]).pop()
    });
    assert!(line.contains(&format!("backend={}", resetting.address)), "{line}");
    assert!(line.contains("3 failures in a row"), "{line}");
    let (got, before) = (resetting.accepted(), closing.accepted());
    assert!(got >= 3, "{got}");
    (0..20).for_each(|_| send_byte());
    assert_eq!((resetting.accepted(), closing.accepted()), (got, before + 20));
    assert_eq!(lb.logged(&["backend ejected"]).len(), 1);
}

#[test]
fn a_first_byte_resets_the_failure_count() {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let flaky = Server::new(|mut stream| {
        let _ = stream.read(&mut [0]);
        if TURN.fetch_add(1, Ordering::SeqCst) % 3 == 2 { hold(stream) } else { reset(stream) }
    });
    let lb = balancing(&[&flaky], "    eject: {failures: 3, for: 1m, at_most: 100%}\n");
    for n in 1..=30 {
        let mut client = connect(&lb);
        client.write_all(b"x").unwrap();
        let _ = client.read(&mut [0]);
        drop(client);
        eventually("closed", || (lb.logged(&["closed"]).len() == n).then_some(()));
    }
    assert_eq!(lb.logged(&["reason=backend_reset"]).len(), 20);
    assert!(lb.logged(&["backend ejected"]).is_empty(), "{}", lb.log());
}
