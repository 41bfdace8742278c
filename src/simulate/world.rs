//! Virtual time: connections come, are sent somewhere, wait, are served and go; and now and then something happens.
//!
//! One moment after the other, never waiting. The choice is that of [`Picker`], rebuilt from the backends that can be
//! chosen whenever they change, as a pool does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::homes::{self, Keys};
use super::measure::{Balance, Times};
use super::plan::{Change, Until};
use super::report::{BackendFigures, EventFigures, Figures, rounded};
use super::scenario::{Backend, Happening, Scenario};
use super::server::{Served, Server};
use super::traffic::{self, Arrival, Traffic};
use crate::balance::{Candidate, PickArgs, Picker};
use crate::config::Algorithm;

/// The world at one moment, under one algorithm.
#[derive(Debug)]
pub(super) struct World<'s> {
    scenario: &'s Scenario,
    algorithm: Algorithm,
    /// As in the scenario.
    servers: Vec<Server>,
    /// Those that can be chosen, by what is configured.
    here: Vec<Candidate>,
    picker: Picker,
    /// Who is done next; of those of one moment, who began first.
    agenda: BinaryHeap<Reverse<Departure>>,
    /// Services that began.
    began: u64,
    /// The clients that have come.
    seen: Vec<bool>,
    counts: Vec<Counts>,
    /// Connections that came since the backends last changed, and are not in `promised` yet.
    unpromised: u64,
    served: u64,
    cut: u64,
    refused: u64,
    waiting: Times,
    response: Times,
    balance: Balance,
    events: Vec<EventFigures>,
}

/// The end of a service. By time, and then by the order in which they began.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Departure {
    at: Duration,
    order: u64,
    server: usize,
    served: Served,
}

/// What is counted of one backend.
#[derive(Clone, Debug, Default)]
struct Counts {
    connections: u64,
    /// What would have been its share of them.
    promised: f64,
    most: u32,
    utilization: Option<f64>,
}

/// What comes next, of what comes in the same moment from top to bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Departure,
    Event,
    Arrival,
}

