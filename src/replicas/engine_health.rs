//! Whether the engine can be reached, as the log and the API report it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// The least interval between warnings: an engine may fail and recover often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Logs failures of the engine, at a bounded rate, and its recovery.
#[derive(Debug)]
pub(super) struct EngineHealth {
    pool: Arc<str>,
    failure: Option<String>,
    warned: Option<Instant>,
}

impl EngineHealth {
    pub(super) fn new(pool: Arc<str>) -> Self {
        Self { pool, failure: None, warned: None }
    }

    /// Why the engine cannot be reached; `None`: it can.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The engine answered.
    pub(super) fn on_success(&mut self) {
        match self.failure.take() {
            Some(_) => info!(pool = %self.pool, "replicas: engine available again"),
            // A second success in a row: it has recovered, and the next failure is logged again.
            None => self.warned = None,
        }
    }

    /// The engine cannot be reached, and why.
    pub(super) fn on_failure(&mut self, reason: String) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            warn!(pool = %self.pool, reason, "replicas: engine unavailable; nothing can be started or stopped");
        }
        self.failure = Some(reason);
    }
}
