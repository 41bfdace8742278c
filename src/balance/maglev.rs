//! Hashes the client into a table of prime size that the backends fill in turns (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Use it when a client should stay with its backend, shares must be close, and there are many connections: the shares
//! of equal backends differ by one entry, and a lookup is one read. Do not use it when only the clients of a leaving
//! backend may move: a few others move too, more of them with more backends (`moved_keys.rs` measures it).
//! [`ring_hash`](super::ring_hash) moves none.
//!
//! # The table
//!
//! Each backend has a permutation of the entries, given by an offset and a skip, both hashes of its name. In its turn
//! a backend takes the next free entry of its permutation. One with half the weight of the heaviest has a turn in
//! every other round; each has one in the first.
//!
//! The paper requires a table much larger than the number of backends: here at least a hundred entries each, so that
//! shares are off by at most one percent. The least of [`SIZES`] that fits is used. A set that crosses from one size to
//! the next moves nearly all clients, so the sizes are far apart.

use super::hash::{self, NamedCandidate, Purpose};

/// Primes just above powers of four; the first is the paper's.
const SIZES: [u64; 4] = [65_537, 262_147, 1_048_583, 4_194_319];

/// An entry that is not taken yet.
const FREE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Maglev {
    /// The owner of each entry, in the order of names.
    table: Box<[u32]>,
}

/// A backend's permutation of the table, and how far it has come.
struct Permutation {
    /// Its next entry.
    entry: u64,
    skip: u64,
    taken: u64,
    weight: u64,
}

impl Maglev {
    pub(super) fn new(named: &[NamedCandidate<'_>]) -> Self {
        let size = size(named.len());
        let mut all: Vec<_> = named.iter().map(|one| Permutation::new(one, size)).collect();
        let Some(heaviest) = all.iter().map(|permutation| permutation.weight).max() else {
            return Self { table: Box::default() };
        };
        let mut table = vec![FREE; size as usize].into_boxed_slice();
        let mut left = table.len();
        'fill: for round in 1.. {
            for (owner, permutation) in all.iter_mut().enumerate() {
                if left == 0 {
                    break 'fill;
                }
                if permutation.taken * heaviest < round * permutation.weight {
                    permutation.take(&mut table, owner as u32);
                    left -= 1;
                }
            }
        }
        Self { table }
    }

    /// The owner of the hash's entry, in the order of names.
    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        let entry = hash::slot(hash, self.table.len() as u64);
        self.table.get(entry as usize).map(|owner| *owner as usize)
    }

    /// The owner of each entry, in the order of names.
    pub(super) fn owners(&self) -> impl Iterator<Item = usize> + '_ {
        self.table.iter().map(|owner| *owner as usize)
    }
}

impl Permutation {
    fn new(one: &NamedCandidate<'_>, size: u64) -> Self {
        Self {
            entry: one.hash(Purpose::Offset, 0) % size,
            skip: one.hash(Purpose::Skip, 0) % (size - 1) + 1,
            taken: 0,
            weight: one.weight.into(),
        }
    }

    /// Takes the next free entry; there must be one.
    fn take(&mut self, table: &mut [u32], owner: u32) {
        let size = table.len() as u64;
        let mut entry = self.entry;
        while table[entry as usize] != FREE {
            entry = (entry + self.skip) % size;
        }
        table[entry as usize] = owner;
        self.entry = (entry + self.skip) % size;
        self.taken += 1;
    }
}

fn size(backends: usize) -> u64 {
    let large = |&size: &u64| size >= 100 * backends as u64;
    SIZES.into_iter().find(large).unwrap_or(SIZES[SIZES.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::super::hash::by_name;
    use super::super::laws::candidates;
    use super::*;
    use proptest::prelude::*;

    /// The entries of each backend, and the size of the table.
    fn entries(weights: &[u32]) -> (Vec<u32>, usize) {
        let set = candidates(weights);
        let named = by_name(&set);
        let table = Maglev::new(&named).table;
        let mut counts = vec![0; weights.len()];
        for &owner in &table {
            counts[named[owner as usize].index] += 1;
        }
        (counts, table.len())
    }

    #[test]
    fn sizes_are_prime_and_a_hundred_times_the_number_of_backends() {
        let prime = |&size: &u64| (2..).take_while(|n| n * n <= size).all(|n| size % n != 0);
        assert!(SIZES.iter().all(prime));
        for (backends, expected) in [(1, 65_537), (655, 65_537), (656, 262_147), (10_000, 1_048_583)] {
            assert!(size(backends) == expected && expected >= 100 * backends as u64);
        }
        assert_eq!(size(usize::MAX / 100), 4_194_319);
    }

    #[test]
    fn many_equal_backends_differ_by_one_entry() {
        let (counts, size) = entries(&[1; 700]);
        assert_eq!(size, 262_147);
        assert!(counts.iter().all(|count| (374..=375).contains(count)), "{counts:?}");
    }

    proptest! {
        // A table of 65,537 entries takes a few milliseconds.
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn equal_backends_differ_by_one_entry(backends in 1usize..60, weight in 1u32..=256) {
            let (counts, _) = entries(&vec![weight; backends]);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }

        #[test]
        fn shares_are_within_a_turn_of_the_weights(weights in proptest::collection::vec(1u32..=256, 1..40)) {
            let (counts, size) = entries(&weights);
            prop_assert_eq!(counts.iter().sum::<u32>() as usize, size);
            let (sum, n) = (weights.iter().sum::<u32>() as f64, weights.len() as f64);
            for (count, weight) in counts.into_iter().zip(weights) {
                // A backend may be one turn ahead of its weight, and one behind in the last round.
                let part = f64::from(weight) / sum;
                prop_assert!((f64::from(count) - part * size as f64).abs() <= 2.0 + 2.0 * n * part);
            }
        }
    }
}
