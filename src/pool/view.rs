//! What the workers choose from: an immutable snapshot of a pool, replaced whole, never edited.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::keeper::Member;
use super::state::State;
use super::totals::{Former, Totals};
use crate::balance::{Ask, Candidate, Picker};
use crate::config::{self, Algorithm};

/// So many backends are named in `skipped` for one kind of reason; the rest is counted.
pub const NAMED: usize = 8;

/// A snapshot of a pool's eligible backends, ready to choose from.
#[derive(Debug)]
pub struct View {
    /// How they are chosen from.
    pub algorithm: Algorithm,
    /// The backends that are not eligible, each with its reason, in words.
    pub skipped: Arc<str>,
    picker: Picker,
    backends: Box<[Arc<Backend>]>,
}

impl View {
    /// The view of `members`; the algorithm goes on where it stood in `previous`.
    pub(super) fn new(config: &config::Pool, members: &[Member], previous: Option<&Self>) -> Self {
        let eligible = |member: &&Member| member.state == State::Up && member.weight > 0;
        let candidate = |member: &Member| Candidate {
            key: member.backend.key,
            name: Arc::clone(&member.backend.name),
            weight: member.weight,
            load: Arc::clone(&member.backend.load),
        };
        let candidates = members.iter().filter(eligible).map(candidate).collect();
        Self {
            algorithm: config.balance,
            skipped: skipped(members.iter().filter(|member| !eligible(member))),
            picker: Picker::new(config.balance, &config.hash, candidates, previous.map(|view| &view.picker)),
            backends: members.iter().filter(eligible).map(|m| Arc::clone(&m.backend)).collect(),
        }
    }

    /// A backend, never one that is to be passed over; `None` when nobody is left.
    pub fn choose(&self, ask: &Ask<'_>) -> Option<&Arc<Backend>> {
        self.picker.choose(ask).map(|index| &self.backends[index])
    }

    /// The backends that have no place for one more connection at this moment.
    pub fn full(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().filter(|backend| backend.is_full())
    }

    /// How many backends can be chosen.
    pub fn len(&self) -> usize {
        self.backends.len()
    }

    /// Whether no backend can be chosen.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}

fn skipped<'a>(members: impl Iterator<Item = &'a Member>) -> Arc<str> {
    let mut text = String::new();
    let mut more = 0;
    for (index, member) in members.enumerate() {
        if index >= NAMED {
            more += 1;
            continue;
        }
        if index > 0 {
            text.push_str("; ");
        }
        let reason = if member.state == State::Up { "weight 0" } else { member.state.name() };
        text.push_str(&member.backend.name);
        text.push_str(": ");
        text.push_str(reason);
        if member.state != State::Up {
            text.push_str(&format!(" ({})", member.cause));
        }
    }
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text.into()
}

/// Everything that is known of a pool's backends at one moment, for those who look.
#[derive(Clone, Debug)]
pub struct Roster {
    /// The backends, those that drain included.
    pub members: Vec<Entry>,
    former: Former,
}

/// One backend in a [`Roster`].
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who it is, with its counters.
    pub backend: Arc<Backend>,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why.
    pub cause: Arc<str>,
    /// Its share.
    pub weight: u32,
}

impl Roster {
    pub(super) fn new(members: &[Member], former: Former) -> Self {
        let entry = |member: &Member| Entry {
            backend: Arc::clone(&member.backend),
            state: member.state,
            since: member.since,
            cause: Arc::clone(&member.cause),
            weight: member.weight,
        };
        Self { members: members.iter().map(entry).collect(), former }
    }

    /// What was counted under each name.
    pub fn totals(&self) -> BTreeMap<Arc<str>, Totals> {
        self.former.with(self.members.iter().map(|entry| &entry.backend))
    }
}
