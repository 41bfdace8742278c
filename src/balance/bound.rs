//! Bounded load: no backend gets a connection that would put it above `load_factor` times its share of all
//! connections, this one included, rounded up (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded
//! Loads", SODA 2018). Excluded backends have no share: the others take it.
//!
//! A backend can exceed its bound when connections elsewhere end; then it gets no more until it is below. Workers that
//! choose at the same instant do not see each other's choice, so a backend may exceed its bound by one per worker.
//!
//! The sum of all connections is kept up to date with the [`DirtySet`] rather than counted for each choice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Candidate;
use super::load::{DirtySet, set_bits};
use crate::config::Factor;

/// A load reports to the latest picker only. An older one that a worker uses for one more choice sees the old sum.
#[derive(Debug)]
pub(super) struct LoadBound {
    factor: Factor,
    /// The sum of the weights.
    weights: u64,
    /// The index of each key.
    indexes: HashMap<u64, usize>,
    dirty: Arc<DirtySet>,
    /// Locked during a choice; leases never wait for it.
    loads: Mutex<KnownLoads>,
}

/// The loads as they were at the last choice.
#[derive(Debug)]
struct KnownLoads {
    each: Box<[u32]>,
    sum: u64,
}

impl LoadBound {
    pub(super) fn new(factor: Factor, candidates: &[Candidate]) -> Self {
        let dirty = Arc::new(DirtySet::new(candidates.len()));
        for (index, candidate) in candidates.iter().enumerate() {
            candidate.load.report_to(&dirty, index);
        }
        let each: Box<[_]> = candidates.iter().map(|candidate| candidate.load.effective_load()).collect();
        let sum = each.iter().map(|&load| u64::from(load)).sum();
        Self {
            factor,
            weights: candidates.iter().map(|candidate| u64::from(candidate.weight)).sum(),
            indexes: candidates.iter().enumerate().map(|(index, candidate)| (candidate.key, index)).collect(),
            dirty,
            loads: Mutex::new(KnownLoads { each, sum }),
        }
    }

    /// The limits of the candidates that are not `excluded`, which is sorted.
    pub(super) fn limit(&self, candidates: &[Candidate], excluded: &[u64]) -> LoadLimit {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        self.dirty.drain(|first, marks| {
            for index in set_bits(marks).map(|bit| first + bit) {
                loads.set(index, candidates[index].load.effective_load());
            }
        });
        let (mut sum, mut weights) = (loads.sum, self.weights);
        for same in excluded.chunk_by(|one, next| one == next) {
            if let Some(&index) = self.indexes.get(&same[0]) {
                sum -= u64::from(loads.each[index]);
                weights -= u64::from(candidates[index].weight);
            }
        }
        LoadLimit { factor: self.factor, sum, weights }
    }
}

impl KnownLoads {
    fn set(&mut self, index: usize, load: u32) {
        self.sum = self.sum - u64::from(self.each[index]) + u64::from(load);
        self.each[index] = load;
    }
}

/// How much load a candidate may have, for one choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadLimit {
    factor: Factor,
    /// The connections of all that are not excluded.
    sum: u64,
    /// Their weights.
    weights: u64,
}

impl LoadLimit {
    /// Whether the candidate stays within its bound with one more connection. At least one candidate does, unless
    /// connections come in at this instant.
    pub(super) fn admits(&self, candidate: &Candidate) -> bool {
        // load + 1 ≤ ⌈factor / 100 × (sum + 1) × weight / weights⌉, without dividing.
        let share = u128::from(self.factor.0) * u128::from(self.sum + 1) * u128::from(candidate.weight);
        u128::from(candidate.load.effective_load()) * 100 * u128::from(self.weights) < share
    }
}

#[cfg(test)]
#[path = "bound_tests.rs"]
mod tests;
