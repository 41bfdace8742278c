//! When a check is due. Pure: the caller passes the time.
//!
//! Each checker has its own offset in the interval, so that backends found at the same moment are checked evenly over the
//! interval from then on.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Health;

/// The golden ratio's fractional part, times 2^64. Its multiples are spread more evenly on a circle than those of any
/// other number, for any count and any start (Knuth, TAOCP volume 3, 6.4, theorem S).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The schedule of one checker. It counts no results: the pool's state machine decides when the next check is due soon.
#[derive(Debug)]
pub(super) struct CheckSchedule {
    every: Duration,
    fast_every: Option<Duration>,
    /// One of the regular times.
    regular: Instant,
}

impl CheckSchedule {
    /// The schedule of checker `number`; `epoch` is the same for all checkers.
    pub(super) fn new(number: u64, health: &Health, epoch: Instant) -> Self {
        let offset = number.wrapping_mul(GOLDEN) as f64 / 2f64.powi(64);
        Self {
            every: health.every,
            fast_every: health.fast_every,
            regular: epoch + health.every.mul_f64(offset),
        }
    }

    /// When the check after the one that began at `began` is due, if it is to come soon: after the fast interval, if there
    /// is one, but no later than the regular time.
    pub(super) fn soon_after(&self, began: Instant) -> Instant {
        let regular = self.regular_after(began);
        self.fast_every.map_or(regular, |fast| regular.min(began + fast))
    }

    /// The first regular time after `time`; in the past, and so due at once, if a long check missed it.
    pub(super) fn regular_after(&self, time: Instant) -> Instant {
        if time < self.regular {
            return self.regular;
        }
        let every = self.every.as_nanos();
        let since = (time - self.regular).as_nanos() % every;
        time + Duration::from_nanos(u64::try_from(every - since).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::config::Check;

    const SECOND: Duration = Duration::from_secs(1);

    fn health(every: Duration) -> Health {
        Health { every, timeout: every, ..Health::new(Check::Tcp) }
    }

    proptest! {
        #[test]
        fn backends_found_at_once_are_then_checked_evenly_over_the_interval(
            first in 0u64..1 << 40, n in 2u64..600, every_ms in 10u64..10_000, after_ms in 0u64..100_000,
        ) {
            let epoch = Instant::now();
            let (every, found) = (Duration::from_millis(every_ms), epoch + Duration::from_millis(after_ms));
            let health = health(every);
            let second = (first..first + n).map(|number| {
                CheckSchedule::new(number, &health, epoch).regular_after(found) - found
            });
            let mut second: Vec<_> = second.collect();
            second.sort();
            prop_assert!(second[0] > Duration::ZERO && second[second.len() - 1] <= every);
            let around = every - second[second.len() - 1] + second[0];
            let gaps = second.windows(2).map(|pair| pair[1] - pair[0]).chain([around]);
            prop_assert!(gaps.max().unwrap() <= every * 3 / n as u32 + Duration::from_nanos(10));
        }

        #[test]
        fn regular_times_keep_their_offset_through_long_and_extra_checks(
            number: u64, checks in prop::collection::vec((0u64..1000, any::<bool>()), 1..100),
        ) {
            let epoch = Instant::now();
            let schedule = CheckSchedule::new(number, &health(SECOND), epoch);
            let mut began = epoch;
            let mut offset = None;
            for (late_ms, is_extra) in checks {
                let due = schedule.regular_after(began);
                prop_assert!(due > began && due - began <= SECOND);
                let here = (due - epoch).as_nanos() % SECOND.as_nanos();
                prop_assert_eq!(*offset.get_or_insert(here), here);
                // An extra check, or a late one (by less than a whole interval).
                began = if is_extra { began + (due - began) / 2 } else { due + Duration::from_millis(late_ms) };
            }
        }
    }

    #[test]
    fn a_check_that_takes_the_whole_interval_skips_no_check() {
        let epoch = Instant::now();
        let schedule = CheckSchedule::new(0, &health(SECOND), epoch);
        let began = epoch + SECOND + Duration::from_millis(1);
        assert_eq!(schedule.regular_after(began), epoch + 2 * SECOND);
    }

    #[test]
    fn a_check_that_is_due_soon_comes_after_the_fast_interval_and_no_later_than_the_regular_time() {
        let epoch = Instant::now();
        let health = Health { fast_every: Some(SECOND), ..health(10 * SECOND) };
        let schedule = CheckSchedule::new(0, &health, epoch);
        assert_eq!(schedule.soon_after(epoch), epoch + SECOND);
        let late = Duration::from_millis(9_500);
        assert_eq!(schedule.soon_after(epoch + late), epoch + 10 * SECOND);
    }

    #[test]
    fn without_a_fast_interval_a_check_keeps_its_regular_time() {
        let epoch = Instant::now();
        let schedule = CheckSchedule::new(0, &health(SECOND), epoch);
        assert_eq!(schedule.soon_after(epoch), schedule.regular_after(epoch));
    }
}
