//! The one owner of the truth about a pool's backends.
//!
//! A pool state takes in what discovery sees, what checks find and what live connections meet, and says what follows:
//! which states change and why, which backends to check, when to close connections. It is pure: it does no I/O and
//! is handed the time, so that every path through it can be tested. `task.rs` feeds it and does what it
//! says. To know why a backend is in or out, read here.

mod added;
mod checks;
mod ejections;
mod refusals;
mod source_entries;

pub(crate) use added::{NotAdded, NotRemoved};

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config;
use crate::discovery::{Found, Gist, SourceKey};
use crate::domain::{AdminState, BackendState, Event, StateReason};
use crate::health::Ejection;
use crate::own::OwnAddresses;
use crate::pool::backend::Backend;
use crate::pool::input::{Command, Effect, Input};
use crate::pool::member::{Member, Results};

/// How often a draining backend is looked at for connections that remain.
const DRAINING_LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct SourceState {
    answered: bool,
    /// Since when nothing could be concluded from asking.
    failing: Option<Instant>,
    /// The last good answer.
    answer: HashMap<SocketAddr, Found>,
    /// The gist of the last answer.
    gist: Option<Gist>,
}

/// The one owner of the truth about a pool's backends.
#[derive(Debug)]
pub(crate) struct PoolState {
    name: Arc<str>,
    config: config::Pool,
    members: Vec<Member>,
    sources: BTreeMap<SourceKey, SourceState>,
    next_key: u64,
    /// The addresses that this process listens on, and when the backends were last compared with them.
    own: Arc<OwnAddresses>,
    compared: Option<Instant>,
    /// When the backends' times to answer are to be compared.
    compare_at: Option<Instant>,
}

