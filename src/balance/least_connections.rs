//! The candidate with the fewest open connections for its weight; among equals, each in turn.
//!
//! Use it when connections live for very different times (databases, web sockets, long downloads). Do not when several
//! balancers share the backends: each sees only its own connections, and all pick the same one. One that ends each
//! connection at once would always look idle: whoever uses this leaves failure penalties of those ([`Load::penalize`](super::Load)).
//!
//! What it means is a plain search: from a start that moves on by one with each choice, once around, for the first
//! with the least active / weight (the tests do just that, and compare). What it does is the same without looking at
//! everybody: a [`Tournament`] remembers who has least, the [`Board`] says whose connections have changed since the
//! last choice, and only their games are played again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::load::{Board, ones};
use super::tournament::Tournament;
use super::{Candidate, PickArgs};

/// A load reports to the last picker that was made with it. One before it that a worker still has in its hands for
/// one more choice only learns of what it chooses itself.
#[derive(Debug)]
pub(super) struct LeastConnections {
    /// Where the search begins, which is what decides between equals. Shared with the pickers before and after it.
    next: Arc<AtomicUsize>,
    board: Arc<Board>,
    /// Held for a choice. Leases never wait for it.
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    tournament: Tournament,
    /// The tried ones, while a choice is made among the others. Empty between choices; here to keep its memory.
    aside: Vec<usize>,
}

impl LeastConnections {
    pub(super) fn new(candidates: &[Candidate], previous: Option<&Self>) -> Self {
        let board = Arc::new(Board::new(candidates.len()));
        for (index, candidate) in candidates.iter().enumerate() {
            candidate.load.report_to(&board, index);
        }
        let tournament = Tournament::new(candidates.iter().map(|c| (c.load.effective_load(), c.weight)));
        Self {
            next: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.next)),
            board,
            standing: Mutex::new(Standing { tournament, aside: Vec::new() }),
        }
    }

    pub(super) fn choose(&self, candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
        let start = self.next.fetch_add(1, Ordering::Relaxed) % candidates.len();
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        self.board.take(|first, marks| standing.look_again(candidates, first, marks));
        standing.choose(candidates, start, args)
    }
}

impl Standing {
    /// Reads the loads that are marked, of the 64 from `first` on.
    fn look_again(&mut self, candidates: &[Candidate], first: usize, marks: u64) {
        for index in ones(marks).map(|bit| first + bit) {
            let candidate = &candidates[index];
            self.tournament.put(index, candidate.load.effective_load(), candidate.weight);
        }
        let (lowest, highest) = (marks.trailing_zeros() as usize, marks.ilog2() as usize);
        self.tournament.play(first + lowest, first + highest);
    }

    fn choose(&mut self, candidates: &[Candidate], start: usize, args: &PickArgs<'_>) -> Option<usize> {
        let chosen = loop {
            let Some(index) = self.tournament.winner(start) else { break None };
            let candidate = &candidates[index];
            if args.excludes(candidate.key) {
                self.aside.push(index);
                self.tournament.put_out(index);
                self.tournament.play(index, index);
                continue;
            }
            // It may have got busier without a mark, if its load reports to a later picker: while that one is being
            // made, all workers must not be sent to whoever was idle before.
            if candidate.load.effective_load() == self.tournament.active(index) {
                break Some(index);
            }
            self.look_again(candidates, index, 1);
        };
        while let Some(index) = self.aside.pop() {
            self.look_again(candidates, index, 1);
        }
        chosen
    }
}

#[cfg(test)]
#[path = "least_connections_tests.rs"]
mod tests;
