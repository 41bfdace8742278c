//! The history in steps of one length.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use litemap::LiteMap;
use serde::Serialize;
use serde::ser::Serializer;

use super::counts::{BackendName, HistoryCount, HistoryCounts};
use super::saved::{SavedStep, places};
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

    /// Takes the steps of the processes before this one, the oldest first. The time in which none ran is a gap.
    pub(super) fn restore(&mut self, steps: &[SavedStep], now: SystemTime) {
        let (places, last) = places(steps, self.step, now);
        let aged = places.iter().map(|place| usize::try_from(last - place).unwrap_or(usize::MAX)).zip(steps);
        let aged: Vec<_> = aged.filter(|(age, _)| *age < self.kept).collect();
        let Some((oldest, _)) = aged.first() else { return };
        let length = oldest + 1;
        (self.length, self.end) = (length, now);
        // The newest first: if there are too many names, the older ones are left out.
        for (age, step) in aged.into_iter().rev() {
            let index = length - 1 - age;
            put(&mut self.listeners, &step.listeners, index, length);
            put(&mut self.pools, &step.pools, index, length);
            put(&mut self.backends, &step.backends, index, length);
        }
        self.json = None;
    }

    /// Adds the counters after `seconds` more seconds, and returns the steps that they complete. The counts before the
    /// first reading belong to no step.
    pub(super) fn add(&mut self, now: &HistoryCounts, seconds: u64) -> Vec<SavedStep> {
        let Some(pending) = self.pending else {
            self.pending = Some(0);
            self.last = now.clone();
            // The finest tier begins with the reading itself: a page shows what is open at once.
            if self.step == 1 {
                self.extend(now, usize::try_from(seconds).unwrap_or(usize::MAX).clamp(1, self.kept));
            }
            return Vec::new();
        };
        let pending = pending.saturating_add(seconds);
        self.pending = Some(pending % self.step);
        let steps = usize::try_from(pending / self.step).unwrap_or(usize::MAX).min(self.kept);
        if steps > 0 { self.extend(now, steps) } else { Vec::new() }
    }

    /// Adds the values of the last `steps` steps, and returns them unless a step is a second: those are not saved.
    fn extend(&mut self, now: &HistoryCounts, steps: usize) -> Vec<SavedStep> {
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
        if self.step == 1 {
            return Vec::new();
        }
        let ago = |steps: usize| Duration::from_secs(self.step.saturating_mul(steps as u64));
        let end = |step: usize| self.end.checked_sub(ago(steps - 1 - step)).unwrap_or(self.end);
        (0..steps).map(|step| SavedStep::of(&growth, step, steps, end(step))).collect()
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

/// Sets the values of one step in tracks of that length.
fn put<K: Ord + Clone>(
    tracks: &mut LiteMap<K, Values>,
    counts: &[(K, HistoryCount)],
    index: usize,
    length: usize,
) {
    for (key, count) in counts {
        if !tracks.contains_key(key) {
            if tracks.len() >= NAMES {
                continue;
            }
            tracks.insert(key.clone(), Values(std::iter::repeat_n(None, length).collect()));
        }
        if let Some(track) = tracks.get_mut(key) {
            track.0[index] = Some(*count);
        }
    }
}

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
            track.0.push_back(values.map(|count| count.share(step, steps)));
        }
    }
    let too_many = tracks.len() > NAMES;
    tracks.retain(|key, track| grown.contains_key(key) || !too_many && track.has_values());
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
