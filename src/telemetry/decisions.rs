//! The last routing decisions, kept in memory for those who look: status, dashboard, demo.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

/// How many are kept for each worker.
const KEPT: usize = 256;

/// The record of one choice.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// The connection's number, unique within the process.
    pub conn: u64,
    /// When it was made.
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    /// Who connected.
    pub client: Client,
    /// Where.
    pub listener: Arc<str>,
    /// The pool that was chosen from.
    pub pool: Arc<str>,
    /// The name of the chosen backend; `None`: there was none, or none could be reached.
    pub backend: Option<Arc<str>>,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// How it was chosen.
    pub algorithm: &'static str,
    /// The backends passed over, each with its reason.
    pub skipped: Arc<str>,
    /// Backends that were tried, the one that was reached included.
    pub attempts: u32,
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A local process, over a Unix socket.
    Unix,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Serialize for Client {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Serialises a moment as seconds since the epoch.
pub fn unix_seconds<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_f64((since.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// One worker's last decisions. The worker writes; a reader holds the lock only for a copy.
#[derive(Clone, Debug, Default)]
pub struct Decisions(Arc<Mutex<VecDeque<Decision>>>);

impl Decisions {
    /// Adds one, forgetting the oldest.
    pub fn record(&self, decision: Decision) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(decision);
    }

    /// The last decisions of several workers together, newest first, at most `limit`.
    pub fn latest(of: &[Self], limit: usize) -> Vec<Decision> {
        let copy = |one: &Self| {
            one.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().take(limit).cloned().collect()
        };
        let mut all: Vec<Decision> = of.iter().flat_map(|one| -> Vec<Decision> { copy(one) }).collect();
        all.sort_by_key(|decision| std::cmp::Reverse(decision.at));
        all.truncate(limit);
        all
    }
}
