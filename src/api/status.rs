//! `/api/v1/status` and its parts: listeners, pools, backends and their checks.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{ProblemInfo, ReplicaGroup, Timestamp, Word};
use crate::domain::{BackendState, Cause};
#[cfg(test)]
use crate::domain::{ListenerState, Plane};

/// The whole program at a glance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct StatusReply {
    /// The running version.
    pub version: Word,
    /// What the process is doing: `starting`, `serving` or `draining`.
    #[cfg_attr(test, schemars(extend("enum" = ["starting", "serving", "draining"])))]
    pub phase: Word,
    /// Whether traffic should be sent here.
    pub ready: bool,
    /// The server's clock, in seconds since the epoch.
    pub now: Timestamp,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// The limit of open connections.
    pub max_connections: u64,
    /// Open connections.
    pub open: u64,
    /// Threads of the data plane.
    pub workers: u64,
    /// What is wrong now, the worst first.
    pub problems: Vec<ProblemInfo>,
    /// The listeners.
    pub listeners: Vec<ListenerInfo>,
    /// The pools.
    pub pools: Vec<PoolInfo>,
}

/// The listeners.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ListenersReply {
    /// The listeners.
    pub listeners: Vec<ListenerInfo>,
}

/// A listener.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ListenerInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its bound addresses, with the ports that the kernel chose.
    pub addresses: Vec<String>,
    /// Whether an operator drains it: `up` or `draining`.
    #[cfg_attr(test, schemars(with = "ListenerState"))]
    pub state: Word,
    /// What forwards the bytes of its connections: `user` (this process) or `kernel`.
    #[cfg_attr(test, schemars(with = "Plane"))]
    pub plane: Word,
    /// Why it is not the kernel, although `plane` of the configuration is `kernel` or `auto`; null: it is, or `plane` is `user`.
    pub kernel_obstacle: Option<Arc<str>>,
    /// The pool of its connections; null: there are several.
    pub pool: Option<Arc<str>>,
    /// All pools that its connections may go to.
    pub pools: Vec<Arc<str>>,
    /// Open connections.
    pub active: u64,
    /// Connections that came by it to the present pools, including those that reached no backend.
    pub connections: u64,
    /// Connections that it rejected because `allow` or `deny` excludes the client's address, or no rule matches.
    pub denied: u64,
    /// Connections that it reset because they did not begin in time with a valid PROXY header or ClientHello.
    pub preface_failed: u64,
    /// Connections over the limits of `per_client` that it reset.
    pub over_client_limits: u64,
    /// Connections over the limits of `per_client` that it only counted (`dry_run`).
    pub over_client_limits_dry_run: u64,
    /// Bytes that its bandwidth limits have delayed.
    #[serde(default)]
    pub bytes_delayed: u64,
    /// Bytes from clients, written to backends.
    pub bytes_in: u64,
    /// Bytes from backends, written to clients.
    pub bytes_out: u64,
}

/// A pool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct PoolInfo {
    /// Its name.
    pub name: Arc<str>,
    /// How a backend is chosen.
    #[cfg_attr(test, schemars(with = "crate::config::Algorithm"))]
    pub algorithm: Word,
    /// Whether every source has answered and every backend was checked at least once.
    pub settled: bool,
    /// Eligible backends.
    pub up: u64,
    /// Whether too few backends are up, so that all are used.
    pub panic: bool,
    /// The tier in use.
    pub tier: u16,
    /// All tiers, the lowest first.
    pub tiers: Vec<TierInfo>,
    /// The backends of the zone that it prefers; null: it prefers none.
    pub zone: Option<ZoneInfo>,
    /// Open connections that were routed to a backend.
    pub active: u64,
    /// Connections routed to its backends, including backends that have left.
    pub connections: u64,
    /// Bytes from clients, written to backends.
    pub bytes_in: u64,
    /// Bytes from backends, written to clients.
    pub bytes_out: u64,
    /// Clients that wait in the queue.
    pub queue: u64,
    /// Failed attempts that were retried on another backend, so that the client noticed nothing.
    pub failures_masked: u64,
    /// Client-visible failures.
    pub failures_seen: u64,
    /// Connections that a backup got because no other backend had room.
    pub overflowed: u64,
    /// Connections that reached no backend, without those that a listener did not admit.
    pub unserved: u64,
    /// Time to connect to its backends, of the connections of the last 30 to 60 seconds; null: there were none.
    pub connect: Option<LatencyInfo>,
    /// Time from the routing decision to the first byte, of the connections of the last 30 to 60 seconds; null: there were
    /// none.
    pub first_byte: Option<LatencyInfo>,
    /// The backends.
    pub backends: Vec<BackendInfo>,
    /// What its sources report.
    pub sources: Vec<SourceInfo>,
    /// The containers that Pointsman starts for this pool; null: it starts none.
    pub replicas: Option<Arc<ReplicaGroup>>,
    /// Whether other algorithms are evaluated too (`/api/v1/pools/{pool}/shadow`).
    pub shadow: bool,
}

/// A source of a pool's backends.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct SourceInfo {
    /// The source, such as `dns backend:5000`.
    pub name: Arc<str>,
    /// Its last answer: `ok`, `empty`, `nxdomain`, `server_failure`, `timeout` or `invalid`; null: it has not answered
    /// yet.
    #[cfg_attr(test, schemars(with = "Option<crate::domain::Resolution>"))]
    pub result: Option<Word>,
    /// What is wrong with that answer; null: it reports backends.
    pub trouble: Option<Cause>,
    /// Since when its answers have been of this kind, in seconds since the epoch; null: it has not answered yet.
    pub since: Option<Timestamp>,
    /// The endpoints in its last conclusive answer.
    pub backends: u64,
}

