//! When a check is due again. Pure: it is handed the time.
//!
//! Each checker has a place of its own in the interval and comes back to it again and again, so that backends which
//! were found in one moment are checked evenly over the interval from then on.

use std::time::Duration;

use tokio::time::Instant;

use super::CheckError;
use super::tally::{Tally, Verdict};
use crate::config::Health;

/// The golden ratio's fractional part, of 2^64. Its multiples lie more evenly on a circle than those of any other
/// number, however many of them there are and with whichever one begins (Knuth, TAOCP volume 3, 6.4, theorem S).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The times of one checker.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Duration,
    fast_every: Option<Duration>,
    rise: u32,
    fall: u32,
    /// One of the regular times.
    regular: Instant,
    /// Until then a backend that has never passed is only starting.
    starting: Instant,
    tally: Tally,
    /// Somebody else has brought the backend into doubt, and the results since then do not agree yet.
    doubted: bool,
    /// The last result that counted, and how many in a row were like it since it was doubted.
    row: (bool, u32),
}

impl Schedule {
    /// The times of the checker of that number, which begins `now`; `epoch` is the same for all of them.
    pub(super) fn new(number: u64, health: &Health, epoch: Instant, now: Instant) -> Self {
        let place = number.wrapping_mul(GOLDEN) as f64 / 2f64.powi(64);
        Self {
            every: health.every,
            fast_every: health.fast_every,
            rise: health.rise,
            fall: health.fall,
            regular: epoch + health.every.mul_f64(place),
            starting: now + health.grace,
            tally: Tally::new(),
            doubted: false,
            row: (true, 0),
        }
    }

    /// Takes in the result of the check that began at `began`, and says when the next one is due.
    pub(super) fn next(&mut self, began: Instant, result: &Result<(), CheckError>) -> Instant {
        let starting = self.tally.verdict() == Verdict::Unchecked && began < self.starting;
        match result {
            Ok(()) => self.learn(true),
            Err(CheckError::Failed(_)) if !starting => self.learn(false),
            Err(_) => {} // nothing was learned
        }
        self.due(began)
    }

    /// Something else than a check speaks against the backend: it is in doubt until `rise` or `fall` results in a row
    /// agree, by which whoever counts both has made up its mind too. When the check after the one that began at `began`
    /// is due now.
    pub(super) fn doubt(&mut self, began: Instant) -> Instant {
        (self.doubted, self.row) = (true, (true, 0));
        self.due(began)
    }

    fn learn(&mut self, passed: bool) {
        self.tally.on(passed, self.rise, self.fall);
        let (like, n) = self.row;
        self.row = (passed, if like == passed { n.saturating_add(1) } else { 1 });
        self.doubted &= self.row.1 < if passed { self.rise } else { self.fall };
    }

    /// When the check after the one that began at `began` is due.
    fn due(&self, began: Instant) -> Instant {
        let regular = self.regular_after(began);
        match self.fast_every {
            Some(pause) if self.doubted || self.tally.in_doubt() => regular.min(began + pause),
            _ => regular,
        }
    }

    /// The first regular time after `time`. One that a long check has missed is in the past, and due at once.
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
        fn backends_found_in_one_moment_are_then_checked_evenly_over_the_interval(
            first in 0u64..1 << 40, n in 2u64..600, every_ms in 10u64..10_000, after_ms in 0u64..100_000,
        ) {
            let epoch = Instant::now();
            let (every, found) = (Duration::from_millis(every_ms), epoch + Duration::from_millis(after_ms));
            let health = health(every);
            let second = (first..first + n).map(|number| {
                Schedule::new(number, &health, epoch, found).next(found, &Ok(())) - found
            });
            let mut second: Vec<_> = second.collect();
            second.sort();
            prop_assert!(second[0] > Duration::ZERO && second[second.len() - 1] <= every);
            let around = every - second[second.len() - 1] + second[0];
            let gaps = second.windows(2).map(|pair| pair[1] - pair[0]).chain([around]);
            prop_assert!(gaps.max().unwrap() <= every * 3 / n as u32 + Duration::from_nanos(10));
        }

        #[test]
        fn the_regular_times_keep_their_place_however_long_checks_take_and_whatever_comes_between(
            number: u64, checks in prop::collection::vec((0u64..1000, any::<bool>(), any::<bool>()), 1..100),
        ) {
            let epoch = Instant::now();
            let mut schedule = Schedule::new(number, &health(SECOND), epoch, epoch);
            let mut began = epoch;
            let mut place = None;
            for (late_ms, out_of_turn, passed) in checks {
                let result = if passed { Ok(()) } else { failed() };
                let due = schedule.next(began, &result);
                prop_assert!(due > began && due - began <= SECOND);
                let here = (due - epoch).as_nanos() % SECOND.as_nanos();
                prop_assert_eq!(*place.get_or_insert(here), here);
                // Somebody asks for a check out of turn, or one begins late (by less than a whole interval).
                began = if out_of_turn { began + (due - began) / 2 } else { due + Duration::from_millis(late_ms) };
            }
        }
    }

    #[test]
    fn a_check_that_takes_the_whole_interval_costs_no_turn() {
        let epoch = Instant::now();
        let mut schedule = Schedule::new(0, &health(SECOND), epoch, epoch);
        let began = epoch + SECOND + Duration::from_millis(1);
        assert_eq!(schedule.next(began, &failed()), epoch + 2 * SECOND);
    }

    /// How long after a check the next one comes, for each result of a row.
    fn pauses(health: &Health, results: &[Result<(), CheckError>]) -> Vec<Duration> {
        let epoch = Instant::now();
        let mut schedule = Schedule::new(0, health, epoch, epoch);
        let mut began = epoch;
        let next = |result| {
            let due = schedule.next(began, result);
            due - std::mem::replace(&mut began, due)
        };
        results.iter().map(next).collect()
    }

    #[test]
    fn while_in_doubt_checks_come_faster() {
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
        let pauses = pauses(&health, &results);
        let is_fast: Vec<_> = pauses.iter().map(|pause| *pause == fast).collect();
        let (f, t) = (false, true);
        assert_eq!(is_fast, [t, f, t, t, f, t, t, f, f, t, f], "{pauses:?}");
    }

    #[test]
    fn who_is_doubted_by_others_is_checked_faster_until_enough_results_agree() {
        let (slow, fast) = (10 * SECOND, SECOND);
        let health = Health { fast_every: Some(fast), rise: 3, fall: 2, ..health(slow) };
        let epoch = Instant::now();
        let is_fast = |results: &[bool]| {
            let mut schedule = Schedule::new(0, &health, epoch, epoch);
            let mut began = schedule.next(epoch, &Ok(()));
            assert_eq!(schedule.next(began, &Ok(())) - began, slow);
            assert_eq!(schedule.doubt(began) - began, fast);
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
    fn without_a_faster_pace_doubt_changes_nothing() {
        let epoch = Instant::now();
        let mut schedule = Schedule::new(0, &health(SECOND), epoch, epoch);
        let due = schedule.next(epoch, &Ok(()));
        assert_eq!(schedule.doubt(epoch), due);
    }

    #[test]
    fn a_backend_that_is_still_starting_is_in_doubt() {
        let (slow, fast) = (10 * SECOND, SECOND);
        let health = Health { fast_every: Some(fast), grace: 3 * SECOND, ..health(slow) };
        let pauses = pauses(&health, &[failed(), failed(), failed(), failed(), failed()]);
        assert_eq!(pauses[..3], [fast; 3]);
        assert!(pauses[3] > fast, "its time to start is over, and it is down: {pauses:?}");
    }
}
