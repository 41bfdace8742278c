//! The configuration's types, and with them its keys: defaults filled in, names resolved, values in range.
//!
//! The rest of the program knows only these types. Each key is declared here, once (`src/config/keys.rs`).

mod buffers;
mod discover;
mod health;
mod listener;
mod pool;
mod priority;
mod process;
mod registry;
mod replicas;
mod routing;
mod tls;

use std::sync::Arc;

use litemap::LiteMap;

pub use buffers::Buffers;
pub use discover::*;
pub use health::*;
pub use listener::*;
pub use pool::*;
pub use priority::*;
pub use process::*;
pub use registry::{Consul, Etcd, Kubernetes, RegistryServer};
pub use replicas::*;
pub use routing::PoolShares;
pub use tls::ClientTls;

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
        listeners: LiteMap<Arc<str>, Listener> => named("listener", "web"), absent LiteMap::new();
        /// Groups of interchangeable backends, by name.
        pools: LiteMap<Arc<str>, Pool> => named("pool", "web"), absent LiteMap::new();
    }
}

#[cfg(test)]
mod tests;
