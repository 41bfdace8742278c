//! `/api/v1/status`: the whole program at a glance, as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::overview::{Overview, Phase};
use crate::pool::{BackendState, Entry, Pool};
use crate::proxy::listener::Listener;
use crate::replicas::{Board, Replicas};
use crate::telemetry::CloseReason;
use crate::telemetry::decisions::unix_seconds;
use crate::telemetry::flow::Reading;
use crate::telemetry::millis;
use crate::telemetry::text::Cause;

/// The whole program at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The running version.
    pub version: &'static str,
    /// What the process is doing: `starting`, `serving`, `draining`.
    pub phase: &'static str,
    /// Whether traffic should be sent here.
    pub ready: bool,
    /// When this was so, in seconds since the epoch.
    #[serde(serialize_with = "unix_seconds")]
    pub now: SystemTime,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Connections that the process relays at once.
    pub max_connections: usize,
    /// Connections that are open.
    pub open: usize,
    /// Threads of the data plane.
    pub workers: usize,
    /// The listeners.
    pub listeners: Vec<ListenerStatus>,
    /// The pools.
    pub pools: Vec<PoolStatus>,
}

/// A listener at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its addresses, with the ports that they have in fact.
    pub addresses: Vec<String>,
    /// Where its connections go.
    pub pool: Arc<str>,
    /// Connections that are open.
    pub active: usize,
    /// Connections that came by it to the pools that are there, those that reached no backend included.
    pub connections: u64,
    /// Bytes from their clients.
    pub bytes_in: u64,
    /// Bytes to their clients.
    pub bytes_out: u64,
}

/// A pool at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: Arc<str>,
    /// How a backend is chosen.
    pub algorithm: &'static str,
    /// Whether it has looked for its backends and checked them, once at least.
    pub settled: bool,
    /// Backends that can be chosen.
    pub up: usize,
    /// Whether too few are up, so that all are used.
    pub panic: bool,
    /// The tier that is used.
    pub tier: u16,
    /// The tiers that there are, the lowest first.
    pub tiers: Vec<TierStatus>,
    /// Connections that are open, as far as they were routed.
    pub active: u64,
    /// Connections that its backends were sent, those that have left included.
    pub connections: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Clients that wait for a place at a backend.
    pub queue: usize,
    /// Failed attempts that no client learned of.
    pub failures_masked: u64,
    /// Failures that clients met.
    pub failures_seen: u64,
    /// Connections that reached no backend.
    pub unserved: u64,
    /// The backends.
    pub backends: Vec<BackendStatus>,
    /// Those that Pointsman itself starts; null: there are none.
    pub replicas: Option<Arc<Board>>,
    /// Whether other algorithms are asked too (`/api/v1/pools/{pool}/shadow`).
    pub shadow: bool,
}

/// The backends of a pool that stand in for each other at once.
#[derive(Clone, Debug, Serialize)]
pub struct TierStatus {
    /// Its number: those of a higher one are backups for those of a lower one.
    pub tier: u16,
    /// How many backends are in it.
    pub backends: usize,
    /// How many of them are up.
    pub up: usize,
}

/// A backend at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is connected to.
    pub address: SocketAddr,
    /// Its other addresses.
    pub also: Vec<SocketAddr>,
    /// Its state.
    pub state: BackendState,
    /// Since when, in seconds since the epoch.
    #[serde(serialize_with = "unix_seconds")]
    pub since: SystemTime,
    /// Why it is in this state.
    pub cause: Cause,
    /// Its share.
    pub weight: u32,
    /// How much of that it gets by now, in percent (`slow_start`).
    pub ramp: u32,
    /// Its tier: those of a higher number are backups for those of a lower one.
    pub tier: u16,
    /// Connections that it may carry at once; null: as many as there come.
    pub limit: Option<NonZeroU32>,
    /// Connections that are open or opening.
    pub active: u32,
    /// Connections that it was sent.
    pub connections: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// How long connecting to it takes lately, in milliseconds; null: it was not connected to.
    pub connect_ms: Option<f64>,
    /// How long it takes lately from the routing decision to its first byte, in milliseconds; null: none has come.
    pub first_byte_ms: Option<f64>,
    /// Attempts to connect to it that failed.
    pub connect_failures: u64,
    /// The sources that see it, such as `dns:backend:5000`; none: it is about to leave, or leaving.
    pub sources: Box<[Arc<str>]>,
    /// Its last check, of whatever kind.
    pub last_check: Option<LastCheck>,
    /// The last check of each kind, in the order of the configuration.
    pub checks: Vec<LastCheck>,
}

