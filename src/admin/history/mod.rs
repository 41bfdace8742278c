//! What was counted lately by listener, pool and backend, so that a dashboard also shows what happened before it was opened:
//! each second of the last five minutes, each ten seconds of the last hour, each minute of the last day.
//!
//! A value is the growth of a counter in one step, so no value is negative.

mod counts;
mod tier;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;

use crate::overview::Overview;
use counts::HistoryCounts;
use tier::Tier;

/// The time between readings of the counters: the step of the finest tier.
const STEP: Duration = Duration::from_secs(1);

/// The step of each tier in seconds, how many steps are kept, and with how many backends each has values of its own. Memory
/// sets the last number: a value takes about 90 bytes.
const TIERS: [(u64, usize, usize); 3] = [(1, 300, counts::BACKENDS), (10, 360, 200), (60, 1440, 100)];

/// The steps of the tiers, in seconds.
pub(super) const STEPS: [u64; 3] = [TIERS[0].0, TIERS[1].0, TIERS[2].0];

/// The history. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<HistoryStore>>);

impl History {
    /// The history by steps of so many seconds, in JSON, serialized once for all requests within a step. `None`: no tier has
    /// this step.
    pub(super) fn json(&self, step: u64) -> Option<Bytes> {
        let mut store = self.lock();
        store.tiers.iter_mut().find(|tier| tier.step_seconds() == step).map(Tier::json)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HistoryStore> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the values of each second until the future is dropped.
    pub(super) async fn keep(self, overview: Arc<Overview>) {
        let mut clock = tokio::time::interval(STEP);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        clock.tick().await; // the first tick is immediate
        self.lock().add(&HistoryCounts::of(&overview), 1);
        let mut last = Instant::now();
        loop {
            clock.tick().await;
            // A process that was stopped for a while has several seconds to add.
            let seconds = (last.elapsed().as_secs_f64() / STEP.as_secs_f64()).round().max(1.0);
            last = Instant::now();
            self.lock().add(&HistoryCounts::of(&overview), seconds as u64);
        }
    }
}

#[derive(Debug)]
struct HistoryStore {
    tiers: [Tier; TIERS.len()],
}

impl Default for HistoryStore {
    fn default() -> Self {
        Self { tiers: TIERS.map(|(step, kept, backends)| Tier::new(step, kept, backends)) }
    }
}

impl HistoryStore {
    /// Adds the counters after `seconds` more seconds.
    fn add(&mut self, now: &HistoryCounts, seconds: u64) {
        for tier in &mut self.tiers {
            tier.add(now, seconds);
        }
    }
}

#[cfg(test)]
mod tests;
