//! The one owner of the truth about a pool's backends.
//!
//! A keeper takes in what discovery sees, what checks find and what live connections meet, and says what follows:
//! which states change and why, who is to be checked, what connections are told. It is pure: it does no I/O and
//! is handed the time, so that every path through it can be tested. `task.rs` feeds it and does what it
//! says. To know why a backend is in or out, read here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Backend, Order};
use super::event::{Effect, Event, Failure};
use super::state::State;
use crate::config::{self, Policy, Source};
use crate::discovery::{Found, Observation, Outcome, SourceKey};
use crate::health::{CheckError, Tally, Verdict};
use crate::telemetry::CloseReason;

/// How often a draining backend is looked at for connections that remain.
const DRAINING_LOOK: Duration = Duration::from_millis(200);

/// How long those who were taken out of the configuration wait for their successors.
const SUCCESSION: Duration = Duration::from_secs(2);

/// A backend and what the keeper knows of it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who it is.
    pub backend: Arc<Backend>,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why it is in this state.
    pub cause: Arc<str>,
    /// Its share.
    pub weight: u32,
    tally: Tally,
    claims: BTreeMap<SourceKey, Claim>,
}

/// One source's word that a backend exists.
#[derive(Clone, Debug)]
struct Claim {
    name: Arc<str>,
    /// The source does not know its name, which is its address.
    nameless: bool,
    /// Since when good answers have been without it.
    missing: Option<Instant>,
}

impl Member {
    fn leaving(&self) -> bool {
        matches!(self.state, State::Draining | State::Gone)
    }

    /// Whether every source that knew it now answers without it.
    fn missing(&self) -> bool {
        self.claims.values().all(|claim| claim.missing.is_some())
    }
}

#[derive(Debug, Default)]
struct SourceState {
    answered: bool,
    /// Since when nothing could be concluded from asking.
    failing: Option<Instant>,
    /// The kind of the last answer.
    result: Option<&'static str>,
}

/// The one owner of the truth about a pool's backends.
#[derive(Debug)]
pub struct Keeper {
    config: config::Pool,
    members: Vec<Member>,
    sources: BTreeMap<SourceKey, SourceState>,
    next_key: u64,
}

impl Keeper {
    /// A keeper that knows of no backend yet.
    pub fn new(config: config::Pool) -> Self {
        let sources = config.discover.iter().map(|s| (SourceKey::from(s), SourceState::default())).collect();
        Self { config, members: Vec::new(), sources, next_key: 0 }
    }

    /// The backends, in the order in which they were found; those that drain included.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether every source has answered once and every backend found has been checked once.
    pub fn settled(&self) -> bool {
        self.sources.values().all(|source| source.answered)
            && self.members.iter().all(|member| member.state != State::Joining)
    }