/// The last check of a backend.
#[derive(Clone, Debug, Serialize)]
pub struct LastCheck {
    /// What was checked: `tcp`, `http`, `exchange`, `postgres`, `redis`.
    pub kind: &'static str,
    /// When it ended, in seconds since the epoch.
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    /// Whether it passed.
    pub passed: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

impl Status {
    /// The program as it is now.
    pub fn of(overview: &Overview) -> Self {
        let pools = overview.pools.load();
        let mut ways: BTreeMap<Arc<str>, Reading> = BTreeMap::new();
        for pool in pools.values() {
            for (listener, reading) in pool.ways().into_iter().chain(pool.unserved.read()) {
                *ways.entry(listener).or_default() += reading;
            }
        }
        let listeners = overview.listeners.load();
        let listener = |(listener, addresses): &(Arc<Listener>, Vec<_>)| {
            let total = ways.get(&listener.name).copied().unwrap_or_default();
            ListenerStatus {
                name: Arc::clone(&listener.name),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                pool: Arc::clone(&listener.settings.load().pool.name),
                active: listener.active(),
                connections: total.total(),
                bytes_in: total.bytes_in,
                bytes_out: total.bytes_out,
            }
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            phase: match overview.phase() {
                Phase::Starting => "starting",
                Phase::Serving => "serving",
                Phase::Draining => "draining",
            },
            ready: overview.ready(),
            now: SystemTime::now(),
            uptime_seconds: (overview.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            max_connections: overview.limit.connections,
            open: overview.limit.open(),
            workers: overview.workers.len(),
            listeners: listeners.iter().map(listener).collect(),
            pools: pools.values().map(|pool| PoolStatus::of(pool, overview)).collect(),
        }
    }
}

impl PoolStatus {
    /// A pool as it is now.
    pub fn of(pool: &Pool, overview: &Overview) -> Self {
        let (snapshot, status) = (pool.snapshot(), pool.status());
        let unserved: u64 = pool.unserved.read().iter().map(|(_, reading)| reading.total()).sum();
        let seen: u64 = pool.counters.failures_seen().map(|(_, n): (CloseReason, u64)| n).sum();
        let mut total = Reading::default();
        pool.ways().into_values().for_each(|reading| total += reading);
        Self {
            name: Arc::clone(&pool.name),
            algorithm: snapshot.algorithm.name(),
            settled: pool.settled(),
            up: snapshot.len(),
            panic: snapshot.panic,
            tier: snapshot.tier_used(),
            tiers: tiers(&status.members),
            active: total.active,
            connections: total.total(),
            bytes_in: total.bytes_in,
            bytes_out: total.bytes_out,
            queue: pool.queue.len(),
            failures_masked: pool.counters.failures_masked(),
            failures_seen: seen,
            unserved,
            backends: status.members.iter().map(BackendStatus::of).collect(),
            replicas: overview.replicas.load().get(&pool.name).map(Replicas::board),
            shadow: pool.shadowed_since().is_some(),
        }
    }
}

fn tiers(members: &[Entry]) -> Vec<TierStatus> {
    let mut tiers: BTreeMap<u16, TierStatus> = BTreeMap::new();
    for entry in members.iter().filter(|entry| !entry.leaving) {
        let tier = tiers.entry(entry.tier).or_insert(TierStatus { tier: entry.tier, backends: 0, up: 0 });
        tier.backends += 1;
        tier.up += usize::from(entry.state == BackendState::Up);
    }
    tiers.into_values().collect()
}

impl BackendStatus {
    /// A backend as it is now.
    pub fn of(entry: &Entry) -> Self {
        let backend = &entry.backend;
        let mut total = Reading::default();
        for (_, reading) in backend.flows.read() {
            total += reading;
        }
        let last = |(at, checked): (SystemTime, crate::health::Checked)| LastCheck {
            kind: checked.kind,
            at,
            passed: checked.result.is_ok(),
            error: checked.result.err().map(|error| error.to_string()),
            took_ms: millis(checked.took),
        };
        let checks: Vec<_> = backend.checks().last.into_values().map(last).collect();
        Self {
            name: Arc::clone(&backend.name),
            address: backend.address,
            also: backend.also.clone(),
            state: entry.state,
            since: SystemTime::now() - entry.since.elapsed(),
            cause: entry.cause.clone(),
            weight: entry.weight,
            ramp: entry.ramp,
            tier: entry.tier,
            limit: entry.connections,
            active: backend.load.open(),
            connections: total.total(),
            bytes_in: total.bytes_in,
            bytes_out: total.bytes_out,
            connect_ms: backend.pace.connect.get().map(millis),
            first_byte_ms: backend.pace.first_byte.get().map(millis),
            sources: entry.sources.clone(),
            connect_failures: backend.connect_failures().map(|(_, n)| n).sum(),
            last_check: checks.iter().max_by_key(|check| check.at).cloned(),
            checks,
        }
    }
}
