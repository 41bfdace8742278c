//! What was counted lately by listener, pool and backend, so that a dashboard also shows what happened before it was opened:
//! each second of the last five minutes, each ten seconds of the last hour, each minute of the last day.
//!
//! A value is the growth of a counter in one step, so no value is negative.
//!
//! With a state directory the ten seconds and the minutes outlive the process: each step is saved when it is complete.

mod counts;
mod saved;
mod tier;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;

use crate::overview::Overview;
use crate::state_directory::{StateDirectory, StateFile};
use counts::HistoryCounts;
use saved::SavedStep;
use tier::Tier;

/// The time between readings of the counters: the step of the finest tier.
const STEP: Duration = Duration::from_secs(1);

/// The step of each tier in seconds, how many steps are kept, and with how many backends each has values of its own. Memory
/// sets the last number: a value takes about 90 bytes.
const TIERS: [(u64, usize, usize); 3] = [
    (1, 300, counts::BACKENDS),
    (10, StateFile::TenSeconds.kept(), 200),
    (60, StateFile::Minutes.kept(), 100),
];

/// The file of the state directory with the steps of that many seconds, if they are saved.
fn file(step: u64) -> Option<StateFile> {
    match step {
        10 => Some(StateFile::TenSeconds),
        60 => Some(StateFile::Minutes),
        _ => None,
    }
}

/// The steps of the tiers, in seconds.
pub(super) const STEPS: [u64; 3] = [TIERS[0].0, TIERS[1].0, TIERS[2].0];

/// The history. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<HistoryStore>>);

impl History {
    /// The history that continues that of the state directory, if there is one.
    pub(super) fn restore(state: &StateDirectory) -> Self {
        let history = Self::default();
        for tier in &mut history.lock().tiers {
            if let Some(file) = file(tier.step_seconds()) {
                tier.restore(&state.read(file, SavedStep::parse).0, SystemTime::now());
            }
        }
        history
    }

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
        self.add(&overview, 1);
        let mut last = Instant::now();
        loop {
            clock.tick().await;
            // A process that was stopped for a while has several seconds to add.
            let seconds = (last.elapsed().as_secs_f64() / STEP.as_secs_f64()).round().max(1.0);
            last = Instant::now();
            self.add(&overview, seconds as u64);
        }
    }

    /// Adds the present counters after `seconds` more seconds, and saves the steps that they complete.
    fn add(&self, overview: &Overview, seconds: u64) {
        let counts = HistoryCounts::of(overview);
        let completed = self.lock().add(&counts, seconds);
        if overview.state.is_configured() {
            for (file, step) in completed {
                overview.state.append(file, step.line());
            }
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
    /// Adds the counters after `seconds` more seconds, and returns the steps that are to be saved.
    fn add(&mut self, now: &HistoryCounts, seconds: u64) -> Vec<(StateFile, SavedStep)> {
        let mut completed = Vec::new();
        for tier in &mut self.tiers {
            let steps = tier.add(now, seconds);
            if let Some(file) = file(tier.step_seconds()) {
                completed.extend(steps.into_iter().map(|step| (file, step)));
            }
        }
        completed
    }
}

#[cfg(test)]
mod tests;
