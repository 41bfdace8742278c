//! TCP options of listeners and pools, and their change by a reload.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::backend::Backend;
use crate::support::network::is_inside;
use crate::support::peers::{self, KEEPALIVE, REPEATING, connect};
use crate::support::{Lb, TIME_LIMIT, accept_within, connect_to, eventually, listen_alone, static_list};
use rustix::net::{SendFlags, sendto};
use socket2::{Domain, Socket, Type};

/// A configuration with one worker, so that connections are accepted in the order of their handshakes.
fn config(listener: &str, backend: SocketAddr, pool: &str) -> String {
    let discover = static_list(&[backend]);
    format!(
        "runtime: {{workers: 1}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p, {listener}}}}}\n\
         pools: {{p: {{discover: {discover}, {pool}}}}}\n"
    )
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

/// Whether a connection has reached the backend.
fn routed(lb: &Lb, client: &TcpStream) -> bool {
    !lb.logged(&["routed conn=", &format!("client={} ", client.local_addr().unwrap())]).is_empty()
}

#[test]
fn with_defer_accept_a_silent_client_is_no_connection_until_it_sends() {
    let backend = Backend::echo();
    let lb = Lb::start(&config("defer_accept: 1m", backend.address, ""));
    let mut silent = connect(&lb);
    // A later client is served first.
    let mut later = connect(&lb);
    exchange(&mut later);
    assert!(!routed(&lb, &silent));
    assert_eq!(lb.status()["listeners"][0]["active"], 1);
    assert_eq!(backend.accepted.load(std::sync::atomic::Ordering::SeqCst), 1);
    exchange(&mut silent);
    assert_eq!(lb.status()["listeners"][0]["active"], 2);
}

#[test]
fn with_defer_accept_a_silent_client_is_accepted_after_the_time_limit() {
    let backend = Backend::serving(|mut stream| {
        let _ = stream.write_all(b"220 ready\r\n");
    });
    let lb = Lb::start(&config("defer_accept: 1s", backend.address, ""));
    let mut greeting = String::new();
    connect(&lb).read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "220 ready\r\n");
}

/// Writes until a time limit of the connection's other end breaks it.
fn write_until_broken(mut stream: TcpStream) -> ErrorKind {
    let block = vec![0; 1 << 16];
    loop {
        if let Err(error) = stream.write_all(&block) {
            return error.kind();
        }
    }
}

#[test]
fn a_client_that_does_not_read_is_reset_after_tcp_user_timeout() {
    let (sender, broken) = std::sync::mpsc::channel();
    let backend = Backend::serving(move |stream| {
        let _ = sender.send(write_until_broken(stream));
    });
    let lb = Lb::start(&config("user_timeout: 1s", backend.address, ""));
    let _client = connect(&lb);
    assert_ne!(broken.recv_timeout(TIME_LIMIT).unwrap(), ErrorKind::WouldBlock);
    assert!(lb.when_logged("closed conn=").contains("reason=client_reset"));
}

#[test]
fn a_backend_that_does_not_read_is_reset_after_tcp_user_timeout() {
    let backend = listen_alone();
    let lb = Lb::start(&config("", backend.local_addr().unwrap(), "user_timeout: 1s"));
    let client = connect(&lb);
    let (_server, _) = accept_within(&backend);
    assert_ne!(write_until_broken(client), ErrorKind::WouldBlock);
    assert!(lb.when_logged("closed conn=").contains("reason=backend_reset"));
}

/// The timer of the balancer's socket towards a client, once nothing is in flight on it.
fn timer(client: &TcpStream) -> u32 {
    let (ours, theirs) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    eventually("nothing is under way", || peers::timer(ours, theirs).filter(|timer| *timer != REPEATING))
}

#[test]
fn a_reload_changes_the_options_of_new_connections_only() {
    let backend = Backend::echo();
    let with = |options| config(options, backend.address, "");
    let lb = Lb::start(&with(""));
    let mut first = connect(&lb);
    eventually("the first is served", || routed(&lb, &first).then_some(()));
    exchange(&mut first);
    assert_eq!(timer(&first), KEEPALIVE, "the pool's keepalive");

    lb.reload(&with("keepalive: off, defer_accept: 1m, fast_open: 16, user_timeout: 1m"));
    let mut silent = connect(&lb);
    let mut second = connect(&lb);
    exchange(&mut second);
    assert_eq!(timer(&second), 0);
    assert!(!routed(&lb, &silent));
    exchange(&mut first);
    assert_eq!(timer(&first), KEEPALIVE);

    lb.reload(&with("keepalive: 1h"));
    let mut third = connect(&lb);
    eventually("the third is served although it says nothing", || routed(&lb, &third).then_some(()));
    assert_eq!(timer(&third), KEEPALIVE);
    for stream in [&mut first, &mut silent, &mut second, &mut third] {
        exchange(stream);
    }
    assert_eq!(lb.logged(&["listening listener=l"]).len(), 1, "the sockets stay");
    assert_eq!(lb.status()["listeners"][0]["active"], 4);
}

#[test]
fn a_closing_listener_leaves_no_client_hanging() {
    let backend = Backend::echo();
    let lb = Lb::start(&config("defer_accept: 1m", backend.address, ""));
    let address = lb.address("l");
    let mut silent = connect(&lb);
    let mut clients: Vec<_> = (0..50).map(|_| connect(&lb)).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    let discover = static_list(&[backend.address]);
    lb.reload(&format!(
        "listeners: {{m: {{bind: 127.0.0.1:0, pool: q}}}}\npools: {{q: {{discover: {discover}}}}}\n"
    ));
    for mut client in clients {
        client.read_exact(&mut [0]).unwrap();
    }
    eventually("the address is closed", || connect_to(address).is_err().then_some(()));
    // Unless it was just accepted, it is reset.
    let _ = silent.write_all(b"x");
    match silent.read(&mut [0]) {
        Ok(n) => assert_eq!(n, 1),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn data_in_a_syn_is_served_before_the_handshake_completes() {
    let test = "options::data_in_a_syn_is_served_before_the_handshake_completes";
    if !is_inside(test, "the tool ip", "echo 3 >/proc/sys/net/ipv4/tcp_fastopen") {
        return;
    }
    // MSG_FASTOPEN: connect with data.
    const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
    let backend = Backend::echo();
    let lb = Lb::start(&config("fast_open: 16", backend.address, ""));
    assert!(lb.logged(&["fast_open does nothing"]).is_empty());
    let connect_with_data = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        sendto(&socket, b"x", FAST_OPEN, &lb.address("l")).unwrap();
        let mut client = TcpStream::from(socket);
        client.read_exact(&mut [0]).unwrap();
    };
    connect_with_data(); // for the cookie (RFC 7413, 3)
    assert_eq!(fast_opened(), 0);
    connect_with_data();
    assert_eq!(fast_opened(), 1);
}

/// Connections that were accepted with data in the SYN (`TCPFastOpenPassive`).
fn fast_opened() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_ascii_whitespace);
    let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.into_iter().position(|name| name == "TCPFastOpenPassive").unwrap();
    values.nth(place).unwrap().parse().unwrap()
}
