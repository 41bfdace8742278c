//! The state machine that decides the states of a pool's backends.
//!
//! Its inputs are the reports of discovery, the results of checks and the failures of live connections. Its effects are
//! changes of state with their reasons, checks to start or stop, and directives to close connections. It is pure: it
//! does no I/O and gets the time as an argument, so every path through it can be tested. `task.rs` feeds it and carries
//! out its effects. To find out why a backend is in or out of service, read here.

mod added;
mod checks;
mod ejections;
mod hand_over;
mod refusals;
mod settings;
mod source_entries;

pub use added::{NotAdded, NotRemoved};
pub use hand_over::{BackendHealth, PoolHandOver};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use litemap::LiteMap;

use crate::config;
use crate::discovery::{Found, Gist, SourceKey};
use crate::domain::{AdminState, BackendState, Event, SetBy, SocketAddress, StateReason, Trouble};
use crate::health::Ejection;
use crate::own::OwnAddresses;
use crate::pool::backend::Backend;
use crate::pool::input::{Command, Effect, Input};
use crate::pool::member::{Member, OperatorWeight, Results};
use crate::pool::snapshot::SourceStatus;
use crate::state_directory::SavedBackend;

/// The interval between checks of a draining backend for open connections.
const DRAINING_POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct SourceState {
    answered: bool,
    /// Since when its answers have been inconclusive.
    failing: Option<Instant>,
    /// The last conclusive answer.
    answer: HashMap<SocketAddress, Found>,
    /// The kind of the last answer.
    gist: Option<Gist>,
    /// What is wrong with the last answer, if anything, and since when answers have been of this kind.
    trouble: Option<Trouble>,
    since: Option<Instant>,
}

/// The backends and sources of a pool; only its methods change the states of the backends.
#[derive(Debug)]
pub struct PoolState {
    name: Arc<str>,
    config: config::Pool,
    members: Vec<Member>,
    sources: LiteMap<SourceKey, SourceState>,
    next_key: u64,
    /// The addresses that this process listens on, and when the backends were last compared with them.
    own: Arc<OwnAddresses>,
    compared: Option<Instant>,
    /// When the backends' response times are compared next.
    compare_at: Option<Instant>,
    /// What operators had set before the restart for backends that are not found yet.
    restored: Vec<SavedBackend>,
    /// Whether settings were restored, and those whose backend is gone are not dropped yet.
    restoring: bool,
    /// Since when the last answer of every source is conclusive, while `restoring`.
    conclusive_since: Option<Instant>,
    /// The verdicts and ejections of the process before, of backends that are not found yet.
    inherited: Vec<BackendHealth>,
    /// When this process took over.
    inherited_at: Instant,
}

impl PoolState {
    /// The state of the pool of that name, without backends, in a process that listens on these addresses.
    pub fn new(name: Arc<str>, config: config::Pool, own: Arc<OwnAddresses>) -> Self {
        let sources = config.discover.iter().map(|s| (SourceKey::from(s), SourceState::default()));
        let sources = sources.chain([added::none()]).collect();
        Self {
            name,
            config,
            members: Vec::new(),
            sources,
            next_key: 0,
            own,
            compared: None,
            compare_at: None,
            restored: Vec::new(),
            restoring: false,
            conclusive_since: None,
            inherited: Vec::new(),
            inherited_at: Instant::now(),
        }
    }

    /// The backends, in the order in which they were found; draining ones included.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The backend of that key, with its current name; `None`: it has left.
    pub fn living(&self, key: u64) -> Option<&Arc<Backend>> {
        self.index_of(key).map(|index| &self.members[index].backend)
    }

    /// Whether every source has answered once and every backend found has been checked once.
    pub fn settled(&self) -> bool {
        self.sources.values().all(|source| source.answered) && self.members.iter().all(Member::settled)
    }

    /// The number of sources whose last answer was inconclusive.
    pub fn sources_failing(&self) -> usize {
        self.sources.values().filter(|source| source.failing.is_some()).count()
    }

