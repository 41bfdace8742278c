//! Why a connection ended.

use serde::Serialize;

/// Why a connection ended: the `reason` of its `closed` line and of `pointsman_connections_closed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed first, cleanly.
    ///
    /// Remedy: none needed.
    ClientClosed,
    /// The backend closed first, cleanly.
    ///
    /// Remedy: none needed. If clients complain all the same, compare `bytes_out` with the length of a whole answer:
    /// the backend may have ended early.
    BackendClosed,
    /// The client reset the connection, or vanished.
    ///
    /// Remedy: none needed while it is rare, as clients abort. If it is frequent, compare `duration_ms` of the
    /// `closed` lines: a round number is a time limit of the client.
    ClientReset,
    /// The backend reset the connection, or vanished.
    ///
    /// Remedy: read the log of the backend at that time: it crashed, it ran out of memory or of places, or it gave up
    /// an idle connection. `pointsman why CLIENT` shows what the kernel knows of both sides.
    BackendReset,
    /// Every attempt to connect to a backend failed.
    ///
    /// Remedy: `skipped` of the line `no backend` names each backend that was tried, with its error. Checks that look
    /// closer take such backends out sooner; `connect.timeout` may be too short for backends far away,
    /// `connect.attempts` too low for many dead ones.
    ConnectFailed,
    /// No backend was up.
    ///
    /// Remedy: `pointsman status` says of each backend why it is not up. None in the list: discovery finds none
    /// (`resolve failed` in the log).
    NoBackend,
    /// Its listener does not admit the client's address, or has no pool for it.
    ///
    /// Remedy: none if the client has no business here; a flood of these belongs into a firewall. Otherwise change
    /// `allow` or `deny`, or give the listener the missing name or a `default`. The field `cause` says which.
    Denied,
    /// It did not begin with a valid PROXY header from a trusted proxy, or with a valid ClientHello.
    ///
    /// Remedy: the field `cause` says what is wrong. Let the proxy in front send its PROXY header (`send-proxy`), and
    /// put its address into `proxy_protocol.trust`; a client without TLS needs a `default`.
    PrefaceInvalid,
    /// The PROXY header or the ClientHello did not arrive within its time limit.
    ///
    /// Remedy: find out which client connects and stays silent: often the TCP check of another balancer or a port
    /// scan. For slow networks raise `proxy_protocol.timeout` or `hello_timeout`.
    PrefaceTimeout,
    /// A limit was reached.
    ///
    /// Remedy: the field `cause` names the limit of the listener (`max_connections`, `per_client`). Without it, all
    /// backends had as many connections as `limits.connections` allows and the queue was full or too slow: add
    /// backends, or raise `limits`.
    Limited,
    /// No data was transferred for `timeouts.idle`.
    ///
    /// Remedy: none if the peer had forgotten the connection. Otherwise raise `timeouts.idle` above the longest
    /// silence of the protocol, or let the client or the backend send keep-alive messages.
    IdleTimeout,
    /// One side had closed, and no data was transferred for `timeouts.half_closed`.
    ///
    /// Remedy: raise `timeouts.half_closed` if backends answer only after the client has finished, and take longer
    /// than that; otherwise one side forgot to close.
    HalfClosedTimeout,
    /// Its age reached `timeouts.lifetime`.
    ///
    /// Remedy: none needed: it is configured.
    Lifetime,
    /// Its backend went down, and `on_down` closes the connections.
    ///
    /// Remedy: none needed: it is configured. The line `backend down` before it has the cause.
    BackendDown,
    /// Its backend left discovery, and `on_leave` closes the connections.
    ///
    /// Remedy: none needed: it is configured. `on_leave: {close: 5m}` gives connections more time, `keep` all of it.
    BackendLeft,
    /// An operator took its backend out of service, and `on_drain` closes the connections.
    ///
    /// Remedy: none needed: the log names the operator.
    Operator,
    /// It was idle, and its backend had more than its share of the connections (`rebalance`).
    ///
    /// Remedy: none needed: it is configured. If clients complain, raise `rebalance.idle`.
    Rebalanced,
    /// The drain timeout expired.
    ///
    /// Remedy: raise `runtime.drain.timeout`, and the time that the service manager grants (`stop_grace_period` of
    /// Compose, `TimeoutStopSec=` of systemd), above the length of the longest connections.
    DrainTimeout,
    /// An internal error.
    ///
    /// Remedy: report this bug, with the log.
    Internal,
}

