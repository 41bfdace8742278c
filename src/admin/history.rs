//! The values of each of the last seconds by listener, pool and backend, so that a dashboard also shows what happened
//! before it was opened.
//!
//! A value is the growth of a counter in one second. A counter that is lower than before belongs to a new backend of
//! the same name and started at 0. So no value is negative.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use litemap::LiteMap;
use serde::Serialize;
use serde::ser::Serializer;

use crate::api::{HistoryReply, PoolTrack, Track};
use crate::domain::CloseReason;
use crate::overview::Overview;
use crate::pool::Pool;
use crate::telemetry::flow::Reading;

/// The time between values, and how many are kept.
const STEP: Duration = Duration::from_secs(1);
pub(super) const KEPT: usize = 300;
/// With more backends than this, backends have no history.
const BACKENDS: usize = 1000;
/// With more names than this, those that no longer exist are removed.
const NAMES: usize = 2 * BACKENDS;

/// The history. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<HistoryStore>>);

impl History {
    /// The history in JSON, serialized once for all requests within a second.
    pub(super) fn json(&self) -> Bytes {
        self.lock().json()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HistoryStore> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the values of each second until the future is dropped.
    pub(super) async fn keep(self, overview: Arc<Overview>) {
        let mut clock = tokio::time::interval(STEP);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        clock.tick().await; // the first tick is immediate
        self.lock().add(&HistoryCounts::of(&overview), 1);
        let mut last = Instant::now();
        loop {
            clock.tick().await;
            // A process that was stopped for a while has several seconds to add.
            let steps = (last.elapsed().as_secs_f64() / STEP.as_secs_f64()).round().max(1.0);
            last = Instant::now();
            self.lock().add(&HistoryCounts::of(&overview), steps as usize);
        }
    }
}

/// The counters of a listener, a pool or a backend at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct HistoryCount {
    active: u64,
    totals: HistoryTotals,
}

/// Connections, bytes in and out; for a pool also failures that were retried, client-visible failures, and connections
/// that reached no backend.
type HistoryTotals = [u64; 6];
/// The number of totals that a listener or a backend has.
const OF_ALL: usize = 3;

impl HistoryCount {
    fn of(reading: &Reading) -> Self {
        Self {
            active: reading.active,
            totals: [reading.total(), reading.bytes_in, reading.bytes_out, 0, 0, 0],
        }
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
}

/// All counters at one moment.
#[derive(Clone, Debug, Default)]
struct HistoryCounts {
    /// Open connections of each listener.
    listeners: LiteMap<Arc<str>, u64>,
    /// Connections by listener and pool: the counters of a removed pool disappear with it.
    by_listener: LiteMap<(Arc<str>, Arc<str>), HistoryCount>,
    pools: LiteMap<Arc<str>, HistoryCount>,
    backends: LiteMap<(Arc<str>, Arc<str>), HistoryCount>,
}

impl HistoryCounts {
    fn of(overview: &Overview) -> Self {
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
            if many {
                continue;
            }
            let status = pool.status();
            let totals = status.totals();
            for entry in &status.members {
                let mut total = Reading::default();
                let by_listener = totals.get(&entry.backend.name).map(|totals| &totals.by_listener);
                by_listener.into_iter().flat_map(LiteMap::values).for_each(|reading| total += *reading);
                let key = (Arc::clone(&pool.name), Arc::clone(&entry.backend.name));
                counts.backends.insert(key, HistoryCount::of(&total));
            }
        }
        counts
    }
}

/// The last values of a listener, a pool or a backend, the oldest first; `None`: it did not exist.
#[derive(Clone, Debug, Default)]
struct Values(VecDeque<Option<HistoryCount>>);

impl Values {
    fn has_values(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }
}

#[derive(Debug)]
struct HistoryStore {
    /// When the last value was added.
    end: SystemTime,
    /// How many values each track has.
    length: usize,
    last: HistoryCounts,
    listeners: LiteMap<Arc<str>, Values>,
    pools: LiteMap<Arc<str>, Values>,
    backends: LiteMap<(Arc<str>, Arc<str>), Values>,
    json: Option<Bytes>,
}

impl Default for HistoryStore {
    fn default() -> Self {
        Self {
            end: SystemTime::UNIX_EPOCH,
            length: 0,
            last: HistoryCounts::default(),
            listeners: LiteMap::new(),
            pools: LiteMap::new(),
            backends: LiteMap::new(),
            json: None,
        }
    }
}

