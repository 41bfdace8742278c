//! What connections to backends and those of checks have in common: where they come from, and how a Unix socket is
//! connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::UnixStream;

use crate::backoff::Backoff;
use crate::config::SourceAddress;
use crate::socket_option::set_option;

/// The delays between attempts to connect to a Unix socket whose queue of connections is full.
const FULL_QUEUE: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));

/// Connects to a Unix socket. While its queue of connections is full, the kernel returns an error at once (EAGAIN in
/// connect(2)) where it would let a TCP client wait: then this waits and tries again. The caller limits the time.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let mut delays = FULL_QUEUE;
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        match socket.connect(&address) {
            Ok(()) => return UnixStream::from_std(socket.into()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => tokio::time::sleep(delays.next_delay()).await,
                io::ErrorKind::NotFound => {
                    let text = "connection refused: there is no file at the path";
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
                }
                io::ErrorKind::PermissionDenied => {
                    let text = "permission denied: the user of Pointsman must be permitted to write to the socket \
                                and to search its folder";
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                _ => return Err(error),
            },
        }
    }
}

/// Binds a socket to the address that its connection comes from.
pub fn bind_source(socket: impl AsFd, source: SourceAddress) -> io::Result<()> {
    // The kernel chooses the port with the connect, one that is free for this backend (ip(7)); bind(2) would need a port
    // that no connection from this address has.
    set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
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
pub fn not_with_itself(peer: SocketAddr, local: impl FnOnce() -> io::Result<SocketAddr>) -> io::Result<()> {
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
    use std::os::unix::net::UnixListener;

    use crate::telemetry::ConnectError;
    use crate::testing::in_time;

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

    #[tokio::test]
    async fn a_full_queue_of_a_unix_socket_delays_connections() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // The queue takes one more than its length (unix_recvq_full).
        rustix::net::listen(&listener, 0).unwrap();
        let first = connect_unix(&path).await.unwrap();
        let mut second = std::pin::pin!(connect_unix(&path));
        let delay = Duration::from_millis(20);
        assert!(tokio::time::timeout(delay, second.as_mut()).await.is_err());
        let _accepted = listener.accept().unwrap();
        in_time("the second one is connected", second).await.unwrap();
        drop(first);
    }

    #[tokio::test]
    async fn the_error_of_a_unix_socket_tells_what_is_wrong_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = async |name: &str| {
            let error = connect_unix(&folder.path().join(name)).await.unwrap_err();
            let kind = ConnectError::from(&error);
            (kind, kind.explain(&error))
        };
        drop(UnixListener::bind(folder.path().join("left")).unwrap());
        assert_eq!(error("left").await, (ConnectError::Refused, "connection refused".to_owned()));
        let none = "connection refused: there is no file at the path".to_owned();
        assert_eq!(error("none").await, (ConnectError::Refused, none));
        let too_long = error(&"x".repeat(120)).await;
        assert_eq!(too_long.0, ConnectError::Other, "{}", too_long.1);
    }
}
