//! The candidate with the fewest open connections for its weight; among equals, each in turn.
//!
//! Use it when connections live for very different times (databases, web sockets, long downloads). Do not when
//! backends fail fast: one that ends each connection at once always looks idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Candidate;

/// Where the search begins, which is what decides between equals.
#[derive(Clone, Debug, Default)]
pub(super) struct LeastConnections {
    next: Arc<AtomicUsize>,
}

impl LeastConnections {
    pub(super) fn choose(&self, candidates: &[Candidate], tried: &[u64]) -> Option<usize> {
        let n = candidates.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % n;
        let mut best: Option<(usize, u64)> = None;
        for index in (first..n).chain(0..first) {
            let candidate = &candidates[index];
            if tried.contains(&candidate.key) {
                continue;
            }
            let active = u64::from(candidate.load.active());
            // active / weight < best / best's weight, without dividing
            let fewer = |(best, best_active): (usize, u64)| {
                active * u64::from(candidates[best].weight) < best_active * u64::from(candidate.weight)
            };
            if best.is_none_or(fewer) {
                best = Some((index, active));
            }
        }
        best.map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Picker, laws::candidates};
    use crate::config::Algorithm;
    use proptest::prelude::*;

    #[test]
    fn equals_take_turns() {
        let picker = Picker::new(Algorithm::LeastConnections, candidates(&[1, 1, 1]), None);
        let chosen: Vec<_> = (0..6).filter_map(|_| picker.choose(&[])).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn nobody_has_strictly_fewer_for_its_weight(
            members in proptest::collection::vec((1u32..=256, 0usize..40), 1..20), asked in 1usize..30,
        ) {
            let weights: Vec<_> = members.iter().map(|m| m.0).collect();
            let set = candidates(&weights);
            let _leases: Vec<_> =
                set.iter().zip(&members).flat_map(|(c, m)| (0..m.1).map(|_| c.load.lease())).collect();
            let picker = Picker::new(Algorithm::LeastConnections, set, None);
            for _ in 0..asked {
                let chosen = picker.choose(&[]).unwrap();
                let cost = |i: usize| members[i].1 as f64 / f64::from(members[i].0);
                prop_assert!((0..members.len()).all(|other| cost(other) >= cost(chosen) - 1e-9));
            }
        }
    }
}
