//! The snapshot of a pool that the workers choose from: immutable, and always replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litemap::LiteMap;

use super::backend::Backend;
use super::member::{Member, STEPS};
use super::selection::{LocalZone, Selection, Zones};
use super::totals::{Former, Totals};
use crate::balance::shadow::{PickCounter, Shadow, ShadowCandidate, ShadowLeases};
use crate::balance::{Candidate, PickArgs, Picker, Slots};
use crate::config::{self, Algorithm, SourceKey};
use crate::domain::{
    BackendState, CandidateSet, Ineligible, RouteCandidate, RouteTier, SHOWN, ServingTier, StateReason,
    Trouble,
};
use crate::telemetry::flow::Reading;

/// The maximum number of excluded backends that are listed per kind of reason; the rest are counted.
pub const NAMED: usize = 8;

/// A snapshot of a pool's eligible backends, ready to choose from.
#[derive(Debug)]
pub struct PoolSnapshot {
    /// The algorithm that chooses.
    pub algorithm: Algorithm,
    /// The backends that are not eligible.
    pub ineligible: Arc<Ineligible>,
    /// Too few backends are up: all are used, whatever their checks report.
    pub panic: bool,
    /// No primary is up, and backups serve.
    pub backups: bool,
    /// The backends of the zone that the pool prefers, if it prefers one.
    pub local_zone: Option<LocalZone>,
    /// The snapshot of the backends that are used next, for a connection that failed on all of these, or found them full:
    /// those of other zones, or of the next tier with a backend that is up.
    pub standby: Option<Arc<PoolSnapshot>>,
    tier: u16,
    zones: Zones,
    /// Whether it is the standby of another snapshot.
    is_standby: bool,
    /// The number of the pool's backends, eligible or not.
    known: u32,
    /// The first [`SHOWN`] backends, for the records of choices.
    shown: Arc<[RouteCandidate]>,
    /// The shadow algorithms, whose choices are only counted.
    shadows: Box<[Shadow]>,
    picker: Picker,
    backends: Box<[Choice]>,
}

/// An eligible backend.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its number of [`directives`](super::backend::BackendCore::directives) when the snapshot was made. Those do not
    /// apply to connections routed by this snapshot: they are older than the decision to use the backend, which panic
    /// may have made despite them. Later directives apply, whatever snapshots follow: the pool's task sets the
    /// directives and makes the snapshots one after the other.
    pub directives: u32,
    /// Counts its connections, to compare them with what other algorithms would have sent to it.
    pick_counter: Option<Arc<PickCounter>>,
}

impl PoolSnapshot {
    /// The snapshot of `members`; the algorithm continues from its state in `previous`.
    pub(super) fn new(config: &config::Pool, members: &[Member], previous: Option<&Self>) -> Self {
        Self::of(Selection::new(config, members), false, config, members, previous)
    }

