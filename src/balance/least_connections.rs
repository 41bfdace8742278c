//! The candidate with the fewest open connections per weight; equal candidates in turn.
//!
//! Use it when connections live for very different times (databases, web sockets, long downloads). Do not use it when
//! several balancers share the backends: each sees only its own connections, and all choose the same backend. A backend
//! that ends each connection at once would always look idle; failure penalties ([`Load::penalize`](super::Load))
//! prevent that.
//!
//! The result is that of a plain search (the tests compare the two): from a start that advances with each choice, once
//! around, the first candidate with the least load / weight. But a choice does not read all loads: a [`Tournament`]
//! keeps the minimum, and the [`DirtySet`] marks the loads that have changed since the last choice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::load::{DirtySet, set_bits};
use super::tournament::Tournament;
use super::{Candidate, PickArgs};

/// A load reports to the latest picker only. An older one that a worker uses for one more choice sees only its own
/// choices.
#[derive(Debug)]
pub(super) struct LeastConnections {
    /// Where the search begins, which decides between equals. Shared with the pickers before and after this one.
    next: Arc<AtomicUsize>,
    dirty: Arc<DirtySet>,
    /// Locked during a choice; leases never wait for it.
    state: Mutex<SearchState>,
}

#[derive(Debug)]
struct SearchState {
    tournament: Tournament,
    /// Excluded candidates, taken out of the tournament during a choice. Empty between choices; kept for its memory.
    set_aside: Vec<usize>,
}

impl LeastConnections {
    pub(super) fn new(candidates: &[Candidate], previous: Option<&Self>) -> Self {
        let dirty = Arc::new(DirtySet::new(candidates.len()));
        for (index, candidate) in candidates.iter().enumerate() {
            candidate.load.report_to(&dirty, index);
        }
        let tournament = Tournament::new(candidates.iter().map(|c| (c.load.effective_load(), c.weight)));
        Self {
            next: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.next)),
            dirty,
            state: Mutex::new(SearchState { tournament, set_aside: Vec::new() }),
        }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        let start = self.next.fetch_add(1, Ordering::Relaxed) % candidates.len();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.dirty.drain(|first, marks| state.refresh(candidates, first, marks));
        state.choose(candidates, start, args)
    }
}

impl SearchState {
    /// Reads the marked loads of the 64 from `first` on.
    fn refresh(&mut self, candidates: &[Candidate], first: usize, marks: u64) {
        for index in set_bits(marks).map(|bit| first + bit) {
            let candidate = &candidates[index];
            self.tournament.set(index, candidate.load.effective_load(), candidate.weight);
        }
        let (lowest, highest) = (marks.trailing_zeros() as usize, marks.ilog2() as usize);
        self.tournament.replay(first + lowest, first + highest);
    }

    fn choose(&mut self, candidates: &[Candidate], start: usize, args: &PickArgs<'_>) -> Option<usize> {
        let chosen = loop {
            let Some(index) = self.tournament.winner(start) else { break None };
            let candidate = &candidates[index];
            if args.excludes(candidate.key) {
                self.set_aside.push(index);
                self.tournament.remove(index);
                self.tournament.replay(index, index);
                continue;
            }
            // Its load may report to a later picker, so that it has changed without a mark. Without this check, while
            // that picker is built, all workers would choose the backend that was idle before.
            if candidate.load.effective_load() == self.tournament.load(index) {
                break Some(index);
            }
            self.refresh(candidates, index, 1);
        };
        while let Some(index) = self.set_aside.pop() {
            self.refresh(candidates, index, 1);
        }
        chosen
    }
}

#[cfg(test)]
#[path = "least_connections_tests.rs"]
mod tests;
