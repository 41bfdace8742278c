//! The steps of the history in the state directory, one line each.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::counts::{BackendName, HistoryCount, HistoryGrowth};
use crate::domain::Timestamp;
use crate::state_directory::LineError;

/// The values of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedStep {
    /// When it ended, in seconds since the epoch.
    pub(super) end: Timestamp,
    pub(super) listeners: Vec<(Arc<str>, HistoryCount)>,
    pub(super) pools: Vec<(Arc<str>, HistoryCount)>,
    /// By pool and name.
    pub(super) backends: Vec<(BackendName, HistoryCount)>,
}

impl SavedStep {
    /// The step number `step` of the `steps` in which this growth happened.
    pub(super) fn of(growth: &HistoryGrowth, step: usize, steps: usize, end: SystemTime) -> Self {
        let named = |name: &Arc<str>, count: &HistoryCount| (Arc::clone(name), count.share(step, steps));
        let backends = growth.backends.iter();
        Self {
            end: end.into(),
            listeners: growth.listeners.iter().map(|(name, count)| named(name, count)).collect(),
            pools: growth.pools.iter().map(|(name, count)| named(name, count)).collect(),
            backends: backends.map(|(key, count)| (key.clone(), count.share(step, steps))).collect(),
        }
    }

    /// The line of this step.
    pub(super) fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // serializing these types cannot fail
    }

    /// The step in a line.
    pub(super) fn parse(line: &str) -> Result<Self, LineError> {
        serde_json::from_str(line).map_err(|_| LineError::of(line))
    }
}

/// The place of each step, counted in steps of `length` seconds from the oldest one, and the place of the step that ends
/// `now`.
///
/// Steps that follow each other are neighbors, although no clock ticks exactly: a gap needs a whole step's length that is
/// missing. What several restarts cost adds up, so that the places stay right.
pub(super) fn places(steps: &[SavedStep], length: u64, now: SystemTime) -> (Vec<u64>, u64) {
    let length = length as f64;
    let (mut place, mut late) = (0, 0.0_f64);
    let mut places = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        if let Some(before) = index.checked_sub(1).map(|before| &steps[before]) {
            // If the clock was set back, the order of the lines counts.
            let apart = (step.end.0 - before.end.0).max(0.0) + late;
            let moved = if apart < 2.0 * length { 1.0 } else { (apart / length).round() };
            late = (apart - moved * length).max(-length);
            place += moved as u64;
        }
        places.push(place);
    }
    let since = steps.last().map_or(0.0, |last| Timestamp::from(now).0 - last.end.0 + late);
    (places, place.saturating_add((since / length).round().max(0.0) as u64))
}
