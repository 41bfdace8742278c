//! Two candidates drawn uniformly at random, and the better one of them.
//!
//! Two are enough: the busiest of n backends is then about log log n above the average, where a single random choice
//! is log n / log log n above it (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). And as
//! each choice draws other candidates, many simultaneous choices do not all fall on the same least loaded backend.

use super::{Candidate, PickArgs};

/// Draws before the search falls back to the next candidate that is not excluded.
const DRAWS: usize = 16;

/// The first of the two, unless the second `beats` it.
pub(super) fn better_of_two(
    candidates: &[Candidate],
    args: &PickArgs<'_>,
    beats: impl Fn(&Candidate, &Candidate) -> bool,
) -> Option<usize> {
    let mut rng = SplitMix::new(args.random);
    let allowed = |index: usize| !args.excludes(candidates[index].key);
    let first = draw(candidates.len(), &mut rng, allowed)?;
    let Some(second) = draw(candidates.len(), &mut rng, |index| index != first && allowed(index)) else {
        return Some(first);
    };
    Some(if beats(&candidates[second], &candidates[first]) { second } else { first })
}

fn draw(n: usize, rng: &mut SplitMix, allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let drawn = (0..DRAWS).map(|_| rng.index(n)).find(|&index| allowed(index));
    drawn.or_else(|| {
        let start = rng.index(n);
        (start..n).chain(0..start).find(|&index| allowed(index))
    })
}

/// Expands one random number to many (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub(super) struct SplitMix(u64);

impl SplitMix {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// An index below `n`.
    fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::laws::candidates;
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    /// The choice, given whether the second one wins, and the two that were compared.
    fn chosen(
        n: usize,
        excluded: &[u64],
        random: u64,
        wins: bool,
    ) -> (Option<usize>, Option<(usize, usize)>) {
        let two = Cell::new(None);
        let chosen = better_of_two(
            &candidates(&vec![1; n]),
            &PickArgs { excluded, random, ..PickArgs::default() },
            |one, other| {
                two.set(Some((other.key as usize, one.key as usize)));
                wins
            },
        );
        (chosen, two.get())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn two_different_candidates_are_compared_and_the_better_one_is_chosen(
            excluded in proptest::collection::vec(any::<bool>(), 1..20), random in any::<u64>(), wins in any::<bool>(),
        ) {
            let keys: Vec<u64> = (0..excluded.len()).filter(|&n| excluded[n]).map(|n| n as u64).collect();
            let left = excluded.len() - keys.len();
            let (chosen, two) = chosen(excluded.len(), &keys, random, wins);
            prop_assert_eq!(chosen.is_some(), left > 0);
            prop_assert_eq!(two.is_some(), left > 1);
            prop_assert!(chosen.is_none_or(|index| !excluded[index]));
            if let Some((first, second)) = two {
                prop_assert!(first != second && !excluded[first] && !excluded[second]);
                prop_assert_eq!(chosen, Some(if wins { second } else { first }));
            }
        }
    }

    #[test]
    fn each_pair_is_as_likely_as_any_other() {
        let mut counts = BTreeMap::new();
        for random in 0..60_000 {
            *counts.entry(chosen(5, &[2], random, false).1.unwrap()).or_insert(0) += 1;
        }
        // 12 ordered pairs of 4; five standard deviations are 340.
        assert_eq!(counts.len(), 12);
        assert!(counts.values().all(|&count: &i32| (count - 5_000).abs() < 340), "{counts:?}");
    }

    #[test]
    fn the_generator_is_that_of_the_paper() {
        // The first numbers of the authors' program (splitmix64.c) with the seed 1234567.
        let mut rng = SplitMix(1_234_567);
        assert_eq!([rng.next(), rng.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