    /// When a [`Event::Tick`] is due, if nothing else happens before.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let draining = self.members.iter().any(Member::leaving).then(|| now + DRAINING_LOOK);
        let missing = self.members.iter().flat_map(|member| {
            member.claims.iter().filter_map(|(key, claim)| Some(claim.missing? + self.flap(key)))
        });
        let holding = self.sources.iter().filter_map(|(key, source)| {
            let until = source.failing? + self.hold(key);
            (until > now).then_some(until)
        });
        missing.chain(holding).chain(draining).min()
    }

    /// Takes in one event and says what follows from it.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Observed(source, observation) => self.observed(&source, &observation, now, &mut effects),
            Event::Checked(key, 0, result) => self.checked(key, &result, now, &mut effects),
            Event::Checked(..) | Event::Failed(_, Failure::Reset, _) => {}
            Event::Failed(key, Failure::Connect(error), _) => {
                self.connect_failed(key, &error, now, &mut effects)
            }
            Event::Reconfigured(config) => self.reconfigured(*config, now, &mut effects),
            Event::Removed => {
                for index in 0..self.members.len() {
                    self.leave(index, "its pool was removed from the configuration", now, &mut effects);
                }
            }
            Event::Tick => {}
        }
        self.expire(now, &mut effects);
        self.bury(now, &mut effects);
        effects
    }

    fn observed(&mut self, key: &SourceKey, seen: &Observation, now: Instant, effects: &mut Vec<Effect>) {
        let Some(source) = self.sources.get_mut(key) else {
            return; // it was removed while its answer was under way
        };
        source.answered = true;
        let result = seen.outcome.result();
        let before = source.result.replace(result);
        let trouble = !matches!(seen.outcome, Outcome::Backends(_));
        if before != Some(result) && (trouble || before.is_some()) {
            effects.push(Effect::Answers {
                source: key.clone(),
                trouble: trouble.then(|| seen.outcome.clone()),
            });
        }
        source.failing = match seen.outcome.seen() {
            Some(_) => None,
            None => source.failing.or(Some(now)),
        };
        let present = |address: SocketAddr| {
            seen.outcome.seen().is_some_and(|f| f.iter().any(|one| one.address == address))
        };
        // Whatever the answer: an address that belongs to somebody else now takes its backend out at once.
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let Some(claim) = member.claims.get(key) else { continue };
            // Whose name was not known is still the same while it is in the answer: now it has a name.
            let named = claim.nameless && present(member.backend.address);
            match seen.owners.get(&member.backend.address.ip()) {
                Some(owner) if *owner != claim.name && !named => {
                    let cause = format!("its address now belongs to {owner}");
                    self.leave(index, &cause, now, effects);
                }
                _ => {}
            }
        }
        let Some(found) = seen.outcome.seen() else { return };
        for one in found {
            self.found(key, one, now, effects);
        }
        for member in self.members.iter_mut().filter(|member| !member.leaving()) {
            if let Some(claim) = member.claims.get_mut(key)
                && claim.missing.is_none()
                && !present(member.backend.address)
            {
                claim.missing = Some(now);
                effects.push(Effect::CheckNow(member.backend.key));
            }
        }
    }

    fn found(&mut self, key: &SourceKey, found: &Found, now: Instant, effects: &mut Vec<Effect>) {
        let known = |m: &Member| !m.leaving() && m.backend.address == found.address;
        let claim = Claim { name: Arc::clone(&found.name), nameless: found.nameless, missing: None };
        if let Some(index) = self.members.iter().position(known) {
            let member = &mut self.members[index];
            match member.claims.get(key) {
                Some(before) if before.nameless && !found.nameless => {
                    member.backend = Arc::new(member.backend.named(found));
                    member.claims.insert(key.clone(), claim);
                    effects.push(Effect::Named(Arc::clone(&member.backend)));
                    return;
                }
                Some(before) if before.name != found.name => {
                    let cause = format!("its address now belongs to {}", found.name);
                    self.leave(index, &cause, now, effects);
                }
                // Seen again; or one that another source knows too: the same address is one backend.
                _ => {
                    if *key == SourceKey::Static && member.weight != found.weight {
                        member.weight = found.weight;
                        let backend = Arc::clone(&member.backend);
                        effects.push(Effect::Weighed { backend, weight: found.weight });
                    }
                    member.claims.insert(key.clone(), claim);
                    return;
                }
            }
        }
        let backend = Arc::new(Backend::new(self.next_key, found));
        self.next_key += 1;
        let mut member = Member {
            backend: Arc::clone(&backend),
            state: State::Joining,
            since: now,
            cause: format!("found in {key}").into(),
            weight: found.weight,
            tally: Tally::new(),
            claims: BTreeMap::from([(key.clone(), claim)]),
        };
        effects.push(Effect::Changed {
            backend: Arc::clone(&backend),
            from: State::Gone,
            to: State::Joining,
            cause: Arc::clone(&member.cause),
        });
        if !self.config.health.is_empty() {
            effects.push(Effect::Check(backend));
        } else {
            member.tally = Tally::presumed_passing();
            change(&mut member, State::Up, "found, and the pool has no checks", now, effects);
        }
        self.members.push(member);
    }

    fn checked(
        &mut self,
        key: u64,
        result: &Result<(), CheckError>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        match result {
            Ok(()) => self.tallied(key, true, "its checks pass", now, effects),
            Err(CheckError::Failed(why)) => self.tallied(key, false, why, now, effects),
            Err(CheckError::Local(_)) => {} // nothing was learned of the backend
        }
    }

    fn connect_failed(&mut self, key: u64, error: &str, now: Instant, effects: &mut Vec<Effect>) {
        effects.push(Effect::AskNow);
        if !self.config.health.is_empty()
            && self.members.iter().any(|m| m.backend.key == key && m.state == State::Up)
        {
            self.tallied(key, false, &format!("a client's connection failed: {error}"), now, effects);
        }
    }

    fn tallied(&mut self, key: u64, passed: bool, what: &str, now: Instant, effects: &mut Vec<Effect>) {
        let Some(health) = self.config.health.first() else { return };
        let Some(member) = self.members.iter_mut().find(|m| m.backend.key == key && !m.leaving()) else {
            return;
        };
        // Discovery and a check that say the same thing need no third witness.
        let fall = if member.missing() { 1 } else { health.fall };
        match member.tally.on(passed, health.rise, fall) {
            Some(Verdict::Passing) => {
                member.backend.give_order(None);
                let cause = if member.state == State::Joining {
                    "its first check passed".to_owned()
                } else {
                    in_a_row(health.rise, "check passed", "checks passed")
                };
                change(member, State::Up, &cause, now, effects);
            }
            Some(Verdict::Failing) => {
                let cause = match member.state {
                    State::Joining => format!("its first check failed: {what}"),
                    _ => format!("{}: {what}", in_a_row(fall, "check failed", "checks failed")),
                };
                order(member, self.config.on_down, CloseReason::BackendDown, now);
                change(member, State::Down, &cause, now, effects);
            }
            Some(Verdict::Unchecked) | None => {}
        }
    }

    fn reconfigured(&mut self, config: config::Pool, now: Instant, effects: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.config, config);
        let keys: Vec<SourceKey> = self.config.discover.iter().map(SourceKey::from).collect();
        self.sources.retain(|key, _| keys.contains(key));
        for (key, source) in keys.iter().zip(&self.config.discover) {
            let state = self.sources.entry(key.clone()).or_default();
            // One that was changed begins anew and will answer soon.
            state.answered &= before.discover.contains(source);
        }
        // Whom no source claims any longer stays until the new ones have been found and checked (see `flap`).
        for claim in self.members.iter_mut().flat_map(|member| &mut member.claims) {
            if !keys.contains(claim.0) {
                claim.1.missing.get_or_insert(now);
            }
        }
        if before.health == self.config.health {
            return;
        }
        for member in self.members.iter_mut().filter(|member| !member.leaving()) {
            effects.push(Effect::Uncheck(member.backend.key));
            if !self.config.health.is_empty() {
                effects.push(Effect::Check(Arc::clone(&member.backend)));
            } else if member.state != State::Up {
                member.tally = Tally::presumed_passing();
                member.backend.give_order(None);
                change(member, State::Up, "the pool's checks were removed", now, effects);
            }
        }
    }

    /// Drops the claims whose time is up, and lets go of whom nobody claims any longer.
    fn expire(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for index in 0..self.members.len() {
            let member = &self.members[index];
            if member.leaving() {
                continue;
            }
            let mut cause = None;
            let mut lapsed = Vec::new();
            for (key, claim) in &member.claims {
                let since_missing = claim.missing.map(|since| now.duration_since(since));
                let failing = self.sources.get(key).and_then(|source| source.failing);
                let held = failing.map(|since| now.duration_since(since));
                if since_missing.is_some_and(|since| since >= self.flap(key)) {
                    cause = Some(format!("no longer in {key}"));
                    lapsed.push(key.clone());
                } else if held.is_some_and(|held| held >= self.hold(key)) && member.state == State::Down {
                    // The last good answer stands no longer, and the checks agree. Whom the checks pass stays:
                    // a DNS outage must not empty the pool.
                    cause = Some(format!("{key} has not answered for {}, and its checks fail", {
                        humantime::format_duration(self.hold(key))
                    }));
                    lapsed.push(key.clone());
                }
            }
            self.members[index].claims.retain(|key, _| !lapsed.contains(key));
            if let Some(cause) = cause
                && self.members[index].claims.is_empty()
            {
                self.leave(index, &cause, now, effects);
            }
        }
    }

    /// Takes a backend out of the pool for good. Its connections follow `on_leave`.
    fn leave(&mut self, index: usize, cause: &str, now: Instant, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        if member.leaving() {
            return;
        }
        member.claims.clear();
        effects.push(Effect::Uncheck(member.backend.key));
        order(member, self.config.on_leave, CloseReason::BackendLeft, now);
        change(member, State::Draining, cause, now, effects);
    }

    /// Lets go of the leaving backends whose last connection has ended.
    fn bury(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for member in self.members.iter_mut().filter(|m| m.leaving() && m.backend.load.active() == 0) {
            let cause = Arc::clone(&member.cause);
            change(member, State::Gone, &cause, now, effects);
        }
        self.members.retain(|member| member.state != State::Gone);
    }

    /// How long a source may be without a backend before that leaves. What the operator took out of the configuration
    /// leaves at once, unless what was put in its place is still to be found and checked: clients must not be turned
    /// away in between.
    fn flap(&self, key: &SourceKey) -> Duration {
        match self.dns(key) {
            Some(dns) => dns.query.flap,
            None if self.settled() => Duration::ZERO,
            None => SUCCESSION,
        }
    }

    fn hold(&self, key: &SourceKey) -> Duration {
        self.dns(key).map_or(Duration::ZERO, |dns| dns.query.hold)
    }

    fn dns(&self, key: &SourceKey) -> Option<&config::Dns> {
        self.config.discover.iter().find_map(|source| match source {
            Source::Dns(dns) if SourceKey::from(source) == *key => Some(dns),
            _ => None,
        })
    }
}

fn in_a_row(n: u32, one: &str, many: &str) -> String {
    if n == 1 { format!("a {one}") } else { format!("{n} {many} in a row") }
}

fn change(member: &mut Member, to: State, cause: &str, now: Instant, effects: &mut Vec<Effect>) {
    let from = std::mem::replace(&mut member.state, to);
    member.since = now;
    member.cause = cause.into();
    let cause = Arc::clone(&member.cause);
    effects.push(Effect::Changed { backend: Arc::clone(&member.backend), from, to, cause });
}

/// Tells the connections of a backend that is taken out what the policy says.
fn order(member: &Member, policy: Policy, reason: CloseReason, now: Instant) {
    member.backend.give_order(match policy {
        Policy::Keep => None,
        Policy::End { how, over } => Some(Order { how, at: now, over, reason }),
    });
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
