//! Bounded load: nobody gets a connection who would then have more than `load_factor` times its share of all
//! connections, this one included, rounded up (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded
//! Loads", SODA 2018). Who is passed over has no share: what it cannot take is for the others to take.
//!
//! A connection stays where it is when others end, so that a backend can come to have more than its bound; it gets
//! no other one until it is below. Workers that choose in the very same moment do not know of each other: that much it
//! may be above, too.
//!
//! The sum of all connections is kept, not counted: the [`Board`] says whose have changed since the last choice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Candidate;
use super::load::{Board, ones};
use crate::config::Factor;

/// A load reports to the last picker that was made with it. One before it that a worker still has in its hands for
/// one more choice goes by the sum of before.
#[derive(Debug)]
pub(super) struct Bound {
    factor: Factor,
    /// The sum of the weights.
    weights: u64,
    /// Where the candidate of each key is.
    places: HashMap<u64, usize>,
    board: Arc<Board>,
    /// Leases never wait for it.
    tally: Mutex<Tally>,
}

/// The loads as they were at the last choice.
#[derive(Debug)]
struct Tally {
    each: Box<[u32]>,
    sum: u64,
}

impl Bound {
    pub(super) fn new(factor: Factor, candidates: &[Candidate]) -> Self {
        let board = Arc::new(Board::new(candidates.len()));
        for (index, candidate) in candidates.iter().enumerate() {
            candidate.load.report_to(&board, index);
        }
        let each: Box<[_]> = candidates.iter().map(|candidate| candidate.load.effective_load()).collect();
        let sum = each.iter().map(|&busy| u64::from(busy)).sum();
        Self {
            factor,
            weights: candidates.iter().map(|candidate| u64::from(candidate.weight)).sum(),
            places: candidates.iter().enumerate().map(|(index, candidate)| (candidate.key, index)).collect(),
            board,
            tally: Mutex::new(Tally { each, sum }),
        }
    }

    /// What there is to share at this moment among those who are not `excluded`, which is sorted.
    pub(super) fn room(&self, candidates: &[Candidate], excluded: &[u64]) -> Room {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        self.board.take(|first, marks| {
            for index in ones(marks).map(|bit| first + bit) {
                tally.put(index, candidates[index].load.effective_load());
            }
        });
        let (mut sum, mut weights) = (tally.sum, self.weights);
        for same in excluded.chunk_by(|one, next| one == next) {
            if let Some(&index) = self.places.get(&same[0]) {
                sum -= u64::from(tally.each[index]);
                weights -= u64::from(candidates[index].weight);
            }
        }
        Room { factor: self.factor, sum, weights }
    }
}

impl Tally {
    fn put(&mut self, index: usize, busy: u32) {
        self.sum = self.sum - u64::from(self.each[index]) + u64::from(busy);
        self.each[index] = busy;
    }
}

/// What the candidates share, for one choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    factor: Factor,
    /// Their connections.
    sum: u64,
    /// Their weights.
    weights: u64,
}

impl Room {
    /// Whether the candidate would stay within its bound with one more. Somebody always would, unless connections come
    /// in at this very moment.
    pub(super) fn at(&self, candidate: &Candidate) -> bool {
        // busy + 1 ≤ ⌈factor / 100 × (sum + 1) × weight / weights⌉, without dividing.
        let share = u128::from(self.factor.0) * u128::from(self.sum + 1) * u128::from(candidate.weight);
        u128::from(candidate.load.effective_load()) * 100 * u128::from(self.weights) < share
    }
}

#[cfg(test)]
#[path = "bound_tests.rs"]
mod tests;
