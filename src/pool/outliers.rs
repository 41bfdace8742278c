//! Which backends answer much slower than the others.

use std::time::Duration;

use super::Entry;
use crate::config;

/// The backends whose median is above `floor` and more than `factor` times the median of the others, the slowest first:
/// the backend, its median, and that of the others.
///
/// Each is compared with the others alone, as among few backends a slow one would raise its own threshold.
pub(super) fn outliers<K: Copy>(
    mut medians: Vec<(Duration, K)>,
    factor: f64,
    floor: Duration,
) -> Vec<(K, Duration, Duration)> {
    medians.sort_by_key(|(median, _)| *median);
    let mut slow = Vec::new();
    for (position, (median, backend)) in medians.iter().enumerate().rev() {
        let mut others = medians.iter().enumerate().filter(|(other, _)| *other != position);
        let Some((_, (usual, _))) = others.nth(medians.len().saturating_sub(2) / 2) else { break };
        if *median <= floor || *median <= usual.mul_f64(factor) {
            break; // the faster ones are not slow either
        }
        slow.push((*backend, *median, *usual));
    }
    slow
}

/// Medians of fewer connections are not compared: single requests may be slow by nature.
const COMPARED_FROM: u64 = 5;

/// A backend whose median time to the first byte in the last minute is out of line with that of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowBackend {
    /// Its median.
    pub median: Duration,
    /// The median of the other backends.
    pub others: Duration,
}

impl SlowBackend {
    /// How many times as long as that of the others its median is.
    pub fn times_slower(self) -> f64 {
        let times = self.median.as_secs_f64() / self.others.as_secs_f64().max(1e-6);
        (times * 10.0).round() / 10.0
    }
}

/// The slow backends of a pool, by their index in `members`, with the limits of `eject.slow` or its defaults.
pub fn slow_backends(members: &[Entry], settings: &config::Pool) -> Vec<(usize, SlowBackend)> {
    let medians = members.iter().enumerate().filter_map(|(index, entry)| {
        let recent = entry.backend.latency.first_byte.recent();
        let median = (recent.total() >= COMPARED_FROM).then(|| recent.quantile(0.5))??;
        Some((median, index))
    });
    let limits = settings.eject.and_then(|eject| eject.slow).unwrap_or_default();
    let slow = outliers(medians.collect(), limits.factor.get(), limits.floor);
    slow.into_iter().map(|(index, median, others)| (index, SlowBackend { median, others })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLOOR: Duration = Duration::from_millis(20);

    fn slow(millis: &[u64]) -> Vec<usize> {
        let medians = millis.iter().enumerate().map(|(at, n)| (Duration::from_millis(*n), at)).collect();
        outliers(medians, 3.0, FLOOR).into_iter().map(|(at, ..)| at).collect()
    }

    #[test]
    fn a_backend_is_compared_with_the_others() {
        assert!(slow(&[]).is_empty());
        assert!(slow(&[400]).is_empty(), "there are no others");
        assert_eq!(slow(&[10, 400]), [1], "of two, each is compared with the other");
        assert!(slow(&[10, 15, 19]).is_empty());
        assert!(slow(&[5, 1, 19]).is_empty(), "below the floor none is slow");
        assert_eq!(slow(&[400, 10, 15, 900]), [3, 0]);
        assert!(slow(&[400, 420, 10, 410]).is_empty(), "most are as slow");
    }

    proptest! {
        #[test]
        fn a_slower_backend_is_found_if_a_faster_one_is(millis in proptest::collection::vec(0_u64..2000, 0..20)) {
            let found = slow(&millis);
            let least = found.iter().map(|at| millis[*at]).min().unwrap_or(u64::MAX);
            prop_assert!((0..millis.len()).all(|at| found.contains(&at) || millis[at] <= least));
            prop_assert!(found.len() <= millis.len() / 2 + 1);
        }
    }
}
