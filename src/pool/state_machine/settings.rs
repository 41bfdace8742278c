//! What operators set for backends, and how it outlives a restart (`runtime.state`).
//!
//! A backend gets its settings of before the restart when it is found, before it is published for the first time: one that
//! was drained is never eligible in between.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::PoolState;
use crate::discovery::Found;
use crate::domain::{AdminState, SetBy, Timestamp};
use crate::pool::input::Effect;
use crate::pool::member::{Member, OperatorWeight};
use crate::state_directory::{SavedBackend, SavedState, SavedWeight};

impl PoolState {
    /// Takes what operators had set before the restart. This comes before the first input.
    pub fn restore(&mut self, saved: Vec<SavedBackend>) {
        self.restoring = !saved.is_empty();
        self.restored = saved;
    }

    /// What operators have set for backends that have not left, those that are not found yet included.
    pub fn settings(&self) -> Vec<SavedBackend> {
        let living = self.members.iter().filter(|member| !member.leaving() && member.has_settings());
        let saved = living.map(|member| self.saved(member));
        let any = |saved: &SavedBackend| saved.state.is_some() || saved.weight.is_some();
        saved.filter(any).chain(self.restored.iter().cloned()).collect()
    }

    fn saved(&self, member: &Member) -> SavedBackend {
        let backend = &member.backend;
        let state = member.admin_state.as_ref().filter(|(_, by)| by.is_lasting);
        let state = state.map(|(state, by)| SavedState {
            state: *state,
            by: Arc::clone(&by.operator),
            at: by.at.into(),
        });
        let weight = member.operator_weight.as_ref().map(|set| SavedWeight {
            weight: set.weight,
            by_source: set.by_source,
            by: Arc::clone(&set.by.operator),
            at: set.by.at.into(),
        });
        let nameless = member.name(&self.config).is_some_and(|found| found.nameless);
        SavedBackend {
            name: member.name_before.as_ref().map_or_else(|| Arc::clone(&backend.name), Arc::clone),
            nameless: nameless && member.name_before.is_none(),
            address: backend.address.clone(),
            state,
            weight,
        }
    }

    /// Gives a backend that was just found what was set for it before the restart.
    pub(super) fn claim(&mut self, found: &Found, member: &mut Member) {
        // A report without a name is about the same backend, as at run time.
        let is_same = |saved: &SavedBackend| {
            saved.address == found.address && (saved.nameless || found.nameless || saved.name == found.name)
        };
        let Some(index) = self.restored.iter().position(is_same) else { return };
        let saved = self.restored.remove(index);
        member.admin_state = saved.state.map(|set| (set.state, before_restart(set.by, set.at)));
        member.admin_state.take_if(|(state, _)| *state == AdminState::Up);
        member.operator_weight = saved.weight.map(|set| OperatorWeight {
            weight: set.weight,
            by_source: set.by_source,
            by: before_restart(set.by, set.at),
        });
        member.name_before = (found.nameless && !saved.nameless).then_some(saved.name);
    }

    /// When the sources have reported all backends: after conclusive answers, a backend may be missing for as long as at
    /// run time (`flap`). `None`: the settings are restored, or a source has not given a conclusive answer.
    pub(super) fn restoring_ends(&self) -> Option<Instant> {
        let flap = self.sources.keys().map(|key| self.flap(key, true)).max().unwrap_or_default();
        Some(self.conclusive_since? + flap)
    }

    /// Then drops what was set for backends that no source reports, and weights that were set when the sources reported
    /// other ones.
    pub(super) fn end_restoring(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.restoring {
            return;
        }
        let is_conclusive = self.sources.values().all(|source| source.answered && source.failing.is_none());
        self.conclusive_since = is_conclusive.then(|| self.conclusive_since.unwrap_or(now));
        if self.restoring_ends().is_none_or(|end| now < end) {
            return;
        }
        (self.restoring, self.conclusive_since) = (false, None);
        self.drop_restored("no source reports its backend", effects);
        for index in 0..self.members.len() {
            self.describe(index, effects);
        }
    }

    pub(super) fn drop_restored(&mut self, why: &'static str, effects: &mut Vec<Effect>) {
        if self.restored.is_empty() {
            return;
        }
        effects.extend(self.restored.drain(..).map(|saved| Effect::DropSettings(saved, why)));
        effects.push(Effect::SaveSettings);
    }
}

fn before_restart(operator: Arc<str>, at: Timestamp) -> SetBy {
    SetBy { operator, at: SystemTime::from(at), before_restart: true, is_lasting: true }
}
