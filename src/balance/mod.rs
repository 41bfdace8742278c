//! Choosing one of several candidates.
//!
//! Pure: no I/O, no clock, no knowledge of pools or sockets, so that the same code runs under traffic, in a property
//! test and in `simulate`. A [`Picker`] is built once from a set of candidates; then all workers call it many times.
//! There is one file per algorithm; to add one, write its file and add it to [`Algorithm`] and to the matches below.
//! No algorithm reads every candidate to choose one.
//!
//! Shared parts: `load.rs` counts connections per candidate and reports changes, `latency.rs` averages response times,
//! `tournament.rs` finds the minimum, `two.rs` draws two at random, `hash.rs` hashes clients and names, `affinity.rs`
//! orders the candidates for a client, `bound.rs` limits the connections of one candidate.

mod affinity;
mod bound;
mod ewma;
pub mod hash;
mod jhash;
mod latency;
mod least_connections;
mod load;
mod maglev;
mod random;
mod random_two;
mod ring_hash;
mod round_robin;
pub mod shadow;
mod source_hash;
pub mod surplus;
mod tournament;
mod two;
mod weighted;

use std::sync::Arc;
use std::time::Duration;

pub use load::{FailurePenalty, Lease, Load};

use crate::config::{Algorithm, Hash};
use affinity::Affinity;
use least_connections::LeastConnections;
use random::Random;
use round_robin::RoundRobin;
use weighted::Weighted;

/// One backend as an algorithm sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Unique among all backends of the process, past ones included.
    pub key: u64,
    /// Its name, which the hashing algorithms hash.
    pub name: Arc<str>,
    /// Its weight, at least 1: a backend of weight 0 is not a candidate.
    pub weight: u32,
    /// How busy it is.
    pub load: Arc<Load>,
}

/// The input of one choice, besides the candidates.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickArgs<'a> {
    /// The keys of excluded candidates: an attempt failed, or they are full. Sorted, as there may be thousands.
    pub excluded: &'a [u64],
    /// The hash of the client, equal in every process with the same configuration.
    pub client: u64,
    /// A random number for this choice.
    pub random: u64,
    /// The time, from the same origin as the times passed to [`Load`]; only `ewma` uses it.
    pub now: Duration,
}

impl PickArgs<'_> {
    /// Whether the candidate of this key is excluded.
    pub fn excludes(&self, key: u64) -> bool {
        self.excluded.binary_search(&key).is_ok()
    }
}

/// A set of candidates and an algorithm that chooses among them. Immutable: a changed set is a new picker.
#[derive(Debug)]
pub struct Picker {
    candidates: Box<[Candidate]>,
    method: Method,
}

#[derive(Debug)]
enum Method {
    RoundRobin(RoundRobin),
    Weighted(Weighted),
    LeastConnections(LeastConnections),
    Random(Random),
    RandomTwo,
    Ewma,
    Affinity(Affinity),
}

/// An algorithm as a table of slots, for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// How the slot of a connection is chosen.
    pub choice: SlotChoice,
    /// The index of the candidate of each slot.
    pub owners: Vec<u32>,
}

/// How the slot of a connection is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotChoice {
    /// One after the other.
    Rotation,
    /// At random.
    Random,
    /// By the hash of the client.
    Client,
}

/// The longest rotation of a table: with weights that need a longer one, shares are off by a hundred-thousandth.
const LONGEST_CYCLE: usize = 100_000;

impl Picker {
    /// Chooses among `candidates`. State that must outlast a change of the set (the position in the rotation, the
    /// credit of each candidate) is taken over from `previous`.
    pub fn new(
        algorithm: Algorithm,
        hash: &Hash,
        candidates: Vec<Candidate>,
        previous: Option<&Self>,
    ) -> Self {
        debug_assert!(candidates.iter().all(|c| c.weight > 0));
        let candidates = candidates.into_boxed_slice();
        let (before, old) = previous.map_or((&[][..], None), |p| (&*p.candidates, Some(&p.method)));
        let method = match (algorithm, old) {
            (Algorithm::RoundRobin, Some(Method::RoundRobin(old))) => {
                Method::RoundRobin(old.carried_over(before, &candidates))
            }
            (Algorithm::RoundRobin, _) => Method::RoundRobin(RoundRobin::new(&candidates)),
            (Algorithm::Weighted, Some(Method::Weighted(old))) => {
                Method::Weighted(old.carried_over(before, &candidates))
            }
            (Algorithm::Weighted, _) => Method::Weighted(Weighted::new(&candidates)),
            (Algorithm::LeastConnections, Some(Method::LeastConnections(old))) => {
                Method::LeastConnections(LeastConnections::new(&candidates, Some(old)))
            }
            (Algorithm::LeastConnections, _) => {
                Method::LeastConnections(LeastConnections::new(&candidates, None))
            }
            (Algorithm::Random, _) => Method::Random(Random::new(&candidates)),
            (Algorithm::RandomTwo, _) => Method::RandomTwo,
            (Algorithm::Ewma, _) => Method::Ewma,
            (Algorithm::SourceHash, old) => {
                Method::Affinity(Affinity::source_hash(&candidates, hash, affinity(old)))
            }
            (Algorithm::RingHash, old) => {
                Method::Affinity(Affinity::ring_hash(&candidates, hash, affinity(old)))
            }
            (Algorithm::Maglev, old) => Method::Affinity(Affinity::maglev(&candidates, hash, affinity(old))),
        };
        Self { candidates, method }
    }

    /// The index of the chosen candidate, never an excluded one; `None` if all are excluded.
    pub fn choose(&self, args: &PickArgs<'_>) -> Option<usize> {
        debug_assert!(args.excluded.is_sorted());
        if self.candidates.is_empty() {
            return None;
        }
        match &self.method {
            Method::RoundRobin(method) => method.choose(&self.candidates, args),
            Method::Weighted(method) => method.choose(&self.candidates, args),
            Method::LeastConnections(method) => method.choose(&self.candidates, args),
            Method::Random(method) => method.choose(&self.candidates, args),
            Method::RandomTwo => random_two::choose(&self.candidates, args),
            Method::Ewma => ewma::choose(&self.candidates, args),
            Method::Affinity(method) => method.choose(&self.candidates, args),
        }
    }

    /// The choice without a load factor; `None` if none is configured.
    pub fn unbounded(&self, args: &PickArgs<'_>) -> Option<usize> {
        affinity(Some(&self.method))?.unbounded(&self.candidates, args)
    }

    /// The algorithm as a table of slots, each of which is a candidate; `None`: it depends on the load of the candidates.
    pub fn slots(&self) -> Option<Slots> {
        let (choice, owners) = match &self.method {
            Method::RoundRobin(_) => (SlotChoice::Rotation, (0..self.candidates.len() as u32).collect()),
            Method::Weighted(_) => (SlotChoice::Rotation, weighted::cycle(&self.candidates, LONGEST_CYCLE)),
            Method::Random(_) => (SlotChoice::Random, weighted::cycle(&self.candidates, LONGEST_CYCLE)),
            Method::Affinity(affinity) => (SlotChoice::Client, affinity.slots()?),
            Method::LeastConnections(_) | Method::RandomTwo | Method::Ewma => return None,
        };
        Some(Slots { choice, owners })
    }

    /// The candidates, in the order that [`choose`](Self::choose) indexes.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}

fn affinity(method: Option<&Method>) -> Option<&Affinity> {
    match method {
        Some(Method::Affinity(affinity)) => Some(affinity),
        _ => None,
    }
}

#[cfg(test)]
pub mod laws;
#[cfg(test)]
mod moved_keys;
