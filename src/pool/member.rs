//! A backend in the pool state: facts, and the state that follows from them.
//!
//! No event sets a state. An event changes a *fact* (a source's report, a check's result, a failed live connection, an
//! operator's command), and `derived_state` computes the state from all facts. So the order of events does not matter,
//! and the state and its reason can be computed again at any time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litemap::LiteMap;

use super::backend::{Backend, CloseDirective};
use crate::config::{self, Policy};
use crate::discovery::{Fitness, Found, SourceKey};
use crate::domain::{AdminState, BackendState, CloseReason, Ending, SetBy, StateReason};
use crate::health::{Ejection, RiseFall, Verdict};
use crate::telemetry::histogram::DurationCounts;

/// The number of steps in which a backend that came up reaches its full share (`slow_start`).
pub const STEPS: u32 = 10;

/// A backend and its facts.
#[derive(Clone, Debug)]
pub struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its state.
    pub state: BackendState,
    /// When it entered this state.
    pub since: Instant,
    /// Why it is in this state.
    pub reason: StateReason,
    /// Its weight.
    pub weight: u32,
    /// Its tier: it is used while no backend of a lower tier is up, and for connections that find those full.
    pub tier: u16,
    /// The zone in which it runs; `None`: unknown.
    pub zone: Option<Arc<str>>,
    /// The limit of its open connections; `None`: unlimited.
    pub connections: Option<NonZeroU32>,
    /// The part of its share that it gets now, in [`STEPS`].
    pub step: u32,
    /// The entry of each source that reports it; expired entries are removed.
    pub(super) sources: LiteMap<SourceKey, SourceEntry>,
    /// The results of each of the pool's checks.
    pub(super) results: Vec<Results>,
    /// Why its checks fail, if they do.
    pub(super) failing: Option<StateReason>,
    /// When it began to wait for its checks to pass for the first time; the grace period starts then.
    pub(super) trial: Instant,
    pub(super) ejection: Ejection,
    /// Its times to the first byte at the last comparison with the others (`eject.slow`).
    pub(super) compared: Box<DurationCounts>,
    /// The state that an operator set, unless that is [`AdminState::Up`], and the operator.
    pub(super) admin_state: Option<(AdminState, SetBy)>,
    /// The weight that an operator set.
    pub(super) operator_weight: Option<OperatorWeight>,
    /// Its name before the restart, until it is known again: under another name it is another backend, for which
    /// nothing is set.
    pub(super) name_before: Option<Arc<str>>,
    /// Why it is refused: this process listens at its address.
    pub(super) refused: Option<StateReason>,
    /// Why it has left the pool.
    pub(super) left: Option<StateReason>,
    /// The last policy for its connections, and the reason for it.
    last_policy: Option<(CloseReason, Policy)>,
}

/// A weight that an operator set.
#[derive(Clone, Debug)]
pub(super) struct OperatorWeight {
    pub(super) weight: u32,
    /// The weight that the sources reported then: another one replaces the operator's.
    pub(super) by_source: u32,
    pub(super) by: SetBy,
}

/// The results of one check.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Results {
    pub(super) rise_fall: RiseFall,
    /// Whether a check has ended, even without a result.
    pub(super) has_result: bool,
}

/// A backend as one source reports it.
#[derive(Clone, Debug)]
pub(super) struct SourceEntry {
    pub(super) found: Found,
    /// Since when conclusive answers have not contained it.
    pub(super) missing: Option<Instant>,
}

impl Member {
    /// A backend that was just found, in a pool with this number of checks.
    pub(super) fn new(backend: Arc<Backend>, reason: StateReason, checks: usize, now: Instant) -> Self {
        Self {
            backend,
            state: BackendState::Joining,
            since: now,
            reason,
            weight: 1,
            tier: 0,
            zone: None,
            connections: None,
            step: STEPS,
            sources: LiteMap::new(),
            results: vec![Results::default(); checks],
            failing: None,
            trial: now,
            ejection: Ejection::default(),
            compared: Box::default(),
            admin_state: None,
            operator_weight: None,
            name_before: None,
            refused: None,
            left: None,
            last_policy: None,
        }
    }

    pub(super) fn leaving(&self) -> bool {
        self.left.is_some()
    }

    /// Whether an operator has disabled it, so that it is not checked.
    pub(super) fn in_maintenance(&self) -> bool {
        matches!(self.admin_state, Some((AdminState::Maintenance, _)))
    }

    /// Whether an operator has set something for it.
    pub(super) fn has_settings(&self) -> bool {
        self.admin_state.is_some() || self.operator_weight.is_some()
    }

    /// Whether every source that has reported it now answers without it.
    pub(super) fn missing(&self) -> bool {
        self.sources.values().all(|entry| entry.missing.is_some())
    }

    /// The sources that report it now.
    pub(super) fn sources(&self) -> impl Iterator<Item = &SourceKey> {
        self.sources.iter().filter(|(_, entry)| entry.missing.is_none()).map(|(key, _)| key)
    }

    /// The verdict of all checks together: one failing check is enough, and all must have a result.
    pub(super) fn verdict(&self) -> Verdict {
        let verdicts = || self.results.iter().map(|results| results.rise_fall.verdict());
        if verdicts().any(|verdict| verdict == Verdict::Failing) {
            Verdict::Failing
        } else if verdicts().any(|verdict| verdict == Verdict::Unchecked) {
            Verdict::Unchecked
        } else {
            Verdict::Passing
        }
    }

