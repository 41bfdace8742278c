//! One backend, shared by the pool state and the workers: its identity, its counters and the close directive for its
//! connections. Its state (up, down and so on) is only in the pool state.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use litemap::LiteMap;

use super::average::BackendLatency;
use super::versioned::Versioned;
use crate::balance::shadow::{PickCounter, PickCounts};
use crate::balance::{Lease, Load};
use crate::config::Algorithm;
use crate::discovery::Found;
use crate::domain::{BackendState, Cause, CloseReason, Ending, SocketAddress};
use crate::health::{CheckError, Checked, Run};
use crate::telemetry::ConnectError;
use crate::telemetry::flow::Flows;

/// A backend in a pool, from its discovery until it is gone. A backend that returns, or that takes over the address of
/// another, is a new `Backend` and inherits nothing. Its counters are in [`BackendCore`].
#[derive(Debug)]
pub struct Backend {
    /// Unique among all backends of its pool, past ones included.
    pub key: u64,
    /// Its name; with the address, its identity.
    pub name: Arc<str>,
    /// The address to connect to.
    pub address: SocketAddress,
    /// Its other addresses.
    pub also: Vec<SocketAddr>,
    /// Its name in metrics and in the history, decided before it is published.
    series: OnceLock<Arc<str>>,
    core: Arc<BackendCore>,
}

impl std::ops::Deref for Backend {
    type Target = BackendCore;

    fn deref(&self) -> &BackendCore {
        &self.core
    }
}

/// The part of a backend that stays when its name becomes known: its counters, and the close directive for its
/// connections.
#[derive(Debug, Default)]
pub struct BackendCore {
    /// Its open connections, including those still connecting; the algorithms choose by it.
    pub load: Arc<Load>,
    /// Its connections' counters, for each listener.
    pub flows: Flows,
    failures: [AtomicU64; ConnectError::ALL.len()],
    entered: [AtomicU64; BackendState::ALL.len()],
    checks: Mutex<Checks>,
    /// The limit of open connections; 0: unlimited.
    limit: AtomicU32,
    /// Connections that failed since the last response.
    failed_in_a_row: AtomicU32,
    /// Connections without a response since the last response: those that failed, and those that the backend closed.
    unanswered_in_a_row: AtomicU32,
    /// The connections that each algorithm has sent or would have sent to it, counted only with `shadow`.
    pick_counters: Mutex<Vec<(Algorithm, Arc<PickCounter>)>>,
    directive: Versioned<CloseDirective>,
    /// Its connect and first-byte latencies.
    pub latency: BackendLatency,
}

/// The results of a backend's checks.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// The last result of each of the pool's checks, by the check's number, and when it ended.
    pub last: LiteMap<usize, (SystemTime, Checked)>,
    /// The last results of each, failed live connections included, as the pool's state machine counts them.
    pub runs: LiteMap<usize, Run>,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks without a result because of a local error.
    pub local: u64,
    /// When a check without a result was last reported, by the check's number.
    reported_at: LiteMap<usize, Instant>,
}

/// Which events a check's result must report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// Whether to report a missing result because of a local error: the error is new, or was reported a minute ago.
    pub report: bool,
    /// Whether it differs from the result of the check before.
    pub changed: bool,
}

/// The interval between reports that a check still has no result.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// How often the directive of any backend was set, in all pools: a worker has connections of all of them. Counted after the
/// directive is set; a worker reads it before the directives.
static DIRECTIVES_SET: AtomicU64 = AtomicU64::new(0);

/// How often the directive of any backend was set. A worker looks at the directives of its connections' backends only if this
/// has changed.
pub fn directives_set() -> u64 {
    DIRECTIVES_SET.load(Ordering::Acquire)
}

/// How to close the connections of a backend that is out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseDirective {
    /// By close or by reset.
    pub how: Ending,
    /// When the first of them is closed.
    pub at: Instant,
    /// They are closed one by one, spread evenly over this time; zero: all at once.
    pub over: Duration,
    /// The reason in their records.
    pub reason: CloseReason,
}

