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

/// The position in the rotation, shared by all workers, so that turns are even over the whole process, and by the
/// pickers before and after this one.
#[derive(Debug)]
pub(super) struct RoundRobin {
    next: Arc<AtomicUsize>,
    /// Set while the weights differ.
    uneven: Option<Weighted>,
}

impl RoundRobin {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        Self { next: Arc::default(), uneven: differ(candidates).then(|| Weighted::new(candidates)) }
    }

    /// The rotation for a changed set.
    pub(super) fn carried_over(&self, before: &[Candidate], after: &[Candidate]) -> Self {
        let uneven = differ(after).then(|| match &self.uneven {
            Some(uneven) => uneven.carried_over(before, after),
            None => Weighted::new(after),
        });
        Self { next: Arc::clone(&self.next), uneven }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        if let Some(uneven) = &self.uneven {
            return uneven.choose(candidates, args);
        }
        let n = candidates.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % n;
        if !args.excludes(candidates[first].key) {
            return Some(first);
        }
        let found = (1..n).find(|step| !args.excludes(candidates[(first + step) % n].key))?;
        // Excluded candidates have had their turn: the rotation continues after the chosen one.
        self.next.fetch_add(found, Ordering::Relaxed);
        Some((first + found) % n)
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_full_rotation_is_exactly_even(n in 1usize..30, turns in 1usize..10, weight in 1u32..9) {
            let picker = Picker::new(Algorithm::RoundRobin, &Hash::default(), candidates(&vec![weight; n]), None);
            let mut counts = vec![0; n];
            for _ in 0..n * turns { counts[picker.choose(&PickArgs::default()).unwrap()] += 1; }
            prop_assert!(counts.iter().all(|&c| c == turns));
        }
    }
}
