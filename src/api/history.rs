//! `/api/v1/history`: what was counted in each of the last seconds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One value a second, the oldest first; null: the listener, pool or backend was not there.
type Seconds = Vec<Option<u64>>;

/// The last 300 seconds. All lists are equally long.
//
// `C` is a list of values, so that the server can write them without a copy.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(rename = "HistoryReply", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct HistoryReply<C = Seconds> {
    /// From one value to the next, in seconds.
    pub step_seconds: u64,
    /// When the last second ended, in seconds since the epoch.
    pub end: u64,
    /// By name.
    pub listeners: BTreeMap<Arc<str>, Track<C>>,
    /// By name.
    pub pools: BTreeMap<Arc<str>, PoolTrack<C>>,
    /// By pool and name; empty when there are more than 1,000 backends.
    pub backends: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Track<C>>>,
}

/// What was counted of a listener or a backend.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(rename = "Track", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct Track<C = Seconds> {
    /// Open connections.
    pub active: C,
    /// New connections.
    pub connections: C,
    /// Bytes from clients, written to backends.
    pub bytes_in: C,
    /// Bytes from backends, written to clients.
    pub bytes_out: C,
}

/// What was counted of a pool.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[cfg_attr(test, schemars(rename = "PoolTrack", bound = "C: schemars::JsonSchema + Default + Serialize"))]
pub(crate) struct PoolTrack<C = Seconds> {
    /// What is counted of listeners and backends too.
    #[serde(flatten)]
    pub track: Track<C>,
    /// Failed attempts that were retried on another backend.
    pub failures_masked: C,
    /// Client-visible failures.
    pub failures_seen: C,
    /// Connections that reached no backend.
    pub unserved: C,
}

/// The part of the history that `top` shows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PoolRates {
    /// By name.
    pub pools: HashMap<String, RateTrack>,
}

/// The part of a [`PoolTrack`] that `top` shows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RateTrack {
    /// New connections.
    pub connections: Seconds,
}
