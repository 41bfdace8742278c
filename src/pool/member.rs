//! A backend as its pool state knows it: facts, and the state that follows from them.
//!
//! No event sets a state. An event changes a *fact* (what a source says, what a check found, what live connections
//! met, what an operator wants), and `standing` tells what follows from all of them together. So it never
//! matters in which order things happened, and what is known can always be told again.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Backend, CloseDirective};
use crate::config::{self, Policy};
use crate::discovery::{Fitness, Found, SourceKey};
use crate::domain::{AdminState, BackendState, CloseReason, Ending, StateReason};
use crate::health::{Ejection, RiseFall, Verdict};

/// In so many steps a backend that came up gets its whole share (`slow_start`).
pub(crate) const STEPS: u32 = 10;

/// A backend and what the pool state knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its state.
    pub state: BackendState,
    /// Since when.
    pub since: Instant,
    /// Why it is in this state.
    pub reason: StateReason,
    /// Its share.
    pub weight: u32,
    /// Its tier: those of a higher number are used only while none of a lower one is up.
    pub tier: u16,
    /// Connections that it may carry at once; `None`: as many as there come.
    pub connections: Option<NonZeroU32>,
    /// How much of its share it gets by now, in [`STEPS`].
    pub step: u32,
    /// What each source says of it. One that says nothing any longer is not here.
    pub(super) sources: BTreeMap<SourceKey, SourceEntry>,
    /// What each of the pool's checks has found.
    pub(super) results: Vec<Results>,
    /// Why its checks fail, if they do.
    pub(super) failing: Option<StateReason>,
    /// Since when it has been waiting to pass its checks for the first time.
    pub(super) trial: Instant,
    pub(super) ejection: Ejection,
    /// What an operator wants of it, if it is not to be used, and the operator.
    pub(super) admin_state: Option<(AdminState, Arc<str>)>,
    /// The share that an operator gave it, and the one that it had by the sources then.
    pub(super) told_weight: Option<(u32, u32)>,
    /// Why it can never be used: this process listens at its address.
    pub(super) refused: Option<StateReason>,
    /// Why it has left for good.
    pub(super) left: Option<StateReason>,
    /// What its connections were told last.
    directed: Option<(CloseReason, Policy)>,
}

/// What one check has found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Results {
    pub(super) rise_fall: RiseFall,
    /// Whether there was a result at all, even one that did not count.
    pub(super) heard: bool,
}

/// One source's word that a backend exists.
#[derive(Clone, Debug)]
pub(super) struct SourceEntry {
    pub(super) found: Found,
    /// Since when good answers have been without it.
    pub(super) missing: Option<Instant>,
}

impl Member {
    /// One that was just found, in a pool with so many checks.
    pub(super) fn new(backend: Arc<Backend>, reason: StateReason, checks: usize, now: Instant) -> Self {
        Self {
            backend,
            state: BackendState::Joining,
            since: now,
            reason,
            weight: 1,
            tier: 0,
            connections: None,
            step: STEPS,
            sources: BTreeMap::new(),
            results: vec![Results::default(); checks],
            failing: None,
            trial: now,
            ejection: Ejection::default(),
            admin_state: None,
            told_weight: None,
            refused: None,
            left: None,
            directed: None,
        }
    }

    pub(super) fn leaving(&self) -> bool {
        self.left.is_some()
    }

    /// Whether an operator has disabled it, so that it is not checked.
    pub(super) fn in_maintenance(&self) -> bool {
        matches!(self.admin_state, Some((AdminState::Maintenance, _)))
    }

    /// Whether every source that knew it now answers without it.
    pub(super) fn missing(&self) -> bool {
        self.sources.values().all(|entry| entry.missing.is_some())
    }

    /// The sources that see it now.
    pub(super) fn sources(&self) -> impl Iterator<Item = &SourceKey> {
        self.sources.iter().filter(|(_, entry)| entry.missing.is_none()).map(|(key, _)| key)
    }

    /// What all checks together say: one that fails is enough, and all must have been heard.
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

    /// Whether there is no more to be heard of it soon: each check has ended once, or it is known to be starting.
    pub(super) fn settled(&self) -> bool {
        self.state != BackendState::Joining
            || *self.fitness() == Fitness::Starting
            || self.results.iter().all(|results| results.heard)
    }

    /// What all sources that know of its health say together.
    fn fitness(&self) -> &Fitness {
        let all = || self.sources.values().map(|entry| &entry.found.fitness);
        let unhealthy = all().find(|fitness| matches!(fitness, Fitness::Unhealthy(_)));
        let starting = || all().find(|fitness| matches!(fitness, Fitness::Starting));
        unhealthy.or_else(starting).unwrap_or(&Fitness::Unknown)
    }

    /// The state that follows from what is known, and the reason; `None`: only what has just happened is the reason.
    pub(super) fn standing(&self, now: Instant) -> (BackendState, Option<StateReason>) {
        if let Some(reason) = &self.left {
            return (BackendState::Draining, Some(reason.clone()));
        }
        if let Some(reason) = &self.refused {
            return (BackendState::Down, Some(reason.clone()));
        }
        let set = |state, by| Some(StateReason::SetByOperator { state, by: Arc::clone(by) });
        match &self.admin_state {
            Some((state @ AdminState::Maintenance, by)) => {
                return (BackendState::Maintenance, set(*state, by));
            }
            Some((state @ AdminState::Draining, by)) => return (BackendState::Draining, set(*state, by)),
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

    /// Sets what happens to its connections, if that has changed.
    pub(super) fn set_directive(&mut self, config: &config::Pool, now: Instant) {
        let down = self.verdict() == Verdict::Failing || matches!(self.fitness(), Fitness::Unhealthy(_));
        let policy = if self.leaving() {
            Some((CloseReason::BackendLeft, config.on_leave))
        } else if self.refused.is_some() {
            // Looping connections hold their places until they are cut.
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
        if std::mem::replace(&mut self.directed, policy) == policy {
            return;
        }
        self.backend.set_directive(match policy {
            Some((reason, Policy::End { how, after, over })) => {
                Some(CloseDirective { how, at: now + after, over, reason })
            }
            Some((_, Policy::Keep)) | None => None,
        });
    }

    /// The word of the source that tells the most: of those that still see it, one that says more than an address
    /// before DNS, and then the first in the configuration; what operators added comes last.
    pub(super) fn lead(&self, config: &config::Pool) -> Option<&Found> {
        self.first_claim(config, |key, _| matches!(key, SourceKey::Dns(..) | SourceKey::Operator))
    }

    /// The name that it is called by: that of the first source that knows one.
    pub(super) fn name(&self, config: &config::Pool) -> Option<&Found> {
        self.first_claim(config, |_, found| found.nameless)
    }

    fn first_claim(
        &self,
        config: &config::Pool,
        later: impl Fn(&SourceKey, &Found) -> bool,
    ) -> Option<&Found> {
        let place = |key: &SourceKey| {
            let found = config.discover.iter().position(|source| SourceKey::from(source) == *key);
            found.unwrap_or(usize::MAX)
        };
        let rank = |(key, entry): &(&SourceKey, &SourceEntry)| {
            (entry.missing.is_some(), later(key, &entry.found), place(key))
        };
        self.sources.iter().min_by_key(rank).map(|(_, entry)| &entry.found)
    }

    /// How much of its share it gets, and when that will be more.
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
