//! What is left of connections that failed at once, so that their backend does not look idle for it.
//!
//! A backend that ends each connection as soon as it has it never has many: by its load alone it would be everybody's
//! first choice. So a connection that came to nothing goes on counting for a while, as a [`FailurePenalty`]; for the choice only,
//! not for limits or for people.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::balance::{FailurePenalty, Load};

/// A connection that ended within this time came to nothing; one that lived for longer was a load while it did.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);

/// A failure penalty stays for a time drawn from zero to this, so that those of many connections that failed together go one by
/// one. As long as nginx leaves a server alone after a failure (`fail_timeout`), and far longer than most connections
/// take: in that time somebody finds out, a check or a restart.
const HOLD: Duration = Duration::from_secs(10);

/// One failure may be chance; of the tenth in a row there are ten failure penalties. So of n connections that the others hold, a
/// backend that fails them all gets about the square root of 2n, not its share; and of more no more than a tenth.
const MOST_AT_A_TIME: u32 = 10;

/// A worker's failure penalties at most, 24 KiB of them: beyond that the oldest go before their time.
const MOST: usize = 1024;

/// A worker's failure penalties, each with the time at which it goes.
#[derive(Debug, Default)]
pub(super) struct FailurePenalties(VecDeque<(Instant, FailurePenalty)>);

impl FailurePenalties {
    /// A connection came to nothing, the last of so many in a row.
    pub(super) fn appear(&mut self, load: &Arc<Load>, in_a_row: u32, now: Instant, random: &mut impl Rng) {
        for _ in 0..in_a_row.min(MOST_AT_A_TIME) {
            if self.0.len() >= MOST {
                self.0.pop_front();
            }
            self.0.push_back((now + HOLD.mul_f64(random.random()), load.penalize()));
        }
    }

    /// Lets those go whose time has come.
    pub(super) fn tick(&mut self, now: Instant) {
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
            (Arc::new(Load::default()), FailurePenalties::default(), Instant::now());
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..1000 {
            penalties.appear(&load, 1, now, &mut random);
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
        let (mut penalties, now) = (FailurePenalties::default(), Instant::now());
        let (mut random, mut failed, mut held) = (SmallRng::seed_from_u64(1), 0, Vec::new());
        for _ in 0..50 {
            if failing.effective_load() <= holding.effective_load() {
                failed += 1;
                penalties.appear(&failing, failed, now, &mut random);
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
            let (mut random, mut now) = (SmallRng::seed_from_u64(seed), Instant::now());
            penalties.appear(&old, 1, now, &mut random);
            for (in_a_row, millis) in failures {
                let before = load.effective_load() + old.effective_load();
                penalties.appear(&load, in_a_row, now, &mut random);
                prop_assert_eq!(load.effective_load() + old.effective_load(), (before + in_a_row.min(10)).min(1024));
                prop_assert!(load.effective_load() < 1024 || old.effective_load() == 0);
                now += Duration::from_millis(millis);
                penalties.tick(now);
            }
            penalties.tick(now + HOLD);
            prop_assert!(penalties.is_empty());
            prop_assert_eq!(load.effective_load(), 0);
        }
    }
}
