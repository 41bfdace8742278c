//! The hash of the client, scaled to the sum of the weights.
//!
//! Use it when a client should stay with its backend, shares should be exact, and the set hardly ever changes. A
//! backend that joins or leaves, or a changed weight, changes the sum and moves a third of the other clients, or half; use
//! [`ring_hash`](super::ring_hash) or [`maglev`](super::maglev) then.

use super::hash::{self, NamedCandidate};

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
        let place = hash::slot(hash, *self.ends.last()?);
        Some(self.ends.partition_point(|&end| end <= place))
    }

    /// The same as a table: the candidate of each of its slots, in the order of names. It has as few slots as possible.
    pub(super) fn owners(&self) -> impl Iterator<Item = usize> + '_ {
        let divisor = self.ends.iter().fold(0, |a, b| greatest_common_divisor(a, *b)).max(1);
        let widths = self
            .ends
            .iter()
            .scan(0, move |begin, end| Some((end - std::mem::replace(begin, *end)) / divisor));
        widths.enumerate().flat_map(|(owner, width)| (0..width).map(move |_| owner))
    }
}

/// Euclid's algorithm.
pub(super) fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
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
        fn each_has_exactly_its_share_of_the_places(weights in proptest::collection::vec(1u32..=256, 1..20)) {
            let set = candidates(&weights);
            let named = by_name(&set);
            let lookup = SourceHash::new(&named);
            let mut counts = vec![0; weights.len()];
            let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            // The least hash of each place.
            for hash in (0..sum).map(|place| (place << 32).div_ceil(sum) << 32) {
                counts[named[lookup.find(hash).unwrap()].index] += 1;
            }
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn the_table_has_the_same_owners(weights in proptest::collection::vec(1u32..=256, 1..20), client in any::<u64>()) {
            let set = candidates(&weights);
            let lookup = SourceHash::new(&by_name(&set));
            let owners: Vec<_> = lookup.owners().collect();
            let slot = hash::slot(client, owners.len() as u64);
            prop_assert_eq!(lookup.find(client), Some(owners[slot as usize]));
        }
    }
}
