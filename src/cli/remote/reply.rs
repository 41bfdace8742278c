//! What the admin server answers, as far as the terminal shows it. Whatever an older or newer server leaves out has its
//! default: somebody who looks for trouble wants to see the rest.

use serde::Deserialize;

use crate::pool::State;

/// `/api/v1/status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Status {
    pub(in crate::cli) version: String,
    pub(in crate::cli) phase: String,
    pub(in crate::cli) ready: bool,
    /// The server's clock, in seconds since the epoch.
    pub(in crate::cli) now: Option<f64>,
    pub(in crate::cli) uptime_seconds: f64,
    /// Open connections of the whole process.
    pub(in crate::cli) open: Option<u64>,
    pub(in crate::cli) max_connections: u64,
    pub(in crate::cli) workers: u64,
    pub(in crate::cli) listeners: Vec<Listener>,
    pub(in crate::cli) pools: Vec<Pool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Listener {
    pub(in crate::cli) name: String,
    pub(in crate::cli) addresses: Vec<String>,
    pub(in crate::cli) pool: String,
    pub(in crate::cli) active: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Pool {
    pub(in crate::cli) name: String,
    pub(in crate::cli) algorithm: String,
    pub(in crate::cli) settled: bool,
    /// Backends that can be chosen.
    pub(in crate::cli) up: u64,
    pub(in crate::cli) panic: bool,
    pub(in crate::cli) queue: u64,
    pub(in crate::cli) failures_masked: u64,
    pub(in crate::cli) failures_seen: u64,
    pub(in crate::cli) unserved: u64,
    pub(in crate::cli) backends: Vec<Backend>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Backend {
    pub(in crate::cli) name: String,
    pub(in crate::cli) address: String,
    #[serde(deserialize_with = "state")]
    pub(in crate::cli) state: Option<State>,
    /// In seconds since the epoch.
    pub(in crate::cli) since: f64,
    pub(in crate::cli) cause: String,
    pub(in crate::cli) weight: u32,
    pub(in crate::cli) tier: u16,
    pub(in crate::cli) active: u64,
    pub(in crate::cli) connections: u64,
    pub(in crate::cli) bytes_in: u64,
    pub(in crate::cli) bytes_out: u64,
    pub(in crate::cli) connect_failures: u64,
    /// How long connecting takes lately.
    pub(in crate::cli) connect_ms: Option<f64>,
    pub(in crate::cli) last_check: Option<Check>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Check {
    pub(in crate::cli) kind: String,
    pub(in crate::cli) at: f64,
    pub(in crate::cli) passed: bool,
    pub(in crate::cli) error: Option<String>,
    pub(in crate::cli) took_ms: f64,
}

/// A state of a newer server is none that is known.
fn state<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<State>, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(State::ALL.into_iter().find(|state| state.name() == name))
}

impl Status {
    /// The server's clock, or ours if it does not tell.
    pub(in crate::cli) fn clock(&self) -> f64 {
        let ours = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.now.unwrap_or_else(|| ours().as_secs_f64())
    }

    /// Open connections of the whole process.
    pub(in crate::cli) fn open(&self) -> u64 {
        self.open.unwrap_or_else(|| self.listeners.iter().map(|listener| listener.active).sum())
    }
}

impl Pool {
    /// Whether its clients are turned away.
    pub(in crate::cli) fn is_unserved(&self) -> bool {
        self.up == 0
    }
}

impl Backend {
    /// The word for its state.
    pub(in crate::cli) fn state_name(&self) -> &'static str {
        self.state.map_or("unknown", State::name)
    }
}
