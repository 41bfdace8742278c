//! Smooth weighted round robin: each candidate in turn, as often as its weight says, spread out so that a heavy
//! one does not get its whole share in one burst. Weights 5, 1, 1 give a a b a c a a.
//!
//! Each choice gives every candidate its weight as credit; who has most is chosen and pays the sum of all
//! weights (nginx, `ngx_http_upstream_round_robin`, since 1.3.1). Use it when the backends differ in size and
//! the connections do not.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Candidate;

/// The credit of each candidate, in their order. A choice reads and writes all of it, so a lock guards it; it
/// is held for one pass over the candidates.
#[derive(Debug)]
pub(super) struct Weighted {
    credit: Mutex<Box<[i64]>>,
}

impl Weighted {
    pub(super) fn new(candidates: usize) -> Self {
        Self { credit: Mutex::new(vec![0; candidates].into_boxed_slice()) }
    }

    /// Credit for a changed set: who stays keeps theirs, so that a change elsewhere does not start anew the
    /// cycle that the others are in. Credit is worth its part of the sum of all weights, whatever that is.
    pub(super) fn carried_over(&self, before: &[Candidate], after: &[Candidate]) -> Self {
        let old = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let total = |set: &[Candidate]| set.iter().map(|c| i64::from(c.weight)).sum::<i64>();
        let (total_before, total_after) = (total(before).max(1), total(after));
        let worth = |credit: i64| credit * total_after / total_before;
        let old: HashMap<u64, i64> = before.iter().zip(&*old).map(|(c, credit)| (c.key, *credit)).collect();
        let of = |c: &Candidate| old.get(&c.key).map_or(0, |credit| worth(*credit));
        Self { credit: Mutex::new(after.iter().map(of).collect()) }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], tried: &[u64]) -> Option<usize> {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            if tried.contains(&candidate.key) {
                continue;
            }
            let weight = i64::from(candidate.weight);
            total += weight;
            credit[index] += weight;
            if best.is_none_or(|best| credit[index] > credit[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        credit[best] -= total;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Picker, laws::candidates};
    use crate::config::Algorithm;
    use proptest::prelude::*;

    #[test]
    fn five_one_one_is_spread_out() {
        let picker = Picker::new(Algorithm::Weighted, candidates(&[5, 1, 1]), None);
        let chosen: String = (0..14).map(|_| ["a", "b", "c"][picker.choose(&[]).unwrap()]).collect();
        assert_eq!(chosen, "aabacaaaabacaa");
    }

    #[test]
    fn a_newcomer_does_not_restart_the_others_cycle() {
        let old = Picker::new(Algorithm::Weighted, candidates(&[5, 1, 1]), None);
        for _ in 0..3 {
            old.choose(&[]);
        }
        let new = Picker::new(Algorithm::Weighted, candidates(&[5, 1, 1]), Some(&old));
        let rest: String = (0..4).map(|_| ["a", "b", "c"][new.choose(&[]).unwrap()]).collect();
        assert_eq!(rest, "acaa");
    }

    #[test]
    fn old_credit_is_worth_its_part_of_the_new_weights() {
        let heavy = Picker::new(Algorithm::Weighted, candidates(&[100, 100]), None);
        heavy.choose(&[]);
        let light = Picker::new(Algorithm::Weighted, candidates(&[1, 1]), Some(&heavy));
        let chosen: Vec<_> = (0..4).filter_map(|_| light.choose(&[])).collect();
        assert_eq!(chosen, [1, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn every_full_cycle_gives_each_exactly_its_share(
            weights in proptest::collection::vec(1u32..=40, 1..12), cycles in 1usize..4,
        ) {
            let picker = Picker::new(Algorithm::Weighted, candidates(&weights), None);
            let cycle: u32 = weights.iter().sum();
            for _ in 0..cycles {
                let mut counts = vec![0u32; weights.len()];
                for _ in 0..cycle { counts[picker.choose(&[]).unwrap()] += 1; }
                prop_assert_eq!(&counts, &weights);
            }
        }
    }
}
