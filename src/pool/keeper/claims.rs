//! Who is there: what the sources say, and how long their word stands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Keeper;
use crate::config::Source;
use crate::discovery::{Found, Observation, Outcome, SourceKey};
use crate::pool::backend::Backend;
use crate::pool::event::Effect;
use crate::pool::member::{Claim, Member};
use crate::pool::state::State;

/// How long those who were taken out of the configuration wait for their successors.
pub(super) const SUCCESSION: Duration = Duration::from_secs(2);

impl Keeper {
    /// A source has asked once more.
    pub(super) fn observed(
        &mut self,
        key: &SourceKey,
        seen: &Observation,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
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
            let named = claim.found.nameless && present(member.backend.address);
            match seen.owners.get(&member.backend.address.ip()) {
                Some(owner) if *owner != claim.found.name && !named => {
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
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if let Some(claim) = member.claims.get_mut(key)
                && claim.missing.is_none()
                && !present(member.backend.address)
            {
                claim.missing = Some(now);
                effects.push(Effect::CheckNow(member.backend.key));
                self.describe(index, effects);
                self.settle(index, "no source calls it ill any longer", now, effects);
            }
        }
    }

    fn found(&mut self, key: &SourceKey, found: &Found, now: Instant, effects: &mut Vec<Effect>) {
        let known = |m: &Member| !m.leaving() && m.backend.address == found.address;
        let claim = Claim { found: found.clone(), missing: None };
        if let Some(index) = self.members.iter().position(known) {
            let member = &mut self.members[index];
            match member.claims.get(key) {
                Some(before) if before.found.name != found.name && !before.found.nameless => {
                    let cause = format!("its address now belongs to {}", found.name);
                    self.leave(index, &cause, now, effects);
                }
                // Seen again; or one that another source knows too: the same address is one backend.
                _ => {
                    member.claims.insert(key.clone(), claim);
                    self.describe(index, effects);
                    self.settle(index, &format!("{key} calls it well"), now, effects);
                    return;
                }
            }
        }
        let backend = Arc::new(Backend::new(self.next_key, found));
        self.next_key += 1;
        backend.answers.want(self.compares());
        let cause: Arc<str> = format!("found in {key}").into();
        let mut member = Member::new(Arc::clone(&backend), Arc::clone(&cause), self.config.health.len(), now);
        member.claims.insert(key.clone(), claim);
        (member.weight, member.tier) = (found.weight, found.tier);
        effects.push(Effect::Changed {
            backend: Arc::clone(&backend),
            from: State::Gone,
            to: State::Joining,
            cause,
        });
        if !self.config.health.is_empty() {
            effects.push(Effect::Check(backend));
        }
        self.members.push(member);
        let index = self.members.len() - 1;
        self.describe(index, effects);
        self.settle(index, "found, and the pool has no checks", now, effects);
    }

    /// Drops the claims whose time is up, and lets go of whom nobody claims any longer.
    pub(super) fn expire(&mut self, now: Instant, effects: &mut Vec<Effect>) {
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
                let held = failing.map(|since| now.duration_since(since)).zip(self.hold(key));
                if since_missing.is_some_and(|since| since >= self.flap(key)) {
                    cause = Some(format!("no longer in {key}"));
                    lapsed.push(key.clone());
                } else if let Some((held, hold)) = held
                    && held >= hold
                    && member.state == State::Down
                {
                    // The last good answer stands no longer, and the checks agree. Whom the checks pass stays:
                    // a DNS outage must not empty the pool.
                    let time = humantime::format_duration(hold);
                    cause = Some(format!("{key} has not answered for {time}, and its checks fail"));
                    lapsed.push(key.clone());
                }
            }
            if lapsed.is_empty() {
                continue;
            }
            self.members[index].claims.retain(|key, _| !lapsed.contains(key));
            match cause {
                Some(cause) if self.members[index].claims.is_empty() => {
                    self.leave(index, &cause, now, effects);
                }
                _ => {
                    self.describe(index, effects);
                    self.settle(index, "no source calls it ill any longer", now, effects);
                }
            }
        }
    }

    /// How long a source may be without a backend before that leaves. What the operator took out of a list leaves at
    /// once, unless what was put in its place is still to be found and checked: clients must not be turned away in
    /// between.
    pub(super) fn flap(&self, key: &SourceKey) -> Duration {
        match self.source(key) {
            Some(Source::Dns(dns)) => dns.query.flap,
            Some(Source::Srv(srv)) => srv.query.flap,
            Some(Source::Docker(_)) => Duration::ZERO, // the engine does not guess
            Some(Source::Static(_) | Source::File(_)) | None if self.settled() => Duration::ZERO,
            Some(Source::Static(_) | Source::File(_)) | None => SUCCESSION,
        }
    }

    /// How long the last good answer of a source stands while it gives none; `None`: for as long as that lasts.
    pub(super) fn hold(&self, key: &SourceKey) -> Option<Duration> {
        match self.source(key)? {
            Source::Dns(dns) => Some(dns.query.hold),
            Source::Srv(srv) => Some(srv.query.hold),
            Source::Docker(docker) => Some(docker.hold),
            Source::Static(_) | Source::File(_) => None,
        }
    }

    fn source(&self, key: &SourceKey) -> Option<&Source> {
        self.config.discover.iter().find(|source| SourceKey::from(*source) == *key)
    }
}
