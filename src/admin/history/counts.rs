//! The counters of listeners, pools and backends at one moment, and their growth between two moments.

use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use crate::domain::CloseReason;
use crate::overview::Overview;
use crate::pool::Pool;
use crate::telemetry::flow::Reading;
use crate::telemetry::histogram::DurationCounts;

/// With more backends than this, backends and latencies have no history.
pub(super) const BACKENDS: usize = 1000;

/// The counters of a listener, a pool or a backend at one moment, or their growth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct HistoryCount {
    /// Open connections at that moment.
    pub(super) active: u64,
    pub(super) totals: HistoryTotals,
    /// How long connecting and the first byte took: lately, or between the two moments.
    pub(super) times: [Times; 2],
}

/// Connections, bytes in and out; for a pool also failures that were retried, client-visible failures, and connections
/// that reached no backend.
pub(super) type HistoryTotals = [u64; 6];
/// The number of totals that a listener or a backend has.
const OF_ALL: usize = 3;

/// The 50th, 90th and 99th percentile of durations, in microseconds; 0: there were none.
pub(super) type Times = [u32; 3];

/// Connect times and times to the first byte.
type BothCounts = [DurationCounts; 2];

/// A pool and the [`series`](crate::pool::Backend::series) of a backend in it.
pub(super) type BackendName = (Arc<str>, Arc<str>);

impl HistoryCount {
    fn of(reading: &Reading) -> Self {
        let totals = [reading.total(), reading.bytes_in, reading.bytes_out, 0, 0, 0];
        Self { active: reading.active, totals, times: Default::default() }
    }

    fn of_pool(pool: &Pool, by_listener: &LiteMap<Arc<str>, Reading>) -> Self {
        let mut total = Reading::default();
        by_listener.values().for_each(|reading| total += *reading);
        let mut count = Self::of(&total);
        let seen: u64 = pool.counters.failures_seen().map(|(_, n): (CloseReason, u64)| n).sum();
        count.totals[OF_ALL..].copy_from_slice(&[
            pool.counters.failures_masked(),
            seen,
            pool.unserved_total(),
        ]);
        count
    }

    /// One step's share of the growth in several steps.
    pub(super) fn share(&self, step: usize, steps: usize) -> Self {
        let (step, steps) = (step as u64, steps as u64);
        let part = |total: u64| total / steps + u64::from(step < total % steps);
        Self { totals: self.totals.map(part), ..*self }
    }

    /// The growth since `before`. A counter that is lower than before belongs to a new backend of the same name and started
    /// at 0.
    fn since(&self, before: &Self) -> Self {
        let mut grown = *self;
        for (total, before) in grown.totals.iter_mut().zip(before.totals) {
            *total = total.checked_sub(before).unwrap_or(*total);
        }
        grown
    }
}

/// All counters at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct HistoryCounts {
    /// Open connections of each listener.
    pub(super) listeners: LiteMap<Arc<str>, u64>,
    /// Connections by listener and pool: the counters of a removed pool disappear with it.
    pub(super) by_listener: LiteMap<(Arc<str>, Arc<str>), HistoryCount>,
    pub(super) pools: LiteMap<Arc<str>, HistoryCount>,
    pub(super) backends: LiteMap<BackendName, HistoryCount>,
    /// How long connecting and the first byte took, of each backend.
    pub(super) times: LiteMap<BackendName, Box<BothCounts>>,
}

/// The growth of all counters between two moments.
#[derive(Debug, Default)]
pub(super) struct HistoryGrowth {
    pub(super) listeners: LiteMap<Arc<str>, HistoryCount>,
    pub(super) pools: LiteMap<Arc<str>, HistoryCount>,
    pub(super) backends: LiteMap<BackendName, HistoryCount>,
}

