//! The kernel's table of connections (conntrack): its events, and questions about single entries (ctnetlink,
//! `linux/netfilter/nfnetlink_conntrack.h`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netlink::{self, Datagrams, Request, attribute};
use crate::socket_option::set_option;

/// `NFNL_SUBSYS_CTNETLINK`, in the upper byte of a message's type; the lower one is the kind.
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_…`.
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// The length of `struct nfgenmsg`, before the attributes.
const FAMILY_HEADER: usize = 4;
/// `NF_NETLINK_CONNTRACK_NEW`, `…_UPDATE`, `…_DESTROY` (`linux/netfilter/nfnetlink_compat.h`).
const GROUPS: u32 = 1 | 2 | 4;
/// Room for the events of a burst: the kernel counts about a kilobyte for each.
const EVENT_BUFFER: i32 = 32 << 20;
/// A read of a dump.
const READ: usize = 64 * 1024;
/// A limit for a fault: the kernel replies at once.
const ANSWER: Duration = Duration::from_secs(2);

/// `CTA_…`: attributes of an entry.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const MARK: u16 = 8;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
/// `CTA_TUPLE_…`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_…`: the source; the destination is the next number.
const V4_SOURCE: u16 = 1;
const V6_SOURCE: u16 = 3;
/// `CTA_PROTO_…`.
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// `CTA_PROTOINFO_TCP` and `CTA_PROTOINFO_TCP_STATE`.
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// `CTA_COUNTERS_BYTES`.
const BYTES: u16 = 2;
/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 2;

/// The two ends of one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where its packets come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

/// An entry of the table, as far as a message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// The packets of the side that opened the connection, before translation: from the client to the listener.
    pub original: Tuple,
    /// The answers: from the backend.
    pub reply: Tuple,
    /// The bits that rules have set.
    pub mark: u32,
    /// Whether an answer was seen, if the message tells.
    pub answered: Option<bool>,
    /// The state of TCP, if the message tells.
    pub state: Option<TcpState>,
    /// Bytes of IP packets in both directions, headers included: those of the client, and the answers.
    pub bytes: Option<[u64; 2]>,
}

/// `enum tcp_conntrack` (`linux/netfilter/nf_conntrack_tcp.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// A SYN was seen.
    SynSent,
    /// Its answer, too.
    SynReceived,
    /// The handshake is complete.
    Established,
    /// One side or both have sent a FIN.
    Closing,
    /// Both FINs are acknowledged.
    TimeWait,
    /// There was a reset.
    Reset,
}

impl TcpState {
    fn read(number: u8) -> Option<Self> {
        Some(match number {
            1 | 9 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4..=6 => Self::Closing,
            7 => Self::TimeWait,
            8 => Self::Reset,
            _ => return None,
        })
    }
}

/// What has happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConntrackEvent {
    /// It was made.
    New(ConntrackEntry),
    /// It has changed.
    Changed(ConntrackEntry),
    /// It is gone.
    Gone(ConntrackEntry),
}

impl ConntrackEvent {
    /// Reads a message; `None`: it is about something else than a TCP connection.
    fn read(message: &netlink::NetlinkMessage<'_>) -> Option<Self> {
        let entry = ConntrackEntry::read(message.body)?;
        match message.kind.checked_sub(SUBSYSTEM)? {
            NEW if message.flags & libc::NLM_F_CREATE as u16 != 0 => Some(Self::New(entry)),
            NEW => Some(Self::Changed(entry)),
            DELETE => Some(Self::Gone(entry)),
            _ => None,
        }
    }
}

impl ConntrackEntry {
    /// Reads the body of a message; `None`: it is no TCP connection.
    fn read(body: &[u8]) -> Option<Self> {
        let attributes = body.get(FAMILY_HEADER..)?;
        let number = |kind| attribute(attributes, kind)?.try_into().ok().map(u32::from_be_bytes);
        let tcp = attribute(attributes, PROTOCOL_STATE).and_then(|state| attribute(state, TCP));
        let state = tcp.and_then(|tcp| attribute(tcp, TCP_STATE)?.first().copied());
        let bytes = |kind| {
            let counters = attribute(attributes, kind)?;
            attribute(counters, BYTES)?.try_into().ok().map(u64::from_be_bytes)
        };
        Some(Self {
            original: Tuple::read(attribute(attributes, TUPLE_ORIGINAL)?)?,
            reply: Tuple::read(attribute(attributes, TUPLE_REPLY)?)?,
            mark: number(MARK).unwrap_or_default(),
            answered: number(STATUS).map(|status| status & SEEN_REPLY != 0),
            state: state.and_then(TcpState::read),
            bytes: bytes(COUNTERS_ORIGINAL).zip(bytes(COUNTERS_REPLY)).map(<[u64; 2]>::from),
        })
    }
}

impl Tuple {
    fn read(attributes: &[u8]) -> Option<Self> {
        let (ip, protocol) = (attribute(attributes, TUPLE_IP)?, attribute(attributes, TUPLE_PROTOCOL)?);
        let v4 = |kind| attribute(ip, kind)?.try_into().ok().map(|octets: [u8; 4]| IpAddr::from(octets));
        let v6 = |kind| attribute(ip, kind)?.try_into().ok().map(|octets: [u8; 16]| IpAddr::from(octets));
        let port = |kind| attribute(protocol, kind)?.try_into().ok().map(u16::from_be_bytes);
        if attribute(protocol, PROTOCOL_NUMBER)? != [libc::IPPROTO_TCP as u8] {
            return None;
        }
        let end = |v4_kind: u16, v6_kind: u16, port_kind| {
            Some(SocketAddr::new(v4(v4_kind).or_else(|| v6(v6_kind))?, port(port_kind)?))
        };
        Some(Self {
            source: end(V4_SOURCE, V6_SOURCE, SOURCE_PORT)?,
            destination: end(V4_SOURCE + 1, V6_SOURCE + 1, DESTINATION_PORT)?,
        })
    }

