//! Early ends of connections: resets, the data before them, and time limits.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::support::peers::{fill, in_front_of, is_soon, pair, reset};
use crate::support::{TIME_LIMIT, accept_within, eventually, join_within, listen_alone};
use socket2::{Domain, Socket, Type};

/// Waits for a reset; returns how long it took.
fn expect_reset(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("an orderly end instead of a reset"),
            Ok(_) => {}
            // A reset that the kernel dropped is repeated in answer to a byte.
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < TIME_LIMIT => {
                let _ = stream.write(b"?");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return began.elapsed();
            }
        }
    }
}

#[test]
fn a_reset_by_the_client_reaches_the_backend() {
    is_soon(|| {
        let (lb, client, mut server) = pair("");
        reset(client);
        let took = expect_reset(&mut server);
        assert!(lb.when_logged("closed conn=").contains("reason=client_reset"));
        took
    });
}

#[test]
fn a_reset_by_the_backend_reaches_the_client() {
    is_soon(|| {
        let (lb, mut client, server) = pair("");
        reset(server);
        let took = expect_reset(&mut client);
        assert!(lb.when_logged("closed conn=").contains("reason=backend_reset"));
        assert_eq!(
            lb.metric("pointsman_client_visible_failures_total{pool=\"p\",reason=\"backend_reset\"}"),
            1.0
        );
        took
    });
}

#[test]
fn a_reset_is_noticed_on_a_half_closed_side() {
    is_soon(|| {
        let (_lb, client, mut server) = pair("");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        reset(client);
        // Data that is written now can only be reset by the balancer.
        let began = Instant::now();
        eventually("the backend learns of the reset", || server.write_all(b"x").is_err().then_some(()));
        began.elapsed()
    });
}

#[test]
fn a_reset_is_noticed_on_a_side_whose_peer_does_not_read() {
    let (lb, mut client, server) = pair("");
    fill(&mut client, &server);
    reset(client);
    assert!(lb.when_logged("closed conn=").contains("reason=client_reset"));
    drop(server);
}

#[test]
fn a_response_during_an_upload_arrives_although_the_backend_resets() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let (_lb, mut client, mut server) = pair("");
    let mut upload = client.try_clone().unwrap();
    let uploading = std::thread::spawn(move || {
        let block = vec![0; 1 << 16];
        while upload.write_all(&block).is_ok() {}
    });
    server.read_exact(&mut [0; 1000]).unwrap();
    // Until the balancer cannot write.
    eventually("the upload is stuck", || {
        (server.peek(&mut vec![0; 1 << 20]).unwrap() >= 1 << 15).then_some(())
    });
    server.write_all(ANSWER).unwrap();
    drop(server); // with unread data, the kernel sends a reset
    let mut answer = Vec::new();
    // Either the read or the write may get the reset.
    let _ = client.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(ANSWER));
    join_within(uploading, "the upload is refused");
}

/// The balancer is stopped, so that all of it arrives at once.
#[test]
fn a_response_arrives_although_a_reset_follows_it_at_once() {
    for _ in 0..5 {
        let (lb, mut client, mut server) = pair("");
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        lb.signal("STOP");
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", lb.pid())).unwrap();
        eventually("it stands still", || state().contains(") T ").then_some(()));
        client.write_all(b"more").unwrap();
        server.write_all(b"an answer").unwrap();
        reset(server);
        lb.signal("CONT");
        let mut answer = Vec::new();
        // The read may get the reset.
        let _ = client.read_to_end(&mut answer);
        assert_eq!(String::from_utf8_lossy(&answer), "an answer");
    }
}

#[test]
fn a_slow_reader_is_not_idle_while_the_kernel_still_sends() {
    const TOTAL: usize = 3 << 20;
    // The limit is far shorter than the transfer, and than the pauses between two steps of the kernel's buffers.
    let backend = listen_alone();
    let lb = in_front_of(backend.local_addr().unwrap(), "    timeouts: {half_closed: 3s}\n");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&lb.address("l").into()).unwrap();
    let mut client: TcpStream = socket.into();
    client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = accept_within(&backend);
    let sending = std::thread::spawn(move || server.write_all(&vec![1; TOTAL]).unwrap());
    let (mut total, mut buffer) = (0, [0; 16 * 1024]);
    loop {
        let n = client.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        total += n;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(total, TOTAL, "{}", lb.log());
    join_within(sending, "all is sent");
}

#[test]
fn a_reader_that_stops_stops_its_sender_and_costs_no_memory() {
    let (lb, mut client, mut server) = pair("");
    // A first transfer makes the one-time allocations.
    client.write_all(&vec![1; 1 << 20]).unwrap();
    server.read_exact(&mut vec![0; 1 << 20]).unwrap();
    let before = lb.resident_kib();
    let sent = fill(&mut client, &server);
    // What the control plane allocates meanwhile, for the first time, takes up to two megabytes.
    let grown = lb.resident_kib().saturating_sub(before) << 10;
    assert!(grown < 4 << 20, "{grown} bytes more after {sent} bytes that were not read");
    assert!(sent < 64 << 20, "the sender was never stopped: {sent} bytes");
    // Nothing is lost when the reader continues.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(std::io::copy(&mut server, &mut std::io::sink()).unwrap(), sent as u64);
}

#[test]
fn an_idle_connection_is_closed_after_its_limit_and_a_busy_one_is_not() {
    let (lb, mut client, mut server) = pair("    timeouts: {idle: 3s}\n");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(lb.when_logged("closed conn=").contains("reason=idle_timeout"));
}

#[test]
fn a_stalled_half_closed_connection_is_closed_and_an_active_one_is_not() {
    let (lb, mut client, mut server) = pair("    timeouts: {half_closed: 3s}\n");
    client.shutdown(Shutdown::Write).unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    // A reset: a truncated response must not look complete.
    expect_reset(&mut client);
    assert!(lb.when_logged("closed conn=").contains("reason=half_closed_timeout"));
}

#[test]
fn a_connection_is_reset_at_the_end_of_its_lifetime_however_busy() {
    let (lb, mut client, mut server) = pair("    timeouts: {lifetime: 500ms}\n");
    let began = Instant::now();
    let error = loop {
        assert!(began.elapsed() < TIME_LIMIT);
        let _ = client.write_all(b"x"); // fails once it is reset
        match server.read(&mut [0]) {
            Ok(n) => assert_ne!(n, 0, "the backend sees an orderly end of a stream that was cut"),
            Err(error) => break error,
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(began.elapsed() >= Duration::from_millis(450));
    assert!(lb.when_logged("closed conn=").contains("reason=lifetime"));
}
