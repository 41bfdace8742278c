//! Counters of a pool as a whole.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::backend::Backend;
use crate::domain::{BackendState, CloseReason, Resolution, RouteTier};

/// The counters of a pool's connections, health checks and discovery.
#[derive(Debug)]
pub struct Counters {
    /// Time from accept to end, in seconds.
    pub connection: Histogram,
    /// Duration of health checks, in seconds.
    pub check: Histogram,
    /// How long health checks waited for a slot, in seconds.
    pub check_delay: Histogram,
    checks_late: AtomicU64,
    routed: AtomicU64,
    retried: AtomicU64,
    retried_failures: AtomicU64,
    overflowed: AtomicU64,
    client_visible: [AtomicU64; CloseReason::ALL.len()],
    unanswered: AtomicU64,
    resolutions: [AtomicU64; Resolution::ALL.len()],
    joined: AtomicU64,
    left: AtomicU64,
    failing: AtomicUsize,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            // From a request to a day of streaming.
            connection: Histogram::new([
                0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0,
            ]),
            // From loopback to a far continent.
            check: Histogram::new([
                0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
            ]),
            // From the scheduling delay of a runtime to the wait of a thousand unresponsive backends for one slot.
            check_delay: Histogram::new([0.001, 0.005, 0.02, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]),
            checks_late: AtomicU64::new(0),
            routed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            retried_failures: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            client_visible: Default::default(),
            unanswered: AtomicU64::new(0),
            resolutions: Default::default(),
            joined: AtomicU64::new(0),
            left: AtomicU64::new(0),
            failing: AtomicUsize::new(0),
        }
    }
}

impl Counters {
    /// Counts a connection that was routed to a backend of that tier, after `failures` failed attempts at other
    /// backends.
    pub fn routed(&self, tier: RouteTier, failures: u64) {
        self.routed.fetch_add(1, Ordering::Relaxed);
        if tier == RouteTier::Overflow {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        if failures > 0 {
            self.retried.fetch_add(1, Ordering::Relaxed);
            self.retried_failures.fetch_add(failures, Ordering::Relaxed);
        }
    }

    /// Counts a client-visible failure.
    pub fn client_visible_failure(&self, reason: CloseReason) {
        self.client_visible[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that ended without an answer ([`CloseReason::is_without_answer`]).
    pub fn without_answer(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that ended without an answer.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Counts a round of discovery by its result.
    pub fn resolved(&self, result: Resolution) {
        self.resolutions[result.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a health check that started late.
    pub(super) fn check_late(&self) {
        self.checks_late.fetch_add(1, Ordering::Relaxed);
    }

    /// Health checks that started late.
    pub fn checks_late(&self) -> u64 {
        self.checks_late.load(Ordering::Relaxed)
    }

    /// Counts a backend's change of state, for the backend and for the pool, whose counters outlive it.
    pub(super) fn changed(&self, backend: &Backend, to: BackendState) {
        backend.enter(to);
        match to {
            BackendState::Joining => _ = self.joined.fetch_add(1, Ordering::Relaxed),
            BackendState::Gone => _ = self.left.fetch_add(1, Ordering::Relaxed),
            BackendState::Up
            | BackendState::Down
            | BackendState::Ejected
            | BackendState::Draining
            | BackendState::Maintenance => {}
        }
    }

    /// Sets the number of sources whose last answer was inconclusive.
    pub(super) fn failing(&self, sources: usize) {
        self.failing.store(sources, Ordering::Relaxed);
    }

    /// Backends that were found, and backends that are gone, since the pool started.
    pub fn churn(&self) -> (u64, u64) {
        (self.joined.load(Ordering::Relaxed), self.left.load(Ordering::Relaxed))
    }

    /// Sources whose last answer was inconclusive.
    pub fn sources_failing(&self) -> usize {
        self.failing.load(Ordering::Relaxed)
    }

    /// Connections that were routed to a backend, and how many of them were retried.
    pub fn routed_and_retried(&self) -> [u64; 2] {
        [&self.routed, &self.retried].map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Failed attempts to connect after which a retry succeeded.
    pub fn failures_masked(&self) -> u64 {
        self.retried_failures.load(Ordering::Relaxed)
    }

    /// Connections that a backup got because no other backend had room.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Client-visible failures, by reason. Reasons that have not occurred are included: a counter that does not start
    /// at 0 hides its first failure.
    pub fn failures_seen(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        CloseReason::ALL
            .into_iter()
            .filter(|reason| reason.is_failure())
            .map(|reason| (reason, self.client_visible[reason.index()].load(Ordering::Relaxed)))
    }

    /// Rounds of discovery, by result.
    pub fn resolutions(&self) -> impl Iterator<Item = (Resolution, u64)> + '_ {
        Resolution::ALL
            .into_iter()
            .map(|result| (result, self.resolutions[result.index()].load(Ordering::Relaxed)))
    }
}

/// Observes a duration in seconds.
pub(super) fn observe(histogram: &Histogram, time: Duration) {
    histogram.observe(time.as_secs_f64());
}
