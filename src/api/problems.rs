//! `/api/v1/problems`: what is wrong now, since when, and how near the limits of the process are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Timestamp, Word};

/// The present problems and the capacity.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ProblemsReply {
    /// The server's clock, in seconds since the epoch.
    pub now: Timestamp,
    /// The time over which failures are counted, in seconds.
    pub window_seconds: u64,
    /// The problems, worst first.
    pub problems: Vec<ProblemInfo>,
    /// What the process has of each limited resource, the scarcest first.
    pub capacity: Vec<CapacityInfo>,
}

/// Something that is wrong now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ProblemInfo {
    /// Its kind.
    #[cfg_attr(test, schemars(extend("enum" = crate::domain::ProblemKind::ALL.map(crate::domain::ProblemKind::name))))]
    pub kind: Word,
    /// `critical`: clients fail, or will soon; `warning`: something is wrong, and clients are served.
    #[cfg_attr(test, schemars(extend("enum" = crate::domain::Severity::ALL.map(crate::domain::Severity::name))))]
    pub severity: Word,
    /// The pool that it concerns; null: no single one.
    pub pool: Option<Arc<str>>,
    /// The listener that it concerns; null: no single one.
    pub listener: Option<Arc<str>>,
    /// The source of backends that it concerns; null: none.
    pub source: Option<Arc<str>>,
    /// Since when, in seconds since the epoch.
    pub since: Timestamp,
    /// What is wrong, for people.
    pub sentence: String,
    /// What to do about it.
    pub hint: String,
    /// Its figures, for programs.
    pub figures: BTreeMap<Word, f64>,
}

/// What the process has of a limited resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct CapacityInfo {
    /// The resource.
    #[cfg_attr(test, schemars(extend("enum" = crate::domain::Resource::ALL.map(crate::domain::Resource::name))))]
    pub resource: Word,
    /// The listener or backend that it is counted for; null: the process or the machine.
    pub subject: Option<Arc<str>>,
    /// How much is in use.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
    /// What is counted, such as `files` or `bytes`.
    pub unit: Word,
    /// The part in use, from 0 to 1; more than 1 when the limit was lowered meanwhile.
    pub share: f64,
    /// The growth in a minute, by the last minutes; null: it does not grow, or too little is known.
    pub growth_per_minute: Option<f64>,
    /// Seconds until nothing is left at this growth; null: it does not grow, or there is more than a day.
    pub exhausted_in_seconds: Option<f64>,
}

impl ProblemInfo {
    /// Whether clients fail, or will soon.
    pub(crate) fn is_critical(&self) -> bool {
        self.severity == "critical"
    }
}
