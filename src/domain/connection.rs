//! The record of one connection, from its accept to its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Client, CloseReason, PoolMatch, PoolShare, Rejection, Route, RoutingRule, SocketAddress};

/// The properties of one connection at one moment. The data plane makes a record when the connection has been routed or
/// rejected, when open connections are listed, and at the end; [`update`](Self::update) joins them.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// Its number, unique within the process.
    pub conn: u64,
    /// The client.
    pub client: Client,
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// Its pool; `None`: it ended before that was known, or that is not known yet.
    pub pool: Option<Arc<str>>,
    /// How its pool was found, if there was a choice.
    pub pool_match: Option<Arc<PoolMatch>>,
    /// When it was accepted.
    pub accepted: SystemTime,
    /// Its backend; `None`: it has none yet, or none was found or reached.
    pub backend: Option<ConnectedBackend>,
    /// How it was routed; `None`: it was not, or the route is not kept.
    pub route: Option<Route>,
    /// Its age when this record was made.
    pub age: Duration,
    /// Bytes from the client that were written to the backend.
    pub bytes_in: u64,
    /// Bytes from the backend that were written to the client.
    pub bytes_out: u64,
    /// Whether a bandwidth limit of the listener has delayed some of them.
    pub throttled: bool,
    /// Time from the routing decision to the backend's first byte; `None`: none has come.
    pub first_byte: Option<Duration>,
    /// Its stage.
    pub stage: Stage,
}

/// The backend that a connection was routed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedBackend {
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddress,
    /// The time to connect to it; `None`: it was not measured.
    pub connect: Option<Duration>,
}

/// The stage of a connection when its record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A backend was connected or the client was rejected; the record does not contain what followed.
    Routed,
    /// It is open.
    Open,
    /// It has ended.
    Ended(ConnectionEnd),
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// Why it ended.
    pub reason: CloseReason,
    /// The side that closed first, cleanly, if one did: [`CloseReason::ClientClosed`] or
    /// [`CloseReason::BackendClosed`].
    pub first_closed: Option<CloseReason>,
    /// Why its listener rejected it, if it did.
    pub rejection: Option<Rejection>,
    /// The kernel's statistics of its two sides; `None`: the kernel was not queried.
    pub kernel: Option<TcpSides>,
}

/// The kernel's statistics of a connection's two sides at its end; `None`: there was none, or it was no TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpSides {
    /// Of the client's.
    pub client: Option<TcpInfo>,
    /// Of the backend's.
    pub backend: Option<TcpInfo>,
}

/// The kernel's statistics of one TCP connection (TCP_INFO in tcp(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpInfo {
    /// The smoothed round-trip time, in microseconds.
    pub rtt_us: u32,
    /// By how much it varies, in microseconds.
    pub rttvar_us: u32,
    /// Segments that were sent again, in the whole of its life.
    pub retransmitted: u32,
    /// Segments that the peer has not acknowledged.
    pub unacknowledged: u32,
    /// Segments that the kernel takes for lost.
    pub lost: u32,
    /// Time since anything came from the peer, be it an acknowledgement, in milliseconds.
    pub silent_ms: u32,
    /// Segments that may be under way at once (the congestion window).
    pub window: u32,
}

impl ConnectionRecord {
    /// The moment at which this record was made.
    pub fn at(&self) -> SystemTime {
        self.accepted + self.age
    }

    /// Its end, if it has ended.
    pub fn end(&self) -> Option<&ConnectionEnd> {
        match &self.stage {
            Stage::Ended(end) => Some(end),
            Stage::Routed | Stage::Open => None,
        }
    }

    /// The rule of its listener that chose its pool, if there was a choice.
    pub fn rule(&self) -> Option<&RoutingRule> {
        self.pool_match.as_ref()?.rule.as_ref()
    }

    /// The share by which its listener chose its pool among several.
    pub fn share(&self) -> Option<PoolShare> {
        self.pool_match.as_ref()?.share
    }

    /// The server name that its client asked for, if its listener reads it.
    pub fn server_name(&self) -> Option<&Arc<str>> {
        self.pool_match.as_ref()?.server_name.as_ref()
    }

    /// Whether an attempt to connect it to a backend failed.
    pub fn has_failed_attempts(&self) -> bool {
        self.route.as_ref().is_some_and(|route| !route.failed.is_empty())
    }

    /// The time to connect to its backend, if it has one and that was measured.
    pub fn connect(&self) -> Option<Duration> {
        self.backend.as_ref()?.connect
    }

    /// Updates this record from a later one of the same connection. The route stays: only the first record has one.
    pub fn update(&mut self, later: Self) {
        let route = self.route.take().or(later.route);
        *self = Self { accepted: self.accepted, route, ..later };
    }
}
