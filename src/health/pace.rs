//! Bounds the checks of the process and shares the places fairly between pools; spreads the checkers over the interval.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::schedule::Schedule;
use super::turns::Turns;
use crate::config::Health;

/// The checks of a process.
pub struct Pace {
    turns: Mutex<Turns<oneshot::Sender<Turn>>>,
    epoch: Instant,
    checkers: AtomicU64,
}

impl Pace {
    /// Allows `max_checks` checks at once; the others wait, as `turns.rs` decides.
    pub fn new(max_checks: NonZeroUsize) -> Self {
        let turns = Mutex::new(Turns::new(max_checks.get()));
        Self { turns, epoch: Instant::now(), checkers: AtomicU64::new(0) }
    }

    /// Adds a pool.
    pub fn pool(self: &Arc<Self>) -> PoolPace {
        let id = self.turns().open();
        PoolPace(Arc::new(Open { pace: Arc::clone(self), id }))
    }

    fn turns(&self) -> MutexGuard<'_, Turns<oneshot::Sender<Turn>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns the free places.
    fn give(self: &Arc<Self>) {
        loop {
            let Some((pool, waiter)) = self.turns().next(|waiter| !waiter.is_closed()) else { return };
            if let Err(mut turn) = waiter.send(Turn { pace: Some(Arc::clone(self)), pool }) {
                // The waiter was dropped just now. The loop passes its place on: returning it on drop would recurse
                // once for each dropped waiter.
                turn.pace = None;
                self.turns().give_back(pool);
            }
        }
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("free", &self.turns().free()).finish_non_exhaustive()
    }
}

/// The checks of one pool. Clones share it.
#[derive(Clone, Debug)]
pub struct PoolPace(Arc<Open>);

#[derive(Debug)]
struct Open {
    pace: Arc<Pace>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.pace.turns().close(self.id);
        // The places reserved for it are free for other pools.
        self.pace.give();
    }
}

impl PoolPace {
    /// Adds a checker to the pool.
    pub(super) fn checker(&self, health: &Health) -> (Enrolled, Schedule) {
        let Open { pace, id } = &*self.0;
        pace.turns().add_checker(*id);
        let number = pace.checkers.fetch_add(1, Ordering::Relaxed);
        (Enrolled(self.clone()), Schedule::new(number, health, pace.epoch, Instant::now()))
    }
}

/// A checker; it counts for its pool until it is dropped.
#[derive(Debug)]
pub(super) struct Enrolled(PoolPace);

impl Enrolled {
    /// Waits for a place. Cancel safe.
    pub(super) async fn turn(&self) -> Turn {
        let Open { pace, id } = &*self.0.0;
        let (waiter, turn) = oneshot::channel();
        pace.turns().ask(*id, waiter);
        pace.give();
        match turn.await {
            Ok(turn) => turn,
            // Only a closed pool drops its waiters, and a pool with a checker is open.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let Open { pace, id } = &*self.0.0;
        pace.turns().remove_checker(*id);
        pace.give();
    }
}

/// A place for one check; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None`: it was returned.
    pace: Option<Arc<Pace>>,
    pool: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(pace) = self.pace.take() {
            pace.turns().give_back(self.pool);
            pace.give();
        }
    }
}
