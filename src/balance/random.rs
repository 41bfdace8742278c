//! A candidate drawn at random, in proportion to its weight.
//!
//! Use it when several balancers share the backends and the choice must be a table, as in the kernel (`plane: kernel`): turns
//! that each of them takes alone would meet on the same backends. Elsewhere [`random_two`](super::random_two) is more even: of
//! n connections to a backend, a random choice is off by the square root of n.

use super::{Candidate, PickArgs};
use crate::balance::two::SplitMix;

/// Draws before the search falls back to the next candidate that is not excluded.
const DRAWS: usize = 16;

/// The sums of the weights up to and including each candidate.
#[derive(Debug)]
pub(super) struct Random {
    sums: Box<[u64]>,
}

impl Random {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let sum = |sum: &mut u64, candidate: &Candidate| {
            *sum += u64::from(candidate.weight);
            Some(*sum)
        };
        Self { sums: candidates.iter().scan(0, sum).collect() }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        let mut rng = SplitMix::new(args.random);
        let mut draw = || {
            let drawn = rng.below(*self.sums.last()?);
            Some(self.sums.partition_point(|sum| *sum <= drawn))
        };
        let allowed = |index: &usize| !args.excludes(candidates[*index].key);
        let drawn = (0..DRAWS).map_while(|_| draw()).find(allowed);
        drawn.or_else(|| {
            let start = draw()?;
            (start..candidates.len()).chain(0..start).find(allowed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::laws::picker;
    use super::*;
    use crate::config::Algorithm;
    use proptest::prelude::*;

    /// How often each is chosen.
    fn shares(weights: &[u32], excluded: &[u64], choices: u64) -> Vec<u64> {
        let picker = picker(Algorithm::Random, weights, None);
        let mut shares = vec![0; weights.len()];
        for n in 0..choices {
            let random = crate::balance::hash::rehash(1, n);
            shares[picker.choose(&PickArgs { excluded, random, ..PickArgs::default() }).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn shares_follow_weights() {
        let shares = shares(&[1, 2, 7], &[], 100_000);
        // Four standard deviations of a binomial distribution.
        let near = |share: u64, promised: u64| share.abs_diff(promised) <= 640;
        assert!(near(shares[0], 10_000) && near(shares[1], 20_000) && near(shares[2], 70_000), "{shares:?}");
    }

    #[test]
    fn the_others_get_the_share_of_an_excluded_one_by_weight() {
        let shares = shares(&[1, 2, 7], &[2], 30_000);
        assert_eq!(shares[2], 0);
        // Rarely, all 16 draws are the excluded one, and the search goes on in order.
        assert!(shares[0].abs_diff(10_000) < 500, "{shares:?}");
    }

    proptest! {
        #[test]
        fn every_candidate_can_be_drawn_and_none_beyond_the_last(
            weights in proptest::collection::vec(1u32.., 1..20), random in any::<u64>(),
        ) {
            let picker = picker(Algorithm::Random, &weights, None);
            let chosen = picker.choose(&PickArgs { random, ..PickArgs::default() });
            prop_assert!(chosen.is_some_and(|index| index < weights.len()));
        }
    }
}
