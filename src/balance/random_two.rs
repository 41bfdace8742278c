//! Of two candidates drawn at random, the one with fewer open connections for its weight.
//!
//! Use it where [`least_connections`](super::least_connections) would do and several balancers send to the same
//! backends: each of them knows only its own connections, and those that choose the least loaded all choose the same
//! one. It takes no lock. Do not with two or three backends, where `least-connections` is exact for the same price,
//! or when weights are far apart: everybody is drawn as often, and a light backend that is drawn with another
//! light one gets the connection however idle the heavy ones are.

use super::two::better_of_two;
use super::{Candidate, PickArgs};

pub(super) fn choose(candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
    better_of_two(candidates, args, fewer)
}

/// Whether it has fewer connections for its weight than the other, without dividing.
fn fewer(one: &Candidate, other: &Candidate) -> bool {
    let cost = |of: &Candidate, by: &Candidate| u64::from(of.load.effective_load()) * u64::from(by.weight);
    cost(one, other) < cost(other, one)
}

#[cfg(test)]
mod tests {
    use super::super::{PickArgs, Picker, laws::candidates};
    use crate::config::{Algorithm, Hash};
    use proptest::prelude::*;

    fn picker(weights: &[u32]) -> Picker {
        Picker::new(Algorithm::RandomTwo, &Hash::default(), candidates(weights), None)
    }

    /// The connections of each when `n` have come and none has ended.
    fn filled(picker: &Picker, n: u64) -> Vec<u32> {
        let lease = |random| {
            let chosen = picker.choose(&PickArgs { random, ..PickArgs::default() })?;
            Some(picker.candidates()[chosen].load.lease())
        };
        let _leases: Vec<_> = (0..n).map(lease).collect();
        picker.candidates().iter().map(|candidate| candidate.load.active()).collect()
    }

    #[test]
    fn equal_backends_fill_up_evenly() {
        // One drawn at random would leave them 31 apart on average (one standard deviation).
        let active = filled(&picker(&[1; 10]), 10_000);
        assert!(active.iter().all(|active| active.abs_diff(1_000) <= 4), "{active:?}");
    }

    #[test]
    fn one_of_twice_the_weight_fills_up_to_twice_as_much() {
        let active = filled(&picker(&[2, 1, 2, 1]), 6_000);
        assert!(
            active.iter().zip([2, 1, 2, 1]).all(|(active, weight)| active.abs_diff(weight * 1_000) <= 10),
            "{active:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn of_two_the_one_with_strictly_more_for_its_weight_is_never_chosen(
            members in proptest::collection::vec((1u32..=256, 0u32..40), 2..12), random in any::<u64>(),
        ) {
            let picker = picker(&members.iter().map(|m| m.0).collect::<Vec<_>>());
            let each = picker.candidates().iter().zip(&members);
            let _leases: Vec<_> = each.flat_map(|(c, m)| (0..m.1).map(|_| c.load.lease())).collect();
            let chosen = members[picker.choose(&PickArgs { random, ..PickArgs::default() }).unwrap()];
            // There is another one that it had no more than.
            let no_more = members.iter().filter(|other| chosen.1 * other.0 <= other.1 * chosen.0);
            prop_assert!(no_more.count() >= 2);
        }
    }
}