/// Runs `scenario` under one algorithm, to its end: until the last connection is served.
pub(super) fn run(scenario: &Scenario, algorithm: Algorithm) -> Figures {
    let mut world = World::new(scenario, algorithm);
    let mut traffic = Traffic::new(scenario).peekable();
    let mut events = scenario.events.iter().peekable();
    let mut arriving = true;
    loop {
        let departure = world.agenda.peek().map(|Reverse(departure)| (departure.at, Next::Departure));
        let event = events.peek().map(|event| (event.at, Next::Event));
        let arrival = traffic.peek().map(|arrival| (arrival.at, Next::Arrival));
        let Some((now, next)) = [departure, event, arrival].into_iter().flatten().min() else { break };
        if arriving {
            world.balance.until(now, &world.servers);
        }
        match next {
            Next::Departure => world.depart(),
            Next::Event => events.next().into_iter().for_each(|event| world.happen(event)),
            Next::Arrival => traffic.next().into_iter().for_each(|arrival| world.arrive(arrival)),
        }
        if arriving && traffic.peek().is_none() {
            // While it empties, the world says nothing about the balance.
            arriving = false;
            world.note_utilization(now);
        }
    }
    world.figures()
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario, algorithm: Algorithm) -> Self {
        let server = |backend: &Backend| Server::new(backend.weight, backend.servers, backend.founder);
        let servers: Vec<_> = scenario.backends.iter().map(server).collect();
        let length = match scenario.until {
            Until::Time(time) => time,
            Until::Connections(number) => Duration::from_secs_f64(number as f64 / scenario.rate),
        };
        let here = candidates(scenario, &servers);
        Self {
            picker: Picker::new(algorithm, &scenario.hash, heeded(algorithm, &here), None),
            here,
            scenario,
            algorithm,
            counts: vec![Counts::default(); servers.len()],
            servers,
            agenda: BinaryHeap::new(),
            began: 0,
            seen: vec![false; scenario.clients.number as usize],
            unpromised: 0,
            served: 0,
            cut: 0,
            refused: 0,
            waiting: Times::default(),
            response: Times::default(),
            balance: Balance::over(length),
            events: Vec::new(),
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        self.seen[arrival.client as usize] = true;
        self.unpromised += 1;
        let ask = PickArgs {
            client: traffic::client_hash(arrival.client, arrival.port, self.scenario.hash.key),
            random: arrival.random,
            now: arrival.at,
            ..PickArgs::default()
        };
        let Some(index) = self.picker.choose(&ask) else {
            self.refused += 1;
            return;
        };
        let server = self.picker.candidates()[index].key as usize;
        let takes = traffic::service_time(self.scenario.backends[server].service, arrival.weight);
        let begun = self.servers[server].enter(arrival.at, takes);
        self.servers[server].load.connected(Duration::ZERO, arrival.at);
        let counts = &mut self.counts[server];
        counts.connections += 1;
        counts.most = counts.most.max(self.servers[server].load.open());
        self.balance.peak(self.servers[server].relative_load());
        self.plan(server, begun);
    }

    fn depart(&mut self) {
        let Some(Reverse(Departure { at, server, served, .. })) = self.agenda.pop() else { return };
        if !self.servers[server].still(&served) {
            return;
        }
        self.served += 1;
        self.waiting.add(served.began - served.arrived);
        self.response.add(at - served.arrived);
        self.servers[server].load.answered(at - served.arrived, at);
        let begun = self.servers[server].leave(at);
        self.plan(server, begun);
    }

    fn plan(&mut self, server: usize, begun: Option<Served>) {
        if let Some(served) = begun {
            self.agenda.push(Reverse(Departure { at: served.done, order: self.began, server, served }));
            self.began += 1;
        }
    }

    fn happen(&mut self, event: &Happening) {
        self.keep_promises();
        let mut cut = 0;
        for change in &event.changes {
            let server = &mut self.servers[*change.backend()];
            server.account(event.at);
            match *change {
                Change::Down(_) => cut += server.fail(event.at),
                Change::Up(_) => server.running = true,
                Change::Leave(_) => server.member = false,
                Change::Join(..) => server.member = true,
                Change::Weight(_, weight) => server.weight = weight,
            }
        }
        self.cut += cut;
        let after = candidates(self.scenario, &self.servers);
        let keys = self.algorithm.hashes().then(|| {
            let clients = self.seen.iter().zip(0..).filter_map(|(&seen, client)| seen.then_some(client));
            homes::moved(self.algorithm, &self.scenario.hash, &self.here, &after, clients)
        });
        self.events.push(EventFigures {
            at_s: rounded(event.at.as_secs_f64()),
            event: event.label.clone(),
            cut,
            ideal: rounded(homes::ideal(&self.here, &after)),
            keys: keys.map(|Keys { seen, moved }| super::report::KeyFigures::new(seen, moved)),
        });
        let candidates = heeded(self.algorithm, &after);
        self.picker = Picker::new(self.algorithm, &self.scenario.hash, candidates, Some(&self.picker));
        self.here = after;
    }

    /// Shares out what came since the last change as the weights say that it should have been.
    fn keep_promises(&mut self) {
        let all: f64 = self.here.iter().map(|candidate| f64::from(candidate.weight)).sum();
        for candidate in &self.here {
            let share = f64::from(candidate.weight) / all;
            self.counts[candidate.key as usize].promised += share * self.unpromised as f64;
        }
        self.unpromised = 0;
    }

    fn note_utilization(&mut self, now: Duration) {
        for (counts, server) in self.counts.iter_mut().zip(&mut self.servers) {
            counts.utilization = server.utilization(now);
        }
    }

    fn figures(mut self) -> Figures {
        self.keep_promises();
        debug_assert!(self.servers.iter().all(|server| server.load.open() == 0));
        let came = self.served + self.cut + self.refused;
        let part = |connections: f64| rounded(if came == 0 { 0.0 } else { connections / came as f64 });
        let backend = |(backend, counts): (&Backend, &Counts)| BackendFigures {
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

/// Those that can be chosen. The key of each is its place in the scenario.
fn candidates(scenario: &Scenario, servers: &[Server]) -> Vec<Candidate> {
    let eligible = servers.iter().enumerate().filter(|(_, server)| server.eligible());
    let candidate = |(key, server): (usize, &Server)| Candidate {
        key: key as u64,
        name: Arc::clone(&scenario.backends[key].name),
        weight: server.weight,
        load: Arc::clone(&server.load),
    };
    eligible.map(candidate).collect()
}

/// As a pool hands them to the algorithm.
fn heeded(algorithm: Algorithm, candidates: &[Candidate]) -> Vec<Candidate> {
    let weight = |candidate: &Candidate| if algorithm.heeds_weights() { candidate.weight } else { 1 };
    candidates.iter().map(|candidate| Candidate { weight: weight(candidate), ..candidate.clone() }).collect()
}
