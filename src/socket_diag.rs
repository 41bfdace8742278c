//! Questions to the kernel about TCP sockets (sock_diag(7)). Unlike a read of `/proc/self/net/tcp`, the cost of a question
//! about one socket, or about the listening ones, does not grow with the number of open connections.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::netlink::{self, HEADER, Request};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`: the type of the request and of its reply.
const BY_FAMILY: u16 = 20;
/// The lengths of `struct inet_diag_req_v2` and `struct inet_diag_msg`.
const REQUEST: usize = 56;
const REPLY: usize = 72;
/// `INET_DIAG_SKMEMINFO` (`linux/inet_diag.h`), an attribute with `SK_MEMINFO_DROPS` among its numbers
/// (`linux/sock_diag.h`).
const MEMORY: u16 = 7;
const DROPS: usize = 8;
/// The states of sockets in a request (`include/net/tcp_states.h`).
const ALL_STATES: u32 = u32::MAX;
const TIME_WAIT: u32 = 6;
const LISTEN: u32 = 10;
/// The size of a read of a dump: the kernel fills at most 32 KiB at a time.
const DUMPED: usize = 32 * 1024;
/// A limit for a fault: the kernel replies at once.
const ANSWER: Duration = Duration::from_secs(1);
/// `INET_DIAG_NOCOOKIE`: any socket with these ends.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// The inode of the TCP socket in this network namespace that has these two ends; `None` if there is none, no process holds
/// it, or the kernel has no such interface.
pub fn inode(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u64>> {
    let mut socket = netlink::open(libc::NETLINK_SOCK_DIAG)?;
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    socket.write_all(&request(family, 0, ALL_STATES, Some((local, remote))))?;
    // The kernel has replied when the write returns.
    socket.set_nonblocking(true)?;
    let mut reply = [0; 1024];
    let length = socket.read(&mut reply)?;
    Ok(inode_in(&reply[..length], [local.port(), remote.port()]))
}

/// Calls `each` for every TCP socket of this network namespace in one of `states`.
fn each_socket(states: u32, mut each: impl FnMut(&SocketInfo)) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut socket = netlink::open(libc::NETLINK_SOCK_DIAG)?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.write_all(&request(family, libc::NLM_F_DUMP, states, None))?;
        let mut replies = vec![0; DUMPED];
        loop {
            let length = socket.read(&mut replies)?;
            let (complete, result) = read_dump(&replies[..length], &mut each);
            result?;
            if complete || length == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// The listening TCP sockets of this network namespace.
pub fn listening() -> io::Result<Vec<AcceptQueue>> {
    let mut queues = Vec::new();
    each_socket(1 << LISTEN, |info| {
        let SocketInfo { local, queued, room, drops, .. } = *info;
        queues.push(AcceptQueue { address: local, waiting: queued, limit: room, dropped: drops });
    })?;
    Ok(queues)
}

/// The number of local ports in TIME_WAIT for each remote address.
pub fn time_wait() -> io::Result<HashMap<SocketAddr, u64>> {
    let mut ports = HashMap::new();
    each_socket(1 << TIME_WAIT, |info| *ports.entry(info.remote).or_default() += 1)?;
    Ok(ports)
}

/// A listening socket and the connections that wait in it to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Its address.
    pub address: SocketAddr,
    /// How many connections wait.
    pub waiting: u32,
    /// How many may wait.
    pub limit: u32,
    /// Connections that the kernel has dropped at this socket, as a rule because the queue was full.
    pub dropped: u32,
}

/// A socket in a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SocketInfo {
    local: SocketAddr,
    remote: SocketAddr,
    /// Of a listening socket: the connections that wait to be accepted, and their limit.
    queued: u32,
    room: u32,
    /// What the kernel has dropped at this socket; 0 if it does not tell.
    drops: u32,
}

