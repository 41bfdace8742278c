//! Builds the API's replies from the state of the running process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use litemap::LiteMap;

use crate::api::{
    BackendInfo, CheckInfo, LatencyInfo, ListenerInfo, PoolInfo, SourceInfo, StatusReply, TierInfo,
    Timestamp, ZoneInfo,
};
use crate::config;
use crate::domain::{BackendState, CloseReason, Plane, Resolution};
use crate::overview::{Overview, Phase};
use crate::pool::{BackendLatency, Entry, Latency, LocalZone, Pool, SourceStatus, slow_backends};
use crate::problems::Problems;
use crate::proxy::listener::Listener;
use crate::telemetry::flow::Reading;
use crate::telemetry::histogram::DurationCounts;
use crate::telemetry::millis;

impl StatusReply {
    /// The present state of the process, and its problems.
    pub(crate) fn of(overview: &Overview, problems: &Problems) -> Self {
        let pools = overview.pools.load();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            phase: match overview.phase() {
                Phase::Starting => "starting",
                Phase::Serving => "serving",
                Phase::Draining => "draining",
            }
            .into(),
            ready: overview.ready(),
            now: Timestamp::now(),
            uptime_seconds: (overview.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            max_connections: overview.limit.connections as u64,
            open: overview.limit.open() as u64,
            // The kernel plane has no runtime of its own.
            workers: overview.workers.iter().filter(|worker| worker.runtime.get().is_some()).count() as u64,
            problems: problems.present(),
            listeners: ListenerInfo::all(overview),
            pools: pools.values().map(|pool| PoolInfo::of(pool, overview)).collect(),
        }
    }
}

impl ListenerInfo {
    /// The present states of all listeners.
    pub(crate) fn all(overview: &Overview) -> Vec<Self> {
        let pools = overview.pools.load();
        let mut by_listener: LiteMap<Arc<str>, Reading> = LiteMap::new();
        for pool in pools.values() {
            for (listener, reading) in pool.by_listener().into_iter().chain(pool.unserved.read()) {
                *by_listener.entry(listener).or_default() += reading;
            }
        }
        let listeners = overview.listeners.load();
        let listener = |(listener, addresses): &(Arc<Listener>, Vec<_>)| {
            let over = listener.clients.over_limits().map(|(_, over)| over);
            let mut total = by_listener.get(&listener.name).copied().unwrap_or_default();
            total += listener.without_pool.read();
            let settings = listener.settings.load();
            let kernel_obstacle = listener.kernel_obstacle();
            let plane = if kernel_obstacle.is_some() { Plane::User } else { settings.plane };
            let pools = settings.routing.pools().into_iter().map(|pool| Arc::clone(&pool.name)).collect();
            Self {
                name: Arc::clone(&listener.name),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                state: listener.state().name().into(),
                plane: plane.name().into(),
                kernel_obstacle,
                pool: settings.routing.only().map(|pool| Arc::clone(&pool.name)),
                pools,
                active: listener.active() as u64,
                connections: total.total(),
                denied: total.closed[CloseReason::Denied.index()],
                preface_failed: total.closed[CloseReason::PrefaceInvalid.index()]
                    + total.closed[CloseReason::PrefaceTimeout.index()],
                over_client_limits: over.iter().map(|over| over.reset).sum(),
                over_client_limits_dry_run: over.iter().map(|over| over.only_counted).sum(),
                bytes_delayed: listener.bytes_delayed.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum(),
                bytes_in: total.bytes_in,
                bytes_out: total.bytes_out,
            }
        };
        listeners.iter().map(listener).collect()
    }
}

impl PoolInfo {
    /// The present state of a pool.
    pub(crate) fn of(pool: &Pool, overview: &Overview) -> Self {
        let (snapshot, status) = (pool.snapshot(), pool.status());
        let seen: u64 = pool.counters.failures_seen().map(|(_, n): (CloseReason, u64)| n).sum();
        let mut total = Reading::default();
        pool.by_listener().values().for_each(|reading| total += *reading);
        Self {
            name: Arc::clone(&pool.name),
            algorithm: snapshot.algorithm.name().into(),
            settled: pool.settled(),
            up: snapshot.len() as u64,
            panic: snapshot.panic,
            tier: snapshot.tier_used(),
            tiers: tiers(&status.members),
            zone: snapshot.local_zone.as_ref().map(ZoneInfo::of),
            active: total.active,
            connections: total.total(),
            bytes_in: total.bytes_in,
            bytes_out: total.bytes_out,
            queue: pool.queue.len() as u64,
            failures_masked: pool.counters.failures_masked(),
            failures_seen: seen,
            overflowed: pool.counters.overflowed(),
            unserved: pool.unserved_total(),
            connect: LatencyInfo::of(&recent(&status.members, |latency| &latency.connect)),
            first_byte: LatencyInfo::of(&recent(&status.members, |latency| &latency.first_byte)),
            backends: BackendInfo::all(&status.members, &pool.settings()),
            sources: status.sources.iter().map(SourceInfo::of).collect(),
            replicas: overview
                .replicas
                .load()
                .get(&pool.name)
                .map(|replicas| Arc::clone(&replicas.status().group)),
            shadow: pool.shadowed_since().is_some(),
        }
    }
}

