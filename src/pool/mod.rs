//! Pools: named groups of interchangeable backends, each with its own discovery, checks and algorithm.
//!
//! The proxy uses a [`Pool`]: a snapshot to choose from, and the settings for connecting and relaying. Behind it, one
//! task (`task.rs`) runs the sources (`sources.rs`) and the checkers (`checkers.rs`) and feeds the [`state_machine`],
//! which alone decides the states of the backends; each change is published as a new [`PoolSnapshot`].

mod average;
pub mod backend;
mod checkers;
mod counters;
mod handle;
pub mod input;
pub mod lifetimes;
pub mod member;
mod message;
mod outliers;
pub mod queue;
mod selection;
mod snapshot;
mod sources;
pub mod state_machine;
mod task;
mod totals;
mod versioned;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use litemap::LiteMap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config;
use crate::discovery::Found;
pub use crate::domain::Failure;
use crate::domain::{AdminState, SetBy};
use crate::telemetry::flow::{Flows, Reading};
pub use average::{BackendLatency, Latency, RECENT};
pub use backend::Backend;
pub use counters::Counters;
pub use handle::Handle;
pub use input::Command;
pub use lifetimes::Lifetimes;
use message::Message;
pub use outliers::{SlowBackend, slow_backends};
pub use queue::Queue;
pub use selection::LocalZone;
pub use snapshot::{Choice, Entry, NAMED, PoolSnapshot, PoolStatus, SourceStatus};
pub use state_machine::{NotAdded, NotRemoved, PoolHandOver};
pub use totals::Totals;

/// A pool as the proxy uses it. Workers read it; only its own task publishes.
#[derive(Debug)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The counters of the pool as a whole.
    pub counters: Counters,
    /// How long the connections of its backends have lasted.
    pub lifetimes: Lifetimes,
    /// The connections routed to the pool that reached no backend.
    pub unserved: Flows,
    /// The clients that wait for a slot at a backend.
    pub queue: Queue,
    snapshot: ArcSwap<PoolSnapshot>,
    status: ArcSwap<PoolStatus>,
    settings: ArcSwap<config::Pool>,
    /// The number of the last configuration that has settled; 0: none.
    settled: watch::Sender<u64>,
    /// The number of the configuration that was sent last.
    wanted: AtomicU64,
    up: watch::Sender<usize>,
    /// Told of each new snapshot.
    published: watch::Sender<()>,
    /// Since when the current shadow algorithms (`shadow`) are counted.
    shadowed: ArcSwapOption<SystemTime>,
    failures: mpsc::Sender<(u64, Failure, u32)>,
    messages: mpsc::UnboundedSender<Message>,
}

impl Pool {
    /// The current snapshot.
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

    /// The connections to its backends since the pool started, by listener. A backend that leaves does not lower the
    /// counters.
    pub fn by_listener(&self) -> LiteMap<Arc<str>, Reading> {
        self.status().by_listener()
    }

    /// The connections that reached no backend, except those that their listener did not admit.
    pub fn unserved_total(&self) -> u64 {
        let of = |reading: Reading| reading.total().saturating_sub(reading.not_admitted);
        self.unserved.read().into_iter().map(|(_, reading)| of(reading)).sum()
    }

    /// Whether each source has answered, and each backend found has been checked, at least once.
    pub fn settled(&self) -> bool {
        *self.settled.borrow() > 0
    }

    /// Returns once the pool has settled with the configuration that was sent last.
    pub async fn when_settled(&self) {
        let wanted = self.wanted.load(Ordering::Acquire);
        // This pool owns the sender, so this cannot fail.
        let _ = self.settled.subscribe().wait_for(|settled| *settled >= wanted).await;
    }

    /// Since when shadow algorithms are counted; `None`: there are none.
    pub fn shadowed_since(&self) -> Option<SystemTime> {
        self.shadowed.load().as_deref().copied()
    }

    /// The number of eligible backends, and each change of it.
    pub fn up(&self) -> watch::Receiver<usize> {
        self.up.subscribe()
    }

    /// Changes with each new snapshot.
    pub fn published(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }

    /// Applies an operator's command to a backend, and returns when the status shows it and the setting is saved.
    pub async fn send_command(&self, backend: &Backend, command: Command, operator: Arc<str>) {
        self.send_command_by(backend, command, SetBy::now(operator)).await;
    }

    /// Drains a backend whose replica is being removed, and returns when the status shows it.
    pub async fn drain_for_removal(&self, backend: &Backend) {
        self.send_command_by(backend, Command::SetAdminState(AdminState::Draining), SetBy::removal()).await;
    }

    async fn send_command_by(&self, backend: &Backend, command: Command, by: SetBy) {
        let (done, when_done) = oneshot::channel();
        let _ = self.messages.send(Message::Command { key: backend.key, command, by, done });
        let _ = when_done.await; // a removed pool has no backends
    }

    /// What a process that takes over from this one needs to know of the pool.
    pub async fn hand_over(&self) -> PoolHandOver {
        let (reply, replied) = oneshot::channel();
        let _ = self.messages.send(Message::HandOver { reply });
        replied.await.unwrap_or_default() // a stopped pool has nothing to hand over
    }

    /// Returns when [`status`](Self::status) reflects everything sent to the pool's task until now.
    pub async fn when_published(&self) {
        let (done, when_done) = oneshot::channel();
        let _ = self.messages.send(Message::Shown { done });
        let _ = when_done.await; // a stopped pool has no new state
    }

    /// Adds a backend for an operator, and returns when the status shows it.
    pub async fn add(&self, found: Found) -> Result<(), NotAdded> {
        let (done, when_done) = oneshot::channel();
        let _ = self.messages.send(Message::Added { found, done });
        when_done.await.unwrap_or(Err(NotAdded::TooMany)) // a removed pool accepts no backend
    }

    /// Removes a backend that operators have added, and returns when the status shows it. `operator` is for the log.
    pub async fn remove(&self, backend: &Backend, operator: Arc<str>) -> Result<(), NotRemoved> {
        let (done, when_done) = oneshot::channel();
        let _ = self.messages.send(Message::Withdrawn { key: backend.key, operator, done });
        when_done.await.unwrap_or(Err(NotRemoved::NotThere))
    }

    /// Reports to the pool state that a live connection failed before the backend sent anything. Never waits: while
    /// too many such reports are queued, more are dropped.
    pub fn report_failure(&self, backend: &Backend, failure: Failure) {
        let in_a_row = backend.failed();
        let _ = self.failures.try_send((backend.key, failure, in_a_row));
    }
}
