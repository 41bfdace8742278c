//! Ejects, for a while, backends that fail live connections or are much slower than the others.

use std::sync::Arc;
use std::time::Instant;

use super::PoolState;
use crate::domain::{BackendState, EjectionReason, Event, StateReason};
use crate::pool::input::Effect;
use crate::pool::member::Member;
use crate::pool::outliers::outliers;

impl PoolState {
    /// Ejects a backend for a while, unless too many are ejected already; `report`: whether to report the latter.
    pub(super) fn eject(
        &mut self,
        index: usize,
        why: EjectionReason,
        report: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(eject) = self.config.eject else { return };
        let (out, sound) = self.ejected();
        let member = &mut self.members[index];
        if out >= eject.at_most.of(sound) {
            let (pool, backend) = (Arc::clone(&self.name), Arc::clone(&member.backend.name));
            let suppressed = Event::EjectionSuppressed { pool, backend, reason: why };
            effects.extend(report.then_some(Effect::Report(suppressed)));
            return;
        }
        let reason = member.ejection.eject(eject.period, why, now);
        self.settle(index, reason, now, effects);
    }

    /// The number of ejected backends, and of all backends whose checks pass.
    pub(super) fn ejected(&self) -> (usize, usize) {
        let count = |state| self.members.iter().filter(|member| member.state == state).count();
        let out = count(BackendState::Ejected);
        (out, out + count(BackendState::Up))
    }

    /// Ejects backends that answer much slower than the others, the slowest first.
    pub(super) fn compare(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(slow) = self.config.eject.and_then(|eject| eject.slow) else {
            self.compare_at = None;
            return;
        };
        let first = self.compare_at.is_none();
        if !first && self.compare_at.is_some_and(|at| now < at) {
            return;
        }
        self.compare_at = Some(now + slow.every);
        let mut medians = Vec::new();
        for (index, member) in self.members.iter_mut().enumerate() {
            let times = member.backend.latency.first_byte.counts();
            let recent = times.since(&member.compared);
            *member.compared = times;
            let enough = recent.total() >= slow.answers.get().into();
            if !first && enough && member.state == BackendState::Up {
                medians.extend(recent.quantile(0.5).map(|median| (median, index)));
            }
        }
        for (index, median, others) in outliers(medians, slow.factor.get(), slow.floor) {
            self.eject(index, EjectionReason::Slow { median, others }, true, now, effects);
        }
    }

    /// Ends the ejections whose time is over and, if too many backends are ejected, those that end first.
    pub(super) fn release(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for index in 0..self.members.len() {
            if self.members[index].state == BackendState::Ejected {
                self.settle(index, StateReason::EjectionOver, now, effects);
            }
        }
        // Others that were up in the process before may be found in a moment.
        if !self.inherited.is_empty() {
            return;
        }
        let at_most = |sound| self.config.eject.map_or(0, |eject| eject.at_most.of(sound));
        let (out, sound) = self.ejected();
        for _ in at_most(sound)..out {
            let ends = |member: &Member| member.ejection.out(now).map(|(until, _)| until);
            let ejected = self.members.iter().enumerate().filter(|(_, member)| ends(member).is_some());
            let first =
                ejected.filter(|(_, m)| m.state == BackendState::Ejected).min_by_key(|(_, m)| ends(m));
            let Some((index, _)) = first else { return };
            self.members[index].ejection.lift(now);
            self.settle(index, StateReason::TooFewOthers, now, effects);
        }
    }
}
