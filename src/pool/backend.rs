//! One backend, as the pool state and the workers share it: its identity, its counters, and what its connections are
//! told. Its state is not here: that is the pool state's alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;

use super::answers::Answers;
use super::average::Pace;
use crate::balance::shadow::{PickCounter, PickCounts};
use crate::balance::{Lease, Load};
use crate::config::Algorithm;
use crate::discovery::Found;
use crate::domain::{BackendState, CloseReason, Ending};
use crate::health::{CheckError, Checked, Run};
use crate::telemetry::ConnectError;
use crate::telemetry::flow::Flows;

/// One stay of a backend in a pool, from the moment it is found until it is gone. One that comes back, or that
/// takes over another one's address, is another `Backend` and inherits nothing. What it counts is [`Stay`].
#[derive(Debug)]
pub struct Backend {
    /// Tells it from every other one of its pool, before and after it.
    pub key: u64,
    /// Its name: with the address its identity.
    pub name: Arc<str>,
    /// Where it is connected to.
    pub address: SocketAddr,
    /// Its other addresses.
    pub also: Vec<SocketAddr>,
    stay: Arc<Stay>,
}

impl std::ops::Deref for Backend {
    type Target = Stay;

    fn deref(&self) -> &Stay {
        &self.stay
    }
}

/// What is counted of a backend's stay, and what its connections are told: the same when its name becomes known.
#[derive(Debug, Default)]
pub struct Stay {
    /// Its connections that are open or opening; the algorithms choose by it.
    pub load: Arc<Load>,
    /// Its connections' counters, for each listener.
    pub flows: Flows,
    failures: [AtomicU64; ConnectError::ALL.len()],
    entered: [AtomicU64; BackendState::ALL.len()],
    checks: Mutex<Checks>,
    /// Connections at once; 0: as many as there come.
    limit: AtomicU32,
    /// How long they took to be answered, while that is wanted.
    pub(super) answers: Answers,
    /// Connections that failed since one was answered.
    failed_in_a_row: AtomicU32,
    /// Connections that came to nothing since one was answered: those that failed, and those that it just closed.
    unanswered_in_a_row: AtomicU32,
    /// What each algorithm would have sent to it, the one in force included, while that is wanted.
    pick_counters: Mutex<Vec<(Algorithm, Arc<PickCounter>)>>,
    directive: ArcSwapOption<CloseDirective>,
    directives: AtomicU32,
    /// How fast it is lately.
    pub pace: Pace,
}

/// What is known of a backend's checks.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// The last one of each of the pool's checks, by its number, and when it ended.
    pub last: BTreeMap<usize, (SystemTime, Checked)>,
    /// The last results of each, live failures included, as the pool's state machine counts them.
    pub runs: BTreeMap<usize, Run>,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks without a result, for a reason of our own.
    pub local: u64,
    /// When a check without a result was last to be told, and of which of the pool's checks.
    told: BTreeMap<usize, Instant>,
}

/// What there is to say of a check's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// A person is to be told that it says nothing of the backend, for a reason of our own: that is news, or was told a
    /// minute ago.
    pub tell: bool,
    /// It is another one than that of the check before.
    pub changed: bool,
}

/// How often it is told that a check still has no result.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How the connections of a backend that was taken out are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseDirective {
    /// By close or by reset.
    pub how: Ending,
    /// When the first of them is closed.
    pub at: Instant,
    /// They are closed one by one, spread evenly over this time; zero: all at once.
    pub over: Duration,
    /// What their records say.
    pub reason: CloseReason,
}

impl Backend {
    /// A backend that was just found.
    pub fn new(key: u64, found: &Found) -> Self {
        Self {
            key,
            name: Arc::clone(&found.name),
            address: found.address,
            also: found.also.clone(),
            stay: Arc::default(),
        }
    }

    /// The same backend, now that its name is known.
    pub fn named(&self, found: &Found) -> Self {
        Self {
            key: self.key,
            name: Arc::clone(&found.name),
            address: self.address,
            also: found.also.clone(),
            stay: Arc::clone(&self.stay),
        }
    }
}

impl Stay {
    /// Sets the directive for all connections, including those that are routed by a snapshot that is just being replaced;
    /// `None` withdraws it.
    pub fn set_directive(&self, directive: Option<CloseDirective>) {
        self.directive.store(directive.map(Arc::new));
        self.directives.fetch_add(1, Ordering::Release);
    }