    /// Adds it to a request.
    fn put(&self, request: &mut Request) {
        request.nested(TUPLE_ORIGINAL, |tuple| {
            tuple.nested(TUPLE_IP, |ip| match (self.source.ip(), self.destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    ip.attribute(V4_SOURCE, &Ipv4Addr::octets(&source));
                    ip.attribute(V4_SOURCE + 1, &destination.octets());
                }
                (source, destination) => {
                    let v6 = |ip: IpAddr| match ip {
                        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                        IpAddr::V6(ip) => ip,
                    };
                    ip.attribute(V6_SOURCE, &Ipv6Addr::octets(&v6(source)));
                    ip.attribute(V6_SOURCE + 1, &v6(destination).octets());
                }
            });
            tuple.nested(TUPLE_PROTOCOL, |protocol| {
                protocol.attribute(PROTOCOL_NUMBER, &[libc::IPPROTO_TCP as u8]);
                protocol.attribute(SOURCE_PORT, &self.source.port().to_be_bytes());
                protocol.attribute(DESTINATION_PORT, &self.destination.port().to_be_bytes());
            });
        });
    }

    fn request(&self, kind: u16, flags: i32, sequence: u32) -> Vec<u8> {
        let mut request = Request::new(SUBSYSTEM | kind, flags as u16, sequence);
        let family = if self.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        request.put(&[family as u8, 0, 0, 0]);
        self.put(&mut request);
        request.finish()
    }
}

/// A socket on which the kernel reports the events of its table.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    datagrams: Datagrams,
}

impl Events {
    /// Subscribes to the events of this network namespace. Needs CAP_NET_ADMIN.
    pub fn subscribe() -> io::Result<Self> {
        let socket = netlink::open(libc::NETLINK_NETFILTER)?;
        // Above the limit for other processes; without the capability for it, that limit applies.
        let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, EVENT_BUFFER);
        // The kernel chooses the port. Without a port of its own, a socket gets no events.
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, datagrams: Datagrams::default() })
    }

    /// The same, which tells when there are events. Needs a tokio runtime.
    #[allow(unsafe_code)]
    pub fn registered(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `as_raw_fd` is the descriptor of the socket, which is open as long as the value exists, and is neither
        // replaced nor closed before.
        unsafe { Ok(AsyncFd::register_with_interest(self, Interest::READABLE)?) }
    }

    /// Reads some events with one system call; `WouldBlock`: there are none; `ENOBUFS`: some were lost.
    pub fn read(&mut self, each: impl FnMut(ConntrackEvent)) -> io::Result<()> {
        self.datagrams.receive(&self.socket)?;
        self.datagrams.messages().filter_map(|message| ConntrackEvent::read(&message)).for_each(each);
        Ok(())
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A socket for questions and changes.
#[derive(Debug)]
pub struct Table {
    socket: Socket,
    buffer: Box<[u8]>,
    datagrams: Datagrams,
}

impl Table {
    /// Needs CAP_NET_ADMIN.
    pub fn open() -> io::Result<Self> {
        let socket = netlink::open(libc::NETLINK_NETFILTER)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self { socket, buffer: vec![0; READ].into(), datagrams: Datagrams::default() })
    }

    /// The entries of these connections (`original`), by their place in the list; those that are gone are left out. One
    /// system call asks for all.
    pub fn entries(&mut self, of: &[Tuple]) -> io::Result<Vec<(usize, ConntrackEntry)>> {
        let requests = (0..).zip(of).flat_map(|(n, tuple)| tuple.request(GET, 0, n));
        self.socket.write_all(&requests.collect::<Vec<_>>())?;
        let (mut answered, mut found) = (0, Vec::new());
        while answered < of.len() {
            self.datagrams.receive(&self.socket)?;
            for message in self.datagrams.messages() {
                answered += 1;
                let reply = Some(message).filter(|message| i32::from(message.kind) != libc::NLMSG_ERROR);
                if let Some(entry) = reply.and_then(|message| ConntrackEntry::read(message.body)) {
                    found.push((message.sequence as usize, entry));
                }
            }
        }
        Ok(found)
    }

    /// Removes the entry of a connection: the kernel no longer translates its packets. One that is gone already
    /// is no error.
    pub fn delete(&mut self, original: &Tuple) -> io::Result<()> {
        self.socket.write_all(&original.request(DELETE, libc::NLM_F_ACK, 0))?;
        let length = self.socket.read(&mut self.buffer)?;
        let reply = netlink::split(&self.buffer[..length]).map(|(message, _)| message);
        match reply.map(|message| netlink::error_number(message.body)) {
            None | Some(0 | libc::ENOENT) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// All TCP connections in the table.
    pub fn dump(&mut self, mut each: impl FnMut(ConntrackEntry)) -> io::Result<()> {
        let mut request = Request::new(SUBSYSTEM | GET, libc::NLM_F_DUMP as u16, 0);
        request.put(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
        self.socket.write_all(&request.finish())?;
        loop {
            let length = self.socket.read(&mut self.buffer)?;
            let mut messages = &self.buffer[..length];
            if messages.is_empty() {
                return Ok(());
            }
            while let Some((message, rest)) = netlink::split(messages) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let number = netlink::error_number(message.body);
                        return Err(io::Error::from_raw_os_error(number));
                    }
                    _ => {
                        if let Some(entry) = ConntrackEntry::read(message.body) {
                            each(entry);
                        }
                    }
                }
                messages = rest;
            }
        }
    }
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
