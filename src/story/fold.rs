//! Folds the events and counters of a period into sentences.
//!
//! Each change of a backend's state is in exactly one sentence. Changes of one backend in quick succession share a
//! sentence, and so do the same changes of several backends at the same time. The failures of connections are added to
//! the sentence about the state change that they belong to, or get their own sentence if no state changed.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use super::Sentence;
use super::phrases::{self, FailureCounts, NoEnd};
use super::samples::{Grown, Sample};
use crate::domain::{BackendState, CloseReason, Event, ServingTier, StateReason};
use crate::humanize::{count, list};
use crate::telemetry::journal::Entry;

/// An event belongs to the same sentence as the previous one about its subject if it follows within this time.
const MAX_GAP: Duration = Duration::from_secs(60);
/// The same changes of several backends within this time share a sentence.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Failures at most this long before a state change belong to it, as they cause it.
const BEFORE: Duration = Duration::from_secs(30);
/// Failures at most this long after a state change belong to it.
const AFTER: Duration = Duration::from_secs(5);

/// The sentences about a period, and its totals.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FoldedStory {
    /// The sentences, the oldest first.
    pub sentences: Vec<StorySentence>,
    /// The totals.
    pub totals: StoryTotals,
}

/// A sentence and its events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct StorySentence {
    /// The sentence.
    #[serde(flatten)]
    pub sentence: Sentence,
    /// The numbers of the events in it.
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
    /// Connections that a peer closed after the client had sent bytes, and before any came back.
    pub unanswered: u64,
    /// Attempts to connect that failed.
    pub failed_connects: u64,
    /// Changes of backends' states.
    pub state_changes: u64,
}

/// Describes what happened, from events and samples in the order of their times. `is_present` returns whether a pool is
/// still in the configuration.
pub(crate) fn story(
    events: &[Entry],
    samples: &[(SystemTime, Sample)],
    is_present: impl Fn(&str) -> bool,
) -> FoldedStory {
    let mut groups = merge_backends(group(events));
    for group in &mut groups {
        let removed = group.pool().is_some_and(|pool| !is_present(pool));
        if removed && group.no_end == NoEnd::Ongoing {
            group.no_end = NoEnd::PoolRemoved;
        }
    }
    let ungrouped = assign_failures(&mut groups, samples);
    let mut pools = events.iter().filter_map(|entry| entry.event.pool());
    let first = pools.next();
    let several = pools.any(|pool| Some(pool) != first);
    let mut sentences: Vec<StorySentence> =
        groups.iter().filter_map(|group| group.sentence(several)).collect();
    sentences.extend(ungrouped);
    sentences.sort_by_key(|one| one.sentence.at);
    FoldedStory { sentences, totals: totals(events, samples) }
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
        for (_, Grown { routed, retried, seen, unanswered }) in &sample.pools {
            totals.connections += routed;
            totals.retried += retried;
            totals.unanswered += unanswered;
            totals.seen += seen.iter().map(|(_, n)| n).sum::<u64>();
        }
        totals.failed_connects += sample.failures.iter().flat_map(|one| one.kinds).sum::<u64>();
    }
    totals
}

/// What a group of events is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
            Event::Started { .. } => Some(Self::Process(entry.id)),
            Event::DrainStarted { .. } | Event::DrainDone { .. } => Some(Self::Process(entry.id)),
            Event::ConnectionClosed { .. } | Event::ListenerChange { .. } => Some(Self::Process(entry.id)),
            // Details, for `why` about one backend.
            Event::BackendNamed { .. }
            | Event::EndpointsChanged { .. }
            | Event::CheckResultChanged { .. }
            | Event::CheckRequested { .. } => None,
            Event::HandOverDone { .. } | Event::HandOverFailed { .. } | Event::TookOver { .. } => {
                Some(Self::Process(entry.id))
            }
            Event::RebalanceStarted { .. } | Event::RebalanceDone { .. } => Some(Self::Process(entry.id)),
            Event::HandOverStarted { .. } | Event::DrainProgress { .. } => None,
        }
    }
}

/// Events that share one sentence.
#[derive(Debug)]
struct Group<'f> {
    about: About,
    /// The backends; empty if the group is about something else.
    names: Vec<Arc<str>>,
    /// The events of the first backend.
    events: Vec<&'f Entry>,
    /// The numbers of the events of all backends.
    ids: Vec<u64>,
    last: SystemTime,
    failures: FailureCounts,
    /// Why no event ends what began.
    no_end: NoEnd,
}

impl<'f> Group<'f> {
    fn new(about: About, entry: &'f Entry) -> Self {
        let names = match &about {
            About::Backend(_, name) => vec![Arc::clone(name)],
            _ => Vec::new(),
        };
        Self {
            about,
            names,
            events: vec![entry],
            ids: vec![entry.id],
            last: entry.at,
            failures: FailureCounts::default(),
            no_end: NoEnd::Ongoing,
        }
    }

