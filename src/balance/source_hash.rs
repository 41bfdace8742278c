//! The hash of the client modulo the sum of the weights.
//!
//! Use it when a client should stay with its backend, shares should be exact, and the set hardly ever changes. A
//! backend that joins or leaves, or a changed weight, changes the sum and moves nearly all clients; use
//! [`ring_hash`](super::ring_hash) or [`maglev`](super::maglev) then.

use super::hash::NamedCandidate;

/// The candidates side by side, each as wide as its weight.
#[derive(Debug)]
pub(super) struct SourceHash {
    /// Where each one ends and the next one begins.
    ends: Box<[u64]>,
}

impl SourceHash {
    pub(super) fn new(named: &[NamedCandidate<'_>]) -> Self {
        let mut end = 0;
        let ends = named.iter().map(|candidate| {
            end += u64::from(candidate.weight);
            end
        });
        Self { ends: ends.collect() }
    }

    /// The candidate that the hash falls on, in the order of names.
    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        let sum = *self.ends.last()?;
        let remainder = hash.checked_rem(sum)?;
        Some(self.ends.partition_point(|&end| end <= remainder))
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::by_name;
    use super::super::laws::candidates;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn each_has_exactly_its_share_of_the_remainders(weights in proptest::collection::vec(1u32..=256, 1..20)) {
            let set = candidates(&weights);
            let named = by_name(&set);
            let lookup = SourceHash::new(&named);
            let mut counts = vec![0; weights.len()];
            for hash in 0..weights.iter().map(|&weight| u64::from(weight)).sum() {
                counts[named[lookup.find(hash).unwrap()].index] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }
}