/// Reads some messages of a dump: whether it is complete, and its error.
fn read_dump(mut messages: &[u8], each: &mut impl FnMut(&SocketInfo)) -> (bool, io::Result<()>) {
    while !messages.is_empty() {
        let Some((message, rest)) = netlink::split(messages) else { return (true, Ok(())) };
        match i32::from(message.kind) {
            libc::NLMSG_DONE => return (true, Ok(())),
            libc::NLMSG_ERROR => {
                return (true, Err(io::Error::from_raw_os_error(netlink::error_number(message.body))));
            }
            _ => {
                if let Some(info) = SocketInfo::read(message.body) {
                    each(&info);
                }
            }
        }
        messages = rest;
    }
    (false, Ok(()))
}

impl SocketInfo {
    /// Reads a `struct inet_diag_msg`.
    fn read(body: &[u8]) -> Option<Self> {
        let attributes = body.get(REPLY..).unwrap_or_default();
        let body = body.get(..REPLY)?;
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| body[at + byte]));
        let ip = |at: usize| -> Option<IpAddr> {
            let padded: [u8; 16] = body[at..at + 16].try_into().ok()?;
            Some(match i32::from(body[0]) {
                libc::AF_INET => IpAddr::from([padded[0], padded[1], padded[2], padded[3]]),
                _ => IpAddr::from(padded).to_canonical(),
            })
        };
        Some(Self {
            local: SocketAddr::new(ip(8)?, port(4)),
            remote: SocketAddr::new(ip(24)?, port(6)),
            queued: number(56),
            room: number(60),
            drops: drops(attributes).unwrap_or_default(),
        })
    }
}

/// The drops among the attributes of a socket.
fn drops(attributes: &[u8]) -> Option<u32> {
    let memory = netlink::attribute(attributes, MEMORY)?;
    memory.get(4 * DROPS..4 * (DROPS + 1))?.try_into().ok().map(u32::from_ne_bytes)
}

