//! A backend that accepts a connection and ends it before its first byte: the client is connected to another one, if what
//! it has sent so far asks for nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::support::backend::Backend;
use crate::support::peers::{Server, is_reset, reset};
use crate::support::{Lb, TIME_LIMIT, accept_within, connect_to, eventually, listen_alone};

/// Reads something, and resets the connection.
fn reset_after_request(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 20_000]);
    reset(stream);
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

/// The server's end of the next connection, once the client is routed there for the `n`th time.
fn routed_to(server: &TcpListener, lb: &Lb, n: usize) -> TcpStream {
    let stream = accept_within(server).0;
    lb.when_logged_times(n, &["routed conn="]);
    stream
}

/// Asserts that the client was connected to the second backend, and that nothing counts as its failure.
fn continues_on_the_second(lb: &Lb, mut client: TcpStream) {
    read(&mut client, b"hello ");
    client.write_all(b"world").unwrap();
    read(&mut client, b"world");
    let routed = lb.when_logged_times(2, &["routed conn="]).pop().unwrap();
    assert!(routed.contains("attempts=2") && routed.contains("before its first byte"), "{routed}");
    assert!(lb.logged(&["closed conn="]).is_empty(), "{}", lb.log());
    let (_, why) = lb.get("/api/v1/why?client=127.0.0.1");
    assert!(why.contains("before its first byte") && why.contains("second"), "{why}");
    drop(client);
    let closed = lb.when_logged("closed conn=");
    assert!(closed.contains("backend=second") && closed.contains("bytes_in=5 bytes_out=11"), "{closed}");
    lb.when_idle();
    for reason in ["backend_reset", "connect_failed"] {
        let series = format!("pointsman_client_visible_failures_total{{pool=\"p\",reason=\"{reason}\"}}");
        assert_eq!(lb.metric(&series), 0.0);
    }
    assert_eq!(lb.metric("pointsman_failures_retried_total{pool=\"p\"}"), 1.0);
}

#[test]
fn a_client_that_has_sent_nothing_gets_another_backend_after_a_reset() {
    let (first, second) = (listen_alone(), greeting());
    let lb = lb(first.local_addr().unwrap(), second.address, "");
    let client = connect_to(lb.address("l")).unwrap();
    reset(routed_to(&first, &lb, 1));
    continues_on_the_second(&lb, client);
}

#[test]
fn a_client_that_has_sent_nothing_gets_another_backend_after_a_fin() {
    let (first, second) = (Server::new(drop), greeting());
    let lb = lb(first.address, second.address, "");
    continues_on_the_second(&lb, connect_to(lb.address("l")).unwrap());
    assert_eq!(first.accepted(), 1);
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
        let (first, second) = (Server::new(reset_after_request), Backend::echo());
        let lb = lb(first.address, second.address, settings);
        let mut client = connect_to(lb.address("l")).unwrap();
        client.write_all(sent).unwrap();
        if again {
            read(&mut client, sent);
        } else {
            is_reset(&mut client);
            lb.when_logged("reason=backend_reset");
        }
        assert_eq!(first.accepted(), 1, "{settings}");
    }
}

#[test]
fn without_another_backend_the_connection_ends_as_the_backend_ended_it() {
    let [first, second] = [(); 2].map(|()| listen_alone());
    let lb = lb(first.local_addr().unwrap(), second.local_addr().unwrap(), "");
    let mut client = connect_to(lb.address("l")).unwrap();
    reset(routed_to(&first, &lb, 1));
    reset(routed_to(&second, &lb, 2));
    is_reset(&mut client);
    assert!(lb.when_logged("reason=backend_reset").contains("backend=second"), "{}", lb.log());

    let alone = Server::new(drop);
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
    let first = listen_alone();
    let second = Backend::echo();
    let lb = lb(first.local_addr().unwrap(), second.address, "");
    let mut clients: Vec<_> = (0..20).map(|_| connect_to(lb.address("l")).unwrap()).collect();
    let held: Vec<_> = (0..20).map(|_| accept_within(&first).0).collect();
    eventually("all are routed", || {
        (lb.logged(&["routed conn=", "backend=first"]).len() == 20).then_some(())
    });
    // A reset, however late it comes.
    drop(first);
    held.into_iter().for_each(reset);
    // A byte that is sent before would be a request to the first one.
    eventually("all are routed again", || {
        (lb.logged(&["routed conn=", "backend=second"]).len() == 20).then_some(())
    });
    for (n, client) in (0_u8..).zip(&mut clients) {
        client.write_all(&[n]).unwrap();
        read(client, &[n]);
    }
}

#[test]
fn a_backend_that_only_half_closes_still_gets_an_upload() {
    let (received, uploads) = std::sync::mpsc::channel();
    let sink = Server::new(move |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        received.send(all).unwrap();
    });
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: [{{static: [{}]}}]}}}}",
        sink.address
    ));
    let mut client = connect_to(lb.address("l")).unwrap();
    client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.write_all(b"an upload").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(uploads.recv_timeout(TIME_LIMIT).unwrap(), b"an upload");
}
