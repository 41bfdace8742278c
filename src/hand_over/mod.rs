//! Hand-over: a new process takes the listening sockets of a running one, which then drains.
//!
//! The running process starts the new one (SIGUSR2), or the new one asks it (`run --take-over`). Over a Unix connection it
//! sends its sockets, what it knows of its pools, and the lock of the state directory. The sockets are shared, not bound
//! again: connections that wait in their queues stay there, and either process may accept them. When the new process has
//! read its configuration, its pools have settled and its listeners accept, it replies `ready`. Only then does the old
//! one stop accepting and drain. If the new one fails, ends or takes too long, the old one continues as before.
//!
//! The service manager can pass sockets, too ([`service_manager`]).
//!
//! ```text
//!   running process                              new process
//!   sockets (64 in each message) ───────────────►
//!   pools, state directory ─────────────────────► reads its configuration, starts, accepts
//!   or instead: refused ────────────────────────► ends, with the reason
//!                           ◄──────────────────── ready: these sockets are taken; or: failed
//!   stops accepting, confirms ──────────────────► reports to the service manager
//!   drains
//! ```

mod channel;
mod predecessor;
pub(crate) mod service_manager;
mod socket;
mod successor;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::pool::PoolHandOver;
pub(crate) use predecessor::{Invitation, Predecessor};
pub(crate) use socket::{
    HandedSocket, InheritedAddress, InheritedSockets, SocketOwner, SocketPlace, SocketRole,
};
pub(crate) use successor::{HandOverError, Successor};

/// The environment variable that tells a process that its standard input is the connection to the one that it takes over
/// from.
const VARIABLE: &str = "POINTSMAN_TAKE_OVER";

/// What one process hands over to the next.
#[derive(Debug, Default)]
pub(crate) struct HandOver {
    /// The sockets of all listeners and of the admin server.
    pub sockets: Vec<HandedSocket>,
    /// What it knows of its pools, by their names.
    pub pools: Vec<(Arc<str>, PoolHandOver)>,
    /// The state directory, which is locked.
    pub state: Option<OwnedFd>,
    /// The listeners that operators drain.
    pub draining: Vec<Arc<str>>,
    /// The number of its next connection; 0 if it is not known.
    pub next_conn: u64,
}

/// A message of the running process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OldProcessMessage {
    /// Sockets, which come with the message.
    Sockets(Vec<(SocketPlace, SocketRole)>),
    /// The rest. The state directory comes with the message.
    Rest {
        /// The process.
        pid: u32,
        /// What it knows of its pools.
        pools: Vec<(Arc<str>, PoolHandOver)>,
        /// The listeners that operators drain.
        #[serde(default)]
        draining: Vec<Arc<str>>,
        /// The number of its next connection.
        #[serde(default)]
        next_conn: u64,
    },
    /// The new process is in charge now.
    Confirmed,
    /// This process cannot hand over.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A reply of the new process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NewProcessReply {
    /// It accepts connections.
    Ready(Taken),
    /// It cannot start.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What the new process has taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// The new process.
    pub pid: u32,
    /// The addresses whose sockets it uses.
    pub places: Vec<SocketPlace>,
}

impl Taken {
    /// Whether it took the admin server's address.
    pub(crate) fn has_admin(&self) -> bool {
        self.places.iter().any(|place| place.owner == SocketOwner::Admin)
    }
}

#[cfg(test)]
mod tests;
