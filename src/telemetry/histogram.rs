//! A histogram of durations that all workers write without a lock. It only grows, so that durations between two moments are
//! the difference of two readings.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of the buckets of one decade, in tenths of its first: a percentile is accurate to within a fifth or so.
const DECADE: [u64; 10] = [10, 12, 15, 20, 25, 30, 40, 50, 60, 80];
/// From 10 µs, faster than loopback connects, to 100 s.
const DECADES: usize = 7;
/// The upper bounds of the buckets, in microseconds.
const BOUNDS: [u64; DECADES * DECADE.len() + 1] = bounds();
/// The last bucket has no bound. Not by `BOUNDS.len()`: the compiler would have to evaluate a function for the length of an
/// array, which is a cycle for it with some optimizations (E0391).
const BUCKETS: usize = DECADES * DECADE.len() + 2;

/// The bounds that metrics have, in microseconds: from loopback to a far continent. Each backend has its own histograms,
/// so each further bucket adds a line per backend to a scrape.
const EXPORTED: [u64; 10] = [200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 200_000, 1_000_000, 5_000_000];

const fn bounds() -> [u64; DECADES * DECADE.len() + 1] {
    let mut bounds = [0; DECADES * DECADE.len() + 1];
    let (mut index, mut unit) = (0, 1);
    while index < bounds.len() {
        bounds[index] = DECADE[index % DECADE.len()] * unit;
        index += 1;
        if index % DECADE.len() == 0 {
            unit *= 10;
        }
    }
    bounds
}

/// A histogram of durations.
#[derive(Debug)]
pub struct DurationHistogram {
    counts: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Default for DurationHistogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], micros: AtomicU64::new(0) }
    }
}

impl DurationHistogram {
    /// Counts a duration.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[BOUNDS.partition_point(|bound| *bound < micros)].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> DurationCounts {
        DurationCounts {
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed)),
            micros: self.micros.load(Relaxed),
        }
    }
}

/// A [`DurationHistogram`] at one moment, or between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationCounts {
    counts: [u64; BUCKETS],
    micros: u64,
}

impl Default for DurationCounts {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], micros: 0 }
    }
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

    /// The buckets of metrics: each one's upper bound in seconds, with its own count.
    pub fn buckets(&self) -> [(f64, u64); EXPORTED.len() + 1] {
        let mut from = 0;
        std::array::from_fn(|bucket| {
            let exported = EXPORTED.get(bucket);
            let to = exported.map_or(BUCKETS, |micros| BOUNDS.partition_point(|bound| bound <= micros));
            let count = self.counts[from..to].iter().sum();
            from = to;
            (exported.map_or(f64::MAX, |micros| *micros as f64 / 1e6), count)
        })
    }

    /// What was counted since the reading `before`. A histogram with fewer durations than `before` is another one, which
    /// began later.
    pub fn since(&self, before: &Self) -> Self {
        let grown =
            self.micros >= before.micros && self.counts.iter().zip(before.counts).all(|(now, n)| *now >= n);
        if !grown {
            return *self;
        }
        Self {
            counts: std::array::from_fn(|bucket| self.counts[bucket] - before.counts[bucket]),
            micros: self.micros - before.micros,
        }
    }

    /// The duration that the share `part` (0 to 1) of all durations does not exceed, interpolated within its bucket.
    /// `None`: nothing was counted.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = ((total as f64 * part).ceil() as u64).clamp(1, total);
        let mut below = 0;
        let bucket = self.counts.iter().position(|count| {
            let found = below + count >= rank;
            below += if found { 0 } else { *count };
            found
        })?;
        let lower = bucket.checked_sub(1).map_or(0, |before| BOUNDS[before]) as f64;
        let upper = BOUNDS.get(bucket).map_or(lower, |bound| *bound as f64);
        let within = (rank - below) as f64 / self.counts[bucket] as f64;
        Some(Duration::from_nanos(((lower + (upper - lower) * within) * 1e3) as u64))
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
    use proptest::prelude::*;

    fn of(micros: &[u64]) -> DurationHistogram {
        let histogram = DurationHistogram::default();
        micros.iter().for_each(|micros| histogram.observe(Duration::from_micros(*micros)));
        histogram
    }

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let mut counts = of(&[0, 200, 201, 5_000_000, 5_000_001]).read();
        let buckets = counts.buckets();
        assert_eq!([buckets[0], buckets[1]], [(0.0002, 2), (0.0005, 1)]);
        assert_eq!([buckets[9], buckets[10]], [(5.0, 1), (f64::MAX, 1)]);
        assert_eq!((counts.total(), counts.seconds()), (5, 10.000_402));
        counts += counts;
        assert_eq!(counts.total(), 10);
    }

    #[test]
    fn the_bounds_ascend_and_contain_those_of_metrics() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b), "{BOUNDS:?}");
        assert_eq!((BOUNDS[0], BOUNDS[BOUNDS.len() - 1]), (10, 100_000_000));
        for bound in EXPORTED {
            assert!(BOUNDS.contains(&bound), "{bound}");
        }
    }

    #[test]
    fn a_histogram_that_started_again_has_grown_by_all_that_it_counts() {
        let (first, second) = (of(&[100, 200, 300]), of(&[5_000]));
        assert_eq!(second.read().since(&first.read()), second.read());
        assert_eq!(DurationCounts::default().quantile(0.5), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn percentiles_of_what_came_since_a_reading_are_accurate(
            earlier in proptest::collection::vec(10_u64..50_000_000, 0..50),
            mut later in proptest::collection::vec(10_u64..50_000_000, 1..200),
            part in 0.01..1.0_f64,
        ) {
            let histogram = of(&earlier);
            let before = histogram.read();
            later.iter().for_each(|micros| histogram.observe(Duration::from_micros(*micros)));
            let since = histogram.read().since(&before);
            prop_assert_eq!(since.total(), later.len() as u64);
            later.sort_unstable();
            let rank = ((later.len() as f64 * part).ceil() as usize).clamp(1, later.len());
            let (exact, told) = (later[rank - 1] as f64, since.quantile(part).unwrap().as_secs_f64() * 1e6);
            prop_assert!((0.74..=1.34).contains(&(told / exact)), "{told} instead of {exact}");
        }

        #[test]
        fn percentiles_ascend(micros in proptest::collection::vec(0_u64..500_000_000, 1..100)) {
            let counts = of(&micros).read();
            let all: Vec<_> = [0.1, 0.5, 0.9, 0.99, 1.0].into_iter().map(|part| counts.quantile(part).unwrap()).collect();
            prop_assert!(all.is_sorted(), "{all:?}");
        }
    }
}
