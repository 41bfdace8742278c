//! What a balancer has been through in some time: events and counters folded into sentences.
//!
//! Each change of a backend's state is in exactly one sentence. Changes of one backend that follow each other closely are one
//! sentence; so are the same changes of several backends at the same time. What clients met is told with the trouble that
//! it came with, and by itself when no state changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Sentence;
use super::phrases::{self, Met};
use super::samples::{Grown, Sample};
use crate::domain::{BackendState, CloseReason, Event, ServingTier, StateReason};
use crate::humanize::{count, list};
use crate::telemetry::journal::Entry;

/// What happens to one backend within this time of what happened to it before is one story.
const TOGETHER: Duration = Duration::from_secs(60);
/// What happens to several backends within this time is the same thing.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Failures come before the state changes for them: at most so long before, and a little after.
const BEFORE: Duration = Duration::from_secs(30);
const AFTER: Duration = Duration::from_secs(5);

/// A story.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FoldedStory {
    /// Its sentences, in the order of what they tell of.
    pub sentences: Vec<StorySentence>,
    /// Everything together.
    pub totals: StoryTotals,
}

/// A sentence, and what it tells of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct StorySentence {
    /// The sentence.
    #[serde(flatten)]
    pub sentence: Sentence,
    /// The numbers of the events that it tells.
    pub events: Vec<u64>,
}

/// Everything of a time together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct StoryTotals {
    /// Connections that were routed to a backend.
    pub connections: u64,
    /// Those of them that another backend had failed before: their clients saw no error.
    pub retried: u64,
    /// Failures that clients met.
    pub seen: u64,
    /// Attempts to connect that failed.
    pub failed_connects: u64,
    /// Changes of backends' states.
    pub state_changes: u64,
}

/// Tells what happened, of events and samples in the order of their times.
pub(crate) fn tell(events: &[Entry], samples: &[(SystemTime, Sample)]) -> FoldedStory {
    let mut groups = at_once(together(events));
    let alone = spread(&mut groups, samples);
    let pools: BTreeSet<_> = events.iter().filter_map(|entry| entry.event.pool()).collect();
    let mut told: Vec<StorySentence> =
        groups.iter().filter_map(|group| group.told(pools.len() > 1)).collect();
    told.extend(alone);
    told.sort_by_key(|told| told.sentence.at);
    FoldedStory { sentences: told, totals: totals(events, samples) }
}

fn totals(events: &[Entry], samples: &[(SystemTime, Sample)]) -> StoryTotals {
    let mut totals = StoryTotals {
        state_changes: events
            .iter()
            .filter(|entry| matches!(*entry.event, Event::StateChanged { .. }))
            .count() as u64,
        ..StoryTotals::default()
    };
    for (_, sample) in samples {
        for (_, Grown { routed, retried, seen }) in &sample.pools {
            totals.connections += routed;
            totals.retried += retried;
            totals.seen += seen.iter().map(|(_, n)| n).sum::<u64>();
        }
        totals.failed_connects += sample.failures.iter().flat_map(|one| one.kinds).sum::<u64>();
    }
    totals
}

/// What a group of events is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Backend(Arc<str>, Arc<str>),
    ServingTier(Arc<str>),
    Source(Arc<str>, Arc<str>),
    Checks(Arc<str>),
    Process(u64),
}

impl About {
    fn of(entry: &Entry) -> Option<Self> {
        match &*entry.event {
            Event::StateChanged { pool, backend, .. }
            | Event::WeightChanged { pool, backend, .. }
            | Event::EjectionSuppressed { pool, backend, .. }
            | Event::CheckInconclusive { pool, backend, .. }
            | Event::OperatorChange { pool, backend, .. }
            | Event::BackendAdded { pool, backend, .. }
            | Event::BackendRemoved { pool, backend, .. } => {
                Some(Self::Backend(Arc::clone(pool), Arc::clone(backend)))
            }
            Event::ServingTierChanged { pool, .. } => Some(Self::ServingTier(Arc::clone(pool))),
            Event::ResolverStatusChanged { pool, source, .. } => {
                Some(Self::Source(Arc::clone(pool), Arc::clone(source)))
            }
            Event::ChecksLate { pool, .. } | Event::ChecksOnTime { pool, .. } => {
                Some(Self::Checks(Arc::clone(pool)))
            }
            Event::ReloadApplied { .. } | Event::ReloadRefused { .. } => Some(Self::Process(entry.id)),
            Event::DrainStarted { .. } | Event::DrainDone { .. } => Some(Self::Process(entry.id)),
            Event::ConnectionClosed { .. } => Some(Self::Process(entry.id)),
            // Details, for `why` about one backend.
            Event::BackendNamed { .. }
            | Event::EndpointsChanged { .. }
            | Event::CheckResultChanged { .. }
            | Event::CheckRequested { .. } => None,
            Event::DrainProgress { .. } => None,
        }
    }
}

