//! Why a listener rejected a connection before it was routed.

use std::fmt;

use super::{PrefaceError, PrefaceKind};

/// Why a listener rejected a connection before it was routed: the details of its close reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The listener does not admit its client's address (`denied`).
    Address,
    /// No rule of the listener matches, and it has no default (`denied`).
    NoRule,
    /// Its preface was invalid (`preface_invalid`).
    Preface(PrefaceError),
    /// Its preface was not complete in time (`preface_timeout`).
    Timeout(PrefaceKind),
    /// It exceeded a limit (`limited`).
    Limit(LimitReached),
}

/// A limit of a listener that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The listener's `max_connections`.
    Listener,
    /// `per_client.connections`.
    ClientConnections,
    /// `per_client.rate`.
    ClientRate,
}

impl LimitReached {
    /// The name of a client's limit in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::ClientConnections => "connections",
            Self::ClientRate => "rate",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("the listener does not admit the client's address (allow, deny)"),
            Self::NoRule => f.write_str("no rule of the listener matches, and it has no default"),
            Self::Preface(error) => error.fmt(f),
            Self::Timeout(PrefaceKind::Proxy) => {
                f.write_str("no complete PROXY header came within proxy_protocol.timeout")
            }
            Self::Timeout(PrefaceKind::Tls) => {
                f.write_str("no complete ClientHello came within hello_timeout")
            }
            Self::Limit(limit) => f.write_str(match limit {
                LimitReached::Listener => "the listener has as many connections as max_connections allows",
                LimitReached::ClientConnections => {
                    "the client has as many connections as per_client.connections allows"
                }
                LimitReached::ClientRate => "the client opens connections faster than per_client.rate allows",
            }),
        }
    }
}
