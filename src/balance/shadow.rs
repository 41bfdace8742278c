//! Compares algorithms: a shadow chooses among the same candidates for the same connections as the algorithm in use,
//! but its choices are only counted. It sees the loads of its own choices instead of the real ones.
//!
//! It leaves out limits and failures, and counts a connection for as long as it lasted at its real backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::{Candidate, Lease, Load, PickArgs, Picker};
use crate::config::{Algorithm, Hash};

/// Counts the connections that one algorithm has sent, or would have sent, to one backend. It outlasts changes of the
/// set.
#[derive(Debug, Default)]
pub struct PickCounter {
    load: Arc<Load>,
    connections: AtomicU64,
    peak: AtomicU32,
}

/// The values of a [`PickCounter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct PickCounts {
    /// Connections so far.
    pub connections: u64,
    /// Open connections.
    pub active: u32,
    /// The most that were open at once.
    pub peak: u32,
}

impl PickCounter {
    /// Counts one connection, which lasts until the lease is dropped.
    pub fn take(&self) -> Lease {
        let lease = self.load.lease();
        self.connections.fetch_add(1, Relaxed);
        let open = self.load.open();
        // All workers share this cache line: write it only if needed.
        if open > self.peak.load(Relaxed) {
            self.peak.fetch_max(open, Relaxed);
        }
        lease
    }

    /// The values so far.
    pub fn read(&self) -> PickCounts {
        PickCounts {
            connections: self.connections.load(Relaxed),
            active: self.load.open(),
            peak: self.peak.load(Relaxed),
        }
    }
}

/// One connection counted for all algorithms; released when dropped.
#[derive(Debug)]
pub struct ShadowLeases {
    _leases: Box<[Lease]>,
}

impl FromIterator<Lease> for ShadowLeases {
    fn from_iter<I: IntoIterator<Item = Lease>>(leases: I) -> Self {
        Self { _leases: leases.into_iter().collect() }
    }
}

/// A candidate of a shadow.
#[derive(Clone, Debug)]
pub struct ShadowCandidate {
    /// Unique among all backends of the process, past ones included.
    pub key: u64,
    /// Its name, which the hashing algorithms hash.
    pub name: Arc<str>,
    /// Its weight, at least 1.
    pub weight: u32,
    /// Counts what this algorithm would have sent to it.
    pub counter: Arc<PickCounter>,
}

/// An algorithm that chooses and is only counted.
#[derive(Debug)]
pub struct Shadow {
    /// The algorithm.
    pub algorithm: Algorithm,
    picker: Picker,
    counters: Box<[Arc<PickCounter>]>,
}

impl Shadow {
    /// A shadow that chooses among `candidates` and continues where `previous` stood.
    pub fn new(
        algorithm: Algorithm,
        hash: &Hash,
        candidates: Vec<ShadowCandidate>,
        previous: Option<&Self>,
    ) -> Self {
        let counters = candidates.iter().map(|one| Arc::clone(&one.counter)).collect();
        let candidate = |one: ShadowCandidate| Candidate {
            key: one.key,
            name: one.name,
            weight: one.weight,
            load: Arc::clone(&one.counter.load),
        };
        let candidates = candidates.into_iter().map(candidate).collect();
        let picker = Picker::new(algorithm, hash, candidates, previous.map(|shadow| &shadow.picker));
        Self { algorithm, picker, counters }
    }

    /// Chooses for one connection and counts it until the lease is dropped; `None`: all are excluded.
    pub fn choose(&self, args: &PickArgs<'_>) -> Option<Lease> {
        self.picker.choose(args).map(|index| self.counters[index].take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHADOWS: [Algorithm; 8] = [
        Algorithm::RoundRobin,
        Algorithm::Weighted,
        Algorithm::LeastConnections,
        Algorithm::Random,
        Algorithm::RandomTwo,
        Algorithm::SourceHash,
        Algorithm::RingHash,
        Algorithm::Maglev,
    ];

    fn shadow_candidates(counters: &[Arc<PickCounter>], weights: &[u32]) -> Vec<ShadowCandidate> {
        let one = |(key, (counter, weight)): (u64, (&Arc<PickCounter>, &u32))| ShadowCandidate {
            key,
            name: format!("b{key}").into(),
            weight: *weight,
            counter: Arc::clone(counter),
        };
        (0..).zip(counters.iter().zip(weights)).map(one).collect()
    }

    fn counters(n: usize) -> Vec<Arc<PickCounter>> {
        (0..n).map(|_| Arc::default()).collect()
    }

    /// Connections that begin, each with its client hash, and ends of the last one (`None`).
    fn steps() -> impl Strategy<Value = Vec<Option<u64>>> {
        proptest::collection::vec(proptest::option::weighted(0.6, any::<u64>()), 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn each_connection_is_counted_once_and_none_is_open_when_all_have_ended(
            weights in proptest::collection::vec(1u32..5, 1..8), steps in steps(), which in 0..SHADOWS.len(),
        ) {
            let counters = counters(weights.len());
            let mut shadow = Shadow::new(SHADOWS[which], &Hash::default(), shadow_candidates(&counters, &weights), None);
            let (mut open, mut begun) = (Vec::new(), 0u64);
            let sum = |of: fn(PickCounts) -> u64| counters.iter().map(|counter| of(counter.read())).sum::<u64>();
            for (step, event) in steps.into_iter().enumerate() {
                match event {
                    Some(client) => {
                        begun += 1;
                        open.push(shadow.choose(&PickArgs { client, random: client, ..PickArgs::default() }).unwrap());
                    }
                    None => drop(open.pop()),
                }
                if step % 7 == 6 {
                    // A changed set is a new shadow with the same counters.
                    shadow = Shadow::new(SHADOWS[which], &Hash::default(), shadow_candidates(&counters, &weights), Some(&shadow));
                }
                prop_assert_eq!((sum(|s| s.connections), sum(|s| s.active.into())), (begun, open.len() as u64));
                prop_assert!(counters.iter().all(|counter| counter.read().active <= counter.read().peak));
            }
            drop(open);
            prop_assert_eq!(sum(|s| s.active.into()), 0);
        }

        #[test]
        fn a_shadow_of_the_active_algorithm_counts_the_same(
            weights in proptest::collection::vec(1u32..5, 1..8), steps in steps(), which in 0..SHADOWS.len(),
        ) {
            let candidates: Vec<_> = (0..).zip(&weights).map(|(key, weight)| Candidate {
                key, name: format!("b{key}").into(), weight: *weight, load: Arc::default(),
            }).collect();
            let picker = Picker::new(SHADOWS[which], &Hash::default(), candidates, None);
            let (actual, counters) = (counters(weights.len()), counters(weights.len()));
            let shadow = Shadow::new(SHADOWS[which], &Hash::default(), shadow_candidates(&counters, &weights), None);
            let mut open = Vec::new();
            for event in steps {
                match event {
                    Some(client) => {
                        let args = PickArgs { client, random: client, ..PickArgs::default() };
                        let chosen = picker.choose(&args).unwrap();
                        let lease = picker.candidates()[chosen].load.lease();
                        open.push((lease, actual[chosen].take(), shadow.choose(&args)));
                    }
                    None => drop(open.pop()),
                }
                for (actual, shadow) in actual.iter().zip(&counters) {
                    prop_assert_eq!(actual.read(), shadow.read());
                }
            }
        }
    }
}
