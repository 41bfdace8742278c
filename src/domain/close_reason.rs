//! Why a connection ended.

use serde::Serialize;

/// Why a connection ended: the `reason` of its `closed` line and of `pointsman_connections_closed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed first, cleanly.
    ClientClosed,
    /// The backend closed first, cleanly.
    BackendClosed,
    /// The client reset the connection, or vanished.
    ClientReset,
    /// The backend reset the connection, or vanished.
    BackendReset,
    /// Every attempt to connect to a backend failed.
    ConnectFailed,
    /// No backend was up.
    NoBackend,
    /// Its listener does not admit the client's address, or has no pool for it.
    Denied,
    /// It did not begin with a valid PROXY header from a trusted proxy, or with a valid ClientHello.
    PrefaceInvalid,
    /// The PROXY header or the ClientHello did not arrive within its time limit.
    PrefaceTimeout,
    /// A limit was reached.
    Limited,
    /// No data was transferred for `timeouts.idle`.
    IdleTimeout,
    /// One side had closed, and no data was transferred for `timeouts.half_closed`.
    HalfClosedTimeout,
    /// Its age reached `timeouts.lifetime`.
    Lifetime,
    /// Its backend went down, and `on_down` closes the connections.
    BackendDown,
    /// Its backend left discovery, and `on_leave` closes the connections.
    BackendLeft,
    /// An operator took its backend out of service, and `on_drain` closes the connections.
    Operator,
    /// The drain timeout expired.
    DrainTimeout,
    /// An internal error.
    Internal,
}

impl CloseReason {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 18] = [
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
            Self::IdleTimeout | Self::HalfClosedTimeout | Self::Lifetime => false,
        }
    }

    /// Whether a peer ended the connection cleanly.
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ClientClosed | Self::BackendClosed)
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
