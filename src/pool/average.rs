//! A moving average of durations, which all workers write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::telemetry::histogram::{DurationCounts, DurationHistogram};

/// One more moves the average by this part of the difference: it follows the last dozen or two.
const PART: f64 = 1.0 / 8.0;

/// The moving average of some durations. Two that come at once may count as one: it is for people, and a lock or a
/// loop is more than it is worth.
#[derive(Debug, Default)]
pub(super) struct Average(AtomicU64);

impl Average {
    /// Takes one in.
    pub(super) fn add(&self, took: Duration) {
        let took = took.as_secs_f64() * 1e9;
        let next = match self.0.load(Relaxed) {
            0 => took,
            before => before as f64 + (took - before as f64) * PART,
        };
        self.0.store((next as u64).max(1), Relaxed); // 0: there was none
    }

    /// The average; `None` before the first.
    pub(super) fn get(&self) -> Option<Duration> {
        Some(self.0.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }
}

/// How long something takes: lately, and all of it counted.
#[derive(Debug, Default)]
pub struct Latency {
    average: Average,
    histogram: DurationHistogram,
}

impl Latency {
    /// Takes one duration in.
    pub fn add(&self, took: Duration) {
        self.average.add(took);
        self.histogram.observe(took);
    }

    /// The recent average; `None` before the first.
    pub fn get(&self) -> Option<Duration> {
        self.average.get()
    }

    /// All durations so far.
    pub fn counts(&self) -> DurationCounts {
        self.histogram.read()
    }
}

/// How fast a backend is. On a cache line of its own: what all workers read of a backend is not to be written with it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Pace {
    /// Time to connect to it.
    pub connect: Latency,
    /// Time from the routing decision to its first byte.
    pub first_byte: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_the_first_and_follows_the_last() {
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
