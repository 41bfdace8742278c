//! A histogram of durations that all workers write without a lock.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds: from loopback to a far continent. Each backend has its own
/// histograms, so each further bucket adds a line per backend to a scrape.
const BOUNDS: [u64; 10] = [200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 200_000, 1_000_000, 5_000_000];

/// The last bucket has no bound.
const BUCKETS: usize = BOUNDS.len() + 1;

/// A histogram of durations.
#[derive(Debug, Default)]
pub(crate) struct DurationHistogram {
    counts: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl DurationHistogram {
    /// Counts a duration.
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[BOUNDS.partition_point(|bound| *bound < micros)].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// What was counted so far.
    pub(crate) fn read(&self) -> DurationCounts {
        DurationCounts {
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed)),
            micros: self.micros.load(Relaxed),
        }
    }
}

/// A [`DurationHistogram`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationCounts {
    counts: [u64; BUCKETS],
    micros: u64,
}

impl DurationCounts {
    /// How many durations were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in seconds.
    pub fn seconds(&self) -> f64 {
        self.micros as f64 / 1e6
    }

    /// Each bucket's upper bound in seconds, with its own count.
    pub fn buckets(&self) -> [(f64, u64); BUCKETS] {
        std::array::from_fn(|bucket| {
            let bound = BOUNDS.get(bucket).map_or(f64::MAX, |micros| *micros as f64 / 1e6);
            (bound, self.counts[bucket])
        })
    }
}

impl AddAssign for DurationCounts {
    fn add_assign(&mut self, other: Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.micros += other.micros;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = DurationHistogram::default();
        for micros in [0, 200, 201, 5_000_000, 5_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut counts = histogram.read();
        let buckets = counts.buckets();
        assert_eq!([buckets[0], buckets[1]], [(0.0002, 2), (0.0005, 1)]);
        assert_eq!([buckets[9], buckets[10]], [(5.0, 1), (f64::MAX, 1)]);
        assert_eq!((counts.total(), counts.seconds()), (5, 10.000_402));
        counts += counts;
        assert_eq!(counts.total(), 10);
    }
}