    /// How often the directive was set: cheap to compare with what a connection has seen.
    pub fn directives(&self) -> u32 {
        self.directives.load(Ordering::Acquire)
    }

    /// The directive in force.
    pub fn directive(&self) -> Option<CloseDirective> {
        self.directive.load().as_deref().copied()
    }

    /// What an algorithm sends to it, or would: counted from now on, if it was not yet.
    pub(super) fn pick_counter(&self, algorithm: Algorithm) -> Arc<PickCounter> {
        let mut pick_counters = self.pick_counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pick_counter)) = pick_counters.iter().find(|(of, _)| *of == algorithm) {
            return Arc::clone(pick_counter);
        }
        let pick_counter = Arc::<PickCounter>::default();
        pick_counters.push((algorithm, Arc::clone(&pick_counter)));
        pick_counter
    }

    /// What each algorithm has sent to it, or would have.
    pub fn pick_counts(&self) -> Vec<(Algorithm, PickCounts)> {
        let pick_counters = self.pick_counters.lock().unwrap_or_else(PoisonError::into_inner);
        pick_counters.iter().map(|(algorithm, pick_counter)| (*algorithm, pick_counter.read())).collect()
    }

    /// Begins to count anew.
    pub(super) fn reset_pick_counters(&self) {
        self.pick_counters.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A place for one more connection, unless it is full.
    pub fn lease(&self) -> Option<Lease> {
        match self.limit() {
            None => Some(self.load.lease()),
            Some(limit) => self.load.lease_within(limit),
        }
    }

    /// Connections that it may carry at once; `None`: as many as there come.
    pub fn limit(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.limit.load(Ordering::Relaxed))
    }

    /// Sets that. Those above the limit that are open already stay. The caller wakes the pool's queue.
    pub fn set_limit(&self, limit: Option<NonZeroU32>) {
        self.limit.store(limit.map_or(0, NonZeroU32::get), Ordering::Relaxed);
    }

    /// Whether there is no place for one more connection.
    pub fn is_full(&self) -> bool {
        self.limit().is_some_and(|limit| self.load.open() >= limit.get())
    }

    /// Notes that a connection came to nothing before it was answered; how many did since one was.
    pub fn unanswered(&self) -> u32 {
        self.unanswered_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Notes that a connection failed before it was answered; how many did since one was.
    pub(super) fn failed(&self) -> u32 {
        self.failed_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Notes that a connection was answered, so long after it was routed.
    pub fn answered(&self, took: Duration) {
        self.answers.count(took);
        self.pace.first_byte.add(took);
        for in_a_row in [&self.failed_in_a_row, &self.unanswered_in_a_row] {
            // A line that all workers read is not written without need.
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

    /// Forgets the last results: the pool's checks are other ones from now on.
    pub(super) fn check_anew(&self) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.last.clear();
        checks.runs.clear();
    }

    /// Notes the result of the pool's check of that number.
    pub fn checked(&self, index: usize, result: Checked, now: Instant) -> Noted {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let news = checks.last.get(&index).is_none_or(|(_, before)| before.result != result.result);
        let tell = match result.result {
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
                news || checks.told.get(&index).is_none_or(|told| now.duration_since(*told) >= TOLD_EVERY)
            }
        };
        if tell {
            checks.told.insert(index, now);
        }
        checks.last.insert(index, (SystemTime::now(), result));
        Noted { tell, changed: news }
    }

    /// Keeps the last results of the pool's check of that number for `why`.
    pub(super) fn note_run(&self, index: usize, run: Run) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).runs.insert(index, run);
    }

    /// What is known of its checks.
    pub fn checks(&self) -> Checks {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CheckKind;

    #[test]
    fn a_check_without_result_is_told_when_it_is_news_and_every_minute_while_it_lasts() {
        let stay = Stay::default();
        let began = Instant::now();
        let local = |why: &str| Err(CheckError::Local(why.into()));
        for (seconds, result, told) in [
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
            assert_eq!(stay.checked(0, checked, now).tell, told, "{seconds}: {result:?}");
        }
        let checks = stay.checks();
        assert_eq!((checks.passed, checks.failed, checks.local), (1, 1, 8));
    }
}
