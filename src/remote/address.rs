//! The address of an admin server.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::{self};
use crate::domain::SocketAddress;

/// The default address, as in the examples.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

/// The address of an admin server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A name and a port, as the system resolves it.
    Name(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The default address.
    pub(crate) fn default_admin() -> Self {
        Self::Tcp(DEFAULT)
    }

    /// Whether the kernel chooses its port.
    pub(crate) fn has_port_zero(&self) -> bool {
        matches!(self, Self::Tcp(address) if address.port() == 0)
    }
}

impl From<SocketAddress> for Address {
    fn from(address: SocketAddress) -> Self {
        match address {
            SocketAddress::Tcp(address) => Self::Tcp(reachable(address)),
            SocketAddress::Unix(path) => Self::Unix(path.to_path_buf()),
        }
    }
}

/// A server that listens on every address is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl FromStr for Address {
    type Err = String;

    /// Reads what a person writes, a URL of the server's front page included.
    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if text.starts_with("unix:") {
            return config::bind_address(text).map(Self::from);
        }
        if let Ok(address) = config::bind_address(bare) {
            return Ok(address.into());
        }
        let (host, port) = bare.rsplit_once(':').unwrap_or((bare, ""));
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = !host.is_empty() && host.chars().all(named) && host.parse::<IpAddr>().is_err();
        match port.parse::<u16>() {
            Ok(port) if is_name && port > 0 => Ok(Self::Name(bare.to_owned())),
            _ => {
                Err("an admin address is ADDRESS:PORT, NAME:PORT or unix:PATH, such as 127.0.0.1:9900"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_write_it() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        for (text, is) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://127.0.0.1:9900/", "127.0.0.1:9900"),
            (":9900", "127.0.0.1:9900"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("pointsman:9900", "pointsman:9900"),
            ("http://my_lb.example:9900", "my_lb.example:9900"),
            ("unix:/run/p.sock", "unix:/run/p.sock"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(is), "{text}");
        }
        for wrong in
            ["", "9900", "127.0.0.1", "name", "name:0", "name:http", "a b:1", "unix:", "https://x:1", "a:1/x"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
