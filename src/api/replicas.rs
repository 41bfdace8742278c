//! Replicas: `/api/v1/replicas`, and `/rep`, `/add` and `/rm`, whose shape is given by their users.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Timestamp, Word};

/// The containers that Pointsman starts for a pool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ReplicaGroup {
    /// The number of replicas to run.
    pub wanted: usize,
    /// Replicas that run.
    pub running: usize,
    /// The smallest allowed number.
    pub min: u32,
    /// The largest allowed number.
    pub max: u32,
    /// Whether their number follows the load.
    pub autoscale: bool,
    /// Whether autoscaling only reports what it would do.
    pub dry_run: bool,
    /// How many replicas that ended were replaced.
    pub respawns: u64,
    /// Why the engine cannot be reached; null: it can.
    pub trouble: Option<String>,
    /// The replicas to run, the oldest first.
    pub replicas: Vec<ReplicaInfo>,
    /// Replicas that are being removed.
    pub leaving: Vec<Arc<str>>,
    /// Running containers of the group that the pool had before a reload gave it another one.
    pub former: Vec<Arc<str>>,
    /// Containers of its group that another Pointsman has started meanwhile.
    pub rivals: Vec<Arc<str>>,
    /// The last decision on their number; null: there was none.
    pub last_decision: Option<ScaleDecision>,
}

/// A replica.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ReplicaInfo {
    /// Its name.
    pub name: Arc<str>,
    /// `starting`, `running`, `restarting` (it ended, and its engine restarts it) or `waiting` (it ended and is replaced
    /// soon, unless it comes back).
    pub stage: Word,
    /// Its container's id; null: it has none.
    pub container: Option<Arc<str>>,
    /// Whether another program has started it.
    pub adopted: bool,
    /// How often it was replaced.
    pub respawns: u64,
}

/// A decision on the number of replicas.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ScaleDecision {
    /// When it was made, in seconds since the epoch.
    pub at: Timestamp,
    /// The number before.
    pub from: usize,
    /// The number after.
    pub to: usize,
    /// Why.
    pub cause: Arc<str>,
    /// Whether it was only reported: in a dry run, or because a limit forbids it.
    pub only_told: bool,
}

/// `/api/v1/replicas`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct AllReplicasReply {
    /// By pool; without the pools that have no replicas.
    pub pools: BTreeMap<Arc<str>, ReplicaPool>,
}

/// The replicas of a pool, and how their number was decided.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ReplicaPool {
    /// The replicas.
    #[serde(flatten)]
    pub group: Arc<ReplicaGroup>,
    /// The last decisions, the oldest first.
    pub decisions: Arc<[ScaleDecision]>,
}

/// How many replicas to add or remove.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplicaChange {
    /// How many. Any number is read, so that the error can name it.
    #[cfg_attr(test, schemars(with = "u32", range(min = 1)))]
    pub n: serde_json::Number,
    /// The names of some of them, at most `n`.
    #[serde(default)]
    #[cfg_attr(
        test,
        schemars(
            inner(
                length(min = 1, max = 64),
                regex(pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$")
            ),
            extend("uniqueItems" = true)
        )
    )]
    pub hostnames: Vec<String>,
}

/// The replicas to run, in the shape of `/rep`, `/add` and `/rm`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReplicaList {
    /// The replicas.
    pub message: ReplicaNames,
    /// `successful`.
    #[cfg_attr(test, schemars(extend("const" = "successful")))]
    pub status: Word,
}

/// The replicas to run, by name.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReplicaNames {
    /// How many there are.
    #[serde(rename = "N")]
    pub n: usize,
    /// Their names.
    pub replicas: Vec<Arc<str>>,
}

/// An error of `/rep`, `/add` or `/rm`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReplicaFailure {
    /// What is wrong and what to do about it, for people.
    #[cfg_attr(test, schemars(regex(pattern = "^<Error> ")))]
    pub message: String,
    /// `failure`.
    #[cfg_attr(test, schemars(extend("const" = "failure")))]
    pub status: Word,
}
