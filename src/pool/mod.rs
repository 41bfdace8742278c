//! Pools: a named group of interchangeable backends, with one way to find, check and choose them.
//!
//! [`Pool`] is what the proxy sees: a snapshot to choose from and the settings to connect and relay by. Behind it one
//! task (`task.rs`) runs the sources and the checkers and feeds the [`state_machine`], the one owner of the truth about
//! the backends; each change is published as a new [`PoolSnapshot`].

mod answers;
mod average;
pub(crate) mod backend;
mod counters;
pub(crate) mod input;
pub(crate) mod member;
pub(crate) mod queue;
mod snapshot;
pub(crate) mod state_machine;
mod task;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config;
use crate::discovery::Found;
pub(crate) use crate::domain::Failure;
use crate::telemetry::flow::{Flows, Reading};
pub(crate) use backend::Backend;
pub(crate) use counters::Counters;
pub(crate) use input::Command;
pub(crate) use queue::Queue;
pub(crate) use snapshot::{Choice, Entry, NAMED, PoolSnapshot, PoolStatus};
pub(crate) use state_machine::{NotAdded, NotRemoved};
pub use task::Handle;
pub(crate) use totals::Totals;

/// A pool as the proxy sees it. Workers read it; only its own task publishes.
#[derive(Debug)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What happened to its connections as a whole.
    pub counters: Counters,
    /// The connections that were meant for it and reached no backend.
    pub unserved: Flows,
    /// The clients that wait for a place at a backend.
    pub queue: Queue,
    snapshot: ArcSwap<PoolSnapshot>,
    status: ArcSwap<PoolStatus>,
    settings: ArcSwap<config::Pool>,
    /// The last configuration, by its number, that has settled; 0: none has.
    settled: watch::Sender<u64>,
    /// The number of the configuration that is wanted.
    wanted: AtomicU64,
    up: watch::Sender<usize>,
    /// Since when other algorithms are counted too, as they are now.
    shadowed: ArcSwapOption<SystemTime>,
    failures: mpsc::Sender<(u64, Failure, u32)>,
    news: mpsc::UnboundedSender<task::News>,
}

impl Pool {
    /// What to choose from now.
    pub fn snapshot(&self) -> Arc<PoolSnapshot> {
        self.snapshot.load_full()
    }

    /// The settings in force, for a connection that begins now.
    pub fn settings(&self) -> Arc<config::Pool> {
        self.settings.load_full()
    }

    /// All backends with their states.
    pub fn status(&self) -> Arc<PoolStatus> {
        self.status.load_full()
    }

    /// The connections that its backends got since the pool exists, by listener. A backend that leaves does not lower
    /// the counters.
    pub fn ways(&self) -> BTreeMap<Arc<str>, Reading> {
        self.status().ways()
    }

    /// Whether each source has answered and each backend found has been checked, once at least.
    pub fn settled(&self) -> bool {
        *self.settled.borrow() > 0
    }

    /// Returns once that is so under the configuration that is wanted now.
    pub async fn when_settled(&self) {
        let wanted = self.wanted.load(Ordering::Acquire);
        // The sender is ours, so this cannot fail.
        let _ = self.settled.subscribe().wait_for(|settled| *settled >= wanted).await;
    }

    /// Since when other algorithms are counted too; `None`: they are not.
    pub fn shadowed_since(&self) -> Option<SystemTime> {
        self.shadowed.load().as_deref().copied()
    }

    /// How many backends can be chosen, and every change of that.
    pub fn up(&self) -> watch::Receiver<usize> {
        self.up.subscribe()
    }

    /// Applies an operator's command to a backend, and returns when the status shows it. `who` is the operator, for the
    /// log.
    pub async fn tell(&self, backend: &Backend, command: Command, who: Arc<str>) {
        let (done, when_done) = oneshot::channel();
        let _ = self.news.send(task::News::Told { key: backend.key, command, who, done });
        let _ = when_done.await; // a pool that is gone has no backend to tell
    }

    /// Returns when [`status`](Self::status) reflects everything sent to the pool's task until now.
    pub async fn when_shown(&self) {
        let (done, when_done) = oneshot::channel();
        let _ = self.news.send(task::News::Shown { done });
        let _ = when_done.await; // a stopped pool has no new state
    }

    /// Adds a backend that an operator names, and returns when it can be seen.
    pub async fn add(&self, found: Found) -> Result<(), NotAdded> {
        let (done, when_done) = oneshot::channel();
        let _ = self.news.send(task::News::Added { found, done });
        when_done.await.unwrap_or(Err(NotAdded::TooMany)) // a pool that is gone has no room
    }

    /// Takes a backend away that operators have added, and returns when that is done and can be seen.
    pub async fn remove(&self, backend: &Backend, who: Arc<str>) -> Result<(), NotRemoved> {
        let (done, when_done) = oneshot::channel();
        let _ = self.news.send(task::News::Withdrawn { key: backend.key, who, done });
        when_done.await.unwrap_or(Err(NotRemoved::NotThere))
    }

    /// Tells the pool state that a live connection failed before the backend had said anything. Never waits: while the
    /// pool state is behind with such news, one more of the same is no news.
    pub fn report_failure(&self, backend: &Backend, failure: Failure) {
        let in_a_row = backend.failed();
        let _ = self.failures.try_send((backend.key, failure, in_a_row));
    }
}
