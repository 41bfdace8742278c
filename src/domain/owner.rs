//! What listens on the addresses of this process.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What listens on an address of this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The listener of that name.
    Listener(Arc<str>),
    /// The admin server.
    Admin,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(name) => write!(f, "listener {name:?}"),
            Self::Admin => f.write_str("admin server"),
        }
    }
}
