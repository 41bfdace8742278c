//! The discrete-event simulation: connections arrive, are sent to a backend, wait, are served and depart; events change
//! the backends.
//!
//! [`Picker`] chooses; as in a pool, it is rebuilt whenever the eligible backends change.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{InService, SimulatedBackend};
use super::measure::{DurationSamples, LoadSampler};
use super::moved_clients::{self, MovedClients};
use super::plan::{BackendChange, Until};
use super::report::{BackendFigures, EventFigures, Figures, rounded};
use super::scenario::{Scenario, ScenarioBackend, ScenarioEvent};
use super::traffic::{self, Arrival, Traffic};
use crate::balance::{Candidate, PickArgs, Picker};
use crate::config::Algorithm;

/// The state of a run with one algorithm.
#[derive(Debug)]
pub(super) struct Simulation<'s> {
    scenario: &'s Scenario,
    algorithm: Algorithm,
    /// As in the scenario.
    backends: Vec<SimulatedBackend>,
    /// The eligible backends with their configured weights.
    eligible: Vec<Candidate>,
    picker: Picker,
    departures: BinaryHeap<Reverse<Departure>>,
    /// Departures scheduled so far.
    scheduled: u64,
    /// The clients with connections so far.
    seen: Vec<bool>,
    counts: Vec<BackendCounts>,
    /// Connections since the last change of the backends, which `promised` does not contain yet.
    unpromised: u64,
    served: u64,
    cut: u64,
    refused: u64,
    waiting: DurationSamples,
    response: DurationSamples,
    balance: LoadSampler,
    events: Vec<EventFigures>,
}

/// The end of a connection. Ordered by time, then by the order of scheduling.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Departure {
    at: Duration,
    order: u64,
    backend: usize,
    served: InService,
}

/// The counters of one backend.
#[derive(Clone, Debug, Default)]
struct BackendCounts {
    connections: u64,
    /// The connections that its weight promised.
    promised: f64,
    most: u32,
    utilization: Option<f64>,
}

/// The next step; at the same time, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NextStep {
    Departure,
    PlannedEvent,
    Arrival,
}

/// Runs `scenario` with one algorithm until the last connection is served.
pub(super) fn run(scenario: &Scenario, algorithm: Algorithm) -> Figures {
    let mut simulation = Simulation::new(scenario, algorithm);
    let mut traffic = Traffic::new(scenario).peekable();
    let mut events = scenario.events.iter().peekable();
    let mut arriving = true;
    loop {
        let departure =
            simulation.departures.peek().map(|Reverse(departure)| (departure.at, NextStep::Departure));
        let event = events.peek().map(|event| (event.at, NextStep::PlannedEvent));
        let arrival = traffic.peek().map(|arrival| (arrival.at, NextStep::Arrival));
        let Some((now, next)) = [departure, event, arrival].into_iter().flatten().min() else { break };
        if arriving {
            simulation.balance.until(now, &simulation.backends);
        }
        match next {
            NextStep::Departure => simulation.depart(),
            NextStep::PlannedEvent => events.next().into_iter().for_each(|event| simulation.apply(event)),
            NextStep::Arrival => traffic.next().into_iter().for_each(|arrival| simulation.arrive(arrival)),
        }
        if arriving && traffic.peek().is_none() {
            // The balance is measured only while connections arrive.
            arriving = false;
            simulation.note_utilization(now);
        }
    }
    simulation.figures()
}

