//! The results of checks and live connections. Only this module counts them (`rise`, `fall`); a checker is only
//! notified when its next check is due soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PoolState;
use crate::config;
use crate::domain::{BackendState, EjectionReason, Failure, HealthFailure, StateReason};
use crate::health::{CheckError, RiseFall, Verdict};
use crate::pool::input::Effect;
use crate::pool::member::Results;

impl PoolState {
    /// A backend was checked.
    pub(super) fn checked(
        &mut self,
        key: u64,
        check: usize,
        result: Result<(), CheckError>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        match result {
            Ok(()) => self.count(key, check, Ok(()), now, effects),
            Err(CheckError::Failed(failure)) => {
                self.count(key, check, Err(HealthFailure::Check(failure)), now, effects);
            }
            // There is no result, but the check has ended once.
            Err(CheckError::Local(_)) => {
                let member = self.members.iter_mut().find(|member| member.backend.key == key);
                if let Some(results) = member.and_then(|member| member.results.get_mut(check)) {
                    results.has_result = true;
                    if results.rise_fall.in_transition() {
                        effects.push(Effect::CheckSoon(key, check));
                    }
                }
            }
        }
    }

    /// A live connection to a backend failed; `in_a_row` is the number of failures in a row.
    pub(super) fn failed(
        &mut self,
        key: u64,
        failure: Failure,
        in_a_row: u32,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let up = |pool_state: &Self| {
            pool_state.index_of(key).filter(|index| pool_state.members[*index].state == BackendState::Up)
        };
        if matches!(failure, Failure::Connect(_)) {
            effects.push(Effect::QueryNow);
            if up(self).is_some() {
                self.count(key, 0, Err(HealthFailure::Connection(failure.clone())), now, effects);
            }
        }
        if let Some(failures) = self.config.eject.and_then(|eject| eject.failures)
            && in_a_row >= failures.get()
            && let Some(index) = up(self)
        {
            let why = EjectionReason::Failures { count: in_a_row, failure };
            self.eject(index, why, in_a_row == failures.get(), now, effects);
        }
    }

    /// Counts a result of a backend's check. A live connection that failed counts as one, and its backend is checked
    /// soon until enough results agree.
    fn count(
        &mut self,
        key: u64,
        check: usize,
        result: Result<(), HealthFailure>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(health) = self.config.health.get(check) else { return };
        let Some(index) = self.index_of(key) else { return };
        let member = &mut self.members[index];
        // If discovery no longer reports the backend either, one failed check is enough.
        let fall = if member.missing() { 1 } else { health.fall };
        let first = member.verdict() == Verdict::Unchecked;
        let Some(results) = member.results.get_mut(check) else { return };
        results.has_result = true;
        let passed = result.is_ok();
        let unchecked = results.rise_fall.verdict() == Verdict::Unchecked;
        if unchecked && !passed && now < member.trial + health.grace {
            effects.push(Effect::CheckSoon(key, check));
            return; // it is still starting
        }
        let live = matches!(result, Err(HealthFailure::Connection(_)));
        if live {
            results.rise_fall.suspect();
        }
        let changed = results.rise_fall.on(passed, health.rise, fall);
        if live || results.rise_fall.in_transition() {
            effects.push(Effect::CheckSoon(key, check));
        }
        member.backend.note_run(check, results.rise_fall.run());
        let reason = match (changed, result) {
            (None | Some(Verdict::Unchecked), _) => return,
            (Some(_), Ok(())) if first => StateReason::FirstCheckPassed,
            (Some(_), Ok(())) => StateReason::ChecksPassed { count: health.rise },
            (Some(_), Err(failure)) => {
                let reason = match member.state {
                    BackendState::Joining if health.grace > Duration::ZERO => {
                        StateReason::GraceOver { grace: health.grace, failure }
                    }
                    BackendState::Joining => StateReason::FirstCheckFailed(failure),
                    _ => StateReason::Failures { count: fall, failure },
                };
                member.failing = Some(reason.clone());
                member.ejection.lift(now); // from now on, the checks decide
                reason
            }
        };
        self.settle(index, reason, now, effects);
    }

    /// Applies changed checks of the pool. An unchanged check keeps its results; a new one is presumed to have the
    /// verdict of all former checks until its first result.
    pub(super) fn replace_checks(&mut self, index: usize, before: &config::Pool, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        let verdict = member.verdict();
        let same = |health: &config::Health| {
            let position =
                before.health.iter().position(|old| (&old.check, old.port) == (&health.check, health.port));
            position.and_then(|index| member.results.get(index).copied())
        };
        let presumed = Results { rise_fall: RiseFall::presumed(verdict), has_result: false };
        member.results = self.config.health.iter().map(|health| same(health).unwrap_or(presumed)).collect();
        if member.leaving() || member.refused.is_some() || member.in_maintenance() {
            return;
        }
        effects.push(Effect::Uncheck(member.backend.key));
        if !self.config.health.is_empty() {
            effects.push(Effect::Check(Arc::clone(&member.backend)));
        }
    }
}
