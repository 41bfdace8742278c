//! The addresses that this process listens on. None of them may be a backend: a connection to one of its own listeners
//! would loop until no connection is left, and a connection to the admin server would make a client an operator.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use socket2::SockRef;

pub use crate::domain::Owner;
use crate::domain::SocketAddress;

/// The addresses that this process listens on. Immutable: other addresses need a new value.
#[derive(Clone, Debug)]
pub struct OwnAddresses {
    bound: Vec<(SocketAddress, Owner)>,
    /// Whether this machine has an address: [`is_local`], except in tests.
    is_local: fn(SocketAddr) -> bool,
}

impl Default for OwnAddresses {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl OwnAddresses {
    /// The bound addresses, with the ports that the kernel chose.
    pub fn new(bound: Vec<(SocketAddress, Owner)>) -> Self {
        Self { bound, is_local }
    }

    /// The same, with another test for local addresses.
    #[cfg(test)]
    pub fn on_a_machine(bound: Vec<(SocketAddress, Owner)>, is_local: fn(SocketAddr) -> bool) -> Self {
        Self { bound, is_local }
    }

    /// The listener or admin server that would accept a connection to `address`.
    pub fn owner(&self, address: &SocketAddress) -> Option<&Owner> {
        let reached = |(bound, _): &&(SocketAddress, Owner)| reaches(address, bound, self.is_local);
        self.bound.iter().find(reached).map(|(_, owner)| owner)
    }

    /// Whether the result for `address` may change with the machine's interfaces or the files at a path.
    pub fn may_change(&self, address: &SocketAddress) -> bool {
        let mut bound = self.bound.iter().map(|(bound, _)| bound);
        match address {
            SocketAddress::Tcp(address) => {
                let address = destination(*address);
                let serves = |bound: SocketAddr| serves(bound, address);
                !address.ip().is_loopback() && bound.filter_map(SocketAddress::tcp).any(serves)
            }
            SocketAddress::Unix(_) => bound.any(|bound| bound.tcp().is_none()),
        }
    }
}

/// Whether a socket bound to `bound` accepts a connection to `address`. `is_local` returns whether this machine has an
/// address.
pub fn reaches(address: &SocketAddress, bound: &SocketAddress, is_local: fn(SocketAddr) -> bool) -> bool {
    match (address, bound) {
        (SocketAddress::Tcp(address), SocketAddress::Tcp(bound)) => reaches_tcp(*address, *bound, is_local),
        (SocketAddress::Unix(path), SocketAddress::Unix(bound)) => path == bound || is_same_file(path, bound),
        _ => false,
    }
}

/// Whether two paths lead to the same file now.
fn is_same_file(a: &Path, b: &Path) -> bool {
    let [a, b] = [a, b].map(|path| path.metadata().map(|file| (file.dev(), file.ino())));
    a.is_ok_and(|a| b.is_ok_and(|b| a == b))
}

/// The same between TCP addresses.
fn reaches_tcp(address: SocketAddr, bound: SocketAddr, is_local: fn(SocketAddr) -> bool) -> bool {
    let address = destination(address);
    let specific = SocketAddr::new(bound.ip().to_canonical(), bound.port());
    address.port() == bound.port()
        && (address.ip() == specific.ip() || serves(bound, address) && is_local(address))
}

/// Whether a socket bound to a family's wildcard address serves that port and family. An IPv6 one serves IPv4 too.
fn serves(bound: SocketAddr, address: SocketAddr) -> bool {
    bound.ip().is_unspecified() && bound.port() == address.port() && (bound.is_ipv6() || address.is_ipv4())
}

/// The destination of a connection to `address`: the kernel takes the unspecified address for loopback.
pub fn destination(mut address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    address.set_ip(ip); // keeps the scope of a link-local address
    address
}

/// Whether this machine has the address now. It queries the kernel and sends no packet.
pub fn is_local(address: SocketAddr) -> bool {
    let address = destination(address);
    match address.ip() {
        ip if ip.is_loopback() => true,
        // The kernel accepts only a local address for outgoing multicast (IP_MULTICAST_IF in ip(7)). bind(2) would
        // accept any address with `net.ipv4.ip_nonlocal_bind`, which machines with a floating address set.
        IpAddr::V4(ip) => {
            prober().is_some_and(|socket| SockRef::from(socket).set_multicast_if_v4(&ip).is_ok())
        }
        // The source address for a local destination is the destination itself (RFC 6724, 5, rule 1).
        IpAddr::V6(ip) => {
            let source = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| {
                socket.connect(address)?;
                socket.local_addr()
            });
            source.is_ok_and(|source| source.ip() == IpAddr::V6(ip))
        }
    }
}

