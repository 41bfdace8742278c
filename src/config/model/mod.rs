//! The configuration's types, and with them its keys: defaults filled in, names resolved, values in range.
//!
//! The rest of the program knows only these types. Each key is declared here, once (`src/config/keys.rs`).

mod discover;
mod health;
mod listener;
mod pool;
mod process;
mod replicas;
mod routing;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use discover::*;
pub(crate) use health::*;
pub use listener::*;
pub use pool::*;
pub(crate) use process::*;
pub(crate) use replicas::*;
pub(crate) use routing::PoolShares;

use super::check;
use super::keys::settings;
use super::kind::{named, optional, table};

settings! {
    /// A whole configuration, checked.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Config, needs ("allOf", &["listeners", "pools"]), check check::config {
        /// Settings of the process itself.
        runtime: Runtime => table(), absent Runtime::default();
        /// Where log lines go, and which are written.
        log: Log => table(), absent Log::default();
        /// The admin server: /heartbeat, /ready, /metrics, and the API at /api/v1, which /api/v1/openapi.json
        /// describes. Absent: none.
        admin: Option<Admin> => optional(table()), absent None;
        /// The addresses that clients connect to, by name.
        listeners: BTreeMap<Arc<str>, Listener> => named("listener", "web"), absent BTreeMap::new();
        /// Groups of interchangeable backends, by name.
        pools: BTreeMap<Arc<str>, Pool> => named("pool", "web"), absent BTreeMap::new();
    }
}

#[cfg(test)]
mod tests;
