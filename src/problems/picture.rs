//! The process at one moment, as far as problems are derived from it. It is plain data, so that the rules are tested
//! with hand-made pictures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::growth::Counter;
use crate::domain::{BackendState, Cause, CloseReason, Plane, ServingTier, SocketAddress};
use crate::overview::Overview;
use crate::pool::{Entry, LocalZone, Pool, SlowBackend, SourceStatus, slow_backends};
use crate::telemetry::log;

/// The process at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// When it was taken.
    pub at: Instant,
    /// When it was taken, by the clock.
    pub clock: SystemTime,
    /// The pools, by name.
    pub pools: BTreeMap<Arc<str>, PoolPicture>,
    /// The listeners.
    pub listeners: Vec<ListenerPicture>,
    /// Open connections of the process, and their limit.
    pub connections: [u64; 2],
    /// The logs that cannot be written, with the errors.
    pub log_failures: Vec<(String, String)>,
    /// Why the state directory cannot be written.
    pub state_failure: Option<String>,
    /// Since when and why the configuration in the file is not the one in effect.
    pub reload_rejected: Option<(SystemTime, Cause)>,
    /// The counters.
    pub counters: BTreeMap<Counter, u64>,
}

/// A pool at one moment.
#[derive(Clone, Debug)]
pub(crate) struct PoolPicture {
    /// Whether a listener uses it.
    pub used: bool,
    /// Whether every source has answered and every backend was checked at least once.
    pub settled: bool,
    /// Eligible backends, with those of other zones that stand by.
    pub eligible: usize,
    /// The tier that serves.
    pub tier: ServingTier,
    /// The backends of the zone that the pool prefers, if it prefers one.
    pub local_zone: Option<LocalZone>,
    /// Its backends, without those that have left.
    pub backends: Vec<BackendPicture>,
    /// What its sources report.
    pub sources: Vec<SourceStatus>,
    /// Clients that wait in the queue.
    pub queue: usize,
    /// How many may wait.
    pub queue_room: usize,
    /// The addresses that its connections come from; 0: they come from the clients' addresses.
    pub source_addresses: usize,
    /// Why the engine of its replicas does not answer.
    pub replicas_trouble: Option<String>,
}

/// A backend at one moment.
#[derive(Clone, Debug)]
pub(crate) struct BackendPicture {
    /// Its name.
    pub name: Arc<str>,
    /// The address that connections go to; `None`: a Unix socket.
    pub address: Option<SocketAddr>,
    /// Its state.
    pub state: BackendState,
    /// When it entered this state.
    pub since: Instant,
    /// Why it is in this state; empty if it is up.
    pub cause: Cause,
    /// Its weight.
    pub weight: u32,
    /// Connections that are open or being opened.
    pub open: u64,
    /// Why one of its checks has no result.
    pub local_check_error: Option<Cause>,
    /// How much later than the others it answers, if that is out of line.
    pub slow: Option<SlowBackend>,
}

/// A listener at one moment.
#[derive(Clone, Debug)]
pub(crate) struct ListenerPicture {
    /// Its name.
    pub name: Arc<str>,
    /// Its bound TCP addresses.
    pub addresses: Vec<SocketAddr>,
    /// Open connections.
    pub open: u64,
    /// Their limit.
    pub limit: Option<u64>,
    /// Why the kernel does not forward them, although it is configured to.
    pub kernel_obstacle: Option<Arc<str>>,
    /// Whether the kernel forwards them, and a pool of theirs has no limit of how long they may be idle.
    pub forwarded_without_idle_timeout: bool,
}

