//! Backends that fail connections after accepting them: what they get, and what follows for them.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::backend::Backend;
use support::peers::{connect, reset};
use support::{Lb, eventually, static_list};

fn balancing(backends: &[&Backend], pool: &str) -> Lb {
    let discover = static_list(&backends.iter().map(|backend| backend.address).collect::<Vec<_>>());
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover: {discover}\n{pool}"
    ))
}

/// Says a byte, and then holds its connection until the client ends it.
fn holding() -> Backend {
    Backend::serving(|mut stream| {
        let _ = stream.write_all(b"x");
        let _ = stream.read(&mut [0]);
    })
}

fn accepted(backend: &Backend) -> usize {
    backend.accepted.load(Ordering::SeqCst)
}

/// One client after the other; those that were answered, which are still open.
fn clients(lb: &Lb, n: usize) -> Vec<TcpStream> {
    let client = |_| {
        let mut client = connect(lb);
        client.read_exact(&mut [0]).is_ok().then_some(client)
    };
    (0..n).filter_map(client).collect()
}

#[test]
fn a_backend_that_fails_each_connection_at_once_is_not_everybodys_first_choice() {
    let end: [fn(TcpStream); 2] = [reset, drop];
    for (algorithm, end) in [("least-connections", end[0]), ("least-connections", end[1])] {
        let (failing, holding) = (Backend::serving(end), holding());
        let lb = balancing(&[&failing, &holding], &format!("    balance: {algorithm}\n"));
        let open = clients(&lb, 300);
        // By its open connections alone, of which it never has any, it would get 299.
        let got = accepted(&failing);
        assert!((5..100).contains(&got), "{got} of 300 were lost to a backend that fails");
        assert_eq!(accepted(&holding), open.len());
        assert_eq!(lb.status()["pools"][0]["backends"][0]["active"], 0, "a ghost is nobody's connection");
    }
}

#[test]
fn a_backend_that_has_recovered_gets_its_share_again() {
    let sound = Arc::<AtomicBool>::default();
    let says = Arc::clone(&sound);
    let failing = Backend::serving(move |mut stream| {
        if says.load(Ordering::SeqCst) {
            let _ = stream.write_all(b"x");
            let _ = stream.read(&mut [0]);
        }
    });
    let holding = holding();
    let lb = balancing(&[&failing, &holding], "    balance: least-connections\n");
    drop(clients(&lb, 50));
    let lost = accepted(&failing);
    sound.store(true, Ordering::SeqCst);
    // With nobody else connected, it has to be rid of the last ghost for this.
    eventually("it gets a connection", || {
        drop(clients(&lb, 1));
        (accepted(&failing) > lost).then_some(())
    });
    let before = (accepted(&failing), accepted(&holding));
    lb.when_idle();
    let open = clients(&lb, 20);
    assert_eq!((accepted(&failing) - before.0, accepted(&holding) - before.1), (10, 10));
    assert_eq!(open.len(), 20);
}

#[test]
fn a_client_that_leaves_before_an_answer_does_not_count_against_the_backend() {
    let (a, b) = (Backend::echo(), Backend::echo());
    let lb = balancing(
        &[&a, &b],
        "    balance: least-connections\n    eject: {failures: 3, for: 1m, at_most: 100%}\n",
    );
    let routed = |n: usize| eventually("routed", || (lb.logged(&["routed"]).len() == n).then_some(()));
    // Four on each, of which those on the second one stay.
    let mut open: Vec<_> = (1..=8).map(|n| (connect(&lb), routed(n)).0).collect();
    let mut index = 0;
    open.retain(|_| (index += 1, index % 2 == 0).1);
    eventually("four have ended", || (lb.logged(&["closed"]).len() == 4).then_some(()));
    let second =
        if accepted(&a) == 4 && lb.logged(&["closed", &a.address.to_string()]).len() == 4 { &b } else { &a };
    let before = accepted(second);
    for n in 1..=10 {
        let client = connect(&lb);
        routed(8 + n);
        if n % 2 == 0 {
            reset(client)
        } else {
            drop(client)
        }
        eventually("closed", || (lb.logged(&["closed"]).len() == 4 + n).then_some(()));
    }
    let mut client = connect(&lb);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert_eq!(accepted(second), before, "who has four connections was taken for less busy\n{}", lb.log());
    assert!(lb.logged(&["ejected"]).is_empty(), "{}", lb.log());
}

#[test]
fn resets_before_any_answer_eject_a_backend_and_orderly_ends_do_not() {
    // What it does with a request decides; each answers once the other one has all that it needs.
    let on_request = |end: fn(TcpStream)| {
        Backend::serving(move |mut stream| {
            if stream.read(&mut [0]).is_ok_and(|n| n > 0) {
                end(stream);
            }
        })
    };
    let (resetting, closing) = (on_request(reset), on_request(drop));
    let lb = balancing(&[&resetting, &closing], "    eject: {failures: 3, for: 1m, at_most: 100%}\n");
    for _ in 0..20 {
        let mut client = connect(&lb);
        client.write_all(b"x").unwrap();
        let _ = client.read(&mut [0]);
    }
    let line = lb.when_logged("backend ejected");
    assert!(line.contains(&format!("backend={}", resetting.address)), "{line}");
    assert_eq!(lb.logged(&["backend ejected"]).len(), 1);
    let got = accepted(&resetting);
    assert!((3..10).contains(&got), "{got} of 20, of which it should have got 3 until it was out");
    assert!(accepted(&closing) >= 10);
}

#[test]
fn an_answer_clears_the_failures_before_it() {
    let turn = Arc::<std::sync::atomic::AtomicUsize>::default();
    let flaky = Backend::serving(move |mut stream| {
        let _ = stream.read(&mut [0]);
        if turn.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            let _ = stream.write_all(b"x");
        } else {
            reset(stream);
        }
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