    fn of(
        selection: Selection<'_>,
        is_standby: bool,
        config: &config::Pool,
        members: &[Member],
        previous: Option<&Self>,
    ) -> Self {
        let standby =
            selection.next(members).map(|next| Arc::new(Self::of(next, true, config, members, previous)));
        let before = previous.and_then(|snapshot| snapshot.of_rank(selection.rank()));
        let ramping = members.iter().any(|member| selection.takes(member) && member.step < STEPS);
        let weight = |member: &Member, algorithm: Algorithm| match algorithm {
            // Changing weights would move clients between backends and back.
            algorithm if algorithm.hashes() => member.weight,
            algorithm => {
                let share = if algorithm.uses_weights() { member.weight } else { 1 };
                if ramping { share * member.step } else { share }
            }
        };
        let candidate = |member: &Member| Candidate {
            key: member.backend.key,
            name: Arc::clone(&member.backend.name),
            weight: weight(member, config.balance),
            load: Arc::clone(&member.backend.load),
        };
        let choice = |member: &Member| Choice {
            backend: Arc::clone(&member.backend),
            directives: member.backend.directives(),
            pick_counter: (!config.shadow.is_empty()).then(|| member.backend.pick_counter(config.balance)),
        };
        let chosen = || members.iter().filter(|member| selection.takes(member));
        let candidates: Vec<_> = chosen().map(candidate).collect();
        let shadow_candidate = |member: &Member, algorithm: Algorithm| ShadowCandidate {
            key: member.backend.key,
            name: Arc::clone(&member.backend.name),
            weight: weight(member, algorithm),
            counter: member.backend.pick_counter(algorithm),
        };
        let shadow = |algorithm: &Algorithm| {
            let before =
                before.and_then(|snapshot| snapshot.shadows.iter().find(|one| one.algorithm == *algorithm));
            let candidates = chosen().map(|member| shadow_candidate(member, *algorithm)).collect();
            Shadow::new(*algorithm, &config.hash, candidates, before)
        };
        let shown = |one: &Candidate| RouteCandidate { name: Arc::clone(&one.name), share: one.weight };
        Self {
            algorithm: config.balance,
            ineligible: Arc::new(selection.ineligible(members)),
            panic: selection.panic,
            backups: members.iter().any(|m| m.tier < selection.tier && m.weight > 0 && !m.leaving()),
            local_zone: selection.local_zone(members),
            standby,
            tier: selection.tier,
            zones: selection.zones,
            is_standby,
            known: u32::try_from(members.len()).unwrap_or(u32::MAX),
            shown: candidates.iter().take(SHOWN).map(shown).collect(),
            shadows: config.shadow.iter().map(shadow).collect(),
            picker: Picker::new(
                config.balance,
                &config.hash,
                candidates,
                before.map(|snapshot| &snapshot.picker),
            ),
            backends: chosen().map(choice).collect(),
        }
    }

    /// The tier in use.
    pub fn tier_used(&self) -> u16 {
        self.tier
    }

    /// The snapshot of that [rank](Selection::rank): this one or a standby behind it.
    fn of_rank(&self, rank: (u16, bool)) -> Option<&Self> {
        let same = (self.tier, self.zones == Zones::Others) == rank;
        if same { Some(self) } else { self.standby.as_ref()?.of_rank(rank) }
    }

    /// The snapshot of the other zones' backends of the same tier, if only those of the local zone are in this one.
    pub fn other_zones(&self) -> Option<&Arc<Self>> {
        self.standby.as_ref().filter(|standby| standby.zones == Zones::Others)
    }

    /// How many clients may wait for one of its backends or of the other zones', if `each` may for each of them.
    pub fn queue_room(&self, each: u32) -> usize {
        let backends = self.len() + self.other_zones().map_or(0, |others| others.len());
        backends.saturating_mul(each as usize)
    }

    /// Chooses a backend that is not excluded; `None`: there is none.
    pub fn choose(&self, args: &PickArgs<'_>) -> Option<&Choice> {
        self.picker.choose(args).map(|index| &self.backends[index])
    }

    /// Lets the shadows choose too, for a connection that goes to `chosen`, and counts it until the leases are dropped;
    /// `None`: there are no shadows.
    pub fn shadow(&self, chosen: &Choice, args: &PickArgs<'_>) -> Option<Box<ShadowLeases>> {
        let pick_counter = chosen.pick_counter.as_ref()?;
        let actual = std::iter::once(pick_counter.take());
        Some(Box::new(actual.chain(self.shadows.iter().filter_map(|shadow| shadow.choose(args))).collect()))
    }

    /// The client's home, if `chosen` is another backend because the home has more than its share (`load_factor`).
    pub fn overloaded(&self, args: &PickArgs<'_>, chosen: &Choice) -> Option<&Arc<Backend>> {
        let home = &self.backends[self.picker.unbounded(args)?].backend;
        (home.key != chosen.backend.key).then_some(home)
    }