impl SourceInfo {
    /// The present state of a source.
    fn of(source: &SourceStatus) -> Self {
        let result = match &source.trouble {
            Some(trouble) => Some(trouble.result),
            None => source.answered.then_some(Resolution::Found),
        };
        Self {
            name: Arc::clone(&source.name),
            result: result.map(|result| result.name().into()),
            trouble: source.trouble.as_ref().map(|trouble| trouble.reason.clone()),
            since: source.since.map(|since| (SystemTime::now() - since.elapsed()).into()),
            backends: source.found as u64,
        }
    }
}

impl ZoneInfo {
    fn of(zone: &LocalZone) -> Self {
        let LocalZone { name, backends, up, short } = zone;
        Self { name: Arc::clone(name), backends: *backends, up: *up, short: *short }
    }
}

fn tiers(members: &[Entry]) -> Vec<TierInfo> {
    let mut tiers: LiteMap<u16, TierInfo> = LiteMap::new();
    for entry in members.iter().filter(|entry| !entry.leaving) {
        let tier = tiers.entry(entry.tier).or_insert(TierInfo { tier: entry.tier, backends: 0, up: 0 });
        tier.backends += 1;
        tier.up += u64::from(entry.state == BackendState::Up);
    }
    tiers.into_iter().map(|(_, tier)| tier).collect()
}

/// The recent durations of all backends.
fn recent(members: &[Entry], of: impl Fn(&BackendLatency) -> &Latency) -> DurationCounts {
    let mut all = DurationCounts::default();
    members.iter().for_each(|entry| all += of(&entry.backend.latency).recent());
    all
}

impl LatencyInfo {
    fn of(counts: &DurationCounts) -> Option<Self> {
        let percentile = |part| counts.quantile(part).map(millis);
        Some(Self {
            count: counts.total(),
            p50_ms: percentile(0.5)?,
            p90_ms: percentile(0.9)?,
            p99_ms: percentile(0.99)?,
        })
    }
}

impl BackendInfo {
    /// The present states of a pool's backends, with those marked that answer much later than the others.
    pub(crate) fn all(members: &[Entry], settings: &config::Pool) -> Vec<Self> {
        let mut backends: Vec<_> = members.iter().map(Self::of).collect();
        for (index, slow) in slow_backends(members, settings) {
            backends[index].times_slower = Some(slow.times_slower());
        }
        backends
    }

    /// The present state of a backend, which is not compared with others.
    pub(crate) fn of(entry: &Entry) -> Self {
        let backend = &entry.backend;
        let mut total = Reading::default();
        for (_, reading) in backend.flows.read() {
            total += reading;
        }
        let last = |(at, checked): (SystemTime, crate::health::Checked)| CheckInfo {
            kind: checked.kind.name().into(),
            at: at.into(),
            passed: checked.result.is_ok(),
            error: checked.result.err().map(|error| error.to_string()),
            took_ms: millis(checked.took),
        };
        let checks = backend.checks().last;
        let last_check = checks.values().max_by_key(|(at, _)| *at).cloned().map(last);
        Self {
            name: Arc::clone(&backend.name),
            series: Arc::clone(backend.series()),
            address: backend.address.to_string(),
            also: backend.also.clone(),
            state: Some(entry.state),
            since: (SystemTime::now() - entry.since.elapsed()).into(),
            cause: entry.reason.text(),
            weight: entry.weight,
            ramp: entry.ramp,
            tier: entry.tier,
            zone: entry.zone.clone(),
            limit: entry.connections,
            active: backend.load.open().into(),
            connections: total.total(),
            bytes_in: total.bytes_in,
            bytes_out: total.bytes_out,
            connect_ms: backend.latency.connect.get().map(millis),
            first_byte_ms: backend.latency.first_byte.get().map(millis),
            connect: LatencyInfo::of(&backend.latency.connect.recent()),
            first_byte: LatencyInfo::of(&backend.latency.first_byte.recent()),
            times_slower: None, // needs the other backends
            sources: entry.sources.clone(),
            connect_failures: backend.connect_failures().map(|(_, n)| n).sum(),
            last_check,
            checks: checks.into_iter().map(|(_, check)| last(check)).collect(),
        }
    }
}
