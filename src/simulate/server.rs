//! A backend at work: some servers, and one line before them, first come first served.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::plan::Servers;
use crate::balance::{Lease, Load};

/// One backend of the world.
#[derive(Debug)]
pub(super) struct Server {
    /// What the algorithms see of it.
    pub(super) load: Arc<Load>,
    /// Whether it works at all.
    pub(super) running: bool,
    /// Whether it belongs to the pool.
    pub(super) member: bool,
    pub(super) weight: u32,
    servers: Servers,
    /// How often it failed: what was to be finished by an earlier life never is.
    life: u32,
    line: VecDeque<Visit>,
    /// Each of those that are served. They are all alike: any one stands for who is done.
    served: Vec<Lease>,
    work: Work,
}

/// A connection at a backend.
#[derive(Debug)]
struct Visit {
    arrived: Duration,
    takes: Duration,
    lease: Lease,
}

/// A connection that is being served, until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Served {
    pub(super) done: Duration,
    pub(super) began: Duration,
    pub(super) arrived: Duration,
    pub(super) life: u32,
}

/// How much of the time its servers were busy, in seconds of one server.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    done: f64,
    possible: f64,
    since: Duration,
}

impl Server {
    pub(super) fn new(weight: u32, servers: Servers, member: bool) -> Self {
        Self {
            load: Arc::default(),
            running: true,
            member,
            weight,
            servers,
            life: 0,
            line: VecDeque::new(),
            served: Vec::new(),
            work: Work::default(),
        }
    }

    /// Whether it can be chosen.
    pub(super) fn eligible(&self) -> bool {
        self.member && self.running && self.weight > 0
    }

    /// Connections for each unit of its weight.
    pub(super) fn relative_load(&self) -> f64 {
        f64::from(self.load.open()) / f64::from(self.weight.max(1))
    }

    /// A connection comes. `Some`: it is served at once.
    pub(super) fn enter(&mut self, now: Duration, takes: Duration) -> Option<Served> {
        self.account(now);
        self.line.push_back(Visit { arrived: now, takes, lease: self.load.lease() });
        self.serve(now)
    }

    /// A connection is done and leaves. `Some`: it makes room for this one.
    pub(super) fn leave(&mut self, now: Duration) -> Option<Served> {
        self.account(now);
        self.served.pop();
        self.serve(now)
    }

    /// It fails; returns how many connections that cuts off.
    pub(super) fn fail(&mut self, now: Duration) -> u64 {
        self.account(now);
        let cut = self.line.len() + self.served.len();
        self.line.clear();
        self.served.clear();
        self.life += 1;
        self.running = false;
        cut as u64
    }

    /// Whether this service was not cut short.
    pub(super) fn still(&self, served: &Served) -> bool {
        served.life == self.life
    }

    /// The part of its servers that was busy while it was a running member, up to `now`; `None`: they are without
    /// number, or it never was.
    pub(super) fn utilization(&mut self, now: Duration) -> Option<f64> {
        self.account(now);
        (self.work.possible > 0.0).then(|| self.work.done / self.work.possible)
    }

    /// Must be called before anything changes.
    pub(super) fn account(&mut self, now: Duration) {
        let time = now.saturating_sub(self.work.since).as_secs_f64();
        self.work.since = now;
        if let (true, true, Servers::Number(servers)) = (self.member, self.running, self.servers) {
            self.work.done += time * self.served.len() as f64;
            self.work.possible += time * f64::from(servers);
        }
    }

    fn serve(&mut self, now: Duration) -> Option<Served> {
        let free = match self.servers {
            Servers::Number(servers) => self.served.len() < servers as usize,
            Servers::Unlimited => true,
        };
        let Visit { arrived, takes, lease } = free.then(|| self.line.pop_front())??;
        self.served.push(lease);
        Some(Served { done: now + takes, began: now, arrived, life: self.life })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn server(servers: u32) -> Server {
        Server::new(1, Servers::Number(servers), true)
    }

    #[test]
    fn who_finds_all_servers_busy_waits_until_one_is_done() {
        let mut server = server(2);
        assert!(server.enter(at(0), at(5)).is_some());
        assert!(server.enter(at(1), at(5)).is_some());
        assert_eq!((server.enter(at(2), at(1)), server.load.open()), (None, 3));
        let next = server.leave(at(5)).unwrap();
        assert_eq!((next.arrived, next.began, next.done), (at(2), at(5), at(6)));
        assert_eq!(server.leave(at(6)), None);
        assert_eq!(server.leave(at(6)), None);
        assert_eq!(server.load.open(), 0);
    }

    #[test]
    fn a_failure_cuts_off_those_served_and_those_in_line() {
        let mut server = server(1);
        let before = server.enter(at(0), at(5)).unwrap();
        server.enter(at(1), at(5));
        assert_eq!(server.fail(at(2)), 2);
        assert_eq!((server.load.open(), server.still(&before), server.eligible()), (0, false, false));
    }

    #[test]
    fn utilization_counts_the_time_in_which_it_could_work() {
        let mut server = server(2);
        server.enter(at(0), at(5));
        server.leave(at(5));
        server.fail(at(10));
        assert_eq!(server.utilization(at(90)), Some(0.25)); // 5 of 20
        assert_eq!(Server::new(1, Servers::Unlimited, true).utilization(at(90)), None);
    }
}
