//! A worker's open connections and failure penalties, and the one tick that applies their time limits.
//!
//! Time limits are coarse on purpose: a timer of each connection, moved at each read, would cost more than the read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use slab::Slab;
use tokio::sync::Notify;

use super::clock::Moment;
use super::failure_penalty::FailurePenalties;
use super::progress::{CloseRequest, Progress};
use crate::domain::ConnectionRecord;
use crate::pool::Backend;
use crate::pool::backend::CloseDirective;
use crate::telemetry::filter::{ConnectionFilter, ConnectionSubject};

/// Time between ticks, and so the maximum delay of a time limit.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// A worker's open connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    open: RefCell<Slab<Rc<Progress>>>,
    penalties: RefCell<FailurePenalties>,
    some: Notify,
}

impl Table {
    /// Enters a connection; [`leave`](Self::leave) must follow with the key that is returned.
    pub(crate) fn enter(&self, progress: &Rc<Progress>) -> usize {
        self.some.notify_one();
        self.open.borrow_mut().insert(Rc::clone(progress))
    }

    /// Removes a connection that has ended.
    pub(crate) fn leave(&self, key: usize) {
        self.open.borrow_mut().remove(key);
    }

    /// Penalizes `backend`, which has failed a connection.
    pub(crate) fn penalize(&self, backend: &Backend, random: &RefCell<SmallRng>) {
        let (mut penalties, mut random) = (self.penalties.borrow_mut(), random.borrow_mut());
        penalties.add(&backend.load, backend.unanswered(), Moment::now(), &mut *random);
        self.some.notify_one();
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open.borrow().len()
    }

    /// The age at `now` of the oldest open connection.
    pub(crate) fn oldest(&self, now: Moment) -> Option<Duration> {
        let oldest = self.open.borrow().iter().map(|(_, progress)| progress.accepted).min();
        oldest.map(|accepted| accepted.until(now))
    }

    /// The open connections that match `filter`, at most `limit`, oldest first, and how many match.
    pub(crate) fn list(&self, filter: &ConnectionFilter, limit: usize) -> (Vec<ConnectionRecord>, usize) {
        let open = self.open.borrow();
        let matches = |progress: &&Rc<Progress>| progress.matches(filter);
        let mut all: Vec<_> = open.iter().map(|(_, progress)| progress).filter(matches).collect();
        let total = all.len();
        if limit < total {
            // Only those are sorted: there may be a hundred times as many connections.
            all.select_nth_unstable_by_key(limit, |progress| progress.accepted);
            all.truncate(limit);
        }
        all.sort_unstable_by_key(|progress| progress.accepted);
        (all.into_iter().map(|progress| progress.open_record()).collect(), total)
    }

    /// The open connections of `subject`, at most `limit`.
    pub(crate) fn find(&self, subject: ConnectionSubject, limit: usize) -> Vec<ConnectionRecord> {
        let open = self.open.borrow();
        let matching =
            open.iter().filter(|(_, progress)| subject.matches(progress.conn, progress.client.get()));
        matching.take(limit).map(|(_, progress)| progress.open_record()).collect()
    }

    /// Requests that the connection `conn` closes; returns its record, if it is open.
    pub(crate) fn close(&self, conn: u64, request: CloseRequest) -> Option<ConnectionRecord> {
        let open = self.open.borrow();
        let (_, progress) = open.iter().find(|(_, progress)| progress.conn == conn)?;
        let was = progress.open_record();
        progress.close(request);
        Some(was)
    }

    /// Requests that every connection closes.
    pub(crate) fn close_all(&self, request: CloseRequest) {
        // A connection's waker only marks its task as ready: the task does not run while the table is borrowed.
        self.open.borrow().iter().for_each(|(_, progress)| progress.close(request));
    }

    /// Ticks while there is a connection or a failure penalty, and waits for one otherwise. Never returns.
    pub(crate) async fn run_ticks(self: Rc<Self>) {
        loop {
            if self.open() == 0 && self.penalties.borrow().is_empty() {
                self.some.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.tick(Moment::now());
        }
    }

    fn tick(&self, now: Moment) {
        self.penalties.borrow_mut().tick(now);
        let open = self.open.borrow();
        let mut directed: HashMap<usize, (CloseDirective, Vec<&Rc<Progress>>)> = HashMap::new();
        for (_, progress) in open.iter() {
            if let Some((backend, directive)) = progress.tick(now) {
                // By the address of the backend's record: two pools may number their backends alike.
                let key = Arc::as_ptr(&backend).addr();
                directed.entry(key).or_insert((directive, Vec::new())).1.push(progress);
            }
        }
        for (directive, concerned) in directed.into_values() {
            let request = CloseRequest { reason: directive.reason, how: directive.how };
            let (first, n) = (Moment::from(directive.at), u32::try_from(concerned.len()).unwrap_or(u32::MAX));
            for (index, progress) in (1u32..).zip(concerned) {
                let at = first + directive.over.mul_f64(f64::from(index) / f64::from(n));
                if at <= now { progress.close(request) } else { progress.schedule_close(at, request) }
            }
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
