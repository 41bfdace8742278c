//! Whether a connection over loopback was opened by another program on this machine.
//!
//! A loopback address does not prove that a peer is an operator: the connection may be Pointsman's own connection to a
//! backend, which carries a listener's client. A backend at the admin server's address is refused ([`crate::own`]), but
//! the kernel may also redirect a connection to a backend to the admin server (REDIRECT and DNAT in
//! iptables-extensions(8)). So before a change Pointsman queries the kernel for the process that holds the other end.
//! This costs the connections to backends nothing.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::socket_diag;

/// The two ends of a connection to the admin server over TCP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The client's address.
    pub(super) peer: SocketAddr,
    /// The server's address.
    pub(super) local: SocketAddr,
}

impl Ends {
    /// Whether the other end is a socket of another process in this network namespace; false if that cannot be
    /// determined.
    pub(super) async fn are_of_another_process(self) -> bool {
        tokio::task::spawn_blocking(move || self.held_elsewhere().unwrap_or(false)).await.unwrap_or(false)
    }

    fn held_elsewhere(self) -> io::Result<bool> {
        let (peer, local) = (canonical(self.peer), canonical(self.local));
        let held = match socket_diag::inode(peer, local) {
            Ok(Some(inode)) => HashSet::from([inode]),
            // A redirected connection has another destination, and a kernel may lack this interface.
            Ok(None) | Err(_) => opened_by_peer(&sockets()?, self),
        };
        Ok(!held.is_empty() && held.is_disjoint(&own_sockets()?))
    }
}

/// All TCP sockets of this network namespace. With many thousands this takes a tenth of a second of kernel time.
fn sockets() -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(text.lines().filter_map(Socket::parse)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // a kernel without IPv6
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// The inodes of the sockets that may have opened the connection: the socket with exactly its two ends or, if it was
/// redirected, all sockets with the peer's address, whatever their destination. Sockets without a process are left out.
fn opened_by_peer(sockets: &[Socket], Ends { peer, local }: Ends) -> HashSet<u64> {
    let (peer, local) = (canonical(peer), canonical(local));
    let from_peer = || sockets.iter().filter(move |socket| socket.local == peer && socket.inode != 0);
    let exact: HashSet<u64> =
        from_peer().filter(|socket| socket.remote == local).map(|socket| socket.inode).collect();
    if exact.is_empty() { from_peer().map(|socket| socket.inode).collect() } else { exact }
}

/// The inodes of this process's sockets (proc(5), `/proc/pid/fd`).
fn own_sockets() -> io::Result<HashSet<u64>> {
    let inode = |entry: io::Result<fs::DirEntry>| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Ok(fs::read_dir("/proc/self/fd")?.filter_map(inode).collect())
}

/// A line of the kernel's table of TCP sockets (proc(5), `/proc/net/tcp`).
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    /// 0: no process holds it.
    inode: u64,
}

impl Socket {
    /// `None`: a header, or an unknown format.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(Self {
            local: address(fields.get(1)?)?,
            remote: address(fields.get(2)?)?,
            inode: fields.get(9)?.parse().ok()?,
        })
    }
}

/// An address as the kernel writes it: 32-bit words in host byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = || {
        (0..ip.len())
            .step_by(8)
            .map(|at| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes))
    };
    let bytes: Vec<u8> = words().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

/// A dual-stack socket reports an IPv4 connection with IPv4-mapped addresses: they become IPv4 addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_kernels_table_is_read() {
        let line = "   3: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        let socket = Socket::parse(line).unwrap();
        let expected = Socket {
            local: "127.0.0.1:8080".parse().unwrap(),
            remote: "127.0.0.2:50000".parse().unwrap(),
            inode: 4711,
        };
        assert_eq!(socket, expected);
        let mapped = address("0000000000000000FFFF00000100007F:0050");
        assert_eq!(mapped, Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        for odd in [
            "",
            "  sl  local_address rem_address",
            "0: 0100007F:1F90 0100007F:1F90",
            "0: é:1 é:1 1 1 1 1 1 1 1",
        ] {
            assert_eq!(Socket::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_connection_is_found_by_both_addresses_and_a_redirected_one_by_its_peer() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let socket = |local, remote, inode| Socket { local: at(local), remote: at(remote), inode };
        let sockets = [
            socket("127.0.0.1:1000", "127.0.0.1:9900", 1),
            socket("127.0.0.1:1000", "127.0.0.1:7000", 2), // the kernel uses a port for several destinations
            socket("127.0.0.1:1001", "127.0.0.1:7000", 3), // redirected
            socket("127.0.0.1:1002", "127.0.0.1:9900", 0), // closed
        ];
        let found = |peer| {
            let mut inodes = Vec::from_iter(opened_by_peer(
                &sockets,
                Ends { peer: at(peer), local: at("127.0.0.1:9900") },
            ));
            inodes.sort_unstable();
            inodes
        };
        assert_eq!(found("127.0.0.1:1000"), [1]);
        assert_eq!(found("[::ffff:127.0.0.1]:1001"), [3]);
        assert_eq!(found("127.0.0.1:1002"), [0u64; 0]);
        assert_eq!(found("127.0.0.1:1003"), [0u64; 0]);
    }

    #[test]
    fn a_connection_of_this_process_is_not_one_of_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let ends = Ends { peer: client.local_addr().unwrap(), local };
        assert!(!ends.held_elsewhere().unwrap());
        // A closed socket belongs to no known process.
        let _accepted = listener.accept().unwrap();
        drop(client);
        assert!(!ends.held_elsewhere().unwrap());
    }
}
