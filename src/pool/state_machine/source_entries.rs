//! Which backends there are: the reports of the sources, and how long a report is valid.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PoolState, enter};
use crate::config::Source;
use crate::discovery::{Found, Observation, Outcome, SourceKey};
use crate::domain::{BackendState, Endpoint, Event, Resolution, SocketAddress, StateReason, Trouble};
use crate::health::Verdict;
use crate::pool::NAMED;
use crate::pool::backend::Backend;
use crate::pool::input::Effect;
use crate::pool::member::{Member, SourceEntry};

/// How long backends that were removed from the configuration stay until their replacements are checked.
pub(super) const REPLACEMENT_TIMEOUT: Duration = Duration::from_secs(2);

impl PoolState {
    /// A source was polled.
    pub(super) fn observed(
        &mut self,
        key: &SourceKey,
        seen: &Observation,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(source) = self.sources.get_mut(key) else {
            return; // it was removed before its answer arrived
        };
        source.answered = true;
        let gist = seen.outcome.gist();
        let trouble = !matches!(seen.outcome, Outcome::Backends(_));
        if source.gist.as_ref() != Some(&gist) {
            let before = source.gist.replace(gist);
            let reason = seen.outcome.trouble(key);
            source.trouble = reason.map(|reason| Trouble { result: seen.outcome.result(), reason });
            source.since = Some(now);
            if trouble || before.is_some() {
                let trouble = source.trouble.clone();
                let (pool, source) = (Arc::clone(&self.name), key.to_string().into());
                effects.push(Effect::Report(Event::ResolverStatusChanged { pool, source, trouble }));
            }
        }
        source.failing = match seen.outcome.seen() {
            Some(_) => None,
            None => source.failing.or(Some(now)),
        };
        let answer = seen.outcome.seen().map(|found| {
            found.iter().map(|one| (one.address.clone(), one.clone())).collect::<HashMap<_, _>>()
        });
        if let Some(answer) = &answer {
            let changed = endpoints_changed(&self.name, key, seen.outcome.result(), answer, &source.answer);
            effects.extend(changed.map(Effect::Report));
        }
        let present =
            |address: &SocketAddress| answer.as_ref().is_some_and(|found| found.contains_key(address));
        // Even after an inconclusive answer: if an address belongs to another name, its backend leaves at once.
        let mut reassigned = Vec::new();
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let Some(entry) = member.sources.get(key) else { continue };
            // A nameless backend that is still in the answer is the same one: now its name is known.
            let named = entry.found.nameless && present(&member.backend.address);
            match member.backend.address.ip().and_then(|ip| seen.owners.get(&ip)) {
                Some(owner) if *owner != entry.found.name && !named => {
                    let reason = StateReason::AddressTaken { by: Arc::clone(owner) };
                    reassigned.push(member.backend.address.clone());
                    self.leave(index, reason, now, effects);
                }
                _ => {}
            }
        }
        let mut indexes = self.indexes_by_address();
        if let Some(answer) = answer {
            for one in seen.outcome.seen().into_iter().flatten() {
                reassigned.extend(self.found(key, one, &mut indexes, now, effects));
            }
            for index in 0..self.members.len() {
                let member = &mut self.members[index];
                if let Some(entry) = member.sources.get_mut(key)
                    && entry.missing.is_none()
                    && !answer.contains_key(&member.backend.address)
                {
                    entry.missing = Some(now);
                    effects.push(Effect::CheckNow(member.backend.key));
                    self.describe(index, effects);
                    self.settle(index, StateReason::SourceHealthy, now, effects);
                }
            }
            if let Some(source) = self.sources.get_mut(key) {
                source.answer = answer;
            }
        }
        self.reapply(key, &reassigned, &mut indexes, now, effects);
    }

    /// The living members by their addresses.
    pub(super) fn indexes_by_address(&self) -> HashMap<SocketAddress, usize> {
        let members = self.members.iter().enumerate().filter(|(_, member)| !member.leaving());
        members.map(|(index, member)| (member.backend.address.clone(), index)).collect()
    }

    /// Applies what the sources other than `but` reported about addresses with a new owner to that owner.
    fn reapply(
        &mut self,
        but: &SourceKey,
        addresses: &[SocketAddress],
        indexes: &mut HashMap<SocketAddress, usize>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let mut reports = Vec::new();
        for (key, source) in self.sources.iter().filter(|(key, _)| *key != but) {
            let of = addresses.iter().filter_map(|address| source.answer.get(address));
            reports.extend(of.map(|found| (key.clone(), found.clone())));
        }
        for (key, found) in reports {
            self.found(&key, &found, indexes, now, effects);
        }
    }

    /// A source reports a backend; returns its address if another one was there before.
    pub(super) fn found(
        &mut self,
        key: &SourceKey,
        found: &Found,
        indexes: &mut HashMap<SocketAddress, usize>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<SocketAddress> {
        let mut entry = SourceEntry { found: found.clone(), missing: None };
        let mut reassigned = None;
        if let Some(&index) = indexes.get(&found.address) {
            let member = &mut self.members[index];
            let stranger = |name: &Arc<str>| !found.nameless && *name != found.name;
            let is_another = member.name_before.as_ref().is_some_and(stranger);
            if !found.nameless && !is_another {
                member.name_before = None;
            }
            let before = member.sources.get(key);
            match before.map(|before| (before, &before.found)) {
                Some((before, same)) if *same == *found && before.missing.is_none() => return None,
                // The name that it had before the restart is not that of the backend that was found.
                _ if is_another => {
                    let reason = StateReason::AddressTaken { by: Arc::clone(&found.name) };
                    self.leave(index, reason, now, effects);
                    reassigned = Some(found.address.clone());
                }
                Some((_, other)) if other.name != found.name && !other.nameless && !found.nameless => {
                    let reason = StateReason::AddressTaken { by: Arc::clone(&found.name) };
                    self.leave(index, reason, now, effects);
                    reassigned = Some(found.address.clone());
                }
                // Reported again, or by another source too: one address is one backend.
                before => {
                    if let Some((_, other)) = before.filter(|_| found.nameless) {
                        // A report without a name is about the same backend.
                        (entry.found.name, entry.found.nameless) = (Arc::clone(&other.name), other.nameless);
                    }
                    member.sources.insert(key.clone(), entry);
                    self.describe(index, effects);
                    self.settle(index, StateReason::SourceHealthy, now, effects);
                    return None;
                }
            }
        }
        let backend = Arc::new(Backend::new(self.next_key, found));
        self.next_key += 1;
        let reason = StateReason::Found { source: key.to_string().into() };
        let mut member = Member::new(Arc::clone(&backend), reason.clone(), self.config.health.len(), now);
        member.sources.insert(key.clone(), entry);
        (member.weight, member.tier) = (found.weight, found.tier);
        member.refused = self.refusal(&found.address);
        self.claim(found, &mut member);
        let known = self.presume(found, &mut member);
        let is_checked = member.refused.is_none() && !member.in_maintenance();
        let checked = is_checked && !self.config.health.is_empty();
        enter(&self.name, &backend, BackendState::Gone, BackendState::Joining, reason, effects);
        if checked {
            effects.push(Effect::Check(backend));
        }
        self.members.push(member);
        let index = self.members.len() - 1;
        indexes.insert(found.address.clone(), index);
        self.describe(index, effects);
        let (reason, lasted) = known.unwrap_or((StateReason::FoundUnchecked, Duration::ZERO));
        self.settle(index, reason, now, effects);
        let member = &mut self.members[index];
        if member.state == BackendState::Up {
            // A backend that was up long ago does not start slowly (`slow_start`).
            member.since = now.checked_sub(lasted).unwrap_or(now);
        }
        reassigned
    }

    /// Removes expired entries; a backend without entries leaves.
    pub(super) fn expire(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let settled = self.settled();
        for index in 0..self.members.len() {
            let member = &self.members[index];
            if member.leaving() {
                continue;
            }
            let mut reason = None;
            let mut lapsed = Vec::new();
            for (key, entry) in &member.sources {
                let since_missing = entry.missing.map(|since| now.duration_since(since));
                let failing = self.sources.get(key).and_then(|source| source.failing);
                let held = failing.and_then(|since| Some((now.duration_since(since), self.hold(key)?)));
                if since_missing.is_some_and(|since| since >= self.flap(key, settled)) {
                    reason = Some(StateReason::LeftSource { source: key.to_string().into() });
                    lapsed.push(key.clone());
                } else if let Some((held, hold)) = held
                    && held >= hold
                    && member.state == BackendState::Down
                    && member.verdict() == Verdict::Failing
                {
                    // The last conclusive answer has expired, and the checks fail. A backend that passes its checks
                    // stays: a DNS outage must not empty the pool.
                    reason = Some(StateReason::SourceSilent { source: key.to_string().into(), time: hold });
                    lapsed.push(key.clone());
                }
            }
            if lapsed.is_empty() {
                continue;
            }
            self.members[index].sources.retain(|key, _| !lapsed.contains(key));
            match reason {
                Some(reason) if self.members[index].sources.is_empty() => {
                    self.leave(index, reason, now, effects);
                }
                _ => {
                    self.describe(index, effects);
                    self.settle(index, StateReason::SourceHealthy, now, effects);
                }
            }
        }
    }

    /// How long a backend may be missing from a source before it leaves. A backend that was removed from a list leaves
    /// at once, unless its replacements are not found and checked yet: clients must not be rejected in between.
    pub(super) fn flap(&self, key: &SourceKey, settled: bool) -> Duration {
        match self.source(key) {
            Some(Source::Dns(dns)) => dns.query.flap,
            Some(Source::Srv(srv)) => srv.query.flap,
            // Their lists are reliable.
            Some(Source::Docker(_) | Source::Etcd(_) | Source::Consul(_) | Source::Kubernetes(_)) => {
                Duration::ZERO
            }
            None if *key == SourceKey::Operator => Duration::ZERO,
            Some(Source::Static(_) | Source::File(_)) | None if settled => Duration::ZERO,
            Some(Source::Static(_) | Source::File(_)) | None => REPLACEMENT_TIMEOUT,
        }
    }

    /// How long the last conclusive answer of a source stays valid without another one; `None`: without limit.
    pub(super) fn hold(&self, key: &SourceKey) -> Option<Duration> {
        match self.source(key)? {
            Source::Dns(dns) => Some(dns.query.hold),
            Source::Srv(srv) => Some(srv.query.hold),
            Source::Docker(docker) => Some(docker.hold),
            Source::Etcd(etcd) => Some(etcd.hold),
            Source::Consul(consul) => Some(consul.hold),
            Source::Kubernetes(kubernetes) => Some(kubernetes.hold),
            Source::Static(_) | Source::File(_) => None,
        }
    }

    fn source(&self, key: &SourceKey) -> Option<&Source> {
        self.config.discover.iter().find(|source| SourceKey::from(*source) == *key)
    }
}