    /// Whether its first results are complete: each check has ended once, or the backend is known to be starting.
    pub(super) fn settled(&self) -> bool {
        self.state != BackendState::Joining
            || *self.fitness() == Fitness::Starting
            || self.results.iter().all(|results| results.has_result)
    }

    /// The worst health that a source reports.
    fn fitness(&self) -> &Fitness {
        let all = || self.sources.values().map(|entry| &entry.found.fitness);
        let unhealthy = all().find(|fitness| matches!(fitness, Fitness::Unhealthy(_)));
        let starting = || all().find(|fitness| matches!(fitness, Fitness::Starting));
        unhealthy.or_else(starting).unwrap_or(&Fitness::Unknown)
    }

    /// The state that follows from the facts, and its reason; `None`: the last event is the reason.
    pub(super) fn derived_state(&self, now: Instant) -> (BackendState, Option<StateReason>) {
        if let Some(reason) = &self.left {
            return (BackendState::Draining, Some(reason.clone()));
        }
        if let Some(reason) = &self.refused {
            return (BackendState::Down, Some(reason.clone()));
        }
        match &self.admin_state {
            Some((state @ AdminState::Maintenance, by)) => {
                return (BackendState::Maintenance, Some(by.reason(*state)));
            }
            Some((state @ AdminState::Draining, by)) => {
                return (BackendState::Draining, Some(by.reason(*state)));
            }
            Some((AdminState::Up, _)) | None => {}
        }
        match self.fitness() {
            Fitness::Unhealthy(cause) => {
                return (BackendState::Down, Some(StateReason::SourceUnhealthy(cause.clone())));
            }
            Fitness::Starting => return (BackendState::Joining, Some(StateReason::ContainerStarting)),
            Fitness::Unknown | Fitness::Healthy => {}
        }
        match (self.verdict(), self.ejection.out(now)) {
            (Verdict::Failing, _) => (BackendState::Down, self.failing.clone()),
            (Verdict::Unchecked, _) => (BackendState::Joining, None),
            (Verdict::Passing, Some((_, reason))) => (BackendState::Ejected, Some(reason.clone())),
            (Verdict::Passing, None) => (BackendState::Up, None),
        }
    }

    /// Applies the policy for its connections, if that has changed.
    pub(super) fn set_directive(&mut self, config: &config::Pool, now: Instant) {
        let down = self.verdict() == Verdict::Failing || matches!(self.fitness(), Fitness::Unhealthy(_));
        let policy = if self.leaving() {
            Some((CloseReason::BackendLeft, config.on_leave))
        } else if self.refused.is_some() {
            // Connections in a loop hold their slots until they are closed.
            let at_once = Policy::End { how: Ending::Reset, after: Duration::ZERO, over: Duration::ZERO };
            Some((CloseReason::BackendDown, at_once))
        } else if self.admin_state.is_some() {
            // A drained backend may fail its checks while its connections finish.
            Some((CloseReason::Operator, config.on_drain))
        } else if down {
            Some((CloseReason::BackendDown, config.on_down))
        } else {
            None
        };
        if std::mem::replace(&mut self.last_policy, policy) == policy {
            return;
        }
        self.backend.set_directive(match policy {
            Some((reason, Policy::End { how, after, over })) => {
                Some(CloseDirective { how, at: now + after, over, reason })
            }
            Some((_, Policy::Keep)) | None => None,
        });
    }

    /// The entry that sets its weight, tier and limit. Sources that still report it come first, then those that report
    /// more than addresses (DNS does not), then the first in the configuration; operators' additions come last.
    pub(super) fn lead(&self, config: &config::Pool) -> Option<&Found> {
        self.first_entry(config, |key, _| matches!(key, SourceKey::Dns(..) | SourceKey::Operator))
    }

    /// The entry that sets its name: that of the first source that knows one.
    pub(super) fn name(&self, config: &config::Pool) -> Option<&Found> {
        self.first_entry(config, |_, found| found.nameless)
    }

    /// The zone in which it runs: that of the first source that knows one.
    pub(super) fn found_zone(&self, config: &config::Pool) -> Option<&Arc<str>> {
        self.first_entry(config, |_, found| found.zone.is_none())?.zone.as_ref()
    }

    fn first_entry(
        &self,
        config: &config::Pool,
        later: impl Fn(&SourceKey, &Found) -> bool,
    ) -> Option<&Found> {
        let position = |key: &SourceKey| {
            let found = config.discover.iter().position(|source| SourceKey::from(source) == *key);
            found.unwrap_or(usize::MAX)
        };
        let rank = |(key, entry): &(&SourceKey, &SourceEntry)| {
            (entry.missing.is_some(), later(key, &entry.found), position(key))
        };
        self.sources.iter().min_by_key(rank).map(|(_, entry)| &entry.found)
    }

    /// The part of its share that it gets, in [`STEPS`], and when the next step is due.
    pub(super) fn ramp(&self, slow_start: Duration, now: Instant) -> (u32, Option<Instant>) {
        let up = now.saturating_duration_since(self.since);
        if self.state != BackendState::Up || up >= slow_start {
            return (STEPS, None);
        }
        let step = (up.as_secs_f64() / slow_start.as_secs_f64() * f64::from(STEPS)) as u32;
        let step = step.min(STEPS - 1) + 1;
        (step, Some(self.since + slow_start * step / STEPS))
    }
}