/// The backends of a pool with the same tier.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct TierInfo {
    /// Its number: a higher tier backs up the lower ones.
    pub tier: u16,
    /// Its backends.
    pub backends: u64,
    /// Its backends that are up.
    pub up: u64,
}

/// The backends of the zone that a pool prefers (`zone`), in the tier in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ZoneInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its backends, without those that are leaving or have the weight 0; those whose zone is unknown are among them.
    pub backends: u64,
    /// Its backends that are up.
    pub up: u64,
    /// Whether these are too few, so that backends of other zones are used too.
    pub short: bool,
}

/// A backend.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct BackendInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its name in metrics and in the history: with its address if another backend of that name was found first.
    pub series: Arc<str>,
    /// The address that connections go to.
    pub address: String,
    /// Its other addresses.
    pub also: Vec<SocketAddr>,
    /// Its state. The server always sends one; a client reads a state that it does not know as none.
    #[serde(deserialize_with = "known_state")]
    #[cfg_attr(test, schemars(with = "BackendState"))]
    pub state: Option<BackendState>,
    /// When it entered this state, in seconds since the epoch.
    pub since: Timestamp,
    /// Why it is in this state.
    pub cause: Cause,
    /// Its weight.
    pub weight: u32,
    /// The part of its weight in effect, in percent (`slow_start`).
    #[cfg_attr(test, schemars(range(max = 100)))]
    pub ramp: u32,
    /// Its tier: a higher tier backs up the lower ones.
    pub tier: u16,
    /// The zone in which it runs; null: unknown.
    pub zone: Option<Arc<str>>,
    /// Its limit of open connections; null: none.
    pub limit: Option<NonZeroU32>,
    /// Connections that are open or being opened.
    pub active: u64,
    /// Connections routed to it.
    pub connections: u64,
    /// Bytes from clients, written to it.
    pub bytes_in: u64,
    /// Bytes from it, written to clients.
    pub bytes_out: u64,
    /// Recent average time to connect, in milliseconds; null: no connection was opened yet.
    pub connect_ms: Option<f64>,
    /// Recent average time from the routing decision to its first byte, in milliseconds; null: it has sent none yet.
    pub first_byte_ms: Option<f64>,
    /// Time to connect, of the connections of the last 30 to 60 seconds; null: there were none.
    pub connect: Option<LatencyInfo>,
    /// Time from the routing decision to its first byte, of the connections of the last 30 to 60 seconds; null: there
    /// were none.
    pub first_byte: Option<LatencyInfo>,
    /// How many times as long as the median of the other backends its median to the first byte is; null: it is not out of
    /// line.
    pub times_slower: Option<f64>,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// The sources that report it, such as `dns:backend:5000`; none: it is leaving.
    pub sources: Box<[Arc<str>]>,
    /// Its latest check of any kind; null: it was not checked.
    pub last_check: Option<CheckInfo>,
    /// Its latest check of each kind, in the order of the configuration.
    pub checks: Vec<CheckInfo>,
}

/// Percentiles of a latency, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct LatencyInfo {
    /// The number of connections that were measured.
    pub count: u64,
    /// The median.
    pub p50_ms: f64,
    /// The 90th percentile.
    pub p90_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
}

/// The latest check of a kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct CheckInfo {
    /// What was checked: `tcp`, `http`, `exchange`, `postgres` or `redis`.
    #[cfg_attr(test, schemars(extend("enum" = ["tcp", "http", "exchange", "postgres", "redis"])))]
    pub kind: Word,
    /// When it ended, in seconds since the epoch.
    pub at: Timestamp,
    /// Whether it passed.
    pub passed: bool,
    /// Why it failed; null: it passed.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// `/api/v1/pools`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct PoolsReply {
    /// The pools.
    pub pools: Vec<PoolInfo>,
}

/// The backends of a pool.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct BackendsReply {
    /// The backends.
    pub backends: Vec<BackendInfo>,
}

/// The result of `POST /api/v1/check`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct CheckReply {
    /// The backends that were to be checked.
    pub backends: Vec<BackendInfo>,
    /// How many of them have checks that have not ended.
    pub pending: u64,
}

fn known_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BackendState>, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(BackendState::ALL.into_iter().find(|state| state.name() == name))
}

impl StatusReply {
    /// The server's clock, or the client's if the reply lacks it.
    pub(crate) fn clock(&self) -> f64 {
        if self.now == Timestamp::default() { Timestamp::now().0 } else { self.now.0 }
    }

    /// Whether there is a problem of that kind, of one pool or of any.
    pub(crate) fn has_problem(&self, kind: &str, pool: Option<&str>) -> bool {
        let concerns = |problem: &ProblemInfo| pool.is_none() || problem.pool.as_deref() == pool;
        self.problems.iter().any(|problem| problem.kind == kind && concerns(problem))
    }
}

impl PoolInfo {
    /// Whether no backend is eligible.
    pub(crate) fn is_unserved(&self) -> bool {
        self.up == 0
    }

    /// Why its sources report no backends, a sentence for each source that does not; empty if all report some.
    pub(crate) fn source_troubles(&self) -> Vec<String> {
        let trouble = |source: &SourceInfo| match (&source.trouble, &source.result) {
            (Some(trouble), _) => Some(format!("{}: {trouble}", source.name)),
            (None, None) => Some(format!("{}: no answer yet", source.name)),
            (None, Some(_)) => None,
        };
        self.sources.iter().filter_map(trouble).collect()
    }
}

impl BackendInfo {
    /// The word for its state.
    pub(crate) fn state_name(&self) -> &'static str {
        self.state.map_or("unknown", BackendState::name)
    }
}
