//! Limits the checks in progress and shares the slots fairly between pools; spreads the checkers over the interval.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::check_slots::CheckSlots;
use super::schedule::CheckSchedule;
use crate::config::Health;

/// Paces the checks of the process.
pub struct Pace {
    slots: Mutex<CheckSlots<oneshot::Sender<CheckSlot>>>,
    epoch: Instant,
    checkers: AtomicU64,
}

impl Pace {
    /// Allows `max_checks` checks at once; `check_slots.rs` decides the order of the waiting ones.
    pub fn new(max_checks: NonZeroUsize) -> Self {
        let slots = Mutex::new(CheckSlots::new(max_checks.get()));
        Self { slots, epoch: Instant::now(), checkers: AtomicU64::new(0) }
    }

    /// Adds a pool.
    pub fn pool(self: &Arc<Self>) -> PoolPace {
        let id = self.slots().add_pool();
        PoolPace(Arc::new(PoolSlots { pace: Arc::clone(self), id }))
    }

    fn slots(&self) -> MutexGuard<'_, CheckSlots<oneshot::Sender<CheckSlot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assign(self: &Arc<Self>) {
        loop {
            let Some((pool, waiter)) = self.slots().next(|waiter| !waiter.is_closed()) else { return };
            if let Err(mut slot) = waiter.send(CheckSlot { pace: Some(Arc::clone(self)), pool }) {
                // The waiter was dropped just now. The loop reassigns its slot: releasing it on drop would recurse once
                // for each dropped waiter.
                slot.pace = None;
                self.slots().release(pool);
            }
        }
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("free", &self.slots().free()).finish_non_exhaustive()
    }
}

/// The checks of one pool. Clones share it.
#[derive(Clone, Debug)]
pub struct PoolPace(Arc<PoolSlots>);

#[derive(Debug)]
struct PoolSlots {
    pace: Arc<Pace>,
    id: u64,
}

impl Drop for PoolSlots {
    fn drop(&mut self) {
        self.pace.slots().remove_pool(self.id);
        // Its reserve is free for other pools.
        self.pace.assign();
    }
}

impl PoolPace {
    /// Adds a checker to the pool.
    pub(super) fn checker(&self, health: &Health) -> (RegisteredChecker, CheckSchedule) {
        let PoolSlots { pace, id } = &*self.0;
        pace.slots().add_checker(*id);
        let number = pace.checkers.fetch_add(1, Ordering::Relaxed);
        (RegisteredChecker(self.clone()), CheckSchedule::new(number, health, pace.epoch))
    }
}

/// The registration of a checker with its pool, until it is dropped.
#[derive(Debug)]
pub(super) struct RegisteredChecker(PoolPace);

impl RegisteredChecker {
    /// Waits for a slot. Cancel safe.
    pub(super) async fn acquire(&self) -> CheckSlot {
        let PoolSlots { pace, id } = &*self.0.0;
        let (waiter, slot) = oneshot::channel();
        pace.slots().wait(*id, waiter);
        pace.assign();
        match slot.await {
            Ok(slot) => slot,
            // Only a removed pool drops its waiters, and a pool with a checker is not removed.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for RegisteredChecker {
    fn drop(&mut self) {
        let PoolSlots { pace, id } = &*self.0.0;
        pace.slots().remove_checker(*id);
        pace.assign();
    }
}

/// A slot for one check; dropping it releases the slot.
#[derive(Debug)]
pub(super) struct CheckSlot {
    /// `None`: it is released.
    pace: Option<Arc<Pace>>,
    pool: u64,
}

impl Drop for CheckSlot {
    fn drop(&mut self) {
        if let Some(pace) = self.pace.take() {
            pace.slots().release(self.pool);
            pace.assign();
        }
    }
}
