//! The figures, as `simulate --json` prints them.
//!
//! Field names are a stable interface: fields may be added, but none is removed or changes its meaning. Times have the
//! unit of their name's suffix, shares are parts of 1, and numbers are rounded to six decimals. Equal plans give equal
//! bytes.

use std::sync::Arc;

use serde::Serialize;

use super::plan::Until;
use super::scenario::{Scenario, ScenarioBackend};
use crate::config::Algorithm;

/// What was simulated, and the result for each algorithm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SimulationReport {
    /// What was simulated.
    pub scenario: ScenarioFacts,
    /// One entry per algorithm, in the order of the command line. All had the same traffic.
    pub algorithms: Vec<Figures>,
}

/// What was simulated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScenarioFacts {
    /// Connections a second.
    pub rate: f64,
    /// The arrival process: `steady`, `poisson` or `bursts:NUMBER`.
    pub arrivals: String,
    /// The clients: `NUMBER` or `NUMBER:zipf:EXPONENT`.
    pub clients: String,
    /// The number of connections, if it was given; otherwise `duration_s` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// How long connections arrived, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// The seed of all randomness.
    pub seed: u64,
    /// All backends: the initial ones, then those that joined.
    pub backends: Vec<BackendParameters>,
}

/// The parameters of a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendParameters {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight when it joined.
    pub weight: u32,
    /// The connections that it serves at once: a number or `unlimited`.
    pub servers: String,
    /// Its service time: `fixed:TIME`, `exp:TIME` or `pareto:TIME:ALPHA`.
    pub service: String,
}

/// The result for one algorithm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Its name, as in a configuration.
    pub algorithm: &'static str,
    /// All connections: `served`, `cut` and `refused` together.
    pub connections: u64,
    /// Connections that were served to the end.
    pub served: u64,
    /// Connections that were closed, in the queue or in service, because their backend went down.
    pub cut: u64,
    /// Connections that arrived while no backend was eligible.
    pub refused: u64,
    /// How uneven it was.
    pub imbalance: Imbalance,
    /// Each backend, as in the scenario.
    pub backends: Vec<BackendFigures>,
    /// Of served connections, from arrival until a server was free, in milliseconds; `null`: there were none.
    pub waiting_ms: Option<Spread>,
    /// Of served connections, from arrival to the end, in milliseconds; `null`: there were none.
    pub response_ms: Option<Spread>,
    /// Each event, in order.
    pub events: Vec<EventFigures>,
}

/// How uneven it was. A backend's load is its open connections (queued and in service) per unit of weight; the mean
/// load is that of all eligible backends together. `null`: no backend had a connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Imbalance {
    /// The load of the busiest backend divided by the mean load, both averaged while connections arrived: 1 is perfect.
    pub average: Option<f64>,
    /// The highest load of any backend, divided by the same mean.
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
    /// Its part of all connections that arrived.
    pub share: f64,
    /// The part expected from its weight, of the connections that arrived while it was eligible.
    pub promised: f64,
    /// The most connections open at once, queued and in service.
    pub most: u32,
    /// The part of its servers' time that was busy while connections arrived; `null`: they are unlimited, or it was
    /// never eligible.
    pub utilization: Option<f64>,
}

/// A distribution of durations.
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
    /// Seconds since the beginning.
    pub at_s: f64,
    /// The event as the user wrote it.
    pub event: String,
    /// Connections that it closed.
    pub cut: u64,
    /// The least part of all clients that must move if shares follow the weights before and after.
    pub ideal: f64,
    /// Clients that it moved; `null`: the algorithm does not hash clients.
    pub keys: Option<KeyFigures>,
}

/// Clients that an event moved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KeyFigures {
    /// Clients with connections before it.
    pub seen: u64,
    /// Those that have another backend after it than before.
    pub moved: u64,
    /// `moved` / `seen`.
    pub share: f64,
}

impl KeyFigures {
    pub(super) fn new(seen: u64, moved: u64) -> Self {
        Self { seen, moved, share: rounded(if seen == 0 { 0.0 } else { moved as f64 / seen as f64 }) }
    }
}

/// Rounded to six decimals.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

impl SimulationReport {
    /// Runs the scenario under each of the algorithms.
    pub fn new(scenario: &Scenario, algorithms: &[Algorithm]) -> Self {
        Self {
            scenario: ScenarioFacts::new(scenario),
            algorithms: algorithms
                .iter()
                .map(|&algorithm| super::simulation::run(scenario, algorithm))
                .collect(),
        }
    }

    /// As JSON, with a line break at the end.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }
}

impl ScenarioFacts {
    fn new(scenario: &Scenario) -> Self {
        let (connections, duration) = match scenario.until {
            Until::Connections(number) => (Some(number), None),
            Until::Time(time) => (None, Some(rounded(time.as_secs_f64()))),
        };
        let backend = |backend: &ScenarioBackend| BackendParameters {
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