/// How an answer differs from the one before.
fn endpoints_changed(
    pool: &Arc<str>,
    source: &SourceKey,
    result: Resolution,
    answer: &HashMap<SocketAddress, Found>,
    before: &HashMap<SocketAddress, Found>,
) -> Option<Event> {
    let lacking = |of: &HashMap<SocketAddress, Found>, other: &HashMap<SocketAddress, Found>| -> Vec<Found> {
        // If a name becomes known, or is missing this time, it is still the same backend.
        let same = |a: &Found, b: &Found| a.name == b.name || a.nameless || b.nameless;
        let known = |found: &Found| other.get(&found.address).is_some_and(|known| same(known, found));
        of.values().filter(|found| !known(found)).cloned().collect()
    };
    let [mut new, mut missing] = [lacking(answer, before), lacking(before, answer)];
    if new.is_empty() && missing.is_empty() {
        return None;
    }
    let listed = |all: &mut Vec<Found>| -> Vec<Endpoint> {
        all.sort_by(|a, b| a.address.cmp(&b.address));
        let endpoint =
            |found: &Found| Endpoint { name: Arc::clone(&found.name), address: found.address.clone() };
        all.iter().take(NAMED).map(endpoint).collect()
    };
    Some(Event::EndpointsChanged {
        pool: Arc::clone(pool),
        source: source.to_string().into(),
        result,
        backends: answer.len(),
        new: listed(&mut new),
        missing: listed(&mut missing),
    })
}
