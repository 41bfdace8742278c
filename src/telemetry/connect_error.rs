//! Why a connection to a backend could not be opened.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use socket2::SockRef;

use crate::config::SourceAddress;

/// Why an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No socket listens there.
    Refused,
    /// No answer within `connect.timeout`.
    Timeout,
    /// No route, or no host has the address.
    Unreachable,
    /// Reset while it was being opened.
    Reset,
    /// A local resource (ports, files, memory) is exhausted: no evidence against the backend.
    Local,
    /// Anything else.
    Other,
}

impl ConnectError {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::Timeout, Self::Unreachable, Self::Reset, Self::Local, Self::Other];

    /// The word in `pointsman_connect_failures_total{error}`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

impl ConnectError {
    /// The text of an error of this kind, with advice.
    pub fn explain(self, error: &io::Error) -> String {
        match self {
            Self::Refused => "connection refused".to_owned(),
            Self::Local if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                format!("{error}: no local port is left for this backend; widen net.ipv4.ip_local_port_range")
            }
            // Not an error of the kernel: it says what to do.
            Self::Local if error.raw_os_error().is_none() => error.to_string(),
            Self::Local => format!("{error}: raise the open-file limit or lower runtime.max_connections"),
            _ => error.to_string(),
        }
    }
}

impl From<&io::Error> for ConnectError {
    fn from(error: &io::Error) -> Self {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(error);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => Self::Local,
            _ if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::AGAIN)) => {
                Self::Local
            }
            _ => Self::Other,
        }
    }
}

/// Binds a socket to the address that its connection comes from.
pub(crate) fn bind_source(socket: impl AsFd, source: SourceAddress) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    let bind = |ip: IpAddr| socket.bind(&SocketAddr::new(ip, 0).into());
    match source {
        SourceAddress::Own(ip) => bind(ip).map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                let text = format!("the source address {ip} (connect.source) is not one of this machine's");
                io::Error::new(error.kind(), text)
            }
            _ => error,
        }),
        SourceAddress::Client(ip) => {
            // The option is one of TCP sockets of both families (ip(7), IP_TRANSPARENT).
            socket.set_ip_transparent_v4(true).and_then(|()| bind(ip)).map_err(|error| {
                let advice = match error.kind() {
                    io::ErrorKind::PermissionDenied => ": give Pointsman the capability CAP_NET_ADMIN",
                    _ => "",
                };
                // The backend had no part in it.
                let kind = io::ErrorKind::AddrNotAvailable;
                let text = "cannot connect from the client's address (connect.transparent)";
                io::Error::new(kind, format!("{text}: {error}{advice}"))
            })
        }
    }
}

/// Refuses a connection to itself: one to an address of this machine without a listening socket, for which the kernel
/// chose the same source port (simultaneous open, RFC 9293, 3.5). `local` is called only where that is possible.
pub(crate) fn not_with_itself(
    peer: SocketAddr,
    local: impl FnOnce() -> io::Result<SocketAddr>,
) -> io::Result<()> {
    if local_ports().contains(&peer.port()) && local()? == peer {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

/// The ports that the kernel chooses from (`ip_local_port_range` in ip(7)); its default if it cannot be read.
fn local_ports() -> &'static RangeInclusive<u16> {
    static PORTS: OnceLock<RangeInclusive<u16>> = OnceLock::new();
    PORTS.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut ports = text.split_ascii_whitespace().map_while(|port| port.parse().ok());
        match (ports.next(), ports.next()) {
            (Some(first), Some(last)) => first..=last,
            _ => 32_768..=60_999,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_with_itself_is_refused() {
        let port = *local_ports().start();
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        let refused = not_with_itself(peer, || Ok(peer)).unwrap_err();
        assert_eq!(ConnectError::from(&refused), ConnectError::Refused);
        not_with_itself(peer, || Ok(SocketAddr::from(([127, 0, 0, 1], port + 1)))).unwrap();
    }

    #[test]
    fn without_the_capability_the_clients_address_is_refused_with_advice() {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        // The capabilities of a thread are its own.
        let thread = std::thread::spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective -= CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
            set_capabilities(None, sets).unwrap();
            for client in ["192.0.2.1", "2001:db8::1"] {
                let client: IpAddr = client.parse().unwrap();
                let domain = socket2::Domain::for_address(SocketAddr::new(client, 0));
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
                let error = bind_source(&socket, SourceAddress::Client(client)).unwrap_err();
                let kind = ConnectError::from(&error);
                assert_eq!(kind, ConnectError::Local);
                let text = kind.explain(&error);
                assert!(text.contains("(connect.transparent)") && text.contains("CAP_NET_ADMIN"), "{text}");
            }
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_local_shortage_is_not_an_error_of_the_backend() {
        for errno in [rustix::io::Errno::ADDRNOTAVAIL, rustix::io::Errno::MFILE, rustix::io::Errno::NOBUFS] {
            assert_eq!(ConnectError::from(&io::Error::from(errno)), ConnectError::Local);
        }
    }
}
