//! The clients that wait for a place at one of a pool's backends, when all are full: first come, first served.
//!
//! No places are handed out here. A waiting client looks for one itself when it is its turn, one after the other:
//! the first one looks; if it has found a place and leaves, the next one does; if not, none behind it would. So a
//! place that is free is looked for by one client, however many wait.
//!
//! No turn is lost by this: **a place is freed before the queue is looked at for waiting clients; a client that joins,
//! is in the queue before it looks for a place.** As in `balance/load.rs`, it is about two places in memory, so all of it
//! is in the one order that `SeqCst` gives. A client that leaves, served or not, passes its turn to the first one then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A pool's waiting clients. All workers share it; while it is empty, they only read that.
#[derive(Debug, Default)]
pub struct Queue {
    length: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In the order in which they came: what tells each that it is its turn.
    turns: BTreeMap<u64, Arc<Notify>>,
}

impl Queue {
    /// How many clients wait.
    pub fn len(&self) -> usize {
        self.length.load(SeqCst)
    }

    /// Whether it is empty: only then may a new client look for a place at once.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Goes to the end of the queue, unless `room` clients wait already.
    pub fn join(&self, room: usize) -> Option<Ticket<'_>> {
        let mut waiting = self.lock();
        if waiting.turns.len() >= room {
            return None;
        }
        let (number, turn) = (waiting.next, Arc::new(Notify::new()));
        waiting.next += 1;
        waiting.turns.insert(number, Arc::clone(&turn));
        self.length.store(waiting.turns.len(), SeqCst);
        drop(waiting);
        // A place may have become free just before this client joined; or the clients before it have passed on
        // their turn for one that they had tried, and none was behind them.
        self.look_again();
        Some(Ticket { queue: self, number, turn })
    }

    /// To be called after a place has become free, or whatever else may let a client find one now.
    pub fn look_again(&self) {
        if !self.is_empty() {
            self.turn_of_first_from(0);
        }
    }

    fn turn_of_first_from(&self, number: u64) {
        let first = self.lock().turns.range(number..).next().map(|(_, turn)| Arc::clone(turn));
        if let Some(turn) = first {
            turn.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client's place in the queue, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Ticket<'q> {
    queue: &'q Queue,
    number: u64,
    turn: Arc<Notify>,
}

impl Ticket<'_> {
    /// Returns when it is this client's turn to look for a place. May be dropped and called again.
    pub async fn turn(&self) {
        self.turn.notified().await;
    }

    /// Gives the turn to the next one behind, and waits on: this client has found none, but for a reason of its own.
    pub fn pass_on(&self) {
        self.queue.turn_of_first_from(self.number + 1);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.turns.remove(&self.number);
        self.queue.length.store(waiting.turns.len(), SeqCst);
        drop(waiting);
        self.queue.look_again();
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