impl HistoryCounts {
    pub(super) fn of(overview: &Overview) -> Self {
        let mut counts = Self::default();
        for (listener, _) in overview.listeners.load().iter() {
            counts.listeners.insert(Arc::clone(&listener.name), listener.active() as u64);
            let without_pool = HistoryCount::of(&listener.without_pool.read());
            counts.by_listener.insert((Arc::clone(&listener.name), Arc::default()), without_pool);
        }
        let pools = overview.pools.load();
        let many = pools.values().map(|pool| pool.status().members.len()).sum::<usize>() > BACKENDS;
        for pool in pools.values() {
            let by_listener = pool.by_listener();
            counts.pools.insert(Arc::clone(&pool.name), HistoryCount::of_pool(pool, &by_listener));
            let mut all = by_listener;
            for (listener, reading) in pool.unserved.read() {
                *all.entry(listener).or_default() += reading;
            }
            for (listener, reading) in all {
                counts.by_listener.insert((listener, Arc::clone(&pool.name)), HistoryCount::of(&reading));
            }
            if !many {
                counts.add_backends(pool);
            }
        }
        counts
    }

    fn add_backends(&mut self, pool: &Pool) {
        let status = pool.status();
        let totals = status.totals();
        let mut of_pool = BothCounts::default();
        for entry in &status.members {
            let backend = &entry.backend;
            let Some(totals) = totals.get(backend.series()) else { continue };
            let mut total = Reading::default();
            totals.by_listener.values().for_each(|reading| total += *reading);
            let recent = [backend.latency.connect.recent(), backend.latency.first_byte.recent()];
            of_pool.iter_mut().zip(recent).for_each(|(sum, counts)| *sum += counts);
            let times = recent.each_ref().map(percentiles);
            let key = (Arc::clone(&pool.name), Arc::clone(backend.series()));
            self.times.insert(key.clone(), Box::new([totals.connect, totals.first_byte]));
            self.backends.insert(key, HistoryCount { times, ..HistoryCount::of(&total) });
        }
        if let Some(count) = self.pools.get_mut(&pool.name) {
            count.times = of_pool.each_ref().map(percentiles);
        }
    }

    /// The growth since `before`. `between`: the latencies are those of the connections between the two moments, instead of
    /// the recent ones.
    pub(super) fn since(&self, before: &Self, between: bool) -> HistoryGrowth {
        let mut growth = HistoryGrowth::default();
        for (name, active) in &self.listeners {
            growth
                .listeners
                .insert(Arc::clone(name), HistoryCount { active: *active, ..HistoryCount::default() });
        }
        for (key, now) in &self.by_listener {
            let grown = now.since(&before.by_listener.get(key).copied().unwrap_or_default());
            if let Some(listener) = growth.listeners.get_mut(&key.0) {
                listener.totals.iter_mut().zip(grown.totals).for_each(|(sum, n)| *sum += n);
            }
        }
        let mut times: LiteMap<&str, BothCounts> = LiteMap::new();
        for (key, now) in &self.backends {
            let mut grown = now.since(&before.backends.get(key).copied().unwrap_or_default());
            if let Some(counts) = self.times.get(key).filter(|_| between) {
                let recent = since(counts, before.times.get(key).map(AsRef::as_ref));
                grown.times = recent.each_ref().map(percentiles);
                let of_pool = times.entry(&key.0).or_default();
                of_pool.iter_mut().zip(recent).for_each(|(sum, counts)| *sum += counts);
            }
            growth.backends.insert(key.clone(), grown);
        }
        for (name, now) in &self.pools {
            let mut grown = now.since(&before.pools.get(name).copied().unwrap_or_default());
            if between {
                grown.times =
                    times.get(&**name).map(|all| all.each_ref().map(percentiles)).unwrap_or_default();
            }
            growth.pools.insert(Arc::clone(name), grown);
        }
        growth
    }
}

fn since(now: &BothCounts, before: Option<&BothCounts>) -> BothCounts {
    before.map_or(*now, |before| [now[0].since(&before[0]), now[1].since(&before[1])])
}

fn percentiles(counts: &DurationCounts) -> Times {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1);
    [0.5, 0.9, 0.99].map(|part| counts.quantile(part).map_or(0, micros))
}
