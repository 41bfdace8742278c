//! How this side ends a connection.

use serde::{Deserialize, Serialize};

/// How this side ends a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// FIN.
    Close,
    /// RST. The default: a FIN would let a peer take a truncated stream for a complete one.
    #[default]
    Reset,
}

impl Ending {
    /// The name in the log and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Reset => "reset",
        }
    }
}
