//! `/api/v1/history`: what was counted lately, in steps of a second, ten seconds or a minute.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One value a step, the oldest first; null: the listener, pool or backend was not there, or there was nothing to measure.
type Steps = Vec<Option<u64>>;

/// The last 300 seconds, the last hour in steps of 10 seconds, or the last day in steps of a minute. All lists are equally
/// long.
//
// `C` is a list of values, so that the server can write them without a copy.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, bound(deserialize = "C: Default + Deserialize<'de>"))]
#[cfg_attr(test, schemars(rename = "HistoryReply", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct HistoryReply<C = Steps> {
    /// From one value to the next, in seconds.
    pub step_seconds: u64,
    /// When the last step ended, in seconds since the epoch.
    pub end: u64,
    /// By name.
    pub listeners: BTreeMap<Arc<str>, Track<C>>,
    /// By name.
    pub pools: BTreeMap<Arc<str>, PoolTrack<C>>,
    /// By pool and name; empty while there are more than 1,000 backends (200 with steps of 10 seconds, 100 with steps of a
    /// minute).
    pub backends: BTreeMap<Arc<str>, BTreeMap<Arc<str>, BackendTrack<C>>>,
}

/// What was counted of a listener.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, bound(deserialize = "C: Default + Deserialize<'de>"))]
#[cfg_attr(test, schemars(rename = "Track", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct Track<C = Steps> {
    /// Open connections at the end of the step.
    pub active: C,
    /// New connections.
    pub connections: C,
    /// Bytes from clients, written to backends.
    pub bytes_in: C,
    /// Bytes from backends, written to clients.
    pub bytes_out: C,
}

/// What was counted of a backend.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, bound(deserialize = "C: Default + Deserialize<'de>"))]
#[cfg_attr(test, schemars(rename = "BackendTrack", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct BackendTrack<C = Steps> {
    /// What is counted of listeners too.
    #[serde(flatten)]
    pub track: Track<C>,
    /// Times from the routing decision to the first byte.
    pub first_byte: LatencyTrack<C>,
}

/// Percentiles of a latency, in microseconds: of the connections of the step, or with steps of a second of those of the 30 to
/// 60 seconds before; null: there were none.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, bound(deserialize = "C: Default + Deserialize<'de>"))]
#[cfg_attr(test, schemars(rename = "LatencyTrack", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct LatencyTrack<C = Steps> {
    /// The median.
    pub p50_us: C,
    /// The 90th percentile.
    pub p90_us: C,
    /// The 99th percentile.
    pub p99_us: C,
}

/// What was counted of a pool.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, bound(deserialize = "C: Default + Deserialize<'de>"))]
#[cfg_attr(test, schemars(rename = "PoolTrack", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct PoolTrack<C = Steps> {
    /// What is counted of listeners and backends too.
    #[serde(flatten)]
    pub track: Track<C>,
    /// Failed attempts that were retried on another backend.
    pub failures_masked: C,
    /// Client-visible failures.
    pub failures_seen: C,
    /// Connections that reached no backend.
    pub unserved: C,
    /// Times to connect to its backends; null in each step while there are more than 1,000 backends.
    pub connect: LatencyTrack<C>,
    /// Times from the routing decision to the first byte; null in each step while there are more than 1,000 backends.
    pub first_byte: LatencyTrack<C>,
}