    fn first(&self) -> SystemTime {
        self.events.first().map_or(self.last, |entry| entry.at)
    }

    /// The time of the first event that the sentence mentions. It mentions an operator's change only if no change of
    /// state or weight follows from it.
    fn begins_at(&self) -> SystemTime {
        let any = |is: fn(&Event) -> bool| self.events.iter().any(|entry| is(&entry.event));
        let states = any(|event| matches!(event, Event::StateChanged { .. }));
        let weights = any(|event| matches!(event, Event::WeightChanged { .. }));
        let is_mentioned = |entry: &&&Entry| match &*entry.event {
            Event::OperatorChange { state, weight, .. } => {
                state.is_some() && !states || weight.is_some() && !weights
            }
            Event::BackendAdded { .. } | Event::BackendRemoved { .. } => false,
            _ => true,
        };
        self.events.iter().find(is_mentioned).map_or_else(|| self.first(), |entry| entry.at)
    }

    /// Whether an event about the same subject belongs to this group.
    fn accepts(&self, entry: &Entry) -> bool {
        let Some(before) = self.events.last() else { return false };
        match (&*before.event, &*entry.event) {
            // A later backend of that name is another one.
            (Event::StateChanged { to: BackendState::Gone, .. }, _) => false,
            // The group about a new backend ends when it is up.
            (Event::StateChanged { to: BackendState::Up, .. }, _) if self.is_new_backend() => false,
            // These groups last until the recovery.
            (Event::ResolverStatusChanged { trouble, .. }, _) => trouble.is_some(),
            (Event::ServingTierChanged { tier, .. }, _) => *tier != ServingTier::Primaries,
            (Event::ChecksLate { .. }, _) => true,
            (Event::ChecksOnTime { .. }, _) => false,
            _ => entry.at.duration_since(self.last).unwrap_or_default() <= MAX_GAP,
        }
    }