impl<'s> Simulation<'s> {
    fn new(scenario: &'s Scenario, algorithm: Algorithm) -> Self {
        let backend = |backend: &ScenarioBackend| {
            SimulatedBackend::new(backend.weight, backend.servers, backend.initial)
        };
        let backends: Vec<_> = scenario.backends.iter().map(backend).collect();
        let length = match scenario.until {
            Until::Time(time) => time,
            Until::Connections(number) => Duration::from_secs_f64(number as f64 / scenario.rate),
        };
        let eligible = candidates(scenario, &backends);
        Self {
            picker: Picker::new(algorithm, &scenario.hash, weighted_for(algorithm, &eligible), None),
            eligible,
            scenario,
            algorithm,
            counts: vec![BackendCounts::default(); backends.len()],
            backends,
            departures: BinaryHeap::new(),
            scheduled: 0,
            seen: vec![false; scenario.clients.number as usize],
            unpromised: 0,
            served: 0,
            cut: 0,
            refused: 0,
            waiting: DurationSamples::default(),
            response: DurationSamples::default(),
            balance: LoadSampler::over(length),
            events: Vec::new(),
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        self.seen[arrival.client as usize] = true;
        self.unpromised += 1;
        let args = PickArgs {
            client: traffic::client_hash(arrival.client, arrival.port, self.scenario.hash.key),
            random: arrival.random,
            now: arrival.at,
            ..PickArgs::default()
        };
        let Some(index) = self.picker.choose(&args) else {
            self.refused += 1;
            return;
        };
        let backend = self.picker.candidates()[index].key as usize;
        let takes = traffic::service_time(self.scenario.backends[backend].service, arrival.demand);
        let begun = self.backends[backend].arrive(arrival.at, takes);
        self.backends[backend].load.connected(Duration::ZERO, arrival.at);
        let counts = &mut self.counts[backend];
        counts.connections += 1;
        counts.most = counts.most.max(self.backends[backend].load.open());
        self.balance.peak(self.backends[backend].relative_load());
        self.schedule(backend, begun);
    }

    fn depart(&mut self) {
        let Some(Reverse(Departure { at, backend, served, .. })) = self.departures.pop() else { return };
        if !self.backends[backend].is_current(&served) {
            return;
        }
        self.served += 1;
        self.waiting.add(served.began - served.arrived);
        self.response.add(at - served.arrived);
        self.backends[backend].load.answered(at - served.arrived, at);
        let begun = self.backends[backend].depart(at);
        self.schedule(backend, begun);
    }

    fn schedule(&mut self, backend: usize, begun: Option<InService>) {
        if let Some(served) = begun {
            self.departures.push(Reverse(Departure {
                at: served.done,
                order: self.scheduled,
                backend,
                served,
            }));
            self.scheduled += 1;
        }
    }

    fn apply(&mut self, event: &ScenarioEvent) {
        self.add_promised();
        let mut cut = 0;
        for change in &event.changes {
            let backend = &mut self.backends[*change.backend()];
            backend.add_busy_time(event.at);
            match *change {
                BackendChange::Down(_) => cut += backend.fail(event.at),
                BackendChange::Up(_) => backend.running = true,
                BackendChange::Leave(_) => backend.member = false,
                BackendChange::Join(..) => backend.member = true,
                BackendChange::Weight(_, weight) => backend.weight = weight,
            }
        }
        self.cut += cut;
        let after = candidates(self.scenario, &self.backends);
        let keys = self.algorithm.hashes().then(|| {
            let clients = self.seen.iter().zip(0..).filter_map(|(&seen, client)| seen.then_some(client));
            moved_clients::moved(self.algorithm, &self.scenario.hash, &self.eligible, &after, clients)
        });
        self.events.push(EventFigures {
            at_s: rounded(event.at.as_secs_f64()),
            event: event.label.clone(),
            cut,
            ideal: rounded(moved_clients::ideal(&self.eligible, &after)),
            keys: keys.map(|MovedClients { seen, moved }| super::report::KeyFigures::new(seen, moved)),
        });
        let candidates = weighted_for(self.algorithm, &after);
        self.picker = Picker::new(self.algorithm, &self.scenario.hash, candidates, Some(&self.picker));
        self.eligible = after;
    }

    /// Distributes the connections since the last change by weight.
    fn add_promised(&mut self) {
        let all: f64 = self.eligible.iter().map(|candidate| f64::from(candidate.weight)).sum();
        for candidate in &self.eligible {
            let share = f64::from(candidate.weight) / all;
            self.counts[candidate.key as usize].promised += share * self.unpromised as f64;
        }
        self.unpromised = 0;
    }

    fn note_utilization(&mut self, now: Duration) {
        for (counts, backend) in self.counts.iter_mut().zip(&mut self.backends) {
            counts.utilization = backend.utilization(now);
        }
    }

    fn figures(mut self) -> Figures {
        self.add_promised();
        debug_assert!(self.backends.iter().all(|backend| backend.load.open() == 0));
        let came = self.served + self.cut + self.refused;
        let part = |connections: f64| rounded(if came == 0 { 0.0 } else { connections / came as f64 });
        let backend = |(backend, counts): (&ScenarioBackend, &BackendCounts)| BackendFigures {
            name: Arc::clone(&backend.name),
            connections: counts.connections,
            share: part(counts.connections as f64),
            promised: part(counts.promised),
            most: counts.most,
            utilization: counts.utilization.map(rounded),
        };
        let shares = self.counts.iter().map(|counts| (counts.connections as f64, counts.promised));
        Figures {
            algorithm: self.algorithm.name(),
            connections: came,
            served: self.served,
            cut: self.cut,
            refused: self.refused,
            imbalance: self.balance.figures(shares),
            backends: self.scenario.backends.iter().zip(&self.counts).map(backend).collect(),
            waiting_ms: self.waiting.figures(),
            response_ms: self.response.figures(),
            events: self.events,
        }
    }
}

/// The eligible backends. The key of each is its index in the scenario.
fn candidates(scenario: &Scenario, backends: &[SimulatedBackend]) -> Vec<Candidate> {
    let eligible = backends.iter().enumerate().filter(|(_, backend)| backend.eligible());
    let candidate = |(key, backend): (usize, &SimulatedBackend)| Candidate {
        key: key as u64,
        name: Arc::clone(&scenario.backends[key].name),
        weight: backend.weight,
        load: Arc::clone(&backend.load),
    };
    eligible.map(candidate).collect()
}

/// With the weights that the algorithm uses, as in a pool.
fn weighted_for(algorithm: Algorithm, candidates: &[Candidate]) -> Vec<Candidate> {
    let weight = |candidate: &Candidate| if algorithm.uses_weights() { candidate.weight } else { 1 };
    candidates.iter().map(|candidate| Candidate { weight: weight(candidate), ..candidate.clone() }).collect()
}
