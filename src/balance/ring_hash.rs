//! Consistent hashing on a ring: each backend has many positions on it (its *virtual nodes*), and a client goes to the
//! first one at or after its own position (Karger et al., "Consistent Hashing and Random Trees", 1997; libketama).
//!
//! Use it when a client should stay with its backend (caches, sessions in memory) and backends come and go: a leaving
//! backend moves only its own clients, a joining one takes only its share. Do not use it when shares must be close:
//! with 160 virtual nodes they are off by 8% (one standard deviation), the largest of ten by 12% on average.
//! [`maglev`](super::maglev) is closer, and its lookup is faster.
//!
//! # How many virtual nodes
//!
//! The share of a backend with v virtual nodes is off by 1/√v. libketama and nginx (`hash … consistent`) have 160 per
//! unit of weight: ten thousand backends are 1.6 million virtual nodes, 24 MB. The number does not depend on the other
//! backends, or a leaving one would move their clients. Only if there would be more than [`MAX_NODES`], all backends
//! get half as many, or a quarter, and so on: a set that crosses this limit moves about half of the clients.
//!
//! # With slots
//!
//! The textbook ring has a few hundred numbered slots instead of 2^64 positions. Then virtual nodes collide, and the
//! later one gets the next free slot: first the first virtual node of each backend in the order of names, then the
//! second of each, until all are placed or the ring is full. So a leaving backend frees slots that others would have
//! had, and some clients of other backends move. With more backends than slots, the last by name get a client only
//! when all others are excluded or full.

use std::collections::HashMap;

use super::hash::{NamedCandidate, Purpose};
use crate::config::Hash;

/// Virtual nodes per unit of weight, unless `virtual_nodes` is set.
const DEFAULT_NODES: u64 = 160;

/// The most virtual nodes: 67 MB, and a second to build.
const MAX_NODES: u64 = 1 << 22;

/// The virtual nodes, sorted by position.
#[derive(Debug)]
pub(super) struct RingHash {
    positions: Box<[u64]>,
    /// The backend of each, in the order of names.
    owners: Box<[u32]>,
    slots: Option<u64>,
    index: PositionIndex,
}

impl RingHash {
    pub(super) fn new(named: &[NamedCandidate<'_>], hash: &Hash) -> Self {
        let slots = hash.slots.map(|slots| slots.get() as u64);
        // With slots the logarithm, as in the textbook: 9 for 512.
        let default = slots.map_or(DEFAULT_NODES, |slots| u64::from(slots.ilog2()).max(1));
        let virtual_nodes = hash.virtual_nodes.map_or(default, |number| number.get() as u64);
        let counts = counts(named, virtual_nodes);
        let mut nodes = match slots {
            None => spread(named, &counts),
            Some(slots) => in_slots(named, &counts, slots),
        };
        nodes.sort_unstable();
        let (positions, owners): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let index = PositionIndex::new(&positions, slots.map_or(u64::MAX, |slots| slots - 1));
        Self { positions: positions.into(), owners: owners.into(), slots, index }
    }

    /// The owners of the virtual nodes, in the order of names, once around the ring from the client's position.
    pub(super) fn from(&self, client: u64) -> impl Iterator<Item = usize> + '_ {
        let position = self.slots.map_or(client, |slots| client % slots);
        let first = self.index.first_from(&self.positions, position);
        self.owners[first..].iter().chain(&self.owners[..first]).map(|&owner| owner as usize)
    }
}

/// The first virtual node by the upper bits of a position. Virtual nodes are spread evenly, so the search ends one or
/// two steps from there; a binary search of a million would take twenty steps, each a cache miss.
#[derive(Debug)]
struct PositionIndex {
    /// The first virtual node whose position begins with these bits, or greater ones.
    first: Box<[u32]>,
    /// The number of remaining bits.
    lower: u32,
}

impl PositionIndex {
    /// About as many entries as there are positions, none of which is above `last`.
    fn new(positions: &[u64], last: u64) -> Self {
        let bits = u64::BITS - last.leading_zeros();
        let lower = bits.saturating_sub((positions.len() as u64 | 1).ilog2()).min(u64::BITS - 1);
        let mut node = 0;
        let first = (0..=last >> lower).map(|upper| {
            while positions.get(node).is_some_and(|position| position >> lower < upper) {
                node += 1;
            }
            node as u32
        });
        Self { first: first.collect(), lower }
    }

    /// The first virtual node at or after `position`.
    fn first_from(&self, positions: &[u64], position: u64) -> usize {
        let from = self.first[(position >> self.lower) as usize] as usize;
        from + positions[from..].iter().take_while(|&&node| node < position).count()
    }
}

/// The number of virtual nodes of each backend.
fn counts(named: &[NamedCandidate<'_>], virtual_nodes: u64) -> Vec<u64> {
    let at = |halvings: u32| {
        let count = move |one: &NamedCandidate<'_>| {
            (u64::from(one.weight).saturating_mul(virtual_nodes) >> halvings).max(1)
        };
        named.iter().map(count)
    };
    let sum = |halvings: u32| at(halvings).fold(0, u64::saturating_add);
    let halvings = (0..u64::BITS - 1).find(|&halvings| sum(halvings) <= MAX_NODES);
    at(halvings.unwrap_or(u64::BITS - 1)).collect()
}

fn spread(named: &[NamedCandidate<'_>], counts: &[u64]) -> Vec<(u64, u32)> {
    let nodes = named.iter().zip(counts).enumerate().flat_map(|(owner, (one, &count))| {
        (0..count).map(move |number| (one.hash(Purpose::Ring, number), owner as u32))
    });
    nodes.collect()
}

fn in_slots(named: &[NamedCandidate<'_>], counts: &[u64], slots: u64) -> Vec<(u64, u32)> {
    let most = counts.iter().copied().max().unwrap_or(0);
    let turns = (0..most).flat_map(|number| (0..named.len()).map(move |owner| (number, owner)));
    let mut taken = TakenSlots { slots, ahead: HashMap::new() };
    let mut nodes = Vec::new();
    for (number, owner) in turns.filter(|&(number, owner)| number < counts[owner]) {
        if nodes.len() as u64 == slots {
            break;
        }
        let slot = taken.take_from(named[owner].hash(Purpose::Ring, number) % slots);
        nodes.push((slot, owner as u32));
    }
    nodes
}

/// The taken slots, each with a later slot where the search for a free one continues.
struct TakenSlots {
    slots: u64,
    ahead: HashMap<u64, u64>,
}

impl TakenSlots {
    /// Takes the first free slot from `slot` on; there must be one.
    fn take_from(&mut self, slot: u64) -> u64 {
        let mut free = slot;
        while let Some(&ahead) = self.ahead.get(&free) {
            free = ahead;
        }
        let beyond = (free + 1) % self.slots;
        // Shorten the path for later searches: without that, filling a ring takes quadratic time.
        let mut passed = slot;
        while let Some(ahead) = self.ahead.insert(passed, beyond) {
            passed = ahead;
        }
        free
    }
}

#[cfg(test)]
#[path = "ring_hash_tests.rs"]
mod tests;