/// Facts that make one sentence.
#[derive(Debug)]
struct Group<'f> {
    about: About,
    /// The backends that it is about, if it is about backends.
    names: Vec<Arc<str>>,
    /// The events of the first of them.
    events: Vec<&'f Entry>,
    /// The numbers of the events of all.
    ids: Vec<u64>,
    last: SystemTime,
    met: Met,
}

impl<'f> Group<'f> {
    fn new(about: About, entry: &'f Entry) -> Self {
        let names = match &about {
            About::Backend(_, name) => vec![Arc::clone(name)],
            _ => Vec::new(),
        };
        Self { about, names, events: vec![entry], ids: vec![entry.id], last: entry.at, met: Met::default() }
    }

    fn first(&self) -> SystemTime {
        self.events.first().map_or(self.last, |entry| entry.at)
    }

    /// When what it tells begins: an order is told by what follows from it, if anything does, and is nothing by itself.
    fn begins(&self) -> SystemTime {
        let any = |is: fn(&Event) -> bool| self.events.iter().any(|entry| is(&entry.event));
        let states = any(|event| matches!(event, Event::StateChanged { .. }));
        let weights = any(|event| matches!(event, Event::WeightChanged { .. }));
        let told = |entry: &&&Entry| match &*entry.event {
            Event::OperatorChange { state, weight, .. } => {
                state.is_some() && !states || weight.is_some() && !weights
            }
            Event::BackendAdded { .. } | Event::BackendRemoved { .. } => false,
            _ => true,
        };
        self.events.iter().find(told).map_or_else(|| self.first(), |entry| entry.at)
    }

    /// Whether a event about the same goes on with this story.
    fn goes_on(&self, entry: &Entry) -> bool {
        let Some(before) = self.events.last() else { return false };
        match (&*before.event, &*entry.event) {
            // The next one of that name is another backend.
            (Event::StateChanged { to: BackendState::Gone, .. }, _) => false,
            // Nor does what befalls one belong to its arrival.
            (Event::StateChanged { to: BackendState::Up, .. }, _) if self.arrives() => false,
            // Trouble lasts until it is over.
            (Event::ResolverStatusChanged { trouble, .. }, _) => trouble.is_some(),
            (Event::ServingTierChanged { tier, .. }, _) => *tier != ServingTier::Primaries,
            (Event::ChecksLate { .. }, _) => true,
            (Event::ChecksOnTime { .. }, _) => false,
            _ => entry.at.duration_since(self.last).unwrap_or_default() <= TOGETHER,
        }
    }

    /// Whether it begins with a backend that was found.
    fn arrives(&self) -> bool {
        let first = self.events.first().map(|entry| &*entry.event);
        matches!(first, Some(Event::StateChanged { from: BackendState::Gone, .. }))
    }

    fn states(&self) -> Vec<BackendState> {
        let to = |entry: &&Entry| match &*entry.event {
            Event::StateChanged { to, .. } => Some(*to),
            _ => None,
        };
        self.events.iter().filter_map(to).collect()
    }

    /// Why each of them came, whatever the backend's address is.
    fn reasons(&self) -> Vec<StateReason> {
        let why = |entry: &&Entry| match &*entry.event {
            Event::StateChanged { reason, .. } => Some(reason.without_address()),
            _ => None,
        };
        self.events.iter().filter_map(why).collect()
    }

    /// Whether it is nothing but changes of state, and few of them, so that others may have the same story.
    fn is_plain(&self) -> bool {
        let states = self.states();
        matches!(self.about, About::Backend(..)) && states.len() == self.events.len() && states.len() <= 3
    }

