//! The last connections that ended, kept in memory for `why`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::decisions::unix_seconds;
use super::ring::{Dated, Ring};
use crate::domain::{Client, CloseReason};

/// One worker's last ended connections.
pub type Ends = Ring<Ended>;

/// A connection that has ended.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ended {
    /// Its number, unique within the process.
    pub conn: u64,
    /// When it ended.
    #[serde(serialize_with = "unix_seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub at: SystemTime,
    /// The client.
    pub client: Client,
    /// Where.
    pub listener: Arc<str>,
    /// The pool that it was for.
    pub pool: Arc<str>,
    /// The name of its backend; `None`: it had none.
    pub backend: Option<Arc<str>>,
    /// Its backend's address.
    pub address: Option<SocketAddr>,
    /// Why it ended.
    pub reason: CloseReason,
    /// The side that closed first, cleanly, if one did: `client_closed` or `backend_closed`.
    pub first: Option<CloseReason>,
    /// Bytes from the client that were written to the backend.
    pub bytes_in: u64,
    /// Bytes from the backend that were written to the client.
    pub bytes_out: u64,
    /// How old it was, in milliseconds.
    pub duration_ms: f64,
    /// How long connecting to the backend took, in milliseconds.
    pub connect_ms: Option<f64>,
    /// Time from the routing decision to the backend's first byte, in milliseconds; `None`: none came.
    pub first_byte_ms: Option<f64>,
    /// What the kernel knew of its two sides; `None`: it was not asked.
    pub kernel: Option<Sides>,
}

impl Dated for Ended {
    fn at(&self) -> SystemTime {
        self.at
    }
}

/// What the kernel knew of a connection's two sides at its end; `None`: there was none, or it was no TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sides {
    /// Of the client's.
    pub client: Option<Path>,
    /// Of the backend's.
    pub backend: Option<Path>,
}

/// What the kernel knows of one TCP connection (TCP_INFO in tcp(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "TcpInfo"))]
pub struct Path {
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
