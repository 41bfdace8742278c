//! The states that an operator sets.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::StateReason;

/// The state that an operator sets for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// It is in service as far as its checks allow.
    Up,
    /// It gets no new connections; open ones follow `on_drain`.
    Draining,
    /// The same, and it is not checked.
    Maintenance,
}

impl AdminState {
    /// The name in the log and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}

/// The operator that set a backend's state or weight, and when; or the removal of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetBy {
    /// The operator.
    pub operator: Arc<str>,
    /// When.
    pub at: SystemTime,
    /// Whether it was set in a process before this one (`runtime.state`).
    pub before_restart: bool,
    /// Whether it outlives the process.
    pub is_lasting: bool,
}

impl SetBy {
    /// An operator that sets something now.
    pub fn now(operator: Arc<str>) -> Self {
        Self { operator, at: SystemTime::now(), before_restart: false, is_lasting: true }
    }

    /// The removal of a replica, which drains it. A removal that a crash interrupts does not go on: the next process
    /// keeps the replica in service.
    pub fn removal() -> Self {
        Self { is_lasting: false, ..Self::now("the removal of its replica".into()) }
    }

    /// The reason for a state that was set so.
    pub fn reason(&self, state: AdminState) -> StateReason {
        let by = Arc::clone(&self.operator);
        if self.before_restart {
            StateReason::SetBeforeRestart { state, by, at: self.at }
        } else {
            StateReason::SetByOperator { state, by }
        }
    }
}

#[cfg(test)]
impl From<&str> for SetBy {
    fn from(operator: &str) -> Self {
        let at = SystemTime::UNIX_EPOCH;
        Self { operator: operator.into(), at, before_restart: false, is_lasting: true }
    }
}
