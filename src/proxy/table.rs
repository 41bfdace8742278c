//! A worker's open connections and failure penalties, and the one tick that applies their time limits.
//!
//! Time limits are coarse on purpose: a timer of each connection, moved at each read, would cost more than the read.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
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
use super::visits::{Visit, Visits};
use crate::domain::{ConnectionRecord, IdleConnection};
use crate::pool::backend::{CloseDirective, directives_set};
use crate::pool::lifetimes::Ages;
use crate::pool::{Backend, Pool};
use crate::telemetry::filter::{ConnectionFilter, ConnectionSubject};

/// Time between ticks, and so the maximum delay of a time limit.
pub const TICK: Duration = Duration::from_millis(100);

/// A worker's open connections.
#[derive(Debug, Default)]
pub struct Table {
    open: RefCell<Slab<Rc<Progress>>>,
    visits: Rc<Visits>,
    /// How often directives were set by the last tick ([`directives_set`]).
    directives_set: Cell<u64>,
    penalties: RefCell<FailurePenalties>,
    some: Notify,
    /// Connections that were cut at the end of a drain.
    cut: Cell<usize>,
}

/// The ages of a worker's open connections.
#[derive(Debug, Default)]
pub struct OpenAges {
    /// By pool.
    pub pools: Vec<PoolAges>,
    /// Selected connections whose pool is not known yet.
    pub without_pool: u64,
    /// The age of the oldest selected connection.
    pub oldest: Option<Duration>,
    /// The selected connections that have been idle for the longest time, each with its pool.
    pub longest_idle: Vec<(Option<Arc<str>>, IdleConnection)>,
}

/// The ages of the open connections of a pool.
#[derive(Debug)]
pub struct PoolAges {
    /// The pool.
    pub pool: Arc<Pool>,
    /// Of all its connections.
    pub all: Ages,
    /// Of the selected ones.
    pub selected: Ages,
}

/// The idle connections of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleOf {
    /// How many there were.
    pub idle: u64,
    /// How many of them close now.
    pub closed: u64,
}

/// How many idle connections are listed.
const LISTED: usize = 16;

impl Table {
    /// A table without connections. Which of them a tick visits is noted in `visits`.
    pub(super) fn new(visits: Rc<Visits>) -> Self {
        Self { visits, ..Self::default() }
    }

    /// Enters a connection; [`leave`](Self::leave) must follow.
    pub fn enter(&self, progress: &Rc<Progress>) {
        self.some.notify_one();
        progress.set_key(self.open.borrow_mut().insert(Rc::clone(progress)));
        self.visit(progress);
    }

    /// Removes a connection that has ended.
    pub fn leave(&self, progress: &Progress) {
        self.open.borrow_mut().remove(progress.key());
        self.visits.set(progress.key(), Visit::NEVER);
    }

    /// Makes the next tick visit a connection.
    pub(super) fn visit(&self, progress: &Progress) {
        self.visits.set(progress.key(), Visit::Next);
    }

    /// Penalizes `backend`, which has failed a connection.
    pub fn penalize(&self, backend: &Backend, random: &RefCell<SmallRng>) {
        let (mut penalties, mut random) = (self.penalties.borrow_mut(), random.borrow_mut());
        penalties.add(&backend.load, backend.unanswered(), Moment::now(), &mut *random);
        self.some.notify_one();
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.borrow().len()
    }

    /// Counts a connection that was cut at the end of a drain.
    pub(super) fn count_cut(&self) {
        self.cut.set(self.cut.get() + 1);
    }

    /// How many connections were cut at the end of a drain.
    pub fn cut(&self) -> usize {
        self.cut.get()
    }

    /// The ages of the open connections at `now`; `selected`: which of them are forecast.
    pub fn ages(&self, selected: &ConnectionFilter, now: Moment) -> OpenAges {
        let open = self.open.borrow();
        let mut ages = OpenAges::default();
        let mut indexes: HashMap<usize, usize> = HashMap::new();
        let mut idle = Vec::new();
        for (_, progress) in open.iter() {
            let (age, is_selected) = (progress.accepted.until(now), progress.matches(selected));
            if is_selected {
                ages.oldest = ages.oldest.max(Some(age));
                idle.push(progress);
            }
            let Some(pool) = progress.pool() else {
                ages.without_pool += u64::from(is_selected);
                continue;
            };
            let index = *indexes.entry(Arc::as_ptr(pool).addr()).or_insert_with(|| {
                let (pool, none) = (Arc::clone(pool), Ages::default());
                ages.pools.push(PoolAges { pool, all: none, selected: none });
                ages.pools.len() - 1
            });
            let of_pool = &mut ages.pools[index];
            of_pool.all.add(age);
            if is_selected {
                of_pool.selected.add(age);
            }
        }
        idle.sort_by_cached_key(|progress| Reverse(progress.idle(now)));
        let with_pool = |progress: &Rc<Progress>| {
            (progress.pool().map(|pool| Arc::clone(&pool.name)), progress.idle_connection(now))
        };
        ages.longest_idle = idle.into_iter().take(LISTED).map(with_pool).collect();
        ages
    }