    fn pool(&self) -> Option<&Arc<str>> {
        match &self.about {
            About::Backend(pool, _)
            | About::ServingTier(pool)
            | About::Source(pool, _)
            | About::Checks(pool) => Some(pool),
            About::Process(_) => None,
        }
    }

    /// From when to when clients may have met what it tells; `None`: that is nothing to be met.
    fn troubles(&self) -> Option<(SystemTime, SystemTime)> {
        let trouble = |state: &BackendState| !matches!(state, BackendState::Joining | BackendState::Up);
        let met = match self.about {
            About::Backend(..) => self.states().iter().any(trouble),
            About::ServingTier(_) => true,
            About::Source(..) | About::Checks(_) | About::Process(_) => false,
        };
        met.then(|| (before(self.first(), BEFORE), self.last + AFTER))
    }

    /// Its sentence, if it has one. Where the story is of several pools, backends are named with theirs.
    fn told(&self, several_pools: bool) -> Option<StorySentence> {
        let text = match &self.about {
            About::Backend(pool, _) if several_pools => {
                let names: Vec<_> = self.names.iter().map(|name| format!("{pool}/{name}").into()).collect();
                phrases::backends(&names, &self.events, &self.met)
            }
            About::Backend(..) => phrases::backends(&self.names, &self.events, &self.met),
            About::ServingTier(pool) => phrases::serving_tier(pool, &self.events, &self.met),
            About::Source(pool, source) => phrases::source(pool, source, &self.events),
            About::Checks(pool) => phrases::checks(pool, &self.events),
            About::Process(_) => phrases::process(&self.events),
        };
        Some(StorySentence { sentence: Sentence::then(self.begins(), text?), events: self.ids.clone() })
    }
}

