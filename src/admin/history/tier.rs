//! The history in steps of one length.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;
use litemap::LiteMap;
use serde::Serialize;
use serde::ser::Serializer;

use super::counts::{BackendName, HistoryCount, HistoryCounts};
use crate::api::{BackendTrack, HistoryReply, LatencyTrack, PoolTrack, Track};

/// The last steps.
#[derive(Debug)]
pub(super) struct Tier {
    /// The length of a step, in seconds.
    step: u64,
    /// How many steps are kept.
    kept: usize,
    /// With more backends than this, none has values of its own.
    backends_at_most: usize,
    /// Seconds since the end of the last step; `None`: there is no reading yet.
    pending: Option<u64>,
    /// When the last step ended.
    end: SystemTime,
    /// How many values each track has.
    length: usize,
    last: HistoryCounts,
    listeners: LiteMap<Arc<str>, Values>,
    pools: LiteMap<Arc<str>, Values>,
    pub(super) backends: LiteMap<BackendName, Values>,
    json: Option<Bytes>,
}

impl Tier {
    pub(super) fn new(step: u64, kept: usize, backends_at_most: usize) -> Self {
        Self {
            step,
            kept,
            backends_at_most,
            pending: None,
            end: SystemTime::UNIX_EPOCH,
            length: 0,
            last: HistoryCounts::default(),
            listeners: LiteMap::new(),
            pools: LiteMap::new(),
            backends: LiteMap::new(),
            json: None,
        }
    }

    /// The length of a step, in seconds.
    pub(super) fn step_seconds(&self) -> u64 {
        self.step
    }

    /// Adds the counters after `seconds` more seconds. The counts before the first reading belong to no step.
    pub(super) fn add(&mut self, now: &HistoryCounts, seconds: u64) {
        let Some(pending) = self.pending else {
            self.pending = Some(0);
            self.last = now.clone();
            // The finest tier begins with the reading itself: a page shows what is open at once.
            if self.step == 1 {
                self.extend(now, usize::try_from(seconds).unwrap_or(usize::MAX).clamp(1, self.kept));
            }
            return;
        };
        let pending = pending.saturating_add(seconds);
        self.pending = Some(pending % self.step);
        let steps = usize::try_from(pending / self.step).unwrap_or(usize::MAX).min(self.kept);
        if steps > 0 {
            self.extend(now, steps);
        }
    }

    /// Adds the values of the last `steps` steps.
    fn extend(&mut self, now: &HistoryCounts, steps: usize) {
        // A single second has too few connections for percentiles.
        let mut growth = now.since(&self.last, self.step > 1);
        if growth.backends.len() > self.backends_at_most {
            growth.backends.clear();
        }
        let (length, kept) = (self.length, self.kept);
        self.length = (length + steps).min(kept);
        append(&mut self.listeners, &growth.listeners, length, steps, kept);
        append(&mut self.pools, &growth.pools, length, steps, kept);
        append(&mut self.backends, &growth.backends, length, steps, kept);
        self.last = now.clone();
        self.end = SystemTime::now();
        self.json = None;
    }

    /// The history in JSON.
    pub(super) fn json(&mut self) -> Bytes {
        if self.json.is_none() {
            // Serializing these types cannot fail.
            self.json = Some(serde_json::to_vec(&self.reply()).unwrap_or_default().into());
        }
        self.json.clone().unwrap_or_default()
    }

    fn reply(&self) -> HistoryReply<Column<'_>> {
        let name = Arc::clone;
        let mut backends: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for ((pool, backend), values) in &self.backends {
            backends.entry(name(pool)).or_default().insert(name(backend), values.backend_track());
        }
        for pool in self.pools.keys() {
            backends.entry(name(pool)).or_default();
        }
        HistoryReply {
            step_seconds: self.step,
            end: self.end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            listeners: self.listeners.iter().map(|(key, values)| (name(key), values.track())).collect(),
            pools: self.pools.iter().map(|(key, values)| (name(key), values.pool_track())).collect(),
            backends,
        }
    }
}

/// With more names than this, those that no longer exist are removed.
pub(super) const NAMES: usize = 2 * super::counts::BACKENDS;

/// Adds the values of `steps` steps to each track.
fn append<K: Ord + Clone>(
    tracks: &mut LiteMap<K, Values>,
    grown: &LiteMap<K, HistoryCount>,
    length: usize,
    steps: usize,
    kept: usize,
) {
    for key in grown.keys() {
        if !tracks.contains_key(key) {
            tracks.insert(key.clone(), Values(std::iter::repeat_n(None, length).collect()));
        }
    }
    for (key, track) in tracks.iter_mut() {
        let values = grown.get(key);
        for step in 0..steps {
            if track.0.len() == kept {
                track.0.pop_front();
            }
            track.0.push_back(values.map(|count| share(count, step, steps)));
        }
    }
    let too_many = tracks.len() > NAMES;
    tracks.retain(|key, track| grown.contains_key(key) || !too_many && track.has_values());
}

/// One step's share of the growth in several steps.
fn share(count: &HistoryCount, step: usize, steps: usize) -> HistoryCount {
    let (step, steps) = (step as u64, steps as u64);
    let part = |total: u64| total / steps + u64::from(step < total % steps);
    HistoryCount { totals: count.totals.map(part), ..*count }
}

/// The last values of a listener, a pool or a backend, the oldest first; `None`: it did not exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(VecDeque<Option<HistoryCount>>);

/// One value of each step, serialized without a copy.
struct Column<'t> {
    values: &'t VecDeque<Option<HistoryCount>>,
    of: fn(&HistoryCount) -> Option<u64>,
}

impl Serialize for Column<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.values.iter().map(|count| count.as_ref().and_then(self.of)))
    }
}

/// A percentile in microseconds, if there were durations.
fn some(micros: u32) -> Option<u64> {
    (micros > 0).then_some(micros.into())
}

impl Values {
    fn has_values(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    fn column(&self, of: fn(&HistoryCount) -> Option<u64>) -> Column<'_> {
        Column { values: &self.0, of }
    }

    fn track(&self) -> Track<Column<'_>> {
        Track {
            active: self.column(|count| Some(count.active)),
            connections: self.column(|count| Some(count.totals[0])),
            bytes_in: self.column(|count| Some(count.totals[1])),
            bytes_out: self.column(|count| Some(count.totals[2])),
        }
    }

    fn first_byte(&self) -> LatencyTrack<Column<'_>> {
        LatencyTrack {
            p50_us: self.column(|count| some(count.times[1][0])),
            p90_us: self.column(|count| some(count.times[1][1])),
            p99_us: self.column(|count| some(count.times[1][2])),
        }
    }

    fn backend_track(&self) -> BackendTrack<Column<'_>> {
        BackendTrack { track: self.track(), first_byte: self.first_byte() }
    }

    fn pool_track(&self) -> PoolTrack<Column<'_>> {
        PoolTrack {
            track: self.track(),
            failures_masked: self.column(|count| Some(count.totals[3])),
            failures_seen: self.column(|count| Some(count.totals[4])),
            unserved: self.column(|count| Some(count.totals[5])),
            connect: LatencyTrack {
                p50_us: self.column(|count| some(count.times[0][0])),
                p90_us: self.column(|count| some(count.times[0][1])),
                p99_us: self.column(|count| some(count.times[0][2])),
            },
            first_byte: self.first_byte(),
        }
    }
}
