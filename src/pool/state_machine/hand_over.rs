//! What a process that takes over from this one needs to know of a pool: what operators set, which backends passed or
//! failed their checks, which are ejected, and which ones operators added.
//!
//! In the new process a backend has the verdict and the ejection of the process before from the moment at which it is found, so
//! that the pool is neither empty until the first checks end, nor sends clients to a backend that is down or ejected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::PoolState;
use crate::discovery::{Found, SourceKey};
use crate::domain::{Cause, SocketAddress, StateReason};
use crate::health::{Ejection, HandedEjection, RiseFall, Verdict};
use crate::pool::member::{Member, Results};
use crate::state_directory::SavedBackend;

/// A pool as one process leaves it to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolHandOver {
    /// What operators set for its backends.
    pub settings: Vec<SavedBackend>,
    /// The backends whose checks had a verdict, and their ejections.
    pub health: Vec<BackendHealth>,
    /// The backends that operators added.
    pub added: Vec<AddedBackend>,
}

/// The verdict of a backend's checks, and its ejections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendHealth {
    name: Arc<str>,
    nameless: bool,
    address: SocketAddress,
    passing: bool,
    /// How long it has been in its state.
    lasted: Duration,
    /// Why it was in its state.
    cause: Cause,
    /// Its last ejection.
    #[serde(default)]
    ejection: Option<HandedEjection>,
}

/// A backend that operators added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddedBackend {
    name: Arc<str>,
    address: SocketAddress,
    weight: u32,
    tier: u16,
    #[serde(default)]
    zone: Option<Arc<str>>,
}

impl From<AddedBackend> for Found {
    fn from(AddedBackend { name, address, weight, tier, zone }: AddedBackend) -> Self {
        Self { weight, tier, zone, ..Self::new(name, address) }
    }
}

impl PoolState {
    /// What the process that takes over from this one needs to know.
    pub fn hand_over(&self, now: Instant) -> PoolHandOver {
        let living = self.members.iter().filter(|member| !member.leaving());
        let health = living.filter_map(|member| self.health_of(member, now)).collect();
        let added =
            self.sources.get(&SourceKey::Operator).into_iter().flat_map(|source| source.answer.values());
        let added = added.map(|found| AddedBackend {
            name: Arc::clone(&found.name),
            address: found.address.clone(),
            weight: found.weight,
            tier: found.tier,
            zone: found.zone.clone(),
        });
        PoolHandOver { settings: self.settings(), health, added: added.collect() }
    }

    fn health_of(&self, member: &Member, now: Instant) -> Option<BackendHealth> {
        let passing = match member.verdict() {
            Verdict::Passing => true,
            Verdict::Failing => false,
            Verdict::Unchecked => return None,
        };
        // Down, whatever operators have set since.
        let failing = member.failing.as_ref().filter(|_| !passing);
        Some(BackendHealth {
            name: Arc::clone(&member.backend.name),
            nameless: member.name(&self.config).is_some_and(|found| found.nameless),
            address: member.backend.address.clone(),
            passing,
            lasted: now.saturating_duration_since(member.since),
            cause: failing.unwrap_or(&member.reason).original_cause(),
            ejection: member.ejection.hand_over(now),
        })
    }

    /// Takes the verdicts and ejections of the process before, from which this one takes over now. This comes before the first
    /// input.
    pub fn take_over(&mut self, health: Vec<BackendHealth>, now: Instant) {
        self.inherited = health;
        self.inherited_at = now;
    }

    /// Gives a backend that was just found the verdict and the ejection of the process before; returns the reason and the
    /// time that it has been in its state.
    pub(super) fn presume(&mut self, found: &Found, member: &mut Member) -> Option<(StateReason, Duration)> {
        let is_same = |known: &BackendHealth| {
            known.address == found.address && (known.nameless || found.nameless || known.name == found.name)
        };
        let index = self.inherited.iter().position(is_same)?;
        let known = self.inherited.swap_remove(index);
        let verdict = if known.passing { Verdict::Passing } else { Verdict::Failing };
        member.results.fill(Results { rise_fall: RiseFall::presumed(verdict), has_result: false });
        let reason = StateReason::TakenOver { cause: known.cause };
        member.failing = (!known.passing).then(|| reason.clone());
        let taken_over = known.ejection.map(|handed| Ejection::take_over(handed, self.inherited_at));
        member.ejection = taken_over.unwrap_or_default();
        Some((reason, known.lasted))
    }

    /// Forgets the verdicts about backends that no source has reported: found later, they are new.
    pub(super) fn forget_inherited(&mut self) {
        if !self.inherited.is_empty() && self.sources.values().all(|source| source.answered) {
            self.inherited.clear();
        }
    }
}

#[cfg(test)]
#[path = "hand_over_tests.rs"]
mod tests;
