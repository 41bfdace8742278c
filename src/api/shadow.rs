//! `/api/v1/pools/{pool}/shadow`: what other algorithms would have done with the same connections.

use std::sync::Arc;

use serde::Serialize;

use super::Timestamp;
use crate::balance::shadow::PickCounts;
use crate::story::Sentence;

/// What other algorithms would have done.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ShadowReply {
    /// The pool.
    pub pool: Arc<str>,
    /// When counting began, in seconds since the epoch.
    pub since: Timestamp,
    /// Connections routed since then to the present backends.
    pub connections: u64,
    /// The algorithms, the one in force first.
    pub algorithms: Vec<AlgorithmScore>,
    /// The comparison in words.
    pub sentences: Vec<Sentence>,
}

/// What one algorithm has done, or would have done.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct AlgorithmScore {
    /// The algorithm.
    #[cfg_attr(test, schemars(with = "crate::config::Algorithm"))]
    pub algorithm: &'static str,
    /// Whether it is the one in force.
    pub is_actual: bool,
    /// The backend with the most connections at once; null: there was no connection.
    pub worst_backend: Option<Arc<str>>,
    /// Its most connections at once.
    pub worst_active_peak: u32,
    /// The backends.
    pub backends: Vec<BackendScore>,
}

/// What one backend has got, or would have got.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BackendScore {
    /// Its name.
    pub backend: Arc<str>,
    /// What was counted.
    #[serde(flatten)]
    pub score: PickCounts,
}
