//! What forwards the bytes of a listener's connections.

use serde::{Deserialize, Serialize};

/// What forwards the bytes of a listener's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// This process.
    #[default]
    User,
    /// The kernel.
    Kernel,
}

impl Plane {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Kernel => "kernel",
        }
    }
}
