//! A histogram of a backend's response times since the last read: half a kilobyte, enough for the median.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Buckets per doubling of the time: the median is accurate to within a fifth.
const PER_DOUBLING: u32 = 4;
/// From a microsecond to more than half an hour.
const BUCKETS: usize = 32 * PER_DOUBLING as usize;

/// Counts responses by their time. All workers write it; it stays empty while disabled.
#[derive(Debug)]
pub(super) struct ResponseTimes {
    enabled: AtomicBool,
    counts: [AtomicU32; BUCKETS],
}

impl Default for ResponseTimes {
    fn default() -> Self {
        Self { enabled: AtomicBool::new(false), counts: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl ResponseTimes {
    /// Enables or disables counting.
    pub(super) fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Relaxed);
    }

    /// Counts a response, if enabled.
    pub(super) fn count(&self, took: Duration) {
        if self.enabled.load(Relaxed) {
            self.counts[bucket(took)].fetch_add(1, Relaxed);
        }
    }

    /// Returns the number of responses since the last call and their median time, and resets both.
    pub(super) fn take(&self) -> (u32, Duration) {
        let counts: Vec<u32> = self.counts.iter().map(|count| count.swap(0, Relaxed)).collect();
        let all = counts.iter().sum::<u32>();
        let mut below = 0;
        let median = counts.iter().position(|count| {
            below += count;
            below * 2 > all
        });
        (all, median.map_or(Duration::ZERO, middle))
    }
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_micros().clamp(1, u128::from(u32::MAX)) as f64;
    ((micros.log2() * f64::from(PER_DOUBLING)) as usize).min(BUCKETS - 1)
}

/// The time in the middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let micros = ((bucket as f64 + 0.5) / f64::from(PER_DOUBLING)).exp2();
    Duration::from_nanos((micros * 1e3) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_median_is_accurate_to_within_a_fifth(mut micros in proptest::collection::vec(1u64..10_000_000, 1..200)) {
            let response_times = ResponseTimes::default();
            response_times.count(Duration::from_secs(1));
            prop_assert_eq!(response_times.take().0, 0, "it is disabled");
            response_times.set_enabled(true);
            micros.iter().for_each(|&micros| response_times.count(Duration::from_micros(micros)));
            micros.sort_unstable();
            let (count, median) = response_times.take();
            prop_assert_eq!(count as usize, micros.len());
            let ratio = median.as_secs_f64() * 1e6 / micros[micros.len() / 2] as f64;
            prop_assert!((0.8..=1.25).contains(&ratio), "{ratio}");
            prop_assert_eq!(response_times.take().0, 0);
        }
    }
}