    /// Whether the group begins with the discovery of a backend.
    fn is_new_backend(&self) -> bool {
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

    /// The reasons of the state changes, without the backend's address.
    fn reasons(&self) -> Vec<StateReason> {
        let why = |entry: &&Entry| match &*entry.event {
            Event::StateChanged { reason, .. } => Some(reason.without_address()),
            _ => None,
        };
        self.events.iter().filter_map(why).collect()
    }

    /// Whether the group has only state changes, and few of them, so that other backends may have the same ones.
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

    /// The period whose failures belong to this group; `None`: its events cause no failures.
    fn failure_period(&self) -> Option<(SystemTime, SystemTime)> {
        let may_fail = |state: &BackendState| !matches!(state, BackendState::Joining | BackendState::Up);
        let has_failures = match self.about {
            About::Backend(..) => self.states().iter().any(may_fail),
            About::ServingTier(_) => true,
            About::Source(..) | About::Checks(_) | About::Process(_) => false,
        };
        has_failures.then(|| (before(self.first(), BEFORE), self.last + AFTER))
    }

    /// The sentence about the group, if there is one. With several pools, a backend's name includes its pool.
    fn sentence(&self, several_pools: bool) -> Option<StorySentence> {
        let text = match &self.about {
            About::Backend(pool, _) if several_pools => {
                let names: Vec<_> = self.names.iter().map(|name| format!("{pool}/{name}").into()).collect();
                phrases::backends(&names, &self.events, &self.failures)
            }
            About::Backend(..) => phrases::backends(&self.names, &self.events, &self.failures),
            About::ServingTier(pool) => {
                phrases::serving_tier(pool, &self.events, self.no_end, &self.failures)
            }
            About::Source(pool, source) => phrases::source(pool, source, &self.events, self.no_end),
            About::Checks(pool) => phrases::checks(pool, &self.events, self.no_end),
            About::Process(_) => phrases::process(&self.events),
        };
        Some(StorySentence { sentence: Sentence::then(self.begins_at(), text?), events: self.ids.clone() })
    }
}

fn before(at: SystemTime, time: Duration) -> SystemTime {
    at.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Groups events about the same subject that follow each other closely.
fn group(events: &[Entry]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut open = HashMap::<About, usize>::new();
    for entry in events {
        if matches!(*entry.event, Event::Started { .. }) {
            // What the process before had begun is unknown to this one.
            open.drain().for_each(|(_, index)| groups[index].no_end = NoEnd::Restarted);
        }
        let Some(about) = About::of(entry) else { continue };
        match open.get(&about).map(|index| &mut groups[*index]) {
            Some(group) if group.accepts(entry) => {
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

/// Merges the groups of several backends of a pool that had the same changes for the same reasons at the same time. The
/// sentence is written from the events of the first backend.
fn merge_backends(groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
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

/// Adds the failures in each sample to the group that they belong to, and returns sentences about the others.
fn assign_failures(groups: &mut [Group<'_>], samples: &[(SystemTime, Sample)]) -> Vec<StorySentence> {
    let mut ungrouped = LiteMap::<Arc<str>, Vec<(SystemTime, SystemTime, FailureCounts)>>::new();
    let windows =
        groups.iter().enumerate().filter_map(|(index, group)| Some((index, group.failure_period()?)));
    let mut upcoming: Vec<_> = windows.collect();
    upcoming.sort_by_key(|(_, (from, _))| Reverse(*from));
    // There may be thousands of samples and of groups: a sample is compared only with the groups of its time.
    let mut open = Vec::<(usize, SystemTime)>::new();
    for (at, sample) in samples {
        while let Some((index, (_, until))) = upcoming.pop_if(|(_, (from, _))| *from <= *at) {
            open.push((index, until));
        }
        open.retain(|(_, until)| *until >= *at);
        // A group that had begun, or else the one that begins next; of several the latest.
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
                Some(index) => groups[index].failures.add_failures(failures),
                None => failures_at(&mut ungrouped, &failures.pool, *at).add_failures(failures),
            }
        }
        for (pool, grown) in &sample.pools {
            let failed =
                |name: &Arc<str>| sample.failures.iter().any(|one| one.pool == *pool && one.backend == *name);
            for (grown, follows) in by_order(grown) {
                let has_failures = grown.retried > 0 || !grown.seen.is_empty();
                if !has_failures && grown.unanswered == 0 {
                    continue;
                }
                let may = |group: &Group<'_>| !follows || group.first() <= *at;
                let found = find(groups, pool, &|group| may(group) && group.names.iter().any(failed));
                match found.or_else(|| find(groups, pool, &may)) {
                    Some(index) => groups[index].failures.add_growth(&grown),
                    // Where servers do not answer, connections without an answer are nothing to tell of.
                    None if has_failures => failures_at(&mut ungrouped, pool, *at).add_growth(&grown),
                    None => {}
                }
            }
        }
    }
    let sentences = |(pool, runs): (Arc<str>, Vec<(SystemTime, SystemTime, FailureCounts)>)| {
        let one = move |(at, _, failures): (SystemTime, SystemTime, FailureCounts)| StorySentence {
            sentence: Sentence::then(at, phrases::without_state_change(&pool, &failures)),
            events: Vec::new(),
        };
        runs.into_iter().map(one)
    };
    ungrouped.into_iter().flat_map(sentences).collect()
}

/// Splits the failures into those that may precede the state change that they cause and, with true, the rejections,
/// which only follow one.
fn by_order(grown: &Grown) -> [(Grown, bool); 2] {
    let rejected =
        |(reason, _): &(CloseReason, u64)| matches!(reason, CloseReason::NoBackend | CloseReason::Limited);
    let (after, before) = grown.seen.iter().copied().partition(rejected);
    [(Grown { seen: before, ..grown.clone() }, false), (Grown { seen: after, ..Grown::default() }, true)]
}

/// The failures of a pool around that time that belong to no group.
fn failures_at<'a>(
    ungrouped: &'a mut LiteMap<Arc<str>, Vec<(SystemTime, SystemTime, FailureCounts)>>,
    pool: &Arc<str>,
    at: SystemTime,
) -> &'a mut FailureCounts {
    let runs = ungrouped.entry(Arc::clone(pool)).or_default();
    let continues = |last: &(SystemTime, SystemTime, FailureCounts)| {
        at.duration_since(last.1).unwrap_or_default() <= MAX_GAP
    };
    if !runs.last().is_some_and(continues) {
        runs.push((at, at, FailureCounts::default()));
    }
    let last = runs.len() - 1;
    runs[last].1 = at;
    &mut runs[last].2
}

/// The totals of a period as one sentence.
pub(crate) fn summary(story: &FoldedStory) -> String {
    let StoryTotals { connections, retried, seen, unanswered, state_changes, .. } = story.totals;
    let mut words = vec![format!("{} routed", count(connections, "connection"))];
    words.push(match (retried, seen) {
        (0, 0) => "no failure".to_owned(),
        (retried, 0) if unanswered > 0 => {
            format!("{retried} of them after another backend had failed, no client-visible failure")
        }
        (retried, 0) => format!("{retried} of them after another backend had failed, no client saw an error"),
        (0, seen) => format!("{} seen by clients", count(seen, "failure")),
        (retried, seen) => {
            format!(
                "{retried} of them after another backend had failed, {} seen by clients",
                count(seen, "failure")
            )
        }
    });
    words.extend((unanswered > 0).then(|| format!("{unanswered} without an answer")));
    words.push(match state_changes {
        0 => "no backend changed its state".to_owned(),
        n => count(n, "change") + " of backends' states",
    });
    list(&words, usize::MAX)
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
