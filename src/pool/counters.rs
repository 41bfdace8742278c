//! Counters of a pool as a whole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::CloseReason;

/// What happened to a pool's connections and questions.
#[derive(Debug)]
pub struct Counters {
    /// Time to connect to a backend, in seconds.
    pub connect: Histogram,
    /// Time from the routing decision to the backend's first byte, in seconds.
    pub first_byte: Histogram,
    /// Time from accept to end, in seconds.
    pub connection: Histogram,
    /// Duration of health checks, in seconds.
    pub check: Histogram,
    masked: AtomicU64,
    seen: [AtomicU64; CloseReason::ALL.len()],
    resolutions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for Counters {
    fn default() -> Self {
        // From loopback to a far continent; and from a request to a day of streaming.
        let short = || {
            Histogram::new([
                0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
            ])
        };
        let long = || {
            Histogram::new([
                0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0,
            ])
        };
        Self {
            connect: short(),
            first_byte: short(),
            connection: long(),
            check: short(),
            masked: AtomicU64::new(0),
            seen: Default::default(),
            resolutions: Mutex::default(),
        }
    }
}

impl Counters {
    /// Counts failures that a client never learned of, because another backend served it.
    pub fn masked(&self, failures: u64) {
        if failures > 0 {
            self.masked.fetch_add(failures, Ordering::Relaxed);
        }
    }

    /// Counts a failure that a client met.
    pub fn seen(&self, reason: CloseReason) {
        self.seen[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a round of discovery by what it found.
    pub fn resolved(&self, result: &'static str) {
        *self.resolutions.lock().unwrap_or_else(PoisonError::into_inner).entry(result).or_default() += 1;
    }

    /// Failures that no client learned of.
    pub fn failures_masked(&self) -> u64 {
        self.masked.load(Ordering::Relaxed)
    }

    /// Failures that clients met, by reason; those that never happened are left out.
    pub fn failures_seen(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        CloseReason::ALL
            .into_iter()
            .map(|reason| (reason, self.seen[reason.index()].load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
    }

    /// Rounds of discovery by what they found.
    pub fn resolutions(&self) -> BTreeMap<&'static str, u64> {
        self.resolutions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Observes a duration in seconds.
pub(super) fn observe(histogram: &Histogram, time: Duration) {
    histogram.observe(time.as_secs_f64());
}
