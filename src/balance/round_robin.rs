//! Each candidate in turn. It ignores configured weights.
//!
//! Use it when backends and connections are alike. Do not use it when connections live for very different times: it
//! counts past choices instead of open connections.
//!
//! Its candidates have equal weights except during `slow_start`. While one of them ramps up, turns are assigned by
//! weight, as [`weighted`](super::weighted) does; then the rotation continues where it stood.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::weighted::Weighted;
use super::{Candidate, PickArgs};

/// The rotation, shared by all workers, so that turns are even over the whole process.
#[derive(Debug)]
pub(super) struct RoundRobin {
    /// The turns so far, which the pickers before and after this one count too.
    turns: Arc<AtomicUsize>,
    /// The position in this picker's rotation when `turns` was 0.
    offset: usize,
    /// Set while the weights differ.
    uneven: Option<Weighted>,
}

impl RoundRobin {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let uneven = differ(candidates).then(|| Weighted::new(candidates));
        Self { turns: Arc::default(), offset: 0, uneven }
    }

    /// The rotation for a changed set: it continues with the candidate that is next in the old one, or with the first
    /// behind it that is still there.
    pub(super) fn carried_over(&self, before: &[Candidate], after: &[Candidate]) -> Self {
        let uneven = differ(after).then(|| match &self.uneven {
            Some(uneven) => uneven.carried_over(before, after),
            None => Weighted::new(after),
        });
        let turns = self.turns.load(Ordering::Relaxed);
        let position = self.position(turns, before.len());
        let (behind, ahead) = before.split_at(position);
        let next = ahead.iter().chain(behind).find_map(|old| after.iter().position(|new| new.key == old.key));
        let offset = match next {
            // Before its first turn the rotation starts with the first candidate, whichever came up first.
            Some(next) if turns > 0 => next + after.len() - turns % after.len(),
            _ => 0,
        };
        Self { turns: Arc::clone(&self.turns), offset, uneven }
    }

    /// The position in a rotation of `n` candidates after that many turns.
    fn position(&self, turns: usize, n: usize) -> usize {
        turns.wrapping_add(self.offset).checked_rem(n).unwrap_or(0)
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        if let Some(uneven) = &self.uneven {
            return uneven.choose(candidates, args);
        }
        let n = candidates.len();
        // An excluded candidate has had its turn. Each step is a turn of its own, so that two workers that step over it
        // at the same time choose different candidates.
        let turns = std::iter::repeat_with(|| self.position(self.turns.fetch_add(1, Ordering::Relaxed), n));
        let eligible = |index: &usize| !args.excludes(candidates[*index].key);
        // Other workers may take the turns of all others meanwhile.
        turns.take(n).find(eligible).or_else(|| (0..n).find(eligible))
    }
}

fn differ(candidates: &[Candidate]) -> bool {
    candidates.windows(2).any(|pair| pair[0].weight != pair[1].weight)
}

#[cfg(test)]
mod tests {
    use super::super::{PickArgs, Picker, laws::candidates};
    use crate::config::{Algorithm, Hash};
    use proptest::prelude::*;
    use std::sync::Arc;

