//! When a check is due. Pure: the time is handed in.
//!
//! Each checker has its own offset in the interval, so that backends found at the same moment are checked evenly over the
//! interval from then on.

use std::time::Duration;

use tokio::time::Instant;

use super::CheckError;
use super::rise_fall::{RiseFall, Verdict};
use crate::config::Health;

/// The golden ratio's fractional part, times 2^64. Its multiples are spread more evenly on a circle than those of any
/// other number, for any count and any start (Knuth, TAOCP volume 3, 6.4, theorem S).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The schedule of one checker.
#[derive(Debug)]
pub(super) struct CheckSchedule {
    every: Duration,
    fast_every: Option<Duration>,
    rise: u32,
    fall: u32,
    /// One of the regular times.
    regular: Instant,
    /// The end of the grace period, in which a backend that has never passed does not fail.
    grace_until: Instant,
    rise_fall: RiseFall,
    /// The fast interval was asked for, and the results since then have not settled it.
    fast: bool,
    /// The last result that counted, and the number of equal ones in a row since then.
    row: (bool, u32),
}

impl CheckSchedule {
    /// The schedule of checker `number`, which starts `now`; `epoch` is the same for all checkers.
    pub(super) fn new(number: u64, health: &Health, epoch: Instant, now: Instant) -> Self {
        let offset = number.wrapping_mul(GOLDEN) as f64 / 2f64.powi(64);
        Self {
            every: health.every,
            fast_every: health.fast_every,
            rise: health.rise,
            fall: health.fall,
            regular: epoch + health.every.mul_f64(offset),
            grace_until: now + health.grace,
            rise_fall: RiseFall::new(),
            fast: false,
            row: (true, 0),
        }
    }

    /// Takes in the result of the check that began at `began`; when the next one is due.
    pub(super) fn next(&mut self, began: Instant, result: &Result<(), CheckError>) -> Instant {
        let in_grace = self.rise_fall.verdict() == Verdict::Unchecked && began < self.grace_until;
        match result {
            Ok(()) => self.count(true),
            Err(CheckError::Failed(_)) if !in_grace => self.count(false),
            Err(_) => {}
        }
        self.due(began)
    }

    /// Switches to the fast interval, as live traffic fails, until `rise` or `fall` consecutive results agree: by then the
    /// pool, which counts both, has decided, too. When the check after the one that began at `began` is due now.
    pub(super) fn speed_up(&mut self, began: Instant) -> Instant {
        (self.fast, self.row) = (true, (true, 0));
        self.due(began)
    }

    fn count(&mut self, passed: bool) {
        self.rise_fall.on(passed, self.rise, self.fall);
        let (last, n) = self.row;
        self.row = (passed, if last == passed { n.saturating_add(1) } else { 1 });
        self.fast &= self.row.1 < if passed { self.rise } else { self.fall };
    }

    fn due(&self, began: Instant) -> Instant {
        let regular = self.regular_after(began);
        match self.fast_every {
            Some(fast) if self.fast || self.rise_fall.in_transition() => regular.min(began + fast),
            _ => regular,
        }
    }

    /// The first regular time after `time`; in the past, and so due at once, if a long check missed it.
    fn regular_after(&self, time: Instant) -> Instant {
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

    fn failed() -> Result<(), CheckError> {
        Err("no".to_owned().into())
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
                CheckSchedule::new(number, &health, epoch, found).next(found, &Ok(())) - found
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
            number: u64, checks in prop::collection::vec((0u64..1000, any::<bool>(), any::<bool>()), 1..100),
        ) {
            let epoch = Instant::now();
            let mut schedule = CheckSchedule::new(number, &health(SECOND), epoch, epoch);
            let mut began = epoch;
            let mut offset = None;
            for (late_ms, out_of_turn, passed) in checks {
                let result = if passed { Ok(()) } else { failed() };
                let due = schedule.next(began, &result);
                prop_assert!(due > began && due - began <= SECOND);
                let here = (due - epoch).as_nanos() % SECOND.as_nanos();
                prop_assert_eq!(*offset.get_or_insert(here), here);
                // An extra check, or a late one (by less than a whole interval).
                began = if out_of_turn { began + (due - began) / 2 } else { due + Duration::from_millis(late_ms) };
            }
        }
    }