impl PoolState {
    /// The state of the pool of that name, without backends, in a process that listens on these addresses.
    pub(crate) fn new(name: Arc<str>, config: config::Pool, own: Arc<OwnAddresses>) -> Self {
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
        }
    }

    /// The backends, in the order in which they were found; those that drain included.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The backend of that key, by the name that it has now; `None`: it has left.
    pub(crate) fn living(&self, key: u64) -> Option<&Arc<Backend>> {
        self.place(key).map(|index| &self.members[index].backend)
    }

    /// Whether every source has answered once and every backend found has been checked once.
    pub(crate) fn settled(&self) -> bool {
        self.sources.values().all(|source| source.answered) && self.members.iter().all(Member::settled)
    }

    /// How many sources gave no answer, when they were asked last, from which anything can be concluded.
    pub(crate) fn sources_failing(&self) -> usize {
        self.sources.values().filter(|source| source.failing.is_some()).count()
    }

    /// When a [`Input::Tick`] is due, if nothing else happens before.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let draining = self.members.iter().any(Member::leaving).then(|| now + DRAINING_LOOK);
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
        missing.chain(holding).chain(others).min()
    }

    /// Takes in one event and says what follows from it.
    #[cfg(test)]
    pub(crate) fn on(&mut self, event: Input, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_in(event, now, &mut effects);
        self.follow(now, &mut effects);
        effects
    }

    /// Takes in one event, and does what concerns the backend that it is about. When all that is known by now was taken
    /// in, [`follow`](Self::follow) must come: it looks at all backends, which is too much for each of thousands of inputs.
    pub(crate) fn take_in(&mut self, event: Input, now: Instant, effects: &mut Vec<Effect>) {
        match event {
            Input::Observed(source, observation) => self.observed(&source, &observation, now, effects),
            Input::Checked(key, check, result) => self.checked(key, check, result, now, effects),
            Input::Failed(key, failure, in_a_row) => self.failed(key, failure, in_a_row, now, effects),
            Input::Told(key, command, who) => self.told(key, command, who, now, effects),
            Input::Added(found) => self.add(&found, now, effects),
            Input::Withdrawn(address, who) => self.withdraw(address, who, now, effects),
            Input::Reconfigured(config) => self.reconfigured(*config, now, effects),
            Input::OwnAddresses(own) => self.listens(own, now, effects),
            Input::Removed => {
                self.sources.clear(); // late observations are ignored
                for index in 0..self.members.len() {
                    self.leave(index, StateReason::PoolRemoved, now, effects);
                }
            }
            Input::Tick => {}
        }
    }

    /// Does what follows from all that was taken in, and from the time.
    pub(crate) fn follow(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.expire(now, effects);
        self.compare_own(now, effects);
        self.compare(now, effects);
        self.release(now, effects);
        self.bury(now, effects);
        self.ramp(now, effects);
    }

    /// Where the backend of that key stands, unless it is leaving. Keys are given in ascending order.
    fn place(&self, key: u64) -> Option<usize> {
        let index = self.members.binary_search_by_key(&key, |member| member.backend.key).ok()?;
        (!self.members[index].leaving()).then_some(index)
    }

    /// An operator wants something of a backend.
    fn told(&mut self, key: u64, command: Command, by: Arc<str>, now: Instant, effects: &mut Vec<Effect>) {
        let Some(index) = self.place(key) else { return };
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
                    // It was not checked meanwhile.
                    member.results = vec![Results::default(); self.config.health.len()];
                    member.trial = now;
                    if member.refused.is_none() {
                        effects.push(Effect::Check(Arc::clone(&member.backend)));
                    }
                }
                member.ejection = Ejection::default();
                member.admin_state = (admin_state != AdminState::Up).then(|| (admin_state, Arc::clone(&by)));
                let reason = StateReason::SetByOperator { state: admin_state, by };
                self.settle(index, reason, now, effects);
            }
            Command::SetWeight(weight) => {
                let by_source = member.lead(&self.config).map_or(1, |found| found.weight);
                member.told_weight = Some((weight, by_source));
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
            // One that was changed begins anew and will answer soon.
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
            self.members[index].backend.answers.want(self.compares());
            if before.health != self.config.health {
                self.check_otherwise(index, &before, effects);
            }
            self.describe(index, effects);
            let lifted = match self.config.health.is_empty() {
                true => StateReason::ChecksRemoved,
                false => StateReason::ChecksChanged,
            };
            self.settle(index, lifted, now, effects);
        }
    }

    /// Takes a backend out of the pool for good. Its connections follow `on_leave`.
    fn leave(&mut self, index: usize, reason: StateReason, now: Instant, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        if member.leaving() {
            return;
        }
        member.sources.clear();
        member.left = Some(reason.clone());
        effects.push(Effect::Uncheck(member.backend.key));
        self.settle(index, reason, now, effects);
    }

    /// Lets go of the leaving backends whose last connection has ended.
    fn bury(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for member in self.members.iter_mut().filter(|m| m.leaving() && m.backend.load.open() == 0) {
            let reason = member.reason.clone();
            change(&self.name, member, BackendState::Gone, reason, now, effects);
        }
        self.members.retain(|member| member.state != BackendState::Gone);
    }

    /// Brings a backend's name, share, tier and limit in line with what its sources and an operator say.
    fn describe(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let member = &self.members[index];
        let (Some(lead), Some(named)) = (member.lead(&self.config), member.name(&self.config)) else {
            return;
        };
        let (tier, by_source) = (lead.tier, lead.weight);
        let connections = lead.connections.or(self.config.limits.connections);
        let renamed = (named.name != member.backend.name).then(|| Arc::new(member.backend.named(named)));
        let member = &mut self.members[index];
        // The newest word counts.
        member.told_weight = member.told_weight.filter(|(_, then)| *then == by_source);
        let weight = member.told_weight.map_or(by_source, |(weight, _)| weight);
        if let Some(backend) = renamed {
            effects.push(Effect::Report(Event::BackendNamed {
                pool: Arc::clone(&self.name),
                backend: Arc::clone(&backend.name),
                address: backend.address,
            }));
            member.backend = backend;
        }
        if std::mem::replace(&mut member.weight, weight) != weight {
            let (pool, backend) = (Arc::clone(&self.name), Arc::clone(&member.backend.name));
            effects.push(Effect::Report(Event::WeightChanged { pool, backend, weight }));
        }
        let before = (std::mem::replace(&mut member.tier, tier), member.connections);
        member.connections = connections;
        member.backend.set_limit(connections);
        if before != (tier, connections) {
            effects.push(Effect::Reshape);
        }
    }

    /// Brings a backend's state in line with what is known of it. `lifted`: what the last obstacle was, if there is none
    /// any longer.
    fn settle(&mut self, index: usize, lifted: StateReason, now: Instant, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        let (state, reason) = member.standing(now);
        member.set_directive(&self.config, now);
        if state != member.state {
            change(&self.name, member, state, reason.unwrap_or(lifted), now, effects);
        } else if let Some(reason) = reason.filter(|reason| member.reason != *reason) {
            member.reason = reason;
            effects.push(Effect::Reshape);
        }
    }

    /// Notes how much of its share each backend gets by now.
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
        address: backend.address,
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
mod source_entries_tests;
#[cfg(test)]
mod tests;
