//! A moving average of durations, which all workers write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::telemetry::histogram::{DurationCounts, DurationHistogram};

/// The weight of a new duration: the average follows the last one or two dozen.
const WEIGHT: f64 = 1.0 / 8.0;

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
}