/// An unbound socket for these queries.
fn prober() -> Option<&'static socket2::Socket> {
    static PROBER: OnceLock<Option<socket2::Socket>> = OnceLock::new();
    PROBER
        .get_or_init(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).ok())
        .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A machine with the addresses 10.0.0.5 and fd00::5.
    fn machine(address: SocketAddr) -> bool {
        let ip = address.ip();
        ip.is_loopback() || ip == IpAddr::from([10, 0, 0, 5]) || ip == "fd00::5".parse::<IpAddr>().unwrap()
    }

    #[test]
    fn an_address_that_reaches_an_own_socket_is_an_own_address() {
        for (bound, own, other) in [
            (
                "0.0.0.0:80",
                &["127.0.0.1:80", "127.9.9.9:80", "10.0.0.5:80", "0.0.0.0:80", "[::ffff:10.0.0.5]:80"][..],
                &["10.0.0.6:80", "10.0.0.5:81", "[::1]:80", "[fd00::5]:80", "[::]:80"][..],
            ),
            (
                "[::]:80",
                &["127.0.0.1:80", "10.0.0.5:80", "[::1]:80", "[fd00::5]:80", "[::]:80", "0.0.0.0:80"],
                &["10.0.0.6:80", "[fd00::6]:80", "[::1]:81"],
            ),
            (
                "127.0.0.1:80",
                &["127.0.0.1:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80", "[::ffff:0.0.0.0]:80"],
                &["127.0.0.2:80", "10.0.0.5:80", "[::1]:80", "[::]:80"],
            ),
            ("[::1]:80", &["[::1]:80", "[::]:80"], &["127.0.0.1:80", "0.0.0.0:80"]),
            ("10.0.0.5:80", &["10.0.0.5:80", "[::ffff:10.0.0.5]:80"], &["127.0.0.1:80", "10.0.0.6:80"]),
            ("[::ffff:10.0.0.5]:80", &["10.0.0.5:80", "[::ffff:10.0.0.5]:80"], &["127.0.0.1:80"]),
            // The kernel has not chosen the port yet, and no backend has port 0.
            ("0.0.0.0:0", &[], &["127.0.0.1:80"]),
        ] {
            let addresses = OwnAddresses::on_a_machine(vec![(address(bound).into(), Owner::Admin)], machine);
            for own in own {
                assert_eq!(addresses.owner(&address(own).into()), Some(&Owner::Admin), "{own} at {bound}");
            }
            for other in other {
                assert_eq!(addresses.owner(&address(other).into()), None, "{other} at {bound}");
            }
        }
    }

    #[test]
    fn a_path_that_leads_to_an_own_socket_is_an_own_address() {
        let folder = tempfile::tempdir().unwrap();
        let unix = |name: &str| SocketAddress::Unix(folder.path().join(name).into());
        let _listening = std::os::unix::net::UnixListener::bind(folder.path().join("own")).unwrap();
        std::os::unix::fs::symlink("own", folder.path().join("link")).unwrap();
        std::fs::write(folder.path().join("other"), "").unwrap();
        let own = OwnAddresses::new(vec![(unix("own"), Owner::Admin), (unix("gone"), Owner::Admin)]);
        let is_own = ["own", "link", "gone", "other", "none"].map(|name| own.owner(&unix(name)).is_some());
        assert_eq!(is_own, [true, true, true, false, false]);
        assert_eq!(own.owner(&address("127.0.0.1:80").into()), None);
    }

    #[test]
    fn only_a_change_of_interfaces_or_files_can_change_the_result() {
        let at = |text: &str| text.parse::<SocketAddress>().unwrap();
        let own = |bound| OwnAddresses::new(vec![(at(bound), Owner::Admin)]);
        assert!(own("0.0.0.0:80").may_change(&at("10.0.0.6:80")));
        assert!(own("[::]:80").may_change(&at("10.0.0.6:80")));
        assert!(!own("0.0.0.0:80").may_change(&at("[fd00::6]:80")));
        assert!(!own("0.0.0.0:80").may_change(&at("10.0.0.6:81")));
        assert!(!own("0.0.0.0:80").may_change(&at("127.0.0.1:80")));
        assert!(!own("10.0.0.6:80").may_change(&at("10.0.0.6:80")));
        assert!(own("unix:/a").may_change(&at("unix:/b")));
        assert!(!own("0.0.0.0:80").may_change(&at("unix:/b")));
    }

    #[test]
    fn the_kernel_identifies_its_own_addresses() {
        for own in ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "0.0.0.0:1", "[::]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_local(address(own)), "{own}");
        }
        // No machine has the documentation addresses (RFC 5737, RFC 3849).
        for other in ["192.0.2.1:1", "198.51.100.7:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"] {
            assert!(!is_local(address(other)), "{other}");
        }
        let outside = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("192.0.2.1:9")?; // sends nothing
            socket.local_addr()
        });
        match outside {
            Ok(own) => assert!(is_local(own), "{own}"),
            Err(_) => crate::testing::skip(
                "this machine has no address but loopback (give it a route to 192.0.2.1)",
            ),
        }
    }
}
