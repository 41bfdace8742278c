//! The reply of `/demo/state`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::action::Slot;
use super::scene::{CheckScene, ProcessScene, TrafficScene};
use super::script::ScriptId;
use super::stats::{RecentFigures, TrafficTotals};
use crate::domain::Algorithm;

/// The state of the demo.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DemoState {
    /// What happens now and what to watch, in a sentence or two.
    pub(super) caption: String,
    /// The script that is playing; null: none.
    pub(super) playing: Option<ScriptId>,
    /// The backends that are in the demo now.
    pub(super) backends: Vec<DemoBackendInfo>,
    /// How many more backends can be added.
    pub(super) room: usize,
    /// How a backend is chosen.
    pub(super) balance: Algorithm,
    /// How a backend of the second pool is chosen; null: there is no second pool.
    pub(super) compare: Option<Algorithm>,
    pub(super) check: CheckScene,
    pub(super) traffic: TrafficScene,
    /// What the clients of each pool experience; one entry, or two while algorithms are compared.
    pub(super) sides: Vec<SideInfo>,
    /// The scripts that can be played.
    pub(super) scripts: Vec<ScriptInfo>,
    /// The algorithms that can be chosen.
    pub(super) algorithms: [Algorithm; Algorithm::ALL.len()],
}

/// A backend and what was done to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DemoBackendInfo {
    pub(super) name: Slot,
    /// Its address in the first pool.
    pub(super) address: String,
    pub(super) process: ProcessScene,
    pub(super) slow: bool,
    /// Whether its answers are errors, except that of `/health`.
    pub(super) failing: bool,
    /// Whether its address vanishes from DNS and reappears.
    pub(super) flapping: bool,
    /// Its response time.
    pub(super) response_ms: u64,
}

/// What the clients of a pool experience. Totals are those since the pool's algorithm or the comparison was set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct SideInfo {
    pub(super) pool: &'static str,
    pub(super) algorithm: Algorithm,
    pub(super) answered: u64,
    /// Answers that were errors of a backend.
    pub(super) errors: u64,
    /// Requests that broke with a killed backend.
    pub(super) broken: u64,
    /// Requests without an answer.
    pub(super) failed: u64,
    /// Failed attempts that were retried on another backend.
    pub(super) retried: u64,
    /// The time within which half of the requests of the last seconds ended; null: there were none.
    pub(super) p50_ms: Option<f64>,
    /// The same for 90 of 100.
    pub(super) p90_ms: Option<f64>,
    /// The same for 99 of 100.
    pub(super) p99_ms: Option<f64>,
    /// Each backend's share of the answers of the last seconds.
    pub(super) shares: BTreeMap<String, f64>,
    /// The clients that connect again and again; empty if each request comes from another client.
    pub(super) clients: Vec<ClientInfo>,
}

/// A client that connects again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ClientInfo {
    pub(super) address: IpAddr,
    /// The backend that answered it last.
    pub(super) backend: Option<String>,
    /// The backend that it had before the last change, if that was another one.
    pub(super) moved_from: Option<String>,
}

/// A script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ScriptInfo {
    pub(super) id: ScriptId,
    pub(super) title: &'static str,
    /// What to watch.
    pub(super) text: &'static str,
}

impl ScriptInfo {
    pub(super) fn all() -> Vec<Self> {
        let info = |id: ScriptId| Self { id, title: id.script().title, text: id.script().text };
        ScriptId::ALL.map(info).to_vec()
    }
}

impl SideInfo {
    pub(super) fn new(
        pool: &'static str,
        algorithm: Algorithm,
        totals: &TrafficTotals,
        retried: u64,
        recent: &RecentFigures,
        clients: Vec<ClientInfo>,
    ) -> Self {
        let millis = |place: usize| recent.percentiles.map(|times| times[place].as_secs_f64() * 1e3);
        let all: usize = recent.by_backend.values().map(|(count, _)| count).sum();
        let share = |count: usize| count as f64 / all as f64;
        let shares = recent.by_backend.iter().map(|(backend, (count, _))| (backend.clone(), share(*count)));
        Self {
            pool,
            algorithm,
            answered: totals.answered,
            errors: totals.errors,
            broken: totals.broken,
            failed: totals.failed,
            retried,
            p50_ms: millis(0),
            p90_ms: millis(1),
            p99_ms: millis(2),
            shares: shares.collect(),
            clients,
        }
    }
}
