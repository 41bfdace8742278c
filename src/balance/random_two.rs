//! Of two candidates drawn at random, the one with fewer open connections per weight.
//!
//! Use it instead of [`least_connections`](super::least_connections) when several balancers share the backends: each
//! knows only its own connections, so with `least-connections` all of them choose the same backend. It takes no lock.
//! Do not use it with two or three backends, where `least-connections` is exact at the same cost, or when weights are
//! far apart: all backends are drawn equally often, and of two light ones one gets the connection however idle the
//! heavy ones are.

use super::two::better_of_two;
use super::{Candidate, PickArgs};

pub(super) fn choose(candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
    better_of_two(candidates, args, fewer)
}

/// Whether the first has fewer connections per weight, without a division.
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

    /// The open connections of each backend after `n` have begun and none has ended.
    fn filled(picker: &Picker, n: u64) -> Vec<u32> {
        let lease = |random| {
            let chosen = picker.choose(&PickArgs { random, ..PickArgs::default() })?;
            Some(picker.candidates()[chosen].load.lease())
        };
        let _leases: Vec<_> = (0..n).map(lease).collect();
        picker.candidates().iter().map(|candidate| candidate.load.open()).collect()
    }

    #[test]
    fn equal_backends_fill_up_evenly() {
        // A plain random choice would have a standard deviation of 31.
        let active = filled(&picker(&[1; 10]), 10_000);
        assert!(active.iter().all(|active| active.abs_diff(1_000) <= 4), "{active:?}");
    }

    #[test]
    fn a_backend_of_twice_the_weight_gets_twice_as_many() {
        let active = filled(&picker(&[2, 1, 2, 1]), 6_000);
        assert!(
            active.iter().zip([2, 1, 2, 1]).all(|(active, weight)| active.abs_diff(weight * 1_000) <= 10),
            "{active:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_one_with_strictly_more_per_weight_is_never_chosen(
            members in proptest::collection::vec((1u32..=256, 0u32..40), 2..12), random in any::<u64>(),
        ) {
            let picker = picker(&members.iter().map(|m| m.0).collect::<Vec<_>>());
            let each = picker.candidates().iter().zip(&members);
            let _leases: Vec<_> = each.flat_map(|(c, m)| (0..m.1).map(|_| c.load.lease())).collect();
            let chosen = members[picker.choose(&PickArgs { random, ..PickArgs::default() }).unwrap()];
            // At least one other has as many.
            let no_more = members.iter().filter(|other| chosen.1 * other.0 <= other.1 * chosen.0);
            prop_assert!(no_more.count() >= 2);
        }
    }
}
