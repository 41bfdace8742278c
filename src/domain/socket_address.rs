//! The addresses of sockets: those of listeners, of the admin server and of backends.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An address that clients can connect to. Its text is `10.0.0.1:5000`, `[::1]:5000` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema), schemars(with = "String"))]
pub enum SocketAddress {
    /// An IP address and a TCP port; to listen on port 0 lets the kernel choose one.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(Arc<Path>),
}

impl SocketAddress {
    /// What the text of a Unix socket's address begins with.
    pub const UNIX: &'static str = "unix:";

    /// The IP address and port; `None`: it is a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The IP address; `None`: it is a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.tcp().map(|address| address.ip())
    }

    /// The name of a backend that has no other: its IP address and port, or the file name of its socket, as names have
    /// no slash.
    pub fn default_name(&self) -> Arc<str> {
        match self {
            Self::Tcp(address) => address.to_string().into(),
            Self::Unix(path) => {
                path.file_name().map_or_else(Arc::default, |name| name.to_string_lossy().into())
            }
        }
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}{}", Self::UNIX, path.display()),
        }
    }
}

/// A text that is no address of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address and a port, nor unix: and a path")]
pub struct NotASocketAddress;

impl FromStr for SocketAddress {
    type Err = NotASocketAddress;

    fn from_str(text: &str) -> Result<Self, NotASocketAddress> {
        match text.strip_prefix(Self::UNIX) {
            Some("") => Err(NotASocketAddress),
            Some(path) => Ok(Self::Unix(Path::new(path).into())),
            None => text.parse().map(Self::Tcp).map_err(|_| NotASocketAddress),
        }
    }
}

impl Serialize for SocketAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_has_a_text_and_a_default_name() {
        for (text, name) in [
            ("10.0.0.1:5000", "10.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("unix:/run/app/web.sock", "web.sock"),
            ("unix:web.sock", "web.sock"),
        ] {
            let address: SocketAddress = text.parse().unwrap();
            assert_eq!((&*address.to_string(), &*address.default_name()), (text, name));
        }
        for text in ["", "unix:", "10.0.0.1", "/run/web.sock", "web:5000"] {
            assert_eq!(text.parse::<SocketAddress>(), Err(NotASocketAddress), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_address_is_read_as_it_was_written(ip in any::<IpAddr>(), port: u16, path in ".{1,20}") {
            for address in [SocketAddr::new(ip, port).into(), SocketAddress::Unix(Path::new(&path).into())] {
                let json = serde_json::to_string(&address).unwrap();
                prop_assert_eq!(serde_json::from_str::<SocketAddress>(&json).unwrap(), address);
            }
        }
    }
}