/// The growth of a counter.
fn growth(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn grown<K: Ord>(now: &LiteMap<K, HistoryCount>, before: &LiteMap<K, HistoryCount>, key: &K) -> HistoryCount {
    let (now, before) =
        (now.get(key).copied().unwrap_or_default(), before.get(key).copied().unwrap_or_default());
    let mut totals = now.totals;
    for (total, before) in totals.iter_mut().zip(before.totals) {
        *total = growth(*total, before);
    }
    HistoryCount { active: now.active, totals }
}

impl HistoryStore {
    /// Adds the values of the last `steps` seconds.
    fn add(&mut self, now: &HistoryCounts, steps: usize) {
        let steps = steps.clamp(1, KEPT);
        let first = self.length == 0;
        // The counts before the first reading do not belong to this second.
        let before = if first { now.clone() } else { std::mem::take(&mut self.last) };
        let mut listeners: LiteMap<Arc<str>, HistoryCount> = now
            .listeners
            .iter()
            .map(|(name, active)| {
                (Arc::clone(name), HistoryCount { active: *active, ..HistoryCount::default() })
            })
            .collect();
        for key in now.by_listener.keys() {
            let reading = grown(&now.by_listener, &before.by_listener, key);
            if let Some(listener) = listeners.get_mut(&key.0) {
                listener.totals.iter_mut().zip(reading.totals).for_each(|(sum, n)| *sum += n);
            }
        }
        let pools = now.pools.keys().map(|key| (Arc::clone(key), grown(&now.pools, &before.pools, key)));
        let backends =
            now.backends.keys().map(|key| (key.clone(), grown(&now.backends, &before.backends, key)));
        let length = self.length;
        self.length = (length + steps).min(KEPT);
        append(&mut self.listeners, &listeners, length, steps);
        append(&mut self.pools, &pools.collect(), length, steps);
        append(&mut self.backends, &backends.collect(), length, steps);
        self.last = now.clone();
        self.end = SystemTime::now();
        self.json = None;
    }

    fn reply(&self) -> HistoryReply<Column<'_>> {
        let name = Arc::clone;
        let mut backends: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for ((pool, backend), values) in &self.backends {
            backends.entry(name(pool)).or_default().insert(name(backend), values.track());
        }
        for pool in self.pools.keys() {
            backends.entry(name(pool)).or_default();
        }
        HistoryReply {
            step_seconds: STEP.as_secs(),
            end: self.end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            listeners: self.listeners.iter().map(|(key, values)| (name(key), values.track())).collect(),
            pools: self.pools.iter().map(|(key, values)| (name(key), values.pool_track())).collect(),
            backends,
        }
    }

    fn json(&mut self) -> Bytes {
        if self.json.is_none() {
            // Serializing these types cannot fail.
            self.json = Some(serde_json::to_vec(&self.reply()).unwrap_or_default().into());
        }
        self.json.clone().unwrap_or_default()
    }
}

/// Adds the values of `steps` seconds to each track.
fn append<K: Ord + Clone>(
    tracks: &mut LiteMap<K, Values>,
    grown: &LiteMap<K, HistoryCount>,
    length: usize,
    steps: usize,
) {
    for key in grown.keys() {
        if !tracks.contains_key(key) {
            tracks.insert(key.clone(), Values(std::iter::repeat_n(None, length).collect()));
        }
    }
    for (key, track) in tracks.iter_mut() {
        let values = grown.get(key);
        for step in 0..steps {
            if track.0.len() == KEPT {
                track.0.pop_front();
            }
            track.0.push_back(values.map(|count| share(count, step, steps)));
        }
    }
    let too_many = tracks.len() > NAMES;
    tracks.retain(|key, track| grown.contains_key(key) || !too_many && track.has_values());
}

/// One second's share of the growth in several seconds.
fn share(count: &HistoryCount, step: usize, steps: usize) -> HistoryCount {
    let (step, steps) = (step as u64, steps as u64);
    let part = |total: u64| total / steps + u64::from(step < total % steps);
    HistoryCount { active: count.active, totals: count.totals.map(part) }
}

/// One value of each second, serialized without a copy.
struct Column<'t> {
    values: &'t VecDeque<Option<HistoryCount>>,
    of: fn(&HistoryCount) -> u64,
}

impl Serialize for Column<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.values.iter().map(|count| count.as_ref().map(self.of)))
    }
}

impl Values {
    fn column(&self, of: fn(&HistoryCount) -> u64) -> Column<'_> {
        Column { values: &self.0, of }
    }

    fn track(&self) -> Track<Column<'_>> {
        Track {
            active: self.column(|count| count.active),
            connections: self.column(|count| count.totals[0]),
            bytes_in: self.column(|count| count.totals[1]),
            bytes_out: self.column(|count| count.totals[2]),
        }
    }

    fn pool_track(&self) -> PoolTrack<Column<'_>> {
        PoolTrack {
            track: self.track(),
            failures_masked: self.column(|count| count.totals[3]),
            failures_seen: self.column(|count| count.totals[4]),
            unserved: self.column(|count| count.totals[5]),
        }
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