    /// The eligible backends and their open connections now, for the chosen one without the slot that was just
    /// reserved.
    pub fn candidates(&self, chosen: Option<&Backend>) -> CandidateSet {
        let mut loads = [0; SHOWN];
        let before = |backend: &Backend| match chosen {
            Some(chosen) if chosen.key == backend.key => backend.load.open().saturating_sub(1),
            _ => backend.load.open(),
        };
        for (load, choice) in loads.iter_mut().zip(&self.backends) {
            *load = before(&choice.backend);
        }
        CandidateSet {
            shown: Arc::clone(&self.shown),
            loads,
            total: u32::try_from(self.backends.len()).unwrap_or(u32::MAX),
            known: self.known,
            chosen: chosen.map(before),
        }
    }

    /// Which of the pool's backends are used.
    pub fn kind(&self) -> RouteTier {
        match () {
            () if self.zones == Zones::Others => RouteTier::OtherZones,
            () if self.is_standby => RouteTier::Standby,
            () if self.panic => RouteTier::All,
            () if self.backups => RouteTier::Backups,
            () if self.zones == Zones::Short => RouteTier::AllZones,
            () => RouteTier::Primaries,
        }
    }

    /// The tier that serves the pool's clients.
    pub fn serving_tier(&self) -> ServingTier {
        match () {
            () if self.is_empty() => ServingTier::None,
            () if self.panic => ServingTier::All,
            () if self.backups => ServingTier::Backups,
            () if self.zones == Zones::Short => ServingTier::AllZones,
            () => ServingTier::Primaries,
        }
    }

    /// The algorithm as a table of slots for those eligible backends that are `wanted`, in the order of
    /// [`backends`](Self::backends); `None`: there are none, or it has no table ([`Picker::slots`]).
    pub fn slots(&self, hash: &config::Hash, wanted: impl Fn(&Backend) -> bool) -> Option<Slots> {
        let candidates = self.picker.candidates().iter().zip(&self.backends);
        let candidates: Vec<_> =
            candidates.filter(|(_, choice)| wanted(&choice.backend)).map(|(one, _)| one.clone()).collect();
        match candidates.len() {
            0 => None,
            all if all == self.backends.len() => self.picker.slots(),
            _ => Picker::new(self.algorithm, hash, candidates, None).slots(),
        }
    }

    /// The eligible backends.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().map(|choice| &choice.backend)
    }

    /// The number of eligible backends.
    pub fn len(&self) -> usize {
        self.backends.len()
    }

    /// Whether no backend is eligible.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}

/// The status of a pool's backends at one moment.
#[derive(Clone, Debug)]
pub struct PoolStatus {
    /// The backends, draining ones included.
    pub members: Vec<Entry>,
    /// The sources in the configuration.
    pub sources: Vec<SourceStatus>,
    former: Former,
}

/// What a source of backends reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// The source, such as `dns backend:5000`.
    pub name: Arc<str>,
    /// Whether it has answered since it started.
    pub answered: bool,
    /// What is wrong with its last answer; `None`: it reports backends.
    pub trouble: Option<Trouble>,
    /// Since when its answers have been of this kind.
    pub since: Option<Instant>,
    /// Since when its answers have been inconclusive about its backends.
    pub failing: Option<Instant>,
    /// How long its last conclusive answer stays valid without another one; `None`: without limit.
    pub hold: Option<Duration>,
    /// The endpoints in its last conclusive answer.
    pub found: usize,
}

/// One backend in a [`PoolStatus`].
#[derive(Clone, Debug)]
pub struct Entry {
    /// The backend, with its counters.
    pub backend: Arc<Backend>,
    /// Its state.
    pub state: BackendState,
    /// When it entered this state.
    pub since: Instant,
    /// Why it is in this state.
    pub reason: StateReason,
    /// Whether it has left the pool, and only its connections remain.
    pub leaving: bool,
    /// Whether this process listens at its address: it is neither checked nor chosen.
    pub refused: bool,
    /// Its weight.
    pub weight: u32,
    /// Its tier: it is used while no backend of a lower tier is up, and for connections that find those full.
    pub tier: u16,
    /// The zone in which it runs; `None`: unknown.
    pub zone: Option<Arc<str>>,
    /// The limit of its open connections; `None`: unlimited.
    pub connections: Option<NonZeroU32>,
    /// The part of its share that it gets now, in percent.
    pub ramp: u32,
    /// The sources that report it.
    pub sources: Box<[Arc<str>]>,
    /// When its ejection ends, if it is ejected.
    pub until: Option<Instant>,
}

