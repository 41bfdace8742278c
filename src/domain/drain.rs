//! The forecast of a drain.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Client;

/// How a drain is expected to go on. The forecast is based on how long the connections of the same pools have lasted so
/// far, those that were cut aside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DrainForecast {
    /// Connections that are open.
    pub open: u64,
    /// The age of the oldest, in milliseconds; null: none is open.
    pub oldest_ms: Option<u64>,
    /// The time that they have left, in milliseconds; null: they have no time limit.
    pub time_left_ms: Option<u64>,
    /// The time until 95 % of them are expected to have finished, in milliseconds; null: that is not expected within the
    /// time limit.
    pub most_finished_ms: Option<u64>,
    /// How many are expected to reach the time limit.
    pub at_limit: u64,
    /// Those of them that have been idle for the longest time, at most three.
    pub longest_idle: Vec<IdleConnection>,
    /// The number of finished connections that the forecast is based on.
    pub observed: u64,
}

/// An open connection that is idle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct IdleConnection {
    /// Its number.
    pub conn: u64,
    /// Its client.
    pub client: Client,
    /// Its backend, if it has one.
    pub backend: Option<Arc<str>>,
    /// Its age, in milliseconds.
    pub age_ms: u64,
    /// The time since a byte was relayed, in milliseconds.
    pub idle_ms: u64,
}
