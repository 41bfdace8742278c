//! The harness of the integration tests: real processes, sockets and signals.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses its own part of the harness"
)]

pub mod backend;
mod balancer;
pub mod deadlines;
pub mod dns;
pub mod engine;
pub mod late_network;
pub mod load;
pub mod machine;
pub mod monitoring;
pub mod network;
pub mod peers;
pub mod postgres;
pub mod tool;
pub mod unix_backend;
pub mod watchdog;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

pub use balancer::Lb;
pub use deadlines::{
    Limited, SetAtTheEnd, TOOL, accept_within, connect_to, end_child, eventually, join_within, limited,
    output_of, within,
};
use socket2::{Domain, Socket, Type};
pub use watchdog::skip;

pub use crate::TIME_LIMIT;

/// One request on its own connection; returns status and body.
pub fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let stream = connect_to(address).map_err(|error| format!("connect: {error}"))?;
    http_get_on(stream, path)
}

/// One request on an open connection; returns status and body.
pub fn http_get_on(mut stream: TcpStream, path: &str) -> Result<(u16, String), String> {
    let error = |what: &str, error: std::io::Error| format!("{what}: {error}");
    stream.set_read_timeout(Some(TIME_LIMIT)).map_err(|e| error("timeout", e))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| error("send", e))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| error("read", e))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("half an answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or("no status")?, body.to_owned()))
}

/// A local address that refuses connections until this value is dropped.
pub struct ClosedPort {
    pub address: SocketAddr,
    _held: Socket,
}

impl ClosedPort {
    pub fn new() -> Self {
        let socket = hold("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { address: socket.local_addr().unwrap().as_socket().unwrap(), _held: socket }
    }
}

/// Binds an address without listening: connections are refused, the kernel does not assign the port, and only a bind to
/// this port with the same option succeeds.
pub fn hold(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Keeps the port of something that has ended, so that what still connects to it does not reach another test's listener:
/// the kernel does not assign it again before many more have ended.
pub fn keep_for_a_while(held: Socket) {
    static RECENT: Mutex<VecDeque<Socket>> = Mutex::new(VecDeque::new());
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    recent.push_back(held);
    if recent.len() > 300 {
        recent.pop_front();
    }
}

/// A listener at an address of its own. At 127.0.0.1 the port may have belonged to a backend that the balancer of another test
/// still checks, and `accept` would return that connection.
pub fn listen_alone() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [.., high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // 127.0.0.0/16 is that of the other tests, and the last number is none of a network.
    let of_process = 1 + (std::process::id() % 250) as u8;
    TcpListener::bind((Ipv4Addr::new(127, of_process, high, low.max(1)), 0)).unwrap()
}

/// A free port for a listener whose address a reload must repeat. It stays free: it is below the range that the kernel
/// assigns from, and each test has its own.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let end: u16 = range.split_ascii_whitespace().next().unwrap().parse().unwrap();
    assert!(end > FIRST, "there are no ports below those that the kernel gives away: {range}");
    // A concurrent run of the tests begins at another port.
    let begin = (std::process::id() % 1000) as u16 * 20;
    eventually("a free port", || {
        let port = FIRST + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (end - FIRST);
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}

/// A non-loopback address of this machine, found without a packet; without one the test is skipped. To the server, a
/// client that connects to it is remote.
pub fn address_of_this_machine() -> Option<IpAddr> {
    let address_towards = |other: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(other)?;
        socket.local_addr()
    };
    let address =
        address_towards("192.0.2.1:9").ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback());
    if address.is_none() {
        skip(
            "POINTSMAN_REQUIRE_TOOLS",
            "this machine has no address but loopback (give it a route to 192.0.2.1)",
        );
    }
    address
}

/// A static list of backends, as YAML.
pub fn static_list(addresses: &[SocketAddr]) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("[{{static: [{}]}}]", list.join(", "))
}