impl Picture {
    /// The process now.
    pub(super) fn of(overview: &Overview) -> Self {
        let mut counters = BTreeMap::new();
        let listeners = overview.listeners.load();
        let mut used = BTreeSet::new();
        for (listener, _) in listeners.iter() {
            used.extend(listener.settings.load().routing.pools().iter().map(|pool| Arc::clone(&pool.name)));
            counters.insert(Counter::Accepted(Arc::clone(&listener.name)), listener.accepted());
            for (reason, n) in listener.failures_without_pool().filter(|(reason, _)| reason.is_failure()) {
                counters.insert(Counter::FailedWithoutPool(Arc::clone(&listener.name), reason.index()), n);
            }
        }
        let replicas = overview.replicas.load();
        let mut pools = BTreeMap::new();
        for (name, pool) in &**overview.pools.load() {
            count(pool, &mut counters);
            let trouble = replicas.get(name).and_then(|one| one.status().group.trouble.clone());
            pools.insert(Arc::clone(name), PoolPicture::of(pool, used.contains(name), trouble));
        }
        let failed = |shortage: fn(&crate::telemetry::shortage::Shortages) -> u64| {
            overview.workers.iter().map(|worker| shortage(&worker.shortages)).sum()
        };
        counters.insert(Counter::AcceptsFailed, failed(|shortages| shortages.accepts.total()));
        counters.insert(Counter::ConnectsFailed, failed(|shortages| shortages.connects.total()));
        counters.insert(Counter::LogLinesDropped, log::dropped_lines());
        let listener = |(listener, addresses): &(Arc<crate::proxy::listener::Listener>, Vec<_>)| {
            let settings = listener.settings.load();
            let is_unlimited = |pool: &Arc<Pool>| pool.settings().timeouts.idle.is_none();
            let is_forwarded = settings.plane == Plane::Kernel && listener.kernel_obstacle().is_none();
            ListenerPicture {
                name: Arc::clone(&listener.name),
                addresses: addresses.iter().filter_map(SocketAddress::tcp).collect(),
                open: listener.active() as u64,
                limit: settings.max_connections.map(|limit| limit as u64),
                kernel_obstacle: listener.kernel_obstacle().filter(|_| settings.plane == Plane::Kernel),
                forwarded_without_idle_timeout: is_forwarded
                    && settings.routing.pools().iter().any(|pool| is_unlimited(pool)),
            }
        };
        Self {
            at: Instant::now(),
            clock: SystemTime::now(),
            pools,
            listeners: listeners.iter().map(listener).collect(),
            connections: [overview.limit.open() as u64, overview.limit.connections as u64],
            log_failures: log::failures(),
            state_failure: overview.state.failure(),
            reload_rejected: overview.reloads.rejected().as_deref().cloned(),
            counters,
        }
    }

    /// The time by the clock of an earlier moment.
    pub(super) fn clock_at(&self, then: Instant) -> SystemTime {
        self.clock - self.at.saturating_duration_since(then)
    }
}

/// Adds the counters of a pool. A backend that has never fallen needs none.
fn count(pool: &Pool, counters: &mut BTreeMap<Counter, u64>) {
    let name = || Arc::clone(&pool.name);
    let [routed, _] = pool.counters.routed_and_retried();
    counters.insert(Counter::Served(name()), routed + pool.unserved_total());
    counters.insert(Counter::WithoutAnswer(name()), pool.counters.unanswered());
    counters.insert(Counter::Left(name()), pool.counters.churn().1);
    counters.insert(Counter::ChecksLate(name()), pool.counters.checks_late());
    for (reason, n) in pool.counters.failures_seen().filter(|(_, n): &(CloseReason, u64)| *n > 0) {
        counters.insert(Counter::Failed(name(), reason.index()), n);
    }
    for entry in &pool.status().members {
        let entered = entry.backend.entered();
        let fell = [BackendState::Down, BackendState::Ejected].map(|state| entered[state.index()]);
        let fell: u64 = fell.iter().sum();
        if fell > 0 {
            let backend = &entry.backend;
            counters.insert(Counter::Fell(name(), backend.key, Arc::clone(&backend.name)), fell);
        }
    }
}

impl PoolPicture {
    fn of(pool: &Pool, used: bool, replicas_trouble: Option<String>) -> Self {
        let (snapshot, status, settings) = (pool.snapshot(), pool.status(), pool.settings());
        let mut backends: Vec<_> = status.members.iter().map(BackendPicture::of).collect();
        for (index, slow) in slow_backends(&status.members, &settings) {
            backends[index].slow = Some(slow);
        }
        let mut leaving = status.members.iter().map(|entry| entry.leaving);
        backends.retain(|_| leaving.next() == Some(false));
        Self {
            used,
            settled: pool.settled(),
            eligible: snapshot.len() + snapshot.other_zones().map_or(0, |others| others.len()),
            tier: snapshot.serving_tier(),
            local_zone: snapshot.local_zone.clone(),
            backends,
            sources: status.sources.clone(),
            queue: pool.queue.len(),
            queue_room: snapshot.queue_room(settings.limits.queue),
            source_addresses: match settings.connect.transparent {
                true => 0,
                false => settings.connect.source.len().max(1),
            },
            replicas_trouble,
        }
    }
}

impl BackendPicture {
    fn of(entry: &Entry) -> Self {
        let backend = &entry.backend;
        Self {
            name: Arc::clone(&backend.name),
            address: backend.address.tcp(),
            state: entry.state,
            since: entry.since,
            cause: match entry.state {
                BackendState::Up => Cause::default(),
                // So that backends with the same cause are listed together.
                _ => entry.reason.without_address().text(),
            },
            weight: entry.weight,
            open: backend.load.open().into(),
            local_check_error: backend.local_check_error(),
            slow: None, // needs the other backends
        }
    }
}
