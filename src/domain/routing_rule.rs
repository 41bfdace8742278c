//! Why a connection belongs to its pool.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

/// A rule of a listener that assigns connections to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingRule {
    /// The client's address is in this network (`sources`).
    Source(IpNet),
    /// The client offers this application protocol (`alpn`).
    Alpn(Arc<str>),
    /// The client names a server that matches this name or pattern (`sni`).
    ServerName(Arc<str>),
    /// No other rule matches (`default`).
    Default,
}

impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(network) => write!(f, "sources {network}"),
            Self::Alpn(protocol) => write!(f, "alpn {protocol}"),
            Self::ServerName(name) => write!(f, "sni {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A pool's share of a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShare {
    /// Its number in the configuration.
    pub share: u32,
    /// The sum of these numbers, of the pools that could be chosen.
    pub total: u32,
}

/// How a connection's pool was found, where the listener has rules or reads the ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolMatch {
    /// The rule that matched; `None`: none did, or the listener has none.
    pub rule: Option<RoutingRule>,
    /// The share by which the pool was chosen among several.
    pub share: Option<PoolShare>,
    /// The server name in the ClientHello, if it has one.
    pub server_name: Option<Arc<str>>,
}
