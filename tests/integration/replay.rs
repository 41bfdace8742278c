//! A backend that accepts a connection and ends it before its first byte: the client is connected to another one, if what
//! it has sent so far asks for nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::support::backend::Backend;
use crate::support::peers::{is_reset, reset};
use crate::support::{Lb, TIME_LIMIT, accept_within, connect_to, eventually};

/// How a backend that serves nothing ends a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    ByReset,
    ByFin,
    /// After it has read something.
    AfterRequest,
}

/// A backend that ends each connection, and how many it had.
fn ending(ends: Ends) -> (Backend, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let backend = Backend::serving(move |mut stream: TcpStream| {
        counter.fetch_add(1, SeqCst);
        match ends {
            Ends::ByReset => reset(stream),
            Ends::ByFin => drop(stream),
            Ends::AfterRequest => {
                let _ = stream.read(&mut [0; 20_000]);
                reset(stream);
            }
        }
    });
    (backend, count)
}

/// A backend that greets each client and then echoes.
fn greeting() -> Backend {
    Backend::serving(|mut stream: TcpStream| {
        let mut buffer = [0; 20_000];
        let mut next = stream.write_all(b"hello ").map(|()| 0);
        while next.is_ok() {
            next = match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => stream.write_all(&buffer[..n]).map(|()| n),
            };
        }
    })
}

/// A balancer before `first` and `second`, which it tries in this order.
fn lb(first: SocketAddr, second: SocketAddr, settings: &str) -> Lb {
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools: {{p: {{discover: [{{static: [{{address: {first}, name: first}}, {{address: {second}, name: second, backup: true}}]}}]{settings}}}}}"
    ))
}

fn read(stream: &mut TcpStream, expected: &[u8]) {
    stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(read, expected);
}

#[test]
fn a_client_that_has_sent_nothing_gets_another_backend() {
    for ends in [Ends::ByReset, Ends::ByFin] {
        let ((first, count), second) = (ending(ends), greeting());
        let lb = lb(first.address, second.address, "");
        let mut client = connect_to(lb.address("l")).unwrap();
        read(&mut client, b"hello ");
        client.write_all(b"world").unwrap();
        read(&mut client, b"world");
        assert_eq!(count.load(SeqCst), 1);
        let routed = lb.logged(&["routed conn="]);
        assert!(routed.len() == 2 && routed[1].contains("attempts=2"), "{ends:?} {routed:?}");
        assert!(routed[1].contains("before its first byte"), "{routed:?}");
        assert!(lb.logged(&["closed conn="]).is_empty(), "{}", lb.log());
        let (_, why) = lb.get("/api/v1/why?client=127.0.0.1");
        assert!(why.contains("before its first byte") && why.contains("second"), "{why}");
        drop(client);
        let closed = lb.when_logged("closed conn=");
        assert!(closed.contains("backend=second") && closed.contains("bytes_in=5 bytes_out=11"), "{closed}");
        lb.when_idle();
        let metric = |name: &str| lb.metric(name);
        for reason in ["backend_reset", "connect_failed"] {
            assert_eq!(metric(&format!("pointsman_client_visible_failures_total{{pool=\"p\",reason=\"{reason}\"}}")), 0.0);
        }
        assert_eq!(metric("pointsman_failures_retried_total{pool=\"p\"}"), 1.0);
    }
}

#[test]
fn a_client_hello_is_sent_to_another_backend_and_a_request_is_not() {
    let hello = include_bytes!("../../src/protocol/client_hello_samples/openssl.bin");
    for (sent, settings, again) in [
        (&hello[..], "", true),
        (hello, ", replay: never", false),
        (b"GET / HTTP/1.1\r\n\r\n", "", false),
        (b"GET / HTTP/1.1\r\n\r\n", ", replay: always", true),
    ] {
        let ((first, count), second) = (ending(Ends::AfterRequest), Backend::echo());
        let lb = lb(first.address, second.address, settings);
        let mut client = connect_to(lb.address("l")).unwrap();
        client.write_all(sent).unwrap();
        if again {
            read(&mut client, sent);
        } else {
            is_reset(&mut client);
            lb.when_logged("reason=backend_reset");
        }
        assert_eq!(count.load(SeqCst), 1, "{settings}");
    }
}

#[test]
fn without_another_backend_the_connection_ends_as_the_backend_ended_it() {
    let ((first, count), (second, others)) = (ending(Ends::ByReset), ending(Ends::ByReset));
    let lb = lb(first.address, second.address, "");
    is_reset(&mut connect_to(lb.address("l")).unwrap());
    assert_eq!((count.load(SeqCst), others.load(SeqCst)), (1, 1));
    lb.when_logged("closed conn=1");
    assert!(lb.when_logged("reason=backend_reset").contains("backend=second"), "{}", lb.log());

    let (alone, _) = ending(Ends::ByFin);
    let alone = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: [{{static: [{}]}}]}}}}",
        alone.address
    ));
    let mut client = connect_to(alone.address("l")).unwrap();
    client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "a FIN stays a FIN");
    drop(client);
    alone.when_logged("reason=backend_closed");
}

#[test]
fn a_backend_that_is_killed_costs_no_waiting_client_its_connection() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = Backend::echo();
    let lb = lb(first.local_addr().unwrap(), second.address, "");
    let mut clients: Vec<_> = (0..20).map(|_| connect_to(lb.address("l")).unwrap()).collect();
    let held: Vec<_> = (0..20).map(|_| accept_within(&first).0).collect();
    eventually("all are routed", || (lb.logged(&["routed conn=", "backend=first"]).len() == 20).then_some(()));
    // A reset, however late it comes.
    drop(first);
    held.into_iter().for_each(reset);
    for (n, client) in (0_u8..).zip(&mut clients) {
        client.write_all(&[n]).unwrap();
        read(client, &[n]);
    }
}