/// A request for the socket with these two ends, or for all.
fn request(family: i32, flags: i32, states: u32, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut message = Request::new(BY_FAMILY, flags as u16, 0);
    message.put(&[family as u8, libc::IPPROTO_TCP as u8, 1 << (MEMORY - 1), 0]);
    message.put(&states.to_ne_bytes());
    let mut socket = [0; REQUEST - 8];
    if let Some((local, remote)) = ends {
        let ports = [local.port(), remote.port()].map(u16::to_be_bytes);
        socket[..4].copy_from_slice(ports.as_flattened());
        socket[4..20].copy_from_slice(&address(local.ip()));
        socket[20..36].copy_from_slice(&address(remote.ip()));
        // On any interface.
        socket[40..].copy_from_slice(&NO_COOKIE);
    }
    message.put(&socket);
    message.finish()
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&ip.octets());
            padded
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The inode is the last field of the reply. An error has another type. Without a connection between the two ends the
/// kernel replies with the socket that listens at the local one, whose remote port is 0.
fn inode_in(reply: &[u8], ports: [u16; 2]) -> Option<u64> {
    let is_socket = reply.get(4..6)? == BY_FAMILY.to_ne_bytes();
    let is_this_one = reply.get(HEADER + 4..HEADER + 8)? == ports.map(u16::to_be_bytes).as_flattened();
    let inode = reply.get(HEADER + REPLY - 4..HEADER + REPLY)?;
    let inode = u32::from_ne_bytes(inode.try_into().ok()?);
    (is_socket && is_this_one && inode != 0).then_some(inode.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn inode_of(stream: &TcpStream) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap();
        text.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
    }

    #[test]
    fn the_kernel_finds_each_end_of_a_connection() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            assert_eq!(inode(peer, local).unwrap(), Some(inode_of(&client)), "{bind}");
            assert_eq!(inode(local, peer).unwrap(), Some(inode_of(&server)), "{bind}");
        }
    }

    /// Waits until the kernel has handled the segments of a connection.
    #[track_caller]
    fn soon(condition: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(std::time::Instant::now() < deadline, "it never came true");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_connections_that_wait_to_be_accepted_are_counted() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let address = listener.local_addr().unwrap();
            let queue = || listening().unwrap().into_iter().find(|queue| queue.address == address).unwrap();
            assert_eq!((queue().waiting, queue().limit > 0), (0, true), "{bind}");
            let _waiting = [(); 3].map(|()| TcpStream::connect(address).unwrap());
            soon(|| queue().waiting == 3);
            let _accepted = listener.accept().unwrap();
            soon(|| queue().waiting == 2);
        }
    }

    #[test]
    fn the_connections_that_the_kernel_dropped_are_counted_by_socket() {
        let [full, other] = [1, 100].map(|backlog| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            socket.listen(backlog).unwrap();
            TcpListener::from(socket)
        });
        let dropped = |listener: &TcpListener| {
            let address = listener.local_addr().unwrap();
            listening().unwrap().into_iter().find(|queue| queue.address == address).unwrap().dropped
        };
        assert_eq!((dropped(&full), dropped(&other)), (0, 0));
        let address = full.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let _waiting: Vec<_> = (0..4).map(connect).collect();
        soon(|| dropped(&full) > 0);
        assert_eq!(dropped(&other), 0);
    }

    #[test]
    fn attributes_that_are_cut_or_wrong_are_not_read_beyond_their_end() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes
        };
        let mut memory = [0; 36];
        memory[32..].copy_from_slice(&7u32.to_ne_bytes());
        let both = [attribute(4, b"cubi"), attribute(MEMORY, &memory)].concat();
        assert_eq!(drops(&both), Some(7));
        for end in 0..both.len() {
            assert_eq!(drops(&both[..end]), None, "{end}");
        }
        assert_eq!(drops(&attribute(MEMORY, &memory[..32])), None, "a kernel that does not count them");
        assert_eq!(drops(&[0; 8]), None, "a length below that of the header");
    }

    #[test]
    fn ports_in_time_wait_are_counted_by_their_remote_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..3 {
            let client = TcpStream::connect(address).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            drop(client); // the end that closes first keeps its port
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        }
        soon(|| time_wait().unwrap().get(&address) == Some(&3));
    }

    #[test]
    fn a_dump_that_is_cut_or_wrong_is_not_read_beyond_its_end() {
        let mut read = 0;
        let mut count = |bytes: &[u8]| read_dump(bytes, &mut |_: &SocketInfo| read += 1);
        assert!(!count(&[]).0);
        let message = |kind: u16, length: u32, body: &[u8]| {
            let mut message = length.to_ne_bytes().to_vec();
            message.extend(kind.to_ne_bytes());
            message.resize(HEADER, 0);
            message.extend(body);
            message
        };
        assert!(count(&message(BY_FAMILY, 1000, &[])).0, "longer than what came");
        assert!(count(&message(BY_FAMILY, 0, &[])).0, "shorter than its header");
        assert!(count(&message(libc::NLMSG_DONE as u16, 16, &[])).0);
        let (complete, result) = count(&message(libc::NLMSG_ERROR as u16, 20, &(-libc::EPERM).to_ne_bytes()));
        assert!(complete && result.unwrap_err().kind() == io::ErrorKind::PermissionDenied);
        assert!(!count(&message(BY_FAMILY, 20, &[0; 4])).0, "no socket, and more may come");
        assert_eq!(read, 0);
    }

    #[test]
    fn a_socket_that_does_not_exist_has_no_inode() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (bound, unused) = (listener.local_addr().unwrap(), "127.0.0.9:9".parse().unwrap());
        assert_eq!(inode(unused, bound).unwrap(), None);
        // A listening socket at the local address is another one.
        assert_eq!(inode(bound, unused).unwrap(), None);
        for garbage in [&[][..], &[0; 5], &[0; 200]] {
            assert_eq!(inode_in(garbage, [0, 0]), None);
        }
    }
}
