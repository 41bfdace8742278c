//! Whether a listener accepts connections.

use serde::{Deserialize, Serialize};

/// The state that an operator sets for a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ListenerState {
    /// It accepts connections.
    Up,
    /// It accepts no new connections: clients are refused, and open connections continue.
    Draining,
}

impl ListenerState {
    /// The name in the log and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
        }
    }
}
