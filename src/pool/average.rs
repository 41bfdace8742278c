//! The latencies of a backend: a moving average and a histogram, updated by all workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::telemetry::histogram::{DurationCounts, DurationHistogram};

/// The weight of a new duration: the average follows the last one or two dozen.
const WEIGHT: f64 = 1.0 / 8.0;

/// Half of the longest time that [`Latency::recent`] covers: long enough for percentiles of a few connections, short
/// enough to show a change soon.
pub const RECENT: Duration = Duration::from_secs(30);

/// A moving average of durations. Of two concurrent updates, one may be lost: the value is only displayed, so it needs
/// no lock and no retry loop.
#[derive(Debug, Default)]
pub(super) struct Average(AtomicU64);

impl Average {
    /// Adds a duration.
    pub(super) fn add(&self, took: Duration) {
        let took = took.as_secs_f64() * 1e9;
        let next = match self.0.load(Relaxed) {
            0 => took,
            before => before as f64 + (took - before as f64) * WEIGHT,
        };
        self.0.store((next as u64).max(1), Relaxed); // 0 means: no duration yet
    }

    /// The average; `None` before the first duration.
    pub(super) fn get(&self) -> Option<Duration> {
        Some(self.0.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }
}

/// The durations of an operation: a recent average, and a histogram of all.
#[derive(Debug, Default)]
pub struct Latency {
    average: Average,
    histogram: DurationHistogram,
    /// The histogram at the last two calls of [`Latency::advance`], the older one first.
    earlier: Mutex<[DurationCounts; 2]>,
}

impl Latency {
    /// Adds a duration.
    pub fn add(&self, took: Duration) {
        self.average.add(took);
        self.histogram.observe(took);
    }

    /// The recent average; `None` before the first duration.
    pub fn get(&self) -> Option<Duration> {
        self.average.get()
    }

    /// All durations so far.
    pub fn counts(&self) -> DurationCounts {
        self.histogram.read()
    }

    /// The durations of the last one to two [`RECENT`].
    pub fn recent(&self) -> DurationCounts {
        let [older, _] = *self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        self.counts().since(&older)
    }

    /// Forgets durations that are no longer recent. Call it once per [`RECENT`].
    pub fn advance(&self) {
        let now = self.counts();
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        *earlier = [earlier[1], now];
    }
}

/// How fast a backend is. On a separate cache line: an update must not invalidate the fields that all workers read.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct BackendLatency {
    /// Time to connect to it.
    pub connect: Latency,
    /// Time from the routing decision to its first byte.
    pub first_byte: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_starts_with_the_first_duration_and_follows_the_last() {
        let average = Average::default();
        assert_eq!(average.get(), None);
        average.add(Duration::from_millis(80));
        assert_eq!(average.get(), Some(Duration::from_millis(80)));
        average.add(Duration::ZERO);
        assert_eq!(average.get(), Some(Duration::from_millis(70)));
        (0..200).for_each(|_| average.add(Duration::ZERO));
        assert!(average.get().is_some_and(|time| time < Duration::from_micros(1)));
    }

    #[test]
    fn recent_durations_are_those_since_the_last_call_but_one() {
        let latency = Latency::default();
        let add = |times| (0..times).for_each(|_| latency.add(Duration::from_millis(1)));
        let advance = || {
            latency.advance();
            latency.recent().total()
        };
        add(3);
        assert_eq!(latency.recent().total(), 3);
        assert_eq!(advance(), 3);
        add(2);
        assert_eq!(advance(), 2);
        assert_eq!(advance(), 0);
        assert_eq!(latency.counts().total(), 5);
    }
}
