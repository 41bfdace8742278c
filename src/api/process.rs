//! Replies about the process as a whole, errors, and the events of the stream that carry no fact.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Timestamp, Word};
use crate::config::ChangedKey;
use crate::domain::DrainForecast;

/// The reply of `/heartbeat` and `/ready` when the answer is yes.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Acknowledgement {
    /// `alive` or `ready`.
    pub status: Word,
}

/// A configuration that was put to work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ReloadReply {
    /// Listeners in it.
    pub listeners: usize,
    /// Pools in it.
    pub pools: usize,
    /// The changed parts that take effect after a restart.
    pub restart: Vec<Word>,
}

/// What a reload would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ReloadPlanReply {
    /// The parts of the configuration that differ; empty: none.
    pub changes: Vec<PlannedChange>,
    /// The changed parts that would take effect after a restart.
    pub restart: Vec<Word>,
}

/// A part of the configuration that a reload would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct PlannedChange {
    /// The part: `runtime`, `log`, `admin`, `listeners.NAME` or `pools.NAME`.
    pub part: String,
    /// `added`, `removed` or `changed`.
    #[cfg_attr(test, schemars(extend("enum" = ["added", "removed", "changed"])))]
    pub change: Word,
    /// The keys whose values differ, if it is changed. Possible secrets are masked.
    pub keys: Vec<ChangedKey>,
    /// The open connections of the listener or of the pool.
    pub open: u64,
    /// What happens to them; empty if the part has no connections.
    pub effect: String,
}

/// A hand-over that begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct HandOverReply {
    /// The process that hands over.
    pub process: u32,
}

/// A drain that begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct DrainReply {
    /// Open connections.
    pub open: u64,
    /// How long they have to finish, in seconds.
    pub timeout_seconds: f64,
}

/// How a drain is expected to go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct DrainForecastReply {
    /// The forecast.
    #[serde(flatten)]
    pub forecast: DrainForecast,
    /// The same for people.
    pub sentence: String,
}

/// An error.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ErrorReply {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong, and what to do about it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ErrorDetail {
    /// A word for programs.
    #[cfg_attr(test, schemars(regex(pattern = "^[a-z_]+$")))]
    pub code: Word,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it.
    pub hint: Word,
}

impl ErrorDetail {
    /// The code for a change that would take out the last eligible backend of its pool.
    pub(crate) const LAST_ELIGIBLE: &str = "last_eligible";
    /// The code for a pool that does not exist.
    pub(crate) const NO_SUCH_POOL: &str = "no_such_pool";
    /// The code for a backend that the pool does not have, or whose connections finish after it has left.
    pub(crate) const NO_SUCH_BACKEND: &str = "no_such_backend";
    /// The code for a backend that has left while it was changed.
    pub(crate) const GONE: &str = "gone";
}

/// The first event of a stream.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Hello {
    /// The running version.
    pub version: Arc<str>,
    /// The number of the latest fact.
    pub latest: u64,
    /// When the process started, in seconds since the epoch: another time is another process.
    pub started: Timestamp,
    /// Whether this is `pointsman demo`, which can be played with: `/demo/state` and `/demo/actions` are there.
    pub demo: bool,
}

/// Facts were dropped before this reader received them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Lagged {
    /// How many.
    pub missed: u64,
}

/// Log lines were dropped before this reader received them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Skipped {
    /// How many.
    pub lines: u64,
}
