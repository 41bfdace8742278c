//! The states that an operator sets.

use serde::{Deserialize, Serialize};

/// The state that an operator sets for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
