//! What operators set for backends and listeners, in `operators.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::info;

use super::{line_file, set_aside};
use crate::domain::{AdminState, SocketAddress, Timestamp};

/// What operators set for a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedBackend {
    /// Its name; with the address, its identity.
    pub name: Arc<str>,
    /// Whether its name was unknown, so that it was named by its address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nameless: bool,
    /// Its address.
    pub address: SocketAddress,
    /// Its state, if an operator took it out of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SavedState>,
    /// Its weight, if an operator set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<SavedWeight>,
}

/// A state that an operator set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    /// The state.
    pub state: AdminState,
    /// The operator.
    pub by: Arc<str>,
    /// When it was set, in seconds since the epoch.
    pub at: Timestamp,
}

/// A weight that an operator set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedWeight {
    /// The weight.
    pub weight: u32,
    /// The weight that its source reported then: another one replaces the operator's.
    pub by_source: u32,
    /// The operator.
    pub by: Arc<str>,
    /// When it was set, in seconds since the epoch.
    pub at: Timestamp,
}

impl SavedBackend {
    /// Logs that it does not apply any longer, and why.
    pub fn log_dropped(&self, pool: &str, why: &'static str) {
        let Self { name, address, state, weight, .. } = self;
        let by = state.as_ref().map(|state| &state.by).or(weight.as_ref().map(|weight| &weight.by));
        let state = state.as_ref().map(|state| state.state.name());
        let weight = weight.as_ref().map(|weight| weight.weight);
        let by = by.map(|by| &**by);
        info!(%pool, backend = %name, %address, by, state, weight, cause = why, "operator's setting dropped");
    }
}

/// What operators set for the backends of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedPool {
    /// Its name.
    pub(super) pool: Arc<str>,
    /// The backends that something is set for.
    pub(super) backends: Vec<SavedBackend>,
}

/// A listener that an operator drained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedListener {
    /// Its name.
    pub listener: Arc<str>,
    /// The operator.
    pub by: Arc<str>,
    /// When it was drained, in seconds since the epoch.
    pub at: Timestamp,
}

/// What operators set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// The pools with backends that something is set for.
    pub(super) pools: Vec<SavedPool>,
    /// The listeners that are drained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) listeners: Vec<SavedListener>,
}

/// The path of the file in the folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("operators.json")
}

impl Settings {
    /// What was set when the process before ended. A damaged file is set aside.
    pub(super) fn read(folder: &Path) -> Self {
        let path = path(folder);
        let Some(content) = line_file::content(&path) else { return Self::default() };
        serde_json::from_slice(&content).unwrap_or_else(|error| {
            set_aside(&path, &error);
            Self::default()
        })
    }

    /// The content of the file.
    pub(super) fn in_json(&self) -> Vec<u8> {
        // Serializing these types cannot fail.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }
}
