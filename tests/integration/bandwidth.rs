//! Bandwidth limits (`bandwidth`). A limit is asserted from below, by the time that bytes need at its rate; that they do not
//! take much longer is a law of the limits themselves (`src/proxy/bandwidth.rs`).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::peers::{connect, reset};
use crate::support::{Lb, TIME_LIMIT, accept_within, eventually, join_within, listen_alone, static_list};

fn config(backend: std::net::SocketAddr, bandwidth: &str) -> String {
    let limit = if bandwidth.is_empty() { String::new() } else { format!(", bandwidth: {{{bandwidth}}}") };
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p{limit}}}}}\n\
         pools: {{p: {{discover: {}}}}}\n",
        static_list(&[backend])
    )
}

/// Sends `bytes` bytes to an echo server and reads them back; returns how long that took.
fn echoed(client: TcpStream, bytes: usize) -> Duration {
    let sent: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    let (mut to, mut from) = (client.try_clone().unwrap(), client);
    let (begin, expected) = (Instant::now(), sent.clone());
    let writer = std::thread::spawn(move || {
        to.write_all(&sent).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    from.read_to_end(&mut received).unwrap();
    join_within(writer, "all is written");
    assert!(received == expected, "{} of {bytes} bytes came back", received.len());
    begin.elapsed()
}

/// The least time that bytes take: the credit and the first reservation are ahead of the rate, which is 100 ms each way.
fn least(bytes: usize, per_second: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second as f64).saturating_sub(Duration::from_millis(200))
}

fn delayed(lb: &Lb, direction: &str) -> f64 {
    lb.metric(&format!("pointsman_listener_bytes_delayed_total{{listener=\"l\",direction=\"{direction}\"}}"))
}

#[test]
fn each_connection_has_its_bandwidth() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(backend.address, "per_connection: 1MiB/s"));
    let clients = [(); 2].map(|()| {
        let client = connect(&lb);
        std::thread::spawn(move || echoed(client, 1 << 20))
    });
    for client in clients {
        let took = join_within(client, "all is echoed");
        assert!(took >= least(1 << 20, 1 << 20), "{took:?}");
    }
    lb.when_idle();
    assert!(delayed(&lb, "in") > 1e6 && delayed(&lb, "out") > 0.0, "{}", lb.get("/metrics").1);
    let line = lb.when_logged("closed conn=");
    assert!(line.contains(" throttled=true"), "{line}");
    let why = lb.get("/api/v1/why?client=127.0.0.1").1;
    assert!(why.contains("to the client; a bandwidth limit of the listener delayed some of that"), "{why}");
    assert_eq!(lb.status()["listeners"][0]["bytes_delayed"], delayed(&lb, "in") + delayed(&lb, "out"));
}

#[test]
fn all_connections_of_a_listener_share_its_bandwidth() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(backend.address, "total: 2MiB/s"));
    let begin = Instant::now();
    let clients = [(); 4].map(|()| {
        let client = connect(&lb);
        std::thread::spawn(move || echoed(client, 1 << 19))
    });
    for client in clients {
        join_within(client, "all is echoed");
    }
    let took = begin.elapsed();
    assert!(took >= least(4 << 19, 2 << 20), "{took:?}");
}

#[test]
fn bursts_pass_unchanged_within_a_high_limit() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(backend.address, "per_connection: 200MB/s, total: 100MB/s"));
    let took = echoed(connect(&lb), 40_000_000);
    assert!(took >= least(40_000_000, 100_000_000), "{took:?}");
}

#[test]
fn a_few_bytes_pass_at_once_and_a_limit_that_is_not_reached_delays_nothing() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(backend.address, "per_connection: 1GB/s"));
    echoed(connect(&lb), 100);
    lb.when_idle();
    assert_eq!([delayed(&lb, "in"), delayed(&lb, "out")], [0.0, 0.0]);
    let line = lb.when_logged("closed conn=");
    assert!(!line.contains("throttled"), "{line}");
}

/// A connection whose backend has sent 1 MiB, of which the limit lets a kilobyte pass each second.
fn slowed_down() -> (Lb, TcpListener, TcpStream, TcpStream) {
    let backend = listen_alone();
    let lb = Lb::start(&config(backend.local_addr().unwrap(), "per_connection: 1KiB/s"));
    let mut client = connect(&lb);
    client.write_all(b"x").unwrap();
    let (mut server, _) = accept_within(&backend);
    // With an unread byte, its close would be a reset.
    server.read_exact(&mut [0]).unwrap();
    let block = vec![0; 1 << 20];
    server.set_nonblocking(true).unwrap();
    assert!(server.write(&block).unwrap() > 1 << 14);
    let mut first = [0];
    client.read_exact(&mut first).unwrap();
    (lb, backend, client, server)
}

#[test]
fn a_reload_changes_the_limits_of_open_connections() {
    let (lb, backend, mut client, server) = slowed_down();
    server.set_nonblocking(false).unwrap();
    drop(server);
    lb.reload(&config(backend.local_addr().unwrap(), ""));
    let (begin, mut received) = (Instant::now(), Vec::new());
    client.read_to_end(&mut received).unwrap();
    // At the old limit it would have taken longer.
    assert!(received.len() as f64 / 1024.0 > 5.0 * begin.elapsed().as_secs_f64(), "{}", received.len());
}

#[test]
fn a_reload_ends_the_wait_of_connections_that_share_a_limit() {
    const CLIENTS: usize = 60;
    let backend = Backend::echo();
    let lb = Lb::start(&config(backend.address, "total: 1KiB/s"));
    // Each reserves a kilobyte: the last ones would wait for a minute.
    let mut clients = [(); CLIENTS].map(|()| {
        let mut client = connect(&lb);
        client.write_all(&[1; 1024]).unwrap();
        client
    });
    lb.when_logged_times(CLIENTS, &["routed conn="]);
    lb.reload(&config(backend.address, "total: 1GB/s"));
    // Also one that comes now.
    let mut late = connect(&lb);
    late.write_all(&[1; 1024]).unwrap();
    // The last ones first: those that would wait longer than a read may take.
    for client in [&mut late].into_iter().chain(clients.iter_mut().rev()) {
        client.read_exact(&mut [0; 1024]).unwrap();
    }
}

#[test]
fn a_peer_that_breaks_while_its_bytes_are_held_back_is_noticed() {
    let (lb, _backend, mut client, server) = slowed_down();
    reset(server);
    let (begin, mut received) = (Instant::now(), Vec::new());
    assert_eq!(client.read_to_end(&mut received).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(begin.elapsed() < TIME_LIMIT, "16 KiB would have taken 16 s");
    lb.when_logged("reason=backend_reset");

    let (lb, _backend, client, mut server) = slowed_down();
    reset(client);
    lb.when_logged("reason=client_reset");
    eventually("the backend is reset", || {
        (server.write(b"x").unwrap_err().kind() != ErrorKind::WouldBlock).then_some(())
    });
}
