//! What the admin server answers, as far as the terminal shows it. Whatever an older or newer server leaves out has its
//! default: somebody who looks for trouble wants to see the rest.

use serde::Deserialize;

use crate::pool::BackendState;

/// `/api/v1/status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) phase: String,
    pub(super) ready: bool,
    /// The server's clock, in seconds since the epoch.
    pub(super) now: Option<f64>,
    pub(super) uptime_seconds: f64,
    /// Open connections of the whole process.
    pub(super) open: Option<u64>,
    pub(super) max_connections: u64,
    pub(super) workers: u64,
    pub(super) listeners: Vec<Listener>,
    pub(super) pools: Vec<Pool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) addresses: Vec<String>,
    pub(super) pool: String,
    pub(super) active: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) algorithm: String,
    pub(super) settled: bool,
    /// Backends that can be chosen.
    pub(super) up: u64,
    pub(super) panic: bool,
    pub(super) queue: u64,
    pub(super) failures_masked: u64,
    pub(super) failures_seen: u64,
    pub(super) unserved: u64,
    pub(super) backends: Vec<Backend>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) address: String,
    #[serde(deserialize_with = "state")]
    pub(super) state: Option<BackendState>,
    /// In seconds since the epoch.
    pub(super) since: f64,
    pub(super) cause: String,
    pub(super) weight: u32,
    pub(super) tier: u16,
    pub(super) active: u64,
    pub(super) connections: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) connect_failures: u64,
    /// How long connecting takes lately.
    pub(super) connect_ms: Option<f64>,
    pub(super) last_check: Option<Check>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Check {
    pub(super) kind: String,
    pub(super) at: f64,
    pub(super) passed: bool,
    pub(super) error: Option<String>,
    pub(super) took_ms: f64,
}

/// A state of a newer server is none that is known.
fn state<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<BackendState>, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(BackendState::ALL.into_iter().find(|state| state.name() == name))
}

impl Status {
    /// The server's clock, or ours if it does not tell.
    pub(super) fn clock(&self) -> f64 {
        let ours = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.now.unwrap_or_else(|| ours().as_secs_f64())
    }

    /// Open connections of the whole process.
    pub(super) fn open(&self) -> u64 {
        self.open.unwrap_or_else(|| self.listeners.iter().map(|listener| listener.active).sum())
    }
}

impl Pool {
    /// Whether its clients are turned away.
    pub(super) fn is_unserved(&self) -> bool {
        self.up == 0
    }
}

impl Backend {
    /// The word for its state.
    pub(super) fn state_name(&self) -> &'static str {
        self.state.map_or("unknown", BackendState::name)
    }
}
