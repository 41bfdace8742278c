//! The kernel's table of connections (conntrack): its events, and questions about single entries (ctnetlink,
//! `linux/netfilter/nfnetlink_conntrack.h`).

use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netlink::{self, Datagrams, Request, attribute, attributes};
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
/// `CTA_IP_…`.
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        let (mut original, mut reply) = (None, None);
        let (mut mark, mut status, mut state) = (None, None, None);
        let mut bytes = [None; 2];
        // One pass, as there are tens of thousands a second.
        for (kind, value) in attributes(body.get(FAMILY_HEADER..)?) {
            match kind {
                TUPLE_ORIGINAL => original = Some(Tuple::read(value)?),
                TUPLE_REPLY => reply = Some(Tuple::read(value)?),
                STATUS => status = number(value),
                PROTOCOL_STATE => {
                    let tcp = attribute(value, TCP).and_then(|tcp| attribute(tcp, TCP_STATE));
                    state = tcp.and_then(|state| state.first().copied());
                }
                MARK => mark = number(value),
                COUNTERS_ORIGINAL => bytes[0] = attribute(value, BYTES).and_then(long),
                COUNTERS_REPLY => bytes[1] = attribute(value, BYTES).and_then(long),
                _ => {}
            }
        }
        let [of_original, of_reply] = bytes;
        Some(Self {
            original: original?,
            reply: reply?,
            mark: mark.unwrap_or_default(),
            answered: status.map(|status| status & SEEN_REPLY != 0),
            state: state.and_then(TcpState::read),
            bytes: of_original.zip(of_reply).map(<[u64; 2]>::from),
        })
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn long(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// With one write for each end: the derived one writes every part of an address by itself, which takes longer than the hash.
impl Hash for Tuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for end in [self.source, self.destination] {
            match end.ip() {
                IpAddr::V4(ip) => state.write_u64(u64::from(u32::from(ip)) << 16 | u64::from(end.port())),
                IpAddr::V6(ip) => {
                    state.write_u128(u128::from(ip));
                    state.write_u16(end.port());
                }
            }
        }
    }
}

impl Tuple {
    fn read(value: &[u8]) -> Option<Self> {
        let (mut ips, mut ports, mut protocol) = ([None; 2], [None; 2], None);
        for (kind, value) in attributes(value) {
            match kind {
                TUPLE_IP => ips = Self::read_ips(value),
                TUPLE_PROTOCOL => {
                    for (kind, value) in attributes(value) {
                        let port = || value.try_into().ok().map(u16::from_be_bytes);
                        match kind {
                            PROTOCOL_NUMBER => protocol = value.first().copied(),
                            SOURCE_PORT => ports[0] = port(),
                            DESTINATION_PORT => ports[1] = port(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let end = |index: usize| Some(SocketAddr::new(ips[index]?, ports[index]?));
        let is_tcp = protocol == Some(libc::IPPROTO_TCP as u8);
        is_tcp.then_some(Self { source: end(0)?, destination: end(1)? })
    }

    fn read_ips(value: &[u8]) -> [Option<IpAddr>; 2] {
        let mut ips = [None; 2];
        for (kind, value) in attributes(value) {
            let v4 = || value.try_into().ok().map(|octets: [u8; 4]| IpAddr::from(octets));
            let v6 = || value.try_into().ok().map(|octets: [u8; 16]| IpAddr::from(octets));
            match kind {
                V4_SOURCE => ips[0] = v4(),
                V4_DESTINATION => ips[1] = v4(),
                V6_SOURCE => ips[0] = v6(),
                V6_DESTINATION => ips[1] = v6(),
                _ => {}
            }
        }
        ips
    }

    /// Adds it to a request.
    fn put(&self, request: &mut Request) {
        request.nested(TUPLE_ORIGINAL, |tuple| {
            tuple.nested(TUPLE_IP, |ip| match (self.source.ip(), self.destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    ip.attribute(V4_SOURCE, &Ipv4Addr::octets(&source));
                    ip.attribute(V4_DESTINATION, &destination.octets());
                }
                (source, destination) => {
                    let v6 = |ip: IpAddr| match ip {
                        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                        IpAddr::V6(ip) => ip,
                    };
                    ip.attribute(V6_SOURCE, &Ipv6Addr::octets(&v6(source)));
                    ip.attribute(V6_DESTINATION, &v6(destination).octets());
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
        // Above the limit for other processes; without the capability for it (in a user namespace), up to that limit.
        let options = [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF];
        let _ = options
            .into_iter()
            .any(|option| set_option(&socket, libc::SOL_SOCKET, option, EVENT_BUFFER).is_ok());
        // The kernel chooses the port. Without a port of its own, a socket gets no events.
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, datagrams: Datagrams::default() })
    }

    /// Waits until there are events. Only meanwhile does epoll(7) watch the socket: otherwise each event would wake the thread
    /// that waits in it. Needs a tokio runtime.
    #[allow(unsafe_code)]
    pub async fn readable(&self) -> io::Result<()> {
        // SAFETY: the descriptor stays open, and is not replaced, while the socket is borrowed.
        let registered = unsafe { AsyncFd::register_with_interest(self.socket.as_fd(), Interest::READABLE)? };
        registered.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads some events with one system call; `WouldBlock`: there are none; `ENOBUFS`: some were lost.
    pub fn read(&mut self, each: impl FnMut(ConntrackEvent)) -> io::Result<()> {
        self.datagrams.receive(&self.socket)?;
        self.datagrams.messages().filter_map(|message| ConntrackEvent::read(&message)).for_each(each);
        Ok(())
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
