//! By the client, in a table of a prime size that the backends fill by turns (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Use it when a client should stay with its backend, the shares must be close, and there are many connections: the
//! shares of equal backends differ by one entry, and a look-up is one read. Do not when nobody but the clients of a
//! backend that leaves may move: a few others do too, the more the more backends there are for the table
//! (`moved_keys.rs` measures it). [`ring_hash`](super::ring_hash) moves none.
//!
//! # The table
//!
//! Each backend has a permutation of the table's entries: from an offset in steps of a skip, both of them hashes of
//! its name. They take turns, and in each one takes its next entry that is still free. One with half the weight of
//! the heaviest has a turn in every other round; everybody has one in the first.
//!
//! The paper asks for a table that is much larger than the number of backends: here it has at least a hundred entries
//! for each, so that the shares are off by one percent at most. That is the least of [`SIZES`] that does; where a set
//! crosses from one to the next, nearly all clients move, so the sizes are far from each other.

use super::hash::{Named, Purpose};

/// Primes, the least above powers of four; the first is the paper's own.
const SIZES: [u64; 4] = [65_537, 262_147, 1_048_583, 4_194_319];

/// An entry that nobody has taken yet.
const FREE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Maglev {
    /// Whose each entry is, in the order of names.
    table: Box<[u32]>,
}

/// How far a backend has come.
struct Turns {
    /// The entry that it wants next.
    entry: u64,
    skip: u64,
    taken: u64,
    weight: u64,
}

impl Maglev {
    pub(super) fn new(named: &[Named<'_>]) -> Self {
        let size = size(named.len());
        let mut all: Vec<_> = named.iter().map(|one| Turns::new(one, size)).collect();
        let Some(heaviest) = all.iter().map(|turns| turns.weight).max() else {
            return Self { table: Box::default() };
        };
        let mut table = vec![FREE; size as usize].into_boxed_slice();
        let mut left = table.len();
        'fill: for round in 1.. {
            for (owner, turns) in all.iter_mut().enumerate() {
                if left == 0 {
                    break 'fill;
                }
                if turns.taken * heaviest < round * turns.weight {
                    turns.take(&mut table, owner as u32);
                    left -= 1;
                }
            }
        }
        Self { table }
    }

    /// Whose entry the hash falls on, in the order of names.
    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        let entry = hash.checked_rem(self.table.len() as u64)?;
        Some(self.table[entry as usize] as usize)
    }
}

impl Turns {
    fn new(one: &Named<'_>, size: u64) -> Self {
        Self {
            entry: one.hash(Purpose::Offset, 0) % size,
            skip: one.hash(Purpose::Skip, 0) % (size - 1) + 1,
            taken: 0,
            weight: one.weight.into(),
        }
    }

    /// Takes the next entry of the permutation that is free; one must be.
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