impl Backend {
    /// A backend that was just found.
    pub fn new(key: u64, found: &Found) -> Self {
        Self {
            key,
            name: Arc::clone(&found.name),
            address: found.address.clone(),
            also: found.also.clone(),
            series: OnceLock::new(),
            core: Arc::default(),
        }
    }

    /// Its name in metrics and in the history. A backend that replaces another of its name continues the counters of that one;
    /// one that serves beside another of its name has its address added: `name@address`.
    pub fn series(&self) -> &Arc<str> {
        self.series.get().unwrap_or(&self.name)
    }

    /// Whether [`series`](Self::series) is decided.
    pub(super) fn has_series(&self) -> bool {
        self.series.get().is_some()
    }

    /// Decides it, once: with another one later, its counters would begin anew.
    pub(super) fn decide_series(&self, is_name_taken: bool) {
        let _ = self.series.set(match is_name_taken {
            true => format!("{}@{}", self.name, self.address).into(),
            false => Arc::clone(&self.name),
        });
    }

    /// The same backend, now that its name is known.
    pub fn named(&self, found: &Found) -> Self {
        Self {
            key: self.key,
            name: Arc::clone(&found.name),
            address: self.address.clone(),
            also: found.also.clone(),
            series: OnceLock::new(),
            core: Arc::clone(&self.core),
        }
    }
}

impl BackendCore {
    /// Sets the directive for all connections, including those routed by a snapshot that is just being replaced; `None`
    /// withdraws it.
    pub fn set_directive(&self, directive: Option<CloseDirective>) {
        self.directive.set(directive);
        DIRECTIVES_SET.fetch_add(1, Ordering::Release);
    }

    /// How often the directive was set; a connection compares this number to notice a change cheaply.
    pub fn directives(&self) -> u32 {
        self.directive.version()
    }

    /// The directive in force.
    pub fn directive(&self) -> Option<CloseDirective> {
        self.directive.value()
    }