fn before(at: SystemTime, time: Duration) -> SystemTime {
    at.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Puts together what follows each other closely.
fn together(events: &[Entry]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut open = BTreeMap::<About, usize>::new();
    for entry in events {
        let Some(about) = About::of(entry) else { continue };
        match open.get(&about).map(|index| &mut groups[*index]) {
            Some(group) if group.goes_on(entry) => {
                group.events.push(entry);
                group.ids.push(entry.id);
                group.last = entry.at;
            }
            _ => {
                open.insert(about.clone(), groups.len());
                groups.push(Group::new(about, entry));
            }
        }
    }
    groups
}

/// Puts together the same that happened to several backends of a pool at once, for the same reasons: what is told of the
/// first is told of all.
fn at_once(groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    let mut all: Vec<Group<'_>> = Vec::new();
    let mut last = HashMap::<(Arc<str>, Vec<BackendState>, Vec<StateReason>), usize>::new();
    for group in groups {
        let Some(pool) = group.pool().filter(|_| group.is_plain()) else {
            all.push(group);
            continue;
        };
        let key = (Arc::clone(pool), group.states(), group.reasons());
        let same = last.get(&key).map(|index| &mut all[*index]).filter(|same| {
            let apart = |a: SystemTime, b: SystemTime| a.duration_since(b).unwrap_or_default();
            apart(group.first(), same.first()) <= AT_ONCE && !same.names.contains(&group.names[0])
        });
        match same {
            Some(same) => {
                same.names.extend(group.names);
                same.ids.extend(group.ids);
                same.last = same.last.max(group.last);
            }
            None => {
                last.insert(key, all.len());
                all.push(group);
            }
        }
    }
    all
}

/// Gives each sample to the trouble that it came with. What came with none is told by itself.
fn spread(groups: &mut [Group<'_>], samples: &[(SystemTime, Sample)]) -> Vec<StorySentence> {
    let mut alone = BTreeMap::<Arc<str>, Vec<(SystemTime, SystemTime, Met)>>::new();
    let windows = groups.iter().enumerate().filter_map(|(index, group)| Some((index, group.troubles()?)));
    let mut coming: Vec<_> = windows.collect();
    coming.sort_by_key(|(_, (from, _))| Reverse(*from));
    // There may be thousands of samples and of groups: only those are looked at that a sample may belong to.
    let mut open = Vec::<(usize, SystemTime)>::new();
    for (at, sample) in samples {
        while let Some((index, (_, until))) = coming.pop_if(|(_, (from, _))| *from <= *at) {
            open.push((index, until));
        }
        open.retain(|(_, until)| *until >= *at);
        // The trouble that had begun, or that began soonest; of several the latest.
        let find = |groups: &[Group<'_>], pool: &str, wanted: &dyn Fn(&Group<'_>) -> bool| {
            let of = |index: &usize| {
                groups[*index].pool().is_some_and(|of| **of == *pool) && wanted(&groups[*index])
            };
            let far = |index: &usize| {
                (groups[*index].first().duration_since(*at).unwrap_or_default(), Reverse(*index))
            };
            open.iter().map(|(index, _)| *index).filter(of).min_by_key(far)
        };
        for failures in &sample.failures {
            let of_backend = |group: &Group<'_>| group.names.contains(&failures.backend);
            match find(groups, &failures.pool, &of_backend) {
                Some(index) => groups[index].met.failures(failures),
                None => beside(&mut alone, &failures.pool, *at).failures(failures),
            }
        }
        for (pool, grown) in &sample.pools {
            let failed =
                |name: &Arc<str>| sample.failures.iter().any(|one| one.pool == *pool && one.backend == *name);
            for (grown, follows) in by_order(grown) {
                if grown.retried == 0 && grown.seen.is_empty() {
                    continue;
                }
                let may = |group: &Group<'_>| !follows || group.first() <= *at;
                let place = find(groups, pool, &|group| may(group) && group.names.iter().any(failed));
                match place.or_else(|| find(groups, pool, &may)) {
                    Some(index) => groups[index].met.grown(&grown),
                    None => beside(&mut alone, pool, *at).grown(&grown),
                }
            }
        }
    }
    let told = |(pool, runs): (Arc<str>, Vec<(SystemTime, SystemTime, Met)>)| {
        let one = move |(at, _, met): (SystemTime, SystemTime, Met)| StorySentence {
            sentence: Sentence::then(at, phrases::met_alone(&pool, &met)),
            events: Vec::new(),
        };
        runs.into_iter().map(one)
    };
    alone.into_iter().flat_map(told).collect()
}

/// What may come before the change of state that it leads to, and, with true, what a change of state can only lead to:
/// that there is no place for a client.
fn by_order(grown: &Grown) -> [(Grown, bool); 2] {
    let turned_away =
        |(reason, _): &(CloseReason, u64)| matches!(reason, CloseReason::NoBackend | CloseReason::Limited);
    let (after, before) = grown.seen.iter().copied().partition(turned_away);
    [(Grown { seen: before, ..grown.clone() }, false), (Grown { seen: after, ..Grown::default() }, true)]
}

/// What clients of a pool met at that time while no state changed.
fn beside<'a>(
    alone: &'a mut BTreeMap<Arc<str>, Vec<(SystemTime, SystemTime, Met)>>,
    pool: &Arc<str>,
    at: SystemTime,
) -> &'a mut Met {
    let runs = alone.entry(Arc::clone(pool)).or_default();
    let goes_on =
        |last: &(SystemTime, SystemTime, Met)| at.duration_since(last.1).unwrap_or_default() <= TOGETHER;
    if !runs.last().is_some_and(goes_on) {
        runs.push((at, at, Met::default()));
    }
    let last = runs.len() - 1;
    runs[last].1 = at;
    &mut runs[last].2
}

/// What there is to say of a time in which nothing happened, or of all of it.
pub(crate) fn summary(story: &FoldedStory) -> String {
    let StoryTotals { connections, retried, seen, state_changes, .. } = story.totals;
    let mut words = vec![format!("{} routed", count(connections, "connection"))];
    words.push(match (retried, seen) {
        (0, 0) => "no failure".to_owned(),
        (retried, 0) => format!("{retried} of them after another backend had failed, no client saw an error"),
        (0, seen) => format!("{} seen by clients", count(seen, "failure")),
        (retried, seen) => {
            format!(
                "{retried} of them after another backend had failed, {} seen by clients",
                count(seen, "failure")
            )
        }
    });
    words.push(match state_changes {
        0 => "no backend changed its state".to_owned(),
        n => count(n, "change") + " of backends' states",
    });
    list(&words, usize::MAX)
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