    #[test]
    fn equal_backends_take_turns() {
        let picker = Picker::new(Algorithm::RoundRobin, &Hash::default(), candidates(&[1, 1, 1]), None);
        let chosen: Vec<_> = (0..10).filter_map(|_| picker.choose(&PickArgs::default())).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_first_choice_does_not_depend_on_the_order_in_which_backends_came_up() {
        let all = candidates(&[1, 1, 1]);
        let last = Picker::new(Algorithm::RoundRobin, &Hash::default(), vec![all[2].clone()], None);
        let three = Picker::new(Algorithm::RoundRobin, &Hash::default(), all, Some(&last));
        assert_eq!(three.choose(&PickArgs::default()), Some(0));
    }

    #[test]
    fn several_workers_share_one_rotation() {
        let picker =
            Arc::new(Picker::new(Algorithm::RoundRobin, &Hash::default(), candidates(&[1; 7]), None));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let picker = Arc::clone(&picker);
                std::thread::spawn(move || {
                    let mut counts = [0u32; 7];
                    for _ in 0..7_000 {
                        counts[picker.choose(&PickArgs::default()).unwrap()] += 1;
                    }
                    counts
                })
            })
            .collect();
        let mut total = [0u32; 7];
        for worker in workers {
            for (sum, count) in total.iter_mut().zip(worker.join().unwrap()) {
                *sum += count;
            }
        }
        assert_eq!(total, [4_000; 7]);
    }

    #[test]
    fn a_backend_in_slow_start_gets_part_of_its_turns_until_all_are_equal_again() {
        let new = |weights: &[u32], old: Option<&Picker>| {
            Picker::new(Algorithm::RoundRobin, &Hash::default(), candidates(weights), old)
        };
        let chosen = |picker: &Picker, n: usize| -> Vec<_> {
            (0..n).filter_map(|_| picker.choose(&PickArgs::default())).collect()
        };
        let even = new(&[1, 1, 1], None);
        assert_eq!(chosen(&even, 4), [0, 1, 2, 0]);
        let ramp = new(&[4, 4, 1], Some(&even));
        let quarter = chosen(&ramp, 9);
        assert_eq!(
            [0, 1, 2].map(|index| quarter.iter().filter(|&&chosen| chosen == index).count()),
            [4, 4, 1]
        );
        let half = chosen(&new(&[4, 4, 2], Some(&ramp)), 10);
        assert_eq!([0, 1, 2].map(|index| half.iter().filter(|&&chosen| chosen == index).count()), [4, 4, 2]);
        assert_eq!(chosen(&new(&[4, 4, 4], Some(&ramp)), 4), [1, 2, 0, 1]);
    }

    #[test]
    fn a_failed_attempt_and_the_exclusion_after_it_leave_the_turns_even() {
        let all = Picker::new(Algorithm::RoundRobin, &Hash::default(), candidates(&[1, 1, 1]), None);
        let two = |old: &Picker| {
            Picker::new(Algorithm::RoundRobin, &Hash::default(), candidates(&[1, 1]), Some(old))
        };
        for excluded_after in 0..30 {
            let (mut rest, mut counts) = (None, [0; 2]);
            for connection in 0..30 {
                if connection == excluded_after {
                    rest = Some(two(&all));
                }
                let picker = rest.as_ref().unwrap_or(&all);
                let retry = PickArgs { excluded: &[2], ..PickArgs::default() };
                let chosen = picker.choose(&PickArgs::default()).unwrap();
                let chosen = if chosen == 2 { picker.choose(&retry).unwrap() } else { chosen };
                counts[chosen] += 1;
            }
            assert_eq!(counts, [15, 15], "excluded after {excluded_after} connections");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_full_rotation_is_exactly_even(n in 1usize..30, turns in 1usize..10, weight in 1u32..9) {
            let picker = Picker::new(Algorithm::RoundRobin, &Hash::default(), candidates(&vec![weight; n]), None);
            let mut counts = vec![0; n];
            for _ in 0..n * turns { counts[picker.choose(&PickArgs::default()).unwrap()] += 1; }
            prop_assert!(counts.iter().all(|&c| c == turns));
        }

        #[test]
        fn a_changed_set_continues_with_the_next_candidate_that_is_left(
            n in 1usize..12, turns in 0usize..40, kept in proptest::collection::vec(any::<bool>(), 12),
            more in 0usize..40, added in 0usize..3,
        ) {
            let all = candidates(&vec![1; n + added]);
            let of = |picked: Vec<usize>, old: Option<&Picker>| {
                let set = picked.iter().map(|&index| all[index].clone()).collect();
                Picker::new(Algorithm::RoundRobin, &Hash::default(), set, old)
            };
            let key = |picker: &Picker| picker.candidates()[picker.choose(&PickArgs::default()).unwrap()].key as usize;
            let left = Vec::from_iter((0..n).filter(|&index| kept[index]));
            prop_assume!(!left.is_empty());
            let before = of((0..n).collect(), None);
            for turn in 0..turns { prop_assert_eq!(key(&before), turn % n); }
            let after = of(left.clone(), Some(&before));
            let next = (turns..).map(|turn| turn % n);
            let expected = Vec::from_iter(next.filter(|&index| kept[index]).take(more));
            prop_assert_eq!(Vec::from_iter((0..more).map(|_| key(&after))), expected);
            // Those that are added have their turn when the rotation reaches them.
            let last = key(&after);
            let position = left.iter().position(|&index| index == last).unwrap();
            let set = Vec::from_iter(left.iter().copied().chain(n..n + added));
            let grown = of(set.clone(), Some(&after));
            let start = (position + 1) % left.len();
            let rest = Vec::from_iter((0..set.len()).map(|step| set[(start + step) % set.len()]));
            prop_assert_eq!(Vec::from_iter((0..set.len()).map(|_| key(&grown))), rest);
        }
    }
}
