//! A worker's open connections and the failure penalties of others, and the one tick that keeps time for all of them.
//!
//! Time limits are coarse on purpose: a timer for each connection, moved at each read, costs more than the read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use slab::Slab;
use tokio::sync::Notify;

use super::failure_penalty::FailurePenalties;
use super::open::Open;
use super::progress::{End, Progress};
use crate::pool::Backend;
use crate::pool::backend::Order;
use crate::telemetry::decisions::{Which, Whose};

/// Time from one tick to the next: how late a time limit may be kept.
pub const TICK: Duration = Duration::from_millis(100);

/// A worker's open connections.
#[derive(Debug, Default)]
pub struct Table {
    open: RefCell<Slab<Rc<Progress>>>,
    penalties: RefCell<FailurePenalties>,
    some: Notify,
}

impl Table {
    /// Enters a connection, which must [`leave`](Self::leave) the place that it is given.
    pub fn enter(&self, progress: &Rc<Progress>) -> usize {
        self.some.notify_one();
        self.open.borrow_mut().insert(Rc::clone(progress))
    }

    /// A connection is over.
    pub fn leave(&self, place: usize) {
        self.open.borrow_mut().remove(place);
    }

    /// A connection to `backend` came to nothing, and not by the client's doing.
    pub fn penalize(&self, backend: &Backend, random: &RefCell<SmallRng>) {
        let (mut penalties, mut random) = (self.penalties.borrow_mut(), random.borrow_mut());
        penalties.appear(&backend.load, backend.unanswered(), Instant::now(), &mut *random);
        self.some.notify_one();
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.borrow().len()
    }

    /// When the oldest open connection was accepted.
    pub fn oldest(&self) -> Option<Instant> {
        self.open.borrow().iter().map(|(_, progress)| progress.started).min()
    }

    /// The open connections that are asked for, at most `limit`, oldest first, and how many there are.
    pub fn list(&self, which: &Which, limit: usize) -> (Vec<Open>, usize) {
        let open = self.open.borrow();
        let asked = |progress: &&Rc<Progress>| progress.is_of(which);
        let mut all: Vec<_> = open.iter().map(|(_, progress)| progress).filter(asked).collect();
        let total = all.len();
        if limit < total {
            // There may be a hundred times as many as are wanted: only those are put in order.
            all.select_nth_unstable_by_key(limit, |progress| progress.started);
            all.truncate(limit);
        }
        all.sort_unstable_by_key(|progress| progress.started);
        (all.into_iter().map(|progress| Open::of(progress)).collect(), total)
    }

    /// The open connections that are meant, at most `limit`.
    pub fn find(&self, whose: Whose, limit: usize) -> Vec<Open> {
        let open = self.open.borrow();
        let meant = open.iter().filter(|(_, progress)| whose.is(progress.conn, progress.peer));
        meant.take(limit).map(|(_, progress)| Open::of(progress)).collect()
    }

    /// Tells the connection of that number to end; what it was then, if it is here.
    pub fn end(&self, conn: u64, end: End) -> Option<Open> {
        let open = self.open.borrow();
        let (_, progress) = open.iter().find(|(_, progress)| progress.conn == conn)?;
        let was = Open::of(progress);
        progress.end(end);
        Some(was)
    }

    /// Tells every connection to end.
    pub fn end_all(&self, end: End) {
        // A connection's waker only marks its task as ready: the table is not touched from within.
        self.open.borrow().iter().for_each(|(_, progress)| progress.end(end));
    }

    /// Ticks for ever, while there is a connection or a failure penalty to tick for.
    pub async fn keep_time(&self) {
        loop {
            if self.open() == 0 && self.penalties.borrow().is_empty() {
                self.some.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.tick(Instant::now());
        }
    }

    fn tick(&self, now: Instant) {
        self.penalties.borrow_mut().tick(now);
        let open = self.open.borrow();
        let mut ordered: BTreeMap<usize, (Order, Vec<&Rc<Progress>>)> = BTreeMap::new();
        for (_, progress) in open.iter() {
            if let Some((backend, order)) = progress.tick(now) {
                // The address of the backend's record tells it from the same-numbered one of another pool.
                let key = Arc::as_ptr(backend).addr();
                ordered.entry(key).or_insert((order, Vec::new())).1.push(progress);
            }
        }
        for (order, concerned) in ordered.into_values() {
            let end = End { reason: order.reason, how: order.how };
            let n = u32::try_from(concerned.len()).unwrap_or(u32::MAX);
            for (index, progress) in (1u32..).zip(concerned) {
                let at = order.at + order.over.mul_f64(f64::from(index) / f64::from(n));
                if at <= now { progress.end(end) } else { progress.obey(at, end) }
            }
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