    /// What each source of the configuration reports.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let status = |(key, source): (&SourceKey, &SourceState)| SourceStatus {
            name: key.to_string().into(),
            answered: source.answered,
            trouble: source.trouble.clone(),
            since: source.since,
            failing: source.failing,
            hold: self.hold(key),
            found: source.answer.len(),
        };
        let configured = self.sources.iter().filter(|(key, _)| **key != SourceKey::Operator);
        configured.map(status).collect()
    }

    /// When the next [`Input::Tick`] is due, unless another input comes before.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let draining = self.members.iter().any(Member::leaving).then(|| now + DRAINING_POLL);
        let settled = self.settled();
        let missing = self.members.iter().flat_map(|member| {
            member.sources.iter().filter_map(|(key, entry)| Some(entry.missing? + self.flap(key, settled)))
        });
        let holding = self.sources.iter().filter_map(|(key, source)| {
            let until = source.failing? + self.hold(key)?;
            (until > now).then_some(until)
        });
        let ejected = self.members.iter().filter_map(|member| Some(member.ejection.out(now)?.0));
        let ramping = self.members.iter().filter_map(|member| member.ramp(self.config.slow_start, now).1);
        let others = ejected.chain(ramping).chain(draining).chain(self.compare_at).chain(self.own_due(now));
        let others = others.chain(self.restoring_ends());
        missing.chain(holding).chain(others).min()
    }

    /// Handles one input and returns its effects.
    #[cfg(test)]
    pub fn on(&mut self, event: Input, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_in(event, now, &mut effects);
        self.follow(now, &mut effects);
        effects
    }

    /// Handles one input, and updates the backend that it concerns. After all queued inputs, call
    /// [`follow`](Self::follow): it examines all backends, which is too expensive for each of thousands of inputs.
    pub fn take_in(&mut self, event: Input, now: Instant, effects: &mut Vec<Effect>) {
        match event {
            Input::Observed(source, observation) => self.observed(&source, &observation, now, effects),
            Input::Checked(key, check, result) => self.checked(key, check, result, now, effects),
            Input::Failed(key, failure, in_a_row) => self.failed(key, failure, in_a_row, now, effects),
            Input::Command(key, command, operator) => {
                self.apply_command(key, command, operator, now, effects);
            }
            Input::Added(found) => self.add(&found, now, effects),
            Input::Withdrawn(address, operator) => self.withdraw(&address, operator, now, effects),
            Input::Reconfigured(config) => self.reconfigured(*config, now, effects),
            Input::OwnAddresses(own) => self.listens(own, now, effects),
            Input::Removed => {
                self.sources.clear(); // late observations are ignored
                self.drop_restored("its pool was removed from the configuration", effects);
                for index in 0..self.members.len() {
                    self.leave(index, StateReason::PoolRemoved, now, effects);
                }
            }
            Input::Tick => {}
        }
    }

    /// Updates all backends after the inputs, and for the current time.
    pub fn follow(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.expire(now, effects);
        self.end_restoring(now, effects);
        self.forget_inherited();
        self.compare_own(now, effects);
        self.compare(now, effects);
        self.release(now, effects);
        self.remove_gone(now, effects);
        self.ramp(now, effects);
        self.decide_series();
    }

    /// The index of the backend with that key, unless it is leaving. Keys are assigned in ascending order.
    fn index_of(&self, key: u64) -> Option<usize> {
        let index = self.members.binary_search_by_key(&key, |member| member.backend.key).ok()?;
        (!self.members[index].leaving()).then_some(index)
    }

    /// Applies an operator's command to a backend.
    fn apply_command(
        &mut self,
        key: u64,
        command: Command,
        by: SetBy,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(index) = self.index_of(key) else { return };
        let member = &mut self.members[index];
        match command {
            Command::SetAdminState(admin_state) => {
                let before =
                    member.admin_state.as_ref().map_or(AdminState::Up, |(admin_state, _)| *admin_state);
                if before != AdminState::Maintenance && admin_state == AdminState::Maintenance {
                    effects.push(Effect::Uncheck(key));
                }
                if before == AdminState::Maintenance
                    && admin_state != AdminState::Maintenance
                    && !self.config.health.is_empty()
                {
                    // It was not checked while in maintenance.
                    member.results = vec![Results::default(); self.config.health.len()];
                    member.trial = now;
                    if member.refused.is_none() {
                        effects.push(Effect::Check(Arc::clone(&member.backend)));
                    }
                }
                member.ejection = Ejection::default();
                let reason = by.reason(admin_state);
                member.admin_state = (admin_state != AdminState::Up).then_some((admin_state, by));
                effects.push(Effect::SaveSettings);
                self.settle(index, reason, now, effects);
            }
            Command::SetWeight(weight) => {
                let by_source = member.lead(&self.config).map_or(1, |found| found.weight);
                member.operator_weight = Some(OperatorWeight { weight, by_source, by });
                effects.push(Effect::SaveSettings);
                self.describe(index, effects);
            }
            Command::Check => effects.push(Effect::CheckNow(key)),
        }
    }

    fn reconfigured(&mut self, config: config::Pool, now: Instant, effects: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.config, config);
        let keys: Vec<SourceKey> = self.config.discover.iter().map(SourceKey::from).collect();
        let stays = |key: &SourceKey| *key == SourceKey::Operator || keys.contains(key);
        self.sources.retain(|key, _| stays(key));
        for (key, source) in keys.iter().zip(&self.config.discover) {
            let state = self.sources.entry(key.clone()).or_default();
            // A changed source starts again and will answer soon.
            state.answered &= before.discover.contains(source);
        }
        // A backend without a source stays until the new ones have been found and checked (see `flap`).
        for entry in self.members.iter_mut().flat_map(|member| &mut member.sources) {
            if !stays(entry.0) {
                entry.1.missing.get_or_insert(now);
            }
        }
        self.compare_at = None;
        for index in 0..self.members.len() {
            if before.health != self.config.health {
                self.replace_checks(index, &before, effects);
            }
            self.describe(index, effects);
            let lifted = match self.config.health.is_empty() {
                true => StateReason::ChecksRemoved,
                false => StateReason::ChecksChanged,
            };
            self.settle(index, lifted, now, effects);
        }
    }

    /// Removes a backend from the pool. Its connections follow `on_leave`.
    fn leave(&mut self, index: usize, reason: StateReason, now: Instant, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        if member.leaving() {
            return;
        }
        member.sources.clear();
        member.left = Some(reason.clone());
        effects.push(Effect::Uncheck(member.backend.key));
        if member.has_settings() {
            effects.push(Effect::SaveSettings);
        }
        self.settle(index, reason, now, effects);
    }

    /// Drops the leaving backends whose last connection has ended.
    fn remove_gone(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for member in self.members.iter_mut().filter(|m| m.leaving() && m.backend.load.open() == 0) {
            let reason = member.reason.clone();
            change(&self.name, member, BackendState::Gone, reason, now, effects);
        }
        self.members.retain(|member| member.state != BackendState::Gone);
    }

    /// Decides the names of new backends in metrics and in the history. One that is missing from its sources is about to be
    /// replaced: its series are free for the next of its name.
    fn decide_series(&mut self) {
        if self.members.iter().all(|member| member.backend.has_series()) {
            return;
        }
        let (decided, new): (Vec<_>, Vec<_>) =
            self.members.iter().partition(|member| member.backend.has_series());
        let in_use = decided.into_iter().filter(|member| !member.leaving() && !member.missing());
        let mut taken: HashSet<_> = in_use.map(|member| Arc::clone(member.backend.series())).collect();
        for member in new {
            member.backend.decide_series(taken.contains(&member.backend.name));
            taken.insert(Arc::clone(member.backend.series()));
        }
    }

    /// Updates a backend's name, weight, tier, zone and limit from its sources and an operator's command.
    fn describe(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let member = &self.members[index];
        let (Some(lead), Some(named)) = (member.lead(&self.config), member.name(&self.config)) else {
            return;
        };
        let (tier, by_source) = (lead.tier, lead.weight);
        let connections = lead.connections.or(self.config.limits.connections);
        let zone = member.found_zone(&self.config).cloned();
        let renamed = (named.name != member.backend.name).then(|| Arc::new(member.backend.named(named)));
        let member = &mut self.members[index];
        // The newest weight counts: a change by the source replaces the operator's.
        // After a restart that is known when all sources have answered: which one sets the weight depends on all.
        let restoring = self.restoring;
        let is_replaced =
            |set: &mut OperatorWeight| set.by_source != by_source && !(restoring && set.by.before_restart);
        if member.operator_weight.take_if(is_replaced).is_some() {
            effects.push(Effect::SaveSettings);
        }
        let weight = member.operator_weight.as_ref().map_or(by_source, |set| set.weight);
        if let Some(backend) = renamed {
            effects.push(Effect::Report(Event::BackendNamed {
                pool: Arc::clone(&self.name),
                backend: Arc::clone(&backend.name),
                address: backend.address.clone(),
            }));
            member.backend = backend;
            if member.has_settings() {
                effects.push(Effect::SaveSettings);
            }
        }
        if std::mem::replace(&mut member.weight, weight) != weight {
            let (pool, backend) = (Arc::clone(&self.name), Arc::clone(&member.backend.name));
            effects.push(Effect::Report(Event::WeightChanged { pool, backend, weight }));
        }
        member.backend.set_limit(connections);
        let before = (member.tier, member.zone.take(), member.connections);
        (member.tier, member.zone, member.connections) = (tier, zone, connections);
        if before != (tier, member.zone.clone(), connections) {
            effects.push(Effect::Reshape);
        }
    }

    /// Updates a backend's state from its facts. `lifted` is the reason for a change if the facts give none: the
    /// obstacle that was removed.
    fn settle(&mut self, index: usize, lifted: StateReason, now: Instant, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        let (state, reason) = member.derived_state(now);
        member.set_directive(&self.config, now);
        if state != member.state {
            change(&self.name, member, state, reason.unwrap_or(lifted), now, effects);
        } else if let Some(reason) = reason.filter(|reason| member.reason != *reason) {
            member.reason = reason;
            effects.push(Effect::Reshape);
        }
    }

    /// Updates the part of its share that each backend gets.
    fn ramp(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for member in &mut self.members {
            let (step, _) = member.ramp(self.config.slow_start, now);
            if std::mem::replace(&mut member.step, step) != step {
                effects.push(Effect::Reshape);
            }
        }
    }
}

fn change(
    pool: &Arc<str>,
    member: &mut Member,
    to: BackendState,
    reason: StateReason,
    now: Instant,
    effects: &mut Vec<Effect>,
) {
    let from = std::mem::replace(&mut member.state, to);
    member.since = now;
    member.reason = reason.clone();
    enter(pool, &member.backend, from, to, reason, effects);
}

/// Reports and counts a change of state.
fn enter(
    pool: &Arc<str>,
    backend: &Arc<Backend>,
    from: BackendState,
    to: BackendState,
    reason: StateReason,
    effects: &mut Vec<Effect>,
) {
    effects.push(Effect::Report(Event::StateChanged {
        pool: Arc::clone(pool),
        backend: Arc::clone(&backend.name),
        address: backend.address.clone(),
        from,
        to,
        reason,
    }));
    effects.push(Effect::CountState(Arc::clone(backend), to));
}

#[cfg(test)]
mod checks_tests;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod settings_tests;
#[cfg(test)]
mod source_entries_tests;
#[cfg(test)]
mod tests;
