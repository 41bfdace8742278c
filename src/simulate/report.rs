//! The figures, as they stand in the JSON that `simulate --json` prints.
//!
//! The names of the fields are a stable interface: fields may be added, none goes or changes its meaning. Times are in
//! the unit that the name ends in, shares are parts of 1, and every number is rounded to six digits behind the point.
//! Equal plans give equal bytes.

use std::sync::Arc;

use serde::Serialize;

use super::plan::Until;
use super::scenario::{Backend, Scenario};
use crate::config::Algorithm;

/// What was simulated, and what came of it under each algorithm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was simulated.
    pub scenario: Facts,
    /// One for each algorithm, in the order in which they were asked for. All had the same traffic.
    pub algorithms: Vec<Figures>,
}

/// What was simulated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Facts {
    /// Connections a second.
    pub rate: f64,
    /// In which way they arrived: `steady`, `poisson` or `bursts:NUMBER`.
    pub arrivals: String,
    /// Who they came from: `NUMBER` or `NUMBER:zipf:EXPONENT`.
    pub clients: String,
    /// How many came, if it was given; else `duration_s` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// For how long they came, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// What all randomness followed from.
    pub seed: u64,
    /// All backends there ever were: those of the beginning, then those that joined.
    pub backends: Vec<BackendFacts>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendFacts {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight when it came.
    pub weight: u32,
    /// Connections that it served at once: a number or `unlimited`.
    pub servers: String,
    /// How long it served one: `fixed:TIME`, `exp:TIME` or `pareto:TIME:ALPHA`.
    pub service: String,
}

/// What came of it under one algorithm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Its name, as in a configuration.
    pub algorithm: &'static str,
    /// Connections that came: `served`, `cut` and `refused` together.
    pub connections: u64,
    /// Those that were served to the end.
    pub served: u64,
    /// Those that were cut off, in line or while they were served, because their backend went down.
    pub cut: u64,
    /// Those that came while no backend could be chosen.
    pub refused: u64,
    /// How uneven it was.
    pub imbalance: Imbalance,
    /// Each backend, as in the scenario.
    pub backends: Vec<BackendFigures>,
    /// From arrival until a server was free, in milliseconds, of those served; `null`: there were none.
    pub waiting_ms: Option<Spread>,
    /// From arrival until it was served, in milliseconds; `null` likewise.
    pub response_ms: Option<Spread>,
    /// Each event, in order.
    pub events: Vec<EventFigures>,
}

/// How uneven it was. A backend's load is its connections at one moment (served and in line) for each unit of its
/// weight; the mean load is that of all that can be chosen together. `null`: nobody was ever busy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Imbalance {
    /// The load of the busiest backend against the mean load, both averaged over the time in which connections came:
    /// 1 is perfect.
    pub average: Option<f64>,
    /// The highest load that any backend ever had, against the same mean.
    pub peak: Option<f64>,
    /// The coefficient of variation of `share` / `promised` over the backends: 0 is perfect.
    pub variation: f64,
}

/// One backend under one algorithm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendFigures {
    /// Its name.
    pub name: Arc<str>,
    /// Connections that were sent to it.
    pub connections: u64,
    /// Their part of all that came.
    pub share: f64,
    /// The part that its weight promised, of those that came while it could be chosen.
    pub promised: f64,
    /// The most connections that it had at one moment, served and in line.
    pub most: u32,
    /// The part of its servers' time that was busy while connections came; `null`: they are unlimited, or it was never
    /// there.
    pub utilization: Option<f64>,
}

/// How long it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// One event under one algorithm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventFigures {
    /// When, in seconds from the beginning.
    pub at_s: f64,
    /// What, as it was written.
    pub event: String,
    /// Connections that it cut off.
    pub cut: u64,
    /// The part of all clients that has to move for everybody to have their share before and after.
    pub ideal: f64,
    /// Clients that it moved; `null`: the algorithm keeps no client at a backend.
    pub keys: Option<KeyFigures>,
}

/// Clients that an event moved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KeyFigures {
    /// Clients that had come before it.
    pub seen: u64,
    /// Those of them that have another backend after it than just before.
    pub moved: u64,
    /// The part of them that this is.
    pub share: f64,
}

impl KeyFigures {
    pub(super) fn new(seen: u64, moved: u64) -> Self {
        Self { seen, moved, share: rounded(if seen == 0 { 0.0 } else { moved as f64 / seen as f64 }) }
    }
}

/// Six digits behind the point.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

impl Report {
    /// Runs the scenario under each of the algorithms.
    pub fn new(scenario: &Scenario, algorithms: &[Algorithm]) -> Self {
        Self {
            scenario: Facts::new(scenario),
            algorithms: algorithms.iter().map(|&algorithm| super::world::run(scenario, algorithm)).collect(),
        }
    }

    /// As JSON, with a line break at the end.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }
}

impl Facts {
    fn new(scenario: &Scenario) -> Self {
        let (connections, duration) = match scenario.until {
            Until::Connections(number) => (Some(number), None),
            Until::Time(time) => (None, Some(rounded(time.as_secs_f64()))),
        };
        let backend = |backend: &Backend| BackendFacts {
            name: Arc::clone(&backend.name),
            weight: backend.weight,
            servers: backend.servers.to_string(),
            service: backend.service.to_string(),
        };
        Self {
            rate: rounded(scenario.rate),
            arrivals: scenario.arrivals.to_string(),
            clients: scenario.clients.to_string(),
            connections,
            duration_s: duration,
            seed: scenario.seed,
            backends: scenario.backends.iter().map(backend).collect(),
        }
    }
}