    #[test]
    fn a_check_that_takes_the_whole_interval_skips_no_check() {
        let epoch = Instant::now();
        let mut schedule = CheckSchedule::new(0, &health(SECOND), epoch, epoch);
        let began = epoch + SECOND + Duration::from_millis(1);
        assert_eq!(schedule.next(began, &failed()), epoch + 2 * SECOND);
    }

    /// The intervals after each of the results.
    fn intervals(health: &Health, results: &[Result<(), CheckError>]) -> Vec<Duration> {
        let epoch = Instant::now();
        let mut schedule = CheckSchedule::new(0, health, epoch, epoch);
        let mut began = epoch;
        let next = |result| {
            let due = schedule.next(began, result);
            due - std::mem::replace(&mut began, due)
        };
        results.iter().map(next).collect()
    }

    #[test]
    fn checks_are_fast_while_the_verdict_is_in_transition() {
        let (slow, fast) = (10 * SECOND, SECOND);
        let health = Health { fast_every: Some(fast), rise: 2, fall: 3, ..health(slow) };
        let local = Err(CheckError::Local("no port".into()));
        // New; up; two failures and a success again; down for good; a first success, then up.
        let results = [
            local,
            Ok(()),
            failed(),
            failed(),
            Ok(()),
            failed(),
            failed(),
            failed(),
            failed(),
            Ok(()),
            Ok(()),
        ];
        let intervals = intervals(&health, &results);
        let is_fast: Vec<_> = intervals.iter().map(|interval| *interval == fast).collect();
        let (f, t) = (false, true);
        assert_eq!(is_fast, [t, f, t, t, f, t, t, f, f, t, f], "{intervals:?}");
    }

    #[test]
    fn a_backend_that_fails_live_traffic_is_checked_fast_until_enough_results_agree() {
        let (slow, fast) = (10 * SECOND, SECOND);
        let health = Health { fast_every: Some(fast), rise: 3, fall: 2, ..health(slow) };
        let epoch = Instant::now();
        let is_fast = |results: &[bool]| {
            let mut schedule = CheckSchedule::new(0, &health, epoch, epoch);
            let mut began = schedule.next(epoch, &Ok(()));
            assert_eq!(schedule.next(began, &Ok(())) - began, slow);
            assert_eq!(schedule.speed_up(began) - began, fast);
            let next = |passed: &bool| {
                began += fast;
                schedule.next(began, &if *passed { Ok(()) } else { failed() }) - began == fast
            };
            results.iter().map(next).collect::<Vec<_>>()
        };
        assert_eq!(is_fast(&[true, true, true, true]), [true, true, false, false]);
        assert_eq!(is_fast(&[false, false, false]), [true, false, false]);
        assert_eq!(is_fast(&[true, false, true, true, true]), [true, true, true, true, false]);
    }

    #[test]
    fn without_a_fast_interval_nothing_speeds_up() {
        let epoch = Instant::now();
        let mut schedule = CheckSchedule::new(0, &health(SECOND), epoch, epoch);
        let due = schedule.next(epoch, &Ok(()));
        assert_eq!(schedule.speed_up(epoch), due);
    }

    #[test]
    fn checks_are_fast_during_the_grace_period() {
        let (slow, fast) = (10 * SECOND, SECOND);
        let health = Health { fast_every: Some(fast), grace: 3 * SECOND, ..health(slow) };
        let intervals = intervals(&health, &[failed(), failed(), failed(), failed(), failed()]);
        assert_eq!(intervals[..3], [fast; 3]);
        assert!(intervals[3] > fast, "the grace period is over, and it is down: {intervals:?}");
    }
}
