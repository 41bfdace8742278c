//! What keeps all checkers of a process out of each other's way: so many checks at once and no more, fairly shared between
//! the pools, and for each checker a place of its own in the interval.

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
    /// At most `max_checks` are under way at once; the others wait, as `turns.rs` says.
    pub fn new(max_checks: NonZeroUsize) -> Self {
        let turns = Mutex::new(Turns::new(max_checks.get()));
        Self { turns, epoch: Instant::now(), checkers: AtomicU64::new(0) }
    }

    /// The checks of one more pool.
    pub fn pool(self: &Arc<Self>) -> PoolPace {
        let id = self.turns().open();
        PoolPace(Arc::new(Open { pace: Arc::clone(self), id }))
    }

    fn turns(&self) -> MutexGuard<'_, Turns<oneshot::Sender<Turn>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the free places away.
    fn give(self: &Arc<Self>) {
        loop {
            let Some((pool, waiter)) = self.turns().next(|waiter| !waiter.is_closed()) else { return };
            if let Err(mut turn) = waiter.send(Turn { pace: Some(Arc::clone(self)), pool }) {
                // It has been given up in this moment. Its place goes on from here: to give it back by its drop would go one
                // level deeper for each check that was given up.
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

/// The checks of one pool. A clone is the same pool.
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
        // What was reserved for it is free for the others.
        self.pace.give();
    }
}

impl PoolPace {
    /// Another checker of the pool, which begins now.
    pub(super) fn checker(&self, health: &Health) -> (Enrolled, Schedule) {
        let Open { pace, id } = &*self.0;
        pace.turns().add_checker(*id);
        let number = pace.checkers.fetch_add(1, Ordering::Relaxed);
        (Enrolled(self.clone()), Schedule::new(number, health, pace.epoch, Instant::now()))
    }
}

/// A checker that counts as one of its pool until it is dropped.
#[derive(Debug)]
pub(super) struct Enrolled(PoolPace);

impl Enrolled {
    /// Waits for a place. May be dropped while it waits.
    pub(super) async fn turn(&self) -> Turn {
        let Open { pace, id } = &*self.0.0;
        let (waiter, turn) = oneshot::channel();
        pace.turns().ask(*id, waiter);
        pace.give();
        match turn.await {
            Ok(turn) => turn,
            // Only a pool that is closed drops what waits, and this one has a checker.
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

/// A place, for one check; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None`: it was given back.
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
