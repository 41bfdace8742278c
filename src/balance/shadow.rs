//! What another algorithm would have done: it chooses too, of the same candidates and for the same connections, and is only
//! counted. It goes by what it would have sent to each itself, not by what they have.
//!
//! What it leaves out: it knows neither limits nor failures, and counts a connection for as long as it lasted at the backend
//! that it had in fact.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::{Candidate, Lease, Load, PickArgs, Picker};
use crate::config::{Algorithm, Hash};

/// What an algorithm has sent, or would have sent, to one backend. It outlasts the sets that the backend is in.
#[derive(Debug, Default)]
pub struct Tally {
    load: Arc<Load>,
    connections: AtomicU64,
    peak: AtomicU32,
}

/// A [`Tally`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    /// Connections so far.
    pub connections: u64,
    /// Connections at this moment.
    pub active: u32,
    /// Most connections that there were at once.
    pub peak: u32,
}

impl Tally {
    /// Counts one connection, which lasts until the lease is dropped.
    pub fn take(&self) -> Lease {
        let lease = self.load.lease();
        self.connections.fetch_add(1, Relaxed);
        let active = self.load.active();
        // A line that all workers read is not written without need.
        if active > self.peak.load(Relaxed) {
            self.peak.fetch_max(active, Relaxed);
        }
        lease
    }

    /// What was counted so far.
    pub fn read(&self) -> Score {
        Score {
            connections: self.connections.load(Relaxed),
            active: self.load.active(),
            peak: self.peak.load(Relaxed),
        }
    }
}

/// One connection's places in tallies; given back when dropped. Held behind one pointer, as there are many connections and
/// most have none.
#[derive(Debug)]
pub struct Shadowed {
    _places: Box<[Lease]>,
}

impl FromIterator<Lease> for Shadowed {
    fn from_iter<I: IntoIterator<Item = Lease>>(places: I) -> Self {
        Self { _places: places.into_iter().collect() }
    }
}

/// A backend as a shadow sees it.
#[derive(Clone, Debug)]
pub struct Shaded {
    /// Tells it from every other one that there ever was.
    pub key: u64,
    /// Its name, by which the hashes know it.
    pub name: Arc<str>,
    /// Its share, at least 1.
    pub weight: u32,
    /// What this algorithm would have sent to it.
    pub tally: Arc<Tally>,
}

/// An algorithm that chooses and is only counted.
#[derive(Debug)]
pub struct Shadow {
    /// Which one it is.
    pub algorithm: Algorithm,
    picker: Picker,
    tallies: Box<[Arc<Tally>]>,
}

impl Shadow {
    /// Whether an algorithm can be a shadow: not one that goes by how backends answer to what it has sent them.
    pub fn can_be(algorithm: Algorithm) -> bool {
        algorithm != Algorithm::Ewma
    }

    /// A shadow that chooses among `candidates`, and goes on where `previous` stood.
    pub fn new(algorithm: Algorithm, hash: &Hash, candidates: Vec<Shaded>, previous: Option<&Self>) -> Self {
        let tallies = candidates.iter().map(|one| Arc::clone(&one.tally)).collect();
        let candidate = |one: Shaded| Candidate {
            key: one.key,
            name: one.name,
            weight: one.weight,
            load: Arc::clone(&one.tally.load),
        };
        let candidates = candidates.into_iter().map(candidate).collect();
        let picker = Picker::new(algorithm, hash, candidates, previous.map(|shadow| &shadow.picker));
        Self { algorithm, picker, tallies }
    }

    /// Chooses for one connection, which is counted until the lease is dropped; `None`: there is nobody.
    pub fn take(&self, args: &PickArgs<'_>) -> Option<Lease> {
        self.picker.choose(args).map(|index| self.tallies[index].take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHADOWS: [Algorithm; 7] = [
        Algorithm::RoundRobin,
        Algorithm::Weighted,
        Algorithm::LeastConnections,
        Algorithm::RandomTwo,
        Algorithm::SourceHash,
        Algorithm::RingHash,
        Algorithm::Maglev,
    ];

    fn shaded(tallies: &[Arc<Tally>], weights: &[u32]) -> Vec<Shaded> {
        let one = |(key, (tally, weight)): (u64, (&Arc<Tally>, &u32))| Shaded {
            key,
            name: format!("b{key}").into(),
            weight: *weight,
            tally: Arc::clone(tally),
        };
        (0..).zip(tallies.iter().zip(weights)).map(one).collect()
    }

    fn tallies(n: usize) -> Vec<Arc<Tally>> {
        (0..n).map(|_| Arc::default()).collect()
    }

    /// Connections that begin, each with a client, or of which one ends.
    fn life() -> impl Strategy<Value = Vec<Option<u64>>> {
        proptest::collection::vec(proptest::option::weighted(0.6, any::<u64>()), 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn each_connection_is_counted_once_and_nothing_is_left_when_all_have_ended(
            weights in proptest::collection::vec(1u32..5, 1..8), life in life(), which in 0..SHADOWS.len(),
        ) {
            let tallies = tallies(weights.len());
            let mut shadow = Shadow::new(SHADOWS[which], &Hash::default(), shaded(&tallies, &weights), None);
            let (mut open, mut begun) = (Vec::new(), 0u64);
            let sum = |of: fn(Score) -> u64| tallies.iter().map(|tally| of(tally.read())).sum::<u64>();
            for (step, event) in life.into_iter().enumerate() {
                match event {
                    Some(client) => {
                        begun += 1;
                        open.push(shadow.take(&PickArgs { client, random: client, ..PickArgs::default() }).unwrap());
                    }
                    None => drop(open.pop()),
                }
                if step % 7 == 6 {
                    // A changed set is a new shadow; what was counted stays.
                    shadow = Shadow::new(SHADOWS[which], &Hash::default(), shaded(&tallies, &weights), Some(&shadow));
                }
                prop_assert_eq!((sum(|s| s.connections), sum(|s| s.active.into())), (begun, open.len() as u64));
                prop_assert!(tallies.iter().all(|tally| tally.read().active <= tally.read().peak));
            }
            drop(open);
            prop_assert_eq!(sum(|s| s.active.into()), 0);
        }

        #[test]
        fn the_shadow_of_what_balances_counts_the_same(
            weights in proptest::collection::vec(1u32..5, 1..8), life in life(), which in 0..SHADOWS.len(),
        ) {
            let candidates: Vec<_> = (0..).zip(&weights).map(|(key, weight)| Candidate {
                key, name: format!("b{key}").into(), weight: *weight, load: Arc::default(),
            }).collect();
            let picker = Picker::new(SHADOWS[which], &Hash::default(), candidates, None);
            let (actual, tallies) = (tallies(weights.len()), tallies(weights.len()));
            let shadow = Shadow::new(SHADOWS[which], &Hash::default(), shaded(&tallies, &weights), None);
            let mut open = Vec::new();
            for event in life {
                match event {
                    Some(client) => {
                        let args = PickArgs { client, random: client, ..PickArgs::default() };
                        let chosen = picker.choose(&args).unwrap();
                        let lease = picker.candidates()[chosen].load.lease();
                        open.push((lease, actual[chosen].take(), shadow.take(&args)));
                    }
                    None => drop(open.pop()),
                }
                for (actual, shadow) in actual.iter().zip(&tallies) {
                    prop_assert_eq!(actual.read(), shadow.read());
                }
            }
        }
    }
}
