//! A simulated backend: servers and one first-come, first-served queue before them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::plan::Servers;
use crate::balance::{Lease, Load};

/// A backend during a run.
#[derive(Debug)]
pub(super) struct SimulatedBackend {
    /// The load that the algorithms use.
    pub(super) load: Arc<Load>,
    /// Whether it is up.
    pub(super) running: bool,
    /// Whether it is in the pool.
    pub(super) member: bool,
    pub(super) weight: u32,
    servers: Servers,
    /// How often it failed; departures of an earlier generation are void.
    generation: u32,
    queue: VecDeque<QueuedConnection>,
    /// The leases of the connections in service, which are interchangeable.
    in_service: Vec<Lease>,
    work: BusyTime,
}

/// A connection that waits for a server.
#[derive(Debug)]
struct QueuedConnection {
    arrived: Duration,
    takes: Duration,
    lease: Lease,
}

/// A connection in service, until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InService {
    pub(super) done: Duration,
    pub(super) began: Duration,
    pub(super) arrived: Duration,
    pub(super) generation: u32,
}

/// How long its servers were busy and could have been, in seconds of one server.
#[derive(Clone, Copy, Debug, Default)]
struct BusyTime {
    done: f64,
    possible: f64,
    since: Duration,
}

impl SimulatedBackend {
    pub(super) fn new(weight: u32, servers: Servers, member: bool) -> Self {
        Self {
            load: Arc::default(),
            running: true,
            member,
            weight,
            servers,
            generation: 0,
            queue: VecDeque::new(),
            in_service: Vec::new(),
            work: BusyTime::default(),
        }
    }

    /// Whether it can be chosen.
    pub(super) fn eligible(&self) -> bool {
        self.member && self.running && self.weight > 0
    }

    /// Open connections per unit of weight.
    pub(super) fn relative_load(&self) -> f64 {
        f64::from(self.load.open()) / f64::from(self.weight.max(1))
    }

    /// A connection arrives. `Some`: it is served at once.
    pub(super) fn arrive(&mut self, now: Duration, takes: Duration) -> Option<InService> {
        self.add_busy_time(now);
        self.queue.push_back(QueuedConnection { arrived: now, takes, lease: self.load.lease() });
        self.serve(now)
    }

    /// A connection is done. `Some`: this one is served next.
    pub(super) fn depart(&mut self, now: Duration) -> Option<InService> {
        self.add_busy_time(now);
        self.in_service.pop();
        self.serve(now)
    }

    /// Fails; returns the number of closed connections.
    pub(super) fn fail(&mut self, now: Duration) -> u64 {
        self.add_busy_time(now);
        let cut = self.queue.len() + self.in_service.len();
        self.queue.clear();
        self.in_service.clear();
        self.generation += 1;
        self.running = false;
        cut as u64
    }

    /// Whether no failure has closed this connection.
    pub(super) fn is_current(&self, served: &InService) -> bool {
        served.generation == self.generation
    }

    /// The part of its servers' time that was busy, up to `now`; `None`: they are unlimited, or it was never eligible.
    pub(super) fn utilization(&mut self, now: Duration) -> Option<f64> {
        self.add_busy_time(now);
        (self.work.possible > 0.0).then(|| self.work.done / self.work.possible)
    }

    /// Adds the time since the last call; to be called before any change.
    pub(super) fn add_busy_time(&mut self, now: Duration) {
        let time = now.saturating_sub(self.work.since).as_secs_f64();
        self.work.since = now;
        if let (true, true, Servers::Number(servers)) = (self.member, self.running, self.servers) {
            self.work.done += time * self.in_service.len() as f64;
            self.work.possible += time * f64::from(servers);
        }
    }

    fn serve(&mut self, now: Duration) -> Option<InService> {
        let free = match self.servers {
            Servers::Number(servers) => self.in_service.len() < servers as usize,
            Servers::Unlimited => true,
        };
        let QueuedConnection { arrived, takes, lease } = free.then(|| self.queue.pop_front())??;
        self.in_service.push(lease);
        Some(InService { done: now + takes, began: now, arrived, generation: self.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn backend(servers: u32) -> SimulatedBackend {
        SimulatedBackend::new(1, Servers::Number(servers), true)
    }

    #[test]
    fn a_connection_waits_while_all_servers_are_busy() {
        let mut backend = backend(2);
        assert!(backend.arrive(at(0), at(5)).is_some());
        assert!(backend.arrive(at(1), at(5)).is_some());
        assert_eq!((backend.arrive(at(2), at(1)), backend.load.open()), (None, 3));
        let next = backend.depart(at(5)).unwrap();
        assert_eq!((next.arrived, next.began, next.done), (at(2), at(5), at(6)));
        assert_eq!(backend.depart(at(6)), None);
        assert_eq!(backend.depart(at(6)), None);
        assert_eq!(backend.load.open(), 0);
    }

    #[test]
    fn a_failure_closes_connections_in_service_and_in_the_queue() {
        let mut backend = backend(1);
        let before = backend.arrive(at(0), at(5)).unwrap();
        backend.arrive(at(1), at(5));
        assert_eq!(backend.fail(at(2)), 2);
        assert_eq!((backend.load.open(), backend.is_current(&before), backend.eligible()), (0, false, false));
    }

    #[test]
    fn utilization_counts_only_the_time_it_was_eligible() {
        let mut backend = backend(2);
        backend.arrive(at(0), at(5));
        backend.depart(at(5));
        backend.fail(at(10));
        assert_eq!(backend.utilization(at(90)), Some(0.25)); // 5 of 20
        assert_eq!(SimulatedBackend::new(1, Servers::Unlimited, true).utilization(at(90)), None);
    }
}