impl PoolStatus {
    pub(super) fn new<'m>(members: &'m [Member], sources: Vec<SourceStatus>, former: Former) -> Self {
        // The text of each source is made once, however many backends it reports.
        let mut source_texts: HashMap<&SourceKey, Arc<str>> = HashMap::new();
        let mut source_text = |key| Arc::clone(source_texts.entry(key).or_insert_with(|| key.word().into()));
        let entry = |member: &'m Member| Entry {
            backend: Arc::clone(&member.backend),
            state: member.state,
            since: member.since,
            reason: member.reason.clone(),
            leaving: member.leaving(),
            refused: member.refused.is_some(),
            weight: member.weight,
            tier: member.tier,
            zone: member.zone.clone(),
            connections: member.connections,
            ramp: member.step * 100 / STEPS,
            sources: member.sources().map(&mut source_text).collect(),
            until: (member.state == BackendState::Ejected)
                .then(|| member.ejection.out(member.since).map(|(until, _)| until))
                .flatten(),
        };
        Self { members: members.iter().map(entry).collect(), sources, former }
    }

    /// Whether this backend is eligible, and no other backend of the pool is.
    pub fn is_last_eligible(&self, backend: &Backend) -> bool {
        let mut eligible =
            self.members.iter().filter(|entry| entry.state == BackendState::Up && entry.weight > 0);
        eligible.next().is_some_and(|entry| entry.backend.key == backend.key) && eligible.next().is_none()
    }

    /// The counters under each name.
    pub fn totals(&self) -> BTreeMap<Arc<str>, Totals> {
        self.former.with(self.members.iter().map(|entry| &entry.backend))
    }

    /// The connections of all backends, by listener.
    pub(super) fn by_listener(&self) -> LiteMap<Arc<str>, Reading> {
        self.former.by_listener(self.members.iter().map(|entry| &entry.backend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Percent, Policy};
    use crate::discovery::Found;
    use crate::domain::Ending;

    #[test]
    fn a_directive_applies_to_connections_of_earlier_snapshots_and_not_of_later_ones() {
        let now = Instant::now();
        let found = Found::new("a".into(), "10.0.0.1:80".parse().unwrap());
        let mut config = config::Pool::new(Vec::new());
        config.panic = Percent(50);
        config.on_leave = Policy::End { how: Ending::Reset, after: Duration::ZERO, over: Duration::ZERO };
        let backend = Arc::new(Backend::new(1, &found));
        let mut members = [Member::new(backend, StateReason::FoundUnchecked, 0, now)];
        members[0].state = BackendState::Up;
        let directives = |snapshot: &PoolSnapshot| snapshot.choose(&PickArgs::default()).unwrap().directives;
        let before = PoolSnapshot::new(&config, &members, None);
        // It can be any close directive. The backend stays eligible, because of panic.
        members[0].left = Some(StateReason::PoolRemoved);
        members[0].set_directive(&config, now);
        members[0].state = BackendState::Down;
        let after = PoolSnapshot::new(&config, &members, Some(&before));
        let current = members[0].backend.directives();
        assert!(after.panic && members[0].backend.directive().is_some());
        assert_eq!((directives(&before), directives(&after)), (current - 1, current));
        // A later directive applies to both.
        members[0].left = None;
        members[0].set_directive(&config, now);
        assert!(
            [&before, &after]
                .into_iter()
                .all(|snapshot| directives(snapshot) < members[0].backend.directives())
        );
    }
}
