//! Failure penalties, so that a backend does not look idle because its connections fail at once.
//!
//! A backend that ends each connection at once never has many open: by load alone it would always be the first choice.
//! A failed connection therefore counts as load for a while longer, as a [`FailurePenalty`]: in the choice only, not in
//! limits and not in the status.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, RngExt};

use super::clock::Moment;
use crate::balance::{FailurePenalty, Load};

/// A connection that ended within this time without a response is a failure; a longer one counted as load while it was
/// open.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);

/// A failure penalty lasts for a random time up to this, so that the penalties of connections that failed together end
/// one by one. The same time as nginx's default `fail_timeout`: by then a check has detected the failure, or a
/// restart has fixed it.
const HOLD: Duration = Duration::from_secs(10);

/// One failure may be chance; the tenth in a row adds ten penalties. So while the other backends hold n connections, a
/// backend that fails all gets about the square root of 2n instead of its share, and of many at most a tenth.
const MOST_AT_A_TIME: u32 = 10;

/// The maximum number of penalties per worker, which take 24 KiB; beyond it, the oldest end early.
const MOST: usize = 1024;

/// A worker's failure penalties, each with the time at which it ends.
#[derive(Debug, Default)]
pub(super) struct FailurePenalties(VecDeque<(Moment, FailurePenalty)>);

impl FailurePenalties {
    /// Adds the penalties for a failure, the last of `in_a_row`.
    pub(super) fn add(&mut self, load: &Arc<Load>, in_a_row: u32, now: Moment, random: &mut impl Rng) {
        for _ in 0..in_a_row.min(MOST_AT_A_TIME) {
            if self.0.len() >= MOST {
                self.0.pop_front();
            }
            self.0.push_back((now + HOLD.mul_f64(random.random()), load.penalize()));
        }
    }

    /// Ends the penalties that are due.
    pub(super) fn tick(&mut self, now: Moment) {
        self.0.retain(|(until, _)| *until > now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn penalties_of_one_moment_end_one_by_one() {
        let (load, mut penalties, now) =
            (Arc::new(Load::default()), FailurePenalties::default(), Moment::now());
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..1000 {
            penalties.add(&load, 1, now, &mut random);
        }
        for tenth in 0..=10 {
            penalties.tick(now + HOLD / 10 * tenth);
            let expected = 1000 - 100 * tenth;
            assert!(
                load.effective_load().abs_diff(expected) < 50,
                "{} penalties after {tenth} tenths",
                load.effective_load()
            );
        }
        assert!(penalties.is_empty());
        assert_eq!((load.effective_load(), load.open()), (0, 0));
    }

    #[test]
    fn a_backend_that_fails_each_time_gets_little_of_what_another_one_holds() {
        let (failing, holding) = (Arc::new(Load::default()), Arc::new(Load::default()));
        let (mut penalties, now) = (FailurePenalties::default(), Moment::now());
        let (mut random, mut failed, mut held) = (SmallRng::seed_from_u64(1), 0, Vec::new());
        for _ in 0..50 {
            if failing.effective_load() <= holding.effective_load() {
                failed += 1;
                penalties.add(&failing, failed, now, &mut random);
            } else {
                held.push(holding.lease());
            }
        }
        assert_eq!(failed, 9); // 1 + 2 + … + 9 = 45 > 41
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_the_most_and_the_oldest_go_first(
            failures in proptest::collection::vec((0u32..30, 0u64..2_000), 0..300), seed: u64,
        ) {
            let (old, load, mut penalties) = (Arc::new(Load::default()), Arc::new(Load::default()), FailurePenalties::default());
            let (mut random, mut now) = (SmallRng::seed_from_u64(seed), Moment::now());
            penalties.add(&old, 1, now, &mut random);
            for (in_a_row, millis) in failures {
                let before = load.effective_load() + old.effective_load();
                penalties.add(&load, in_a_row, now, &mut random);
                prop_assert_eq!(load.effective_load() + old.effective_load(), (before + in_a_row.min(10)).min(1024));
                prop_assert!(load.effective_load() < 1024 || old.effective_load() == 0);
                now = now + Duration::from_millis(millis);
                penalties.tick(now);
            }
            penalties.tick(now + HOLD);
            prop_assert!(penalties.is_empty());
            prop_assert_eq!(load.effective_load(), 0);
        }
    }
}
