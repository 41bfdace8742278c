//! By the client: its hash modulo the sum of the weights.
//!
//! Use it when a client should stay with its backend, the shares should be exact, and the set hardly ever changes.
//! Do not when it does: as most numbers have another remainder by another sum, a backend that comes or goes, or a
//! weight that changes, moves nearly all clients. [`ring_hash`](super::ring_hash) and [`maglev`](super::maglev) are
//! for that.

use super::hash::Named;

/// The candidates side by side, each as wide as its weight.
#[derive(Debug)]
pub(super) struct SourceHash {
    /// Where each one ends, which is where the next one begins.
    ends: Box<[u64]>,
}

impl SourceHash {
    pub(super) fn new(named: &[Named<'_>]) -> Self {
        let mut end = 0;
        let ends = named.iter().map(|candidate| {
            end += u64::from(candidate.weight);
            end
        });
        Self { ends: ends.collect() }
    }

    /// Whose place the hash falls into, in the order of names.
    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        let sum = *self.ends.last()?;
        let place = hash.checked_rem(sum)?;
        Some(self.ends.partition_point(|&end| end <= place))
    }
}