impl CloseReason {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 19] = [
        Self::ClientClosed,
        Self::BackendClosed,
        Self::ClientReset,
        Self::BackendReset,
        Self::ConnectFailed,
        Self::NoBackend,
        Self::Denied,
        Self::PrefaceInvalid,
        Self::PrefaceTimeout,
        Self::Limited,
        Self::IdleTimeout,
        Self::HalfClosedTimeout,
        Self::Lifetime,
        Self::BackendDown,
        Self::BackendLeft,
        Self::Operator,
        Self::Rebalanced,
        Self::DrainTimeout,
        Self::Internal,
    ];

    /// The name in the log and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::BackendClosed => "backend_closed",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::ConnectFailed => "connect_failed",
            Self::NoBackend => "no_backend",
            Self::Denied => "denied",
            Self::PrefaceInvalid => "preface_invalid",
            Self::PrefaceTimeout => "preface_timeout",
            Self::Limited => "limited",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfClosedTimeout => "half_closed_timeout",
            Self::Lifetime => "lifetime",
            Self::BackendDown => "backend_down",
            Self::BackendLeft => "backend_left",
            Self::Operator => "operator",
            Self::Rebalanced => "rebalanced",
            Self::DrainTimeout => "drain_timeout",
            Self::Internal => "internal",
        }
    }

    /// Whether the client got less than it could expect, and did not cause that itself.
    pub fn is_failure(self) -> bool {
        match self {
            Self::BackendReset
            | Self::ConnectFailed
            | Self::NoBackend
            | Self::Limited
            | Self::BackendDown
            | Self::BackendLeft
            | Self::DrainTimeout
            | Self::Internal => true,
            Self::ClientClosed | Self::BackendClosed | Self::ClientReset | Self::Operator => false,
            Self::Denied | Self::PrefaceInvalid | Self::PrefaceTimeout => false,
            Self::IdleTimeout | Self::HalfClosedTimeout | Self::Lifetime | Self::Rebalanced => false,
        }
    }

    /// Whether a peer ended the connection cleanly.
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ClientClosed | Self::BackendClosed)
    }

    /// Whether Pointsman ended the connection for a cause that lies outside of it: it would have lasted longer.
    pub fn is_cut(self) -> bool {
        match self {
            Self::BackendDown | Self::BackendLeft | Self::Operator | Self::Rebalanced => true,
            Self::DrainTimeout | Self::Internal => true,
            Self::ClientClosed | Self::BackendClosed | Self::ClientReset | Self::BackendReset => false,
            Self::IdleTimeout | Self::HalfClosedTimeout | Self::Lifetime => false,
            Self::ConnectFailed | Self::NoBackend | Self::Limited => false,
            Self::Denied | Self::PrefaceInvalid | Self::PrefaceTimeout => false,
        }
    }

    /// Whether a connection that ended for this reason was left without an answer: the client had sent something, and one of
    /// the two closed the connection before anything came back. That is no error at layer 4, and normal with protocols in
    /// which servers do not answer.
    pub fn is_without_answer(self, bytes_in: u64, bytes_out: u64) -> bool {
        matches!(self, Self::ClientClosed | Self::ClientReset | Self::BackendClosed)
            && bytes_in > 0
            && bytes_out == 0
    }

    /// Its index in a table of counters.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl Serialize for CloseReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_at_its_index() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{}", reason.name());
        }
    }
}
