//! The supervisor's handle of a running pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot, watch};

use super::message::Message;
use super::snapshot::{PoolSnapshot, PoolStatus};
use super::state_machine::{PoolHandOver, PoolState};
use super::task::{Task, shadowed_since_now};
use super::totals::Former;
use super::{Counters, Lifetimes, Pool, Queue};
use crate::config;
use crate::health::Pace;
use crate::own::OwnAddresses;
use crate::state_directory::SavedSettings;
use crate::task::spawn;
use crate::telemetry::flow::Flows;
use crate::telemetry::journal::Journal;

/// The limit of queued failures of live connections; more would not change a state.
const FAILURES_WAITING: usize = 256;

/// A running pool, held by the supervisor. Its task ends when the pool is removed and its last backend is gone, or with
/// the runtime.
#[derive(Debug)]
pub struct Handle {
    /// The pool as the proxy uses it.
    pub pool: Arc<Pool>,
    messages: mpsc::UnboundedSender<Message>,
    /// The configuration that was sent last.
    sent: config::Pool,
}

impl Handle {
    /// Starts a pool in a process that listens on the addresses `own`. Its checks are scheduled by `pace`, and it
    /// reports events to the journal. Needs a tokio runtime.
    pub fn start(
        name: Arc<str>,
        config: &config::Pool,
        own: &Arc<OwnAddresses>,
        pace: &Arc<Pace>,
        journal: &Journal,
    ) -> Self {
        Self::restore(name, config, own, pace, journal, SavedSettings::default(), PoolHandOver::default())
    }

    /// The same with what is known of its backends from the process before, and with where to save what operators set.
    pub fn restore(
        name: Arc<str>,
        config: &config::Pool,
        own: &Arc<OwnAddresses>,
        pace: &Arc<Pace>,
        journal: &Journal,
        settings: SavedSettings,
        known: PoolHandOver,
    ) -> Self {
        let (messages, received) = mpsc::unbounded_channel();
        let (failures, failed) = mpsc::channel(FAILURES_WAITING);
        let mut pool_state = PoolState::new(Arc::clone(&name), config.clone(), Arc::clone(own));
        pool_state.restore(known.settings);
        pool_state.take_over(known.health, Instant::now());
        let pool = Arc::new(Pool {
            name,
            counters: Counters::default(),
            lifetimes: Lifetimes::default(),
            unserved: Flows::default(),
            queue: Queue::default(),
            snapshot: ArcSwap::from_pointee(PoolSnapshot::new(config, &[], None)),
            status: ArcSwap::from_pointee(PoolStatus::new(&[], Vec::new(), Former::default())),
            settings: ArcSwap::from_pointee(config.clone()),
            settled: watch::Sender::new(0),
            wanted: AtomicU64::new(1),
            up: watch::Sender::new(0),
            published: watch::Sender::new(()),
            shadowed: ArcSwapOption::new(shadowed_since_now(config)),
            failures,
            messages: messages.clone(),
        });
        for added in known.added {
            // A backend that cannot be added any longer is left out.
            let (done, _) = oneshot::channel();
            let _ = messages.send(Message::Added { found: added.into(), done });
        }
        let task = Task::new(Arc::clone(&pool), pool_state, journal.clone(), settings, pace.pool());
        spawn(task.run(received, failed));
        Self { pool, messages, sent: config.clone() }
    }

    /// Applies another configuration; unchanged parts continue without interruption.
    pub fn reconfigure(&mut self, config: &config::Pool) {
        if self.sent != *config {
            self.sent.clone_from(config);
            let number = self.pool.wanted.fetch_add(1, Ordering::AcqRel) + 1;
            let _ = self.messages.send(Message::Reconfigured(number, Box::new(config.clone())));
        }
    }

    /// The process now listens on these addresses: backends at one of them are refused. The returned receiver resolves
    /// when connections are no longer routed to them.
    pub fn refuse(&self, own: &Arc<OwnAddresses>) -> oneshot::Receiver<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.messages.send(Message::OwnAddresses { own: Arc::clone(own), done });
        when_done
    }

    /// Removes the pool; open connections follow `on_leave`.
    pub fn remove(self) {
        let _ = self.messages.send(Message::Removed);
    }
}
