//! By the client, on a ring: each backend stands on it in many places (its *virtual nodes*), a client goes to the
//! first one from its own place on (Karger et al., "Consistent Hashing and Random Trees", 1997; libketama).
//!
//! Use it when a client should stay with its backend (caches, sessions in memory) and backends come and go: one that
//! leaves moves its own clients and nobody else's, one that joins takes from the others what it is to have. Do not
//! when the shares must be close: with 160 virtual nodes they are off by 8% (one standard deviation), the largest of
//! ten by 12% on average. [`maglev`](super::maglev) is closer, and looks up faster.
//!
//! # How many virtual nodes
//!
//! The share of a backend with v virtual nodes is off by 1/√v. 160 for each unit of weight is what libketama and
//! nginx (`hash … consistent`) have: ten thousand backends are 1.6 million virtual nodes, 24 MB. The number does not
//! depend on the other backends, or one that leaves would move their clients. Only when there would be more than
//! [`MOST`] of them all backends get half as many, or a quarter, and so on: where a set crosses that, about half of
//! the clients move.
//!
//! # With slots
//!
//! The ring of the textbooks has a few hundred numbered places instead of 2^64. Virtual nodes clash then, and who
//! comes later gets the next free slot: first everybody's first virtual node in the order of names, then everybody's
//! second, until all are placed or the ring is full. So a backend that leaves frees slots that others would rather
//! have had, and some clients move that were not its own. With more backends than slots the last by name have no
//! clients at all but those that nobody else can take.

use std::collections::HashMap;

use super::hash::{Named, Purpose};
use crate::config::Hash;

/// Virtual nodes for each unit of weight, unless `virtual_nodes` says something else.
const VIRTUAL_NODES: u64 = 160;

/// Virtual nodes at most: 67 MB, and a second to build.
const MOST: u64 = 1 << 22;

/// The virtual nodes, sorted by where they stand.
#[derive(Debug)]
pub(super) struct RingHash {
    places: Box<[u64]>,
    /// Whose they are, in the order of names.
    owners: Box<[u32]>,
    slots: Option<u64>,
    index: Index,
}

impl RingHash {
    pub(super) fn new(named: &[Named<'_>], hash: &Hash) -> Self {
        let slots = hash.slots.map(|slots| slots.get() as u64);
        // With slots as many as the textbook has: the logarithm, 9 for 512.
        let default = slots.map_or(VIRTUAL_NODES, |slots| u64::from(slots.ilog2()).max(1));
        let virtual_nodes = hash.virtual_nodes.map_or(default, |number| number.get() as u64);
        let counts = counts(named, virtual_nodes);
        let mut nodes = match slots {
            None => spread(named, &counts),
            Some(slots) => in_slots(named, &counts, slots),
        };
        nodes.sort_unstable();
        let (places, owners): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let index = Index::new(&places, slots.map_or(u64::MAX, |slots| slots - 1));
        Self { places: places.into(), owners: owners.into(), slots, index }
    }

    /// Once around the ring from the client's place on: whose the virtual nodes are, in the order of names.
    pub(super) fn around(&self, client: u64) -> impl Iterator<Item = usize> + '_ {
        let place = self.slots.map_or(client, |slots| client % slots);
        let first = self.index.first_from(&self.places, place);
        self.owners[first..].iter().chain(&self.owners[..first]).map(|&owner| owner as usize)
    }
}

/// Where to look among the virtual nodes, by the upper bits of a place. They are spread evenly, so that it is one or two
/// steps from there; to halve a million of them until one is left would be twenty, each with a wait for the memory.
#[derive(Debug)]
struct Index {
    /// The first virtual node whose place begins with these bits, or with greater ones.
    first: Box<[u32]>,
    /// The other bits.
    lower: u32,
}

impl Index {
    /// For about as many beginnings as there are places, none of which is above `last`.
    fn new(places: &[u64], last: u64) -> Self {
        let bits = u64::BITS - last.leading_zeros();
        let lower = bits.saturating_sub((places.len() as u64 | 1).ilog2()).min(u64::BITS - 1);
        let mut node = 0;
        let first = (0..=last >> lower).map(|upper| {
            while places.get(node).is_some_and(|place| place >> lower < upper) {
                node += 1;
            }
            node as u32
        });
        Self { first: first.collect(), lower }
    }

    /// The first of the virtual nodes that is at `place` or further on.
    fn first_from(&self, places: &[u64], place: u64) -> usize {
        let from = self.first[(place >> self.lower) as usize] as usize;
        from + places[from..].iter().take_while(|&&node| node < place).count()
    }
}

/// How many virtual nodes each one has.
fn counts(named: &[Named<'_>], virtual_nodes: u64) -> Vec<u64> {
    let at = |halvings: u32| {
        let count =
            move |one: &Named<'_>| (u64::from(one.weight).saturating_mul(virtual_nodes) >> halvings).max(1);
        named.iter().map(count)
    };
    let sum = |halvings: u32| at(halvings).fold(0, u64::saturating_add);
    let halvings = (0..u64::BITS - 1).find(|&halvings| sum(halvings) <= MOST);
    at(halvings.unwrap_or(u64::BITS - 1)).collect()
}

fn spread(named: &[Named<'_>], counts: &[u64]) -> Vec<(u64, u32)> {
    let nodes = named.iter().zip(counts).enumerate().flat_map(|(owner, (one, &count))| {
        (0..count).map(move |number| (one.hash(Purpose::Ring, number), owner as u32))
    });
    nodes.collect()
}

fn in_slots(named: &[Named<'_>], counts: &[u64], slots: u64) -> Vec<(u64, u32)> {
    let most = counts.iter().copied().max().unwrap_or(0);
    let turns = (0..most).flat_map(|number| (0..named.len()).map(move |owner| (number, owner)));
    let mut taken = Taken { slots, ahead: HashMap::new() };
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

/// The slots that are taken, each with one further on where the search for a free one goes on.
struct Taken {
    slots: u64,
    ahead: HashMap<u64, u64>,
}

impl Taken {
    /// Takes the first free slot from `slot` on; there must be one.
    fn take_from(&mut self, slot: u64) -> u64 {
        let mut free = slot;
        while let Some(&ahead) = self.ahead.get(&free) {
            free = ahead;
        }
        let beyond = (free + 1) % self.slots;
        // Whoever comes this way again need not take every step: without that, a ring that fills up would take for ever.
        let mut excluded = slot;
        while let Some(ahead) = self.ahead.insert(excluded, beyond) {
            excluded = ahead;
        }
        free
    }
}

#[cfg(test)]
#[path = "ring_hash_tests.rs"]
mod tests;