    /// Counts what an algorithm sends or would send to it; created on first use.
    pub(super) fn pick_counter(&self, algorithm: Algorithm) -> Arc<PickCounter> {
        let mut pick_counters = self.pick_counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pick_counter)) = pick_counters.iter().find(|(of, _)| *of == algorithm) {
            return Arc::clone(pick_counter);
        }
        let pick_counter = Arc::<PickCounter>::default();
        pick_counters.push((algorithm, Arc::clone(&pick_counter)));
        pick_counter
    }

    /// The connections that each algorithm has sent or would have sent to it.
    pub fn pick_counts(&self) -> Vec<(Algorithm, PickCounts)> {
        let pick_counters = self.pick_counters.lock().unwrap_or_else(PoisonError::into_inner);
        pick_counters.iter().map(|(algorithm, pick_counter)| (*algorithm, pick_counter.read())).collect()
    }

    /// Removes the counters of all algorithms.
    pub(super) fn reset_pick_counters(&self) {
        self.pick_counters.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Reserves a slot for one more connection; `None`: the backend is full.
    pub fn lease(&self) -> Option<Lease> {
        match self.limit() {
            None => Some(self.load.lease()),
            Some(limit) => self.load.lease_within(limit),
        }
    }

    /// The limit of open connections; `None`: unlimited.
    pub fn limit(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.limit.load(Ordering::Relaxed))
    }

    /// Sets the limit. Open connections above it stay. The caller wakes the pool's queue.
    pub fn set_limit(&self, limit: Option<NonZeroU32>) {
        self.limit.store(limit.map_or(0, NonZeroU32::get), Ordering::Relaxed);
    }

    /// Whether the open connections have reached the limit.
    pub fn is_full(&self) -> bool {
        self.limit().is_some_and(|limit| self.load.open() >= limit.get())
    }

    /// Counts a connection that ended without a response; returns how many did since the last response.
    pub fn unanswered(&self) -> u32 {
        self.unanswered_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Counts a connection that failed without a response; returns how many did since the last response.
    pub(super) fn failed(&self) -> u32 {
        self.failed_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Records that a connection got its first response, `took` after it was routed.
    pub fn answered(&self, took: Duration) {
        self.latency.first_byte.add(took);
        for in_a_row in [&self.failed_in_a_row, &self.unanswered_in_a_row] {
            // All workers read this cache line: write it only if needed.
            if in_a_row.load(Ordering::Relaxed) > 0 {
                in_a_row.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Counts a failed attempt to connect.
    pub fn connect_failed(&self, error: ConnectError) {
        self.failures[error as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Failed attempts to connect, by kind.
    pub fn connect_failures(&self) -> impl Iterator<Item = (ConnectError, u64)> + '_ {
        ConnectError::ALL.into_iter().map(|kind| (kind, self.failures[kind as usize].load(Ordering::Relaxed)))
    }

    /// Counts that it entered a state.
    pub(super) fn enter(&self, state: BackendState) {
        self.entered[state.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How often it entered each state, by [`BackendState::index`].
    pub fn entered(&self) -> [u64; BackendState::ALL.len()] {
        std::array::from_fn(|index| self.entered[index].load(Ordering::Relaxed))
    }

    /// Discards the last results, before new checks start.
    pub(super) fn discard_results(&self) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.last.clear();
        checks.runs.clear();
    }

    /// Records the result of the check with the number `index`.
    pub fn checked(&self, index: usize, result: Checked, now: Instant) -> CheckReport {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = checks.last.get(&index).is_none_or(|(_, before)| before.result != result.result);
        let report = match result.result {
            Ok(()) => {
                checks.passed += 1;
                false
            }
            Err(CheckError::Failed(_)) => {
                checks.failed += 1;
                false
            }
            Err(CheckError::Local(_)) => {
                checks.local += 1;
                changed
                    || checks.reported_at.get(&index).is_none_or(|at| now.duration_since(*at) >= REPORT_EVERY)
            }
        };
        if report {
            checks.reported_at.insert(index, now);
        }
        checks.last.insert(index, (SystemTime::now(), result));
        CheckReport { report, changed }
    }

    /// Stores the last results of the check with the number `index`, for `why`.
    pub(super) fn note_run(&self, index: usize, run: Run) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).runs.insert(index, run);
    }

    /// The local error that prevented the last result of one of its checks, if any.
    pub fn local_check_error(&self) -> Option<Cause> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.last.values().find_map(|(_, checked)| match &checked.result {
            Err(CheckError::Local(error)) => Some(error.clone()),
            Ok(()) | Err(CheckError::Failed(_)) => None,
        })
    }

    /// The results of its checks.
    pub fn checks(&self) -> Checks {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CheckKind;

    #[test]
    fn a_check_without_result_is_reported_when_its_error_is_new_and_then_every_minute() {
        let core = BackendCore::default();
        let began = Instant::now();
        let local = |why: &str| Err(CheckError::Local(why.into()));
        for (seconds, result, expected) in [
            (0, local("no file"), true),
            (1, local("no file"), false),
            (59, local("no file"), false),
            (60, local("no file"), true),
            (61, local("no port"), true),
            (120, local("no port"), false),
            (121, local("no port"), true),
            (122, Ok(()), false),
            (123, local("no port"), true),
            (124, Err("refused".to_owned().into()), false),
        ] {
            let checked = Checked {
                kind: CheckKind::Tcp,
                result: result.clone(),
                waited: Duration::ZERO,
                took: Duration::ZERO,
            };
            let now = began + Duration::from_secs(seconds);
            assert_eq!(core.checked(0, checked, now).report, expected, "{seconds}: {result:?}");
            let local = result.err().filter(|error| matches!(error, CheckError::Local(_)));
            assert_eq!(core.local_check_error().map(|error| error.to_string()), local.map(|e| e.to_string()));
        }
        let checks = core.checks();
        assert_eq!((checks.passed, checks.failed, checks.local), (1, 1, 8));
    }
}
