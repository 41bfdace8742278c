//! The clients that wait for a slot at one of a pool's backends while all are full: first come, first served.
//!
//! The queue does not assign slots. It notifies the first client, which tries to reserve a slot itself. If it succeeds,
//! it leaves the queue and the next client is notified; if it fails, the clients behind it would fail too. So only one
//! client at a time tries to get a free slot, however many wait.
//!
//! No notification is lost: **a slot is freed before the queue is checked for waiting clients; a client joins the queue
//! before it tries to reserve a slot.** As in `balance/load.rs`, the rule spans two memory locations, so all accesses
//! are `SeqCst` (`tests/models` explores the interleavings). When a client leaves, served or not, the first of the
//! remaining ones is notified.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use crate::sync::{AtomicUsize, Mutex, MutexGuard};

/// A pool's waiting clients. All workers share it; while it is empty, they only read its length.
#[derive(Debug, Default)]
pub struct Queue {
    length: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// The notifier of each client, in the order in which they joined.
    turns: BTreeMap<u64, Arc<Notify>>,
}

impl Queue {
    /// How many clients wait.
    pub fn len(&self) -> usize {
        self.length.load(SeqCst)
    }

    /// Whether it is empty: only then may a new client reserve a slot without joining.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a client at the end of the queue, unless `room` clients wait already.
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
        // A slot may have become free just before this client joined. Or the clients before it have called `notify_next`
        // when no client was behind them.
        self.notify_first();
        Some(Ticket { queue: self, number, turn })
    }

    /// Notifies the first client. Call this after a slot has become free, or after any other change that may let a
    /// client reserve one.
    pub fn notify_first(&self) {
        if !self.is_empty() {
            self.notify_first_from(0);
        }
    }

    fn notify_first_from(&self, number: u64) {
        let first = self.lock().turns.range(number..).next().map(|(_, turn)| Arc::clone(turn));
        if let Some(turn) = first {
            turn.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client's position in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Ticket<'q> {
    queue: &'q Queue,
    number: u64,
    turn: Arc<Notify>,
}

impl Ticket<'_> {
    /// Returns when this client may try to reserve a slot. Cancel safe.
    pub async fn turn(&self) {
        self.turn.notified().await;
    }

    /// Notifies the next client behind this one, which keeps waiting: the free slot may be at a backend that this
    /// client has already tried.
    pub fn notify_next(&self) {
        self.queue.notify_first_from(self.number + 1);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.turns.remove(&self.number);
        self.queue.length.store(waiting.turns.len(), SeqCst);
        drop(waiting);
        self.queue.notify_first();
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