    /// Requests that the connections that are open now close one by one over the time `over`, those that have been idle for
    /// the longest time first.
    pub fn close_over(&self, request: CloseRequest, over: Duration, now: Moment) {
        let open = self.open.borrow();
        let mut open: Vec<_> = open.iter().map(|(_, progress)| progress).collect();
        open.sort_by_cached_key(|progress| Reverse(progress.idle(now)));
        self.schedule(&open, request, now, over, now);
    }

    /// The open connections that match `filter`, at most `limit`, oldest first, and how many match.
    pub fn list(&self, filter: &ConnectionFilter, limit: usize) -> (Vec<ConnectionRecord>, usize) {
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
    pub fn find(&self, subject: ConnectionSubject, limit: usize) -> Vec<ConnectionRecord> {
        let open = self.open.borrow();
        let matching =
            open.iter().filter(|(_, progress)| subject.matches(progress.conn, progress.client.get()));
        matching.take(limit).map(|(_, progress)| progress.open_record()).collect()
    }

    /// Requests that the connection `conn` closes; returns its record, if it is open.
    pub fn close(&self, conn: u64, request: CloseRequest) -> Option<ConnectionRecord> {
        let open = self.open.borrow();
        let (_, progress) = open.iter().find(|(_, progress)| progress.conn == conn)?;
        let was = progress.open_record();
        progress.close(request);
        Some(was)
    }

    /// Requests that at most `most` connections to a backend close, of those over which no byte was relayed for the time
    /// `idle`: those that have been idle for the longest time.
    pub fn close_idle(
        &self,
        (pool, backend): (&str, u64),
        idle: Duration,
        most: u32,
        request: CloseRequest,
        now: Moment,
    ) -> IdleOf {
        let open = self.open.borrow();
        let is_idle = |progress: &&Rc<Progress>| {
            // The open half of a half-closed connection waits for the rest of a stream: a FIN would make it look complete.
            progress.idle(now) >= idle
                && progress.first_closed.get().is_none()
                && progress.pool().is_some_and(|of| *of.name == *pool)
                && progress.relayed().is_some_and(|relayed| relayed.backend.key == backend)
        };
        let mut found: Vec<_> = open.iter().map(|(_, progress)| progress).filter(is_idle).collect();
        let all = found.len() as u64;
        if most > 0 {
            found.sort_by_cached_key(|progress| Reverse(progress.idle(now)));
        }
        found.truncate(most as usize);
        found.iter().for_each(|progress| progress.close(request));
        IdleOf { idle: all, closed: found.len() as u64 }
    }

    /// Requests that every connection closes.
    pub fn close_all(&self, request: CloseRequest) {
        // A connection's waker only marks its task as ready: the task does not run while the table is borrowed.
        self.open.borrow().iter().for_each(|(_, progress)| progress.close(request));
    }

    /// Ticks while there is a connection or a failure penalty, and waits for one otherwise. Never returns.
    pub async fn run_ticks(self: Rc<Self>) {
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
        let set = directives_set();
        let keys = if self.directives_set.replace(set) == set {
            self.visits.due(now)
        } else {
            // Any of them may have a new directive.
            open.iter().map(|(key, _)| key).collect()
        };
        for progress in keys.into_iter().filter_map(|key| open.get(key)) {
            if let Some((backend, directive)) = progress.tick(now) {
                // By the address of the backend's record: two pools may number their backends alike.
                let key = Arc::as_ptr(&backend).addr();
                directed.entry(key).or_insert((directive, Vec::new())).1.push(progress);
            }
            self.visits.set(progress.key(), progress.next_visit());
        }
        for (directive, concerned) in directed.into_values() {
            let request = CloseRequest { reason: directive.reason, how: directive.how };
            self.schedule(&concerned, request, directive.at.into(), directive.over, now);
        }
    }

    /// Closes the connections evenly from the moment `first` over the time `over`, the last one at its end.
    fn schedule(
        &self,
        open: &[&Rc<Progress>],
        request: CloseRequest,
        first: Moment,
        over: Duration,
        now: Moment,
    ) {
        let n = u32::try_from(open.len()).unwrap_or(u32::MAX);
        for (index, progress) in (1u32..).zip(open) {
            let at = first + over.mul_f64(f64::from(index) / f64::from(n));
            if at <= now {
                progress.close(request);
            } else {
                progress.schedule_close(at, request);
                self.visit(progress);
            }
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
