//! The replicas that a pool should have and those that run; the difference gives the actions to take. A pure state
//! machine: containers and the time go in, actions come out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names::{self, LEAVING};
use super::{FleetLimits, Refusal};
use crate::backoff::Backoff;

/// A container that ran for this long did not fail at its start: the next one may start at once.
const STABLE: Duration = Duration::from_secs(60);
/// Delays before a replica that keeps exiting is started again.
const RESTART: Backoff = Backoff::immediate(Duration::from_secs(1), Duration::from_secs(60));
/// An adopted container may be restarted by its owner within this time; after that it is replaced.
const ADOPTED_RESTART: Duration = Duration::from_secs(3);
/// A container that has just started may be missing from a list that was made before.
const UNLISTED: Duration = Duration::from_secs(5);
/// A container that was created but not started is removed after this time: another Pointsman of the group may be about
/// to start it, with a time limit of a minute.
const UNSTARTED: Duration = Duration::from_secs(120);

/// A replica's container in the engine's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplicaContainer {
    pub(super) id: Arc<str>,
    /// The replica's name.
    pub(super) name: Arc<str>,
    /// The engine's name for the container.
    pub(super) container: String,
    /// Whether it belongs to the group; otherwise it is adopted.
    pub(super) ours: bool,
    pub(super) state: RunState,
}

/// The state of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    /// Not started yet.
    Created,
    Running,
    /// It ended, and the engine restarts it by its restart policy.
    Restarting,
    Ended,
}

/// An action to take at the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FleetAction {
    /// Start a replica, and call [`Fleet::started`] or [`Fleet::start_failed`].
    Start(Arc<str>),
    /// Report that a replica exited, and when it is started again, if at all; remove the container if it is ours.
    ReportExit { name: Arc<str>, id: Arc<str>, ours: bool, again_in: Option<Duration> },
    /// Report that a replica exited and the engine restarts it.
    ReportRestart { name: Arc<str>, id: Arc<str> },
    /// Remove a leftover container.
    RemoveContainer(Arc<str>),
    /// Drain, stop and remove a replica, then call [`Fleet::removed`].
    RemoveReplica { name: Arc<str>, id: Arc<str>, ours: bool },
}

/// A replica that the pool should have.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    pub(super) stage: Stage,
    /// The number of times it was replaced.
    pub(super) respawns: u64,
    backoff: Backoff,
    /// It exited, and has not been replaced yet.
    exited: bool,
}

/// The progress of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its start is in progress.
    Starting,
    /// It runs, or the engine restarts it.
    Running { id: Arc<str>, ours: bool, listed: bool, since: Instant, restarting: bool },
    /// It exited or could not be started; the next start is at `until`, unless it runs again by then.
    Waiting { until: Instant },
}

/// The replicas of a pool.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    limits: FleetLimits,
    slots: Vec<Slot>,
    /// The replicas that are being removed, by container id.
    leaving: BTreeMap<Arc<str>, Arc<str>>,
    /// The names of replicas that were removed while they were starting.
    cancelled_starts: BTreeSet<Arc<str>>,
    /// The ids of containers that are being removed.
    removals: BTreeSet<Arc<str>>,
    /// Containers that are created but not started, by id, with the time at which each was first listed.
    unstarted: HashMap<Arc<str>, Instant>,
    /// Whether the containers were ever listed.
    known: bool,
    /// Whether to bring the number of replicas within the limits.
    adjust: bool,
    respawns: u64,
}

impl Fleet {
    pub(super) fn new(limits: FleetLimits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            leaving: BTreeMap::new(),
            cancelled_starts: BTreeSet::new(),
            removals: BTreeSet::new(),
            unstarted: HashMap::new(),
            known: false,
            adjust: true,
            respawns: 0,
        }
    }

    /// Sets other limits.
    pub(super) fn reconfigure(&mut self, limits: FleetLimits) {
        self.limits = limits;
        self.adjust = true;
    }

    /// Whether the containers were ever listed.
    pub(super) fn known(&self) -> bool {
        self.known
    }

    /// The replicas that the pool should have, the oldest first.
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The names of replicas that are being removed.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &Arc<str>> {
        self.leaving.values().chain(&self.cancelled_starts)
    }

    /// The number of replacements.
    pub(super) fn respawns(&self) -> u64 {
        self.respawns
    }

    /// The number of running replicas.
    pub(super) fn running(&self) -> usize {
        let runs = |slot: &&Slot| matches!(slot.stage, Stage::Running { restarting: false, .. });
        self.slots.iter().filter(runs).count()
    }

    /// Whether a start is in progress.
    pub(super) fn is_starting(&self) -> bool {
        self.slots.iter().any(|slot| slot.stage == Stage::Starting)
    }

    /// Takes in the list of containers, the oldest first.
    pub(super) fn on_list(&mut self, list: &[ReplicaContainer], now: Instant) -> Vec<FleetAction> {
        let mut actions = Vec::new();
        let is_gone = |id: &Arc<str>| !list.iter().any(|one| one.id == *id);
        self.removals.retain(|id| !is_gone(id));
        let is_created =
            |id: &Arc<str>| list.iter().any(|one| one.id == *id && one.state == RunState::Created);
        self.unstarted.retain(|id, _| is_created(id));
        for container in list {
            if !self.leaving.contains_key(&container.id) && !self.removals.contains(&container.id) {
                self.on_container(container, now, &mut actions);
            }
        }
        let lost = self.slots.iter().filter_map(|slot| match &slot.stage {
            Stage::Running { id, listed, since, .. }
                if is_gone(id) && (*listed || now - *since > UNLISTED) =>
            {
                Some(Arc::clone(id))
            }
            _ => None,
        });
        for id in lost.collect::<Vec<_>>() {
            self.on_exit(&id, now, &mut actions);
        }
        self.known = true;
        actions.extend(self.due(now));
        actions
    }

    fn on_container(&mut self, container: &ReplicaContainer, now: Instant, actions: &mut Vec<FleetAction>) {
        let ReplicaContainer { name, ours, state, .. } = container;
        let id = Arc::clone(&container.id);
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id() == Some(&id)) {
            match (&mut slot.stage, state) {
                (Stage::Running { .. }, RunState::Ended) => self.on_exit(&id, now, actions),
                (Stage::Running { listed, restarting, .. }, state) => {
                    *listed = true;
                    let before = std::mem::replace(restarting, *state == RunState::Restarting);
                    if *restarting && !before {
                        actions.push(FleetAction::ReportRestart { name: Arc::clone(&slot.name), id });
                    }
                }
                _ => {}
            }
            return;
        }
        let is_leaving = *ours && container.container.ends_with(LEAVING);
        if is_leaving && *state != RunState::Ended {
            // An earlier process began to remove it.
            self.leaving.insert(Arc::clone(&id), Arc::clone(name));
            actions.push(FleetAction::RemoveReplica { name: Arc::clone(name), id, ours: true });
            return;
        }
        if *ours && self.cancelled_starts.contains(name) {
            return; // `started` or `start_failed` follows
        }
        let restarting = *state == RunState::Restarting;
        let running =
            Stage::Running { id: Arc::clone(&id), ours: *ours, listed: true, since: now, restarting };
        let slot = self.slots.iter_mut().find(|slot| slot.name == *name);
        match (state, slot) {
            // `started` or `start_failed` follows.
            (_, Some(Slot { stage: Stage::Starting, .. })) => {}
            (
                RunState::Running | RunState::Restarting,
                Some(slot @ Slot { stage: Stage::Waiting { .. }, .. }),
            ) => {
                // It was restarted, or another Pointsman has replaced it.
                (slot.stage, slot.exited) = (running, false);
            }
            (RunState::Running | RunState::Restarting, Some(_)) => {
                let unique = format!("{name} ({})", names::short_id(&id));
                self.slots.push(Slot::new(unique.into(), running));
            }
            (RunState::Running | RunState::Restarting, None) => {
                self.slots.push(Slot::new(Arc::clone(name), running));
            }
            (RunState::Created | RunState::Ended, _) if !ours => {}
            (RunState::Ended, None) if !self.known && self.limits.respawn && !is_leaving => {
                // It exited while no Pointsman ran.
                let waiting = Stage::Waiting { until: now };
                self.slots.push(Slot { exited: true, ..Slot::new(Arc::clone(name), waiting) });
                self.removals.insert(Arc::clone(&id));
                let (name, again_in) = (Arc::clone(name), Some(Duration::ZERO));
                actions.push(FleetAction::ReportExit { name, id, ours: true, again_in });
            }
            (RunState::Created, _)
                if now - *self.unstarted.entry(Arc::clone(&id)).or_insert(now) < UNSTARTED => {}
            (RunState::Created | RunState::Ended, _) => {
                self.removals.insert(Arc::clone(&id));
                actions.push(FleetAction::RemoveContainer(id));
            }
        }
    }

    fn on_exit(&mut self, id: &Arc<str>, now: Instant, actions: &mut Vec<FleetAction>) {
        let Some(index) = self.slots.iter().position(|slot| slot.id() == Some(id)) else { return };
        let slot = &mut self.slots[index];
        let Stage::Running { ours, since, .. } = slot.stage else { return };
        if ours {
            self.removals.insert(Arc::clone(id));
        }
        slot.exited = true;
        if now - since >= STABLE {
            slot.backoff.reset();
        }
        let name = Arc::clone(&slot.name);
        let least = if ours { Duration::ZERO } else { ADOPTED_RESTART };
        let again_in = self.limits.respawn.then(|| slot.wait(now, least));
        if again_in.is_none() {
            self.slots.remove(index);
        }
        actions.push(FleetAction::ReportExit { name, id: Arc::clone(id), ours, again_in });
    }

    /// The actions that are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<FleetAction> {
        if !self.known {
            return Vec::new();
        }
        let mut actions = Vec::new();
        for slot in &mut self.slots {
            if matches!(slot.stage, Stage::Waiting { until } if until <= now) {
                slot.stage = Stage::Starting;
                actions.push(FleetAction::Start(Arc::clone(&slot.name)));
            }
        }
        if std::mem::take(&mut self.adjust) {
            let missing = (self.limits.min as usize).saturating_sub(self.slots.len());
            for name in self.new_names(missing, &[]) {
                self.slots.push(Slot::new(Arc::clone(&name), Stage::Starting));
                actions.push(FleetAction::Start(name));
            }
            // Adopted replicas stay: they were not started here.
            let surplus = self.slots.len().saturating_sub(self.limits.max as usize);
            let newest = self.slots.iter().rev().filter(|slot| slot.is_ours()).take(surplus);
            let names: Vec<_> = newest.map(|slot| Arc::clone(&slot.name)).collect();
            actions.extend(self.remove(&names));
        }
        actions
    }

    /// When the next action is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let until = |slot: &Slot| match slot.stage {
            Stage::Waiting { until } => Some(until),
            Stage::Starting | Stage::Running { .. } => None,
        };
        self.slots.iter().filter_map(until).min()
    }

    /// A replica was started. Returns its removal, if it is no longer wanted.
    pub(super) fn started(&mut self, name: &str, id: Arc<str>, now: Instant) -> Option<FleetAction> {
        self.cancelled_starts.remove(name);
        let Some(slot) = self.starting(name) else {
            self.leaving.insert(Arc::clone(&id), name.into());
            return Some(FleetAction::RemoveReplica { name: name.into(), id, ours: true });
        };
        slot.stage = Stage::Running { id, ours: true, listed: false, since: now, restarting: false };
        if std::mem::take(&mut slot.exited) {
            slot.respawns += 1;
            self.respawns += 1;
        }
        None
    }

    /// A replica could not be started. Returns the delay before the next attempt, if it is still wanted.
    pub(super) fn start_failed(&mut self, name: &str, now: Instant) -> Option<Duration> {
        self.cancelled_starts.remove(name);
        let slot = self.starting(name)?;
        slot.backoff.skip_immediate();
        Some(slot.wait(now, Duration::ZERO))
    }

    fn starting(&mut self, name: &str) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| *slot.name == *name && slot.stage == Stage::Starting)
    }

    /// Reserves slots for `n` more replicas, which are starting from now on, and returns their names.
    pub(super) fn add(&mut self, n: usize, given: &[String]) -> Result<Vec<Arc<str>>, Refusal> {
        if given.len() > n {
            return Err(Refusal::MoreNamesThanAdded);
        }
        check(n, given)?;
        for name in given {
            if let Some(reason) = names::invalid(name) {
                return Err(Refusal::Invalid(reason));
            }
            if self.slots.iter().any(|slot| *slot.name == **name) {
                return Err(Refusal::Taken(name.clone()));
            }
            if self.leaving().any(|leaving| **leaving == **name) {
                return Err(Refusal::StillLeaving(name.clone()));
            }
        }
        let (now, max) = (self.slots.len(), self.limits.max as usize);
        if now + n > max {
            return Err(Refusal::AboveMax { now, n, max });
        }
        let mut names: Vec<Arc<str>> = given.iter().map(|name| Arc::from(&**name)).collect();
        names.extend(self.new_names(n - given.len(), given));
        self.slots.extend(names.iter().map(|name| Slot::new(Arc::clone(name), Stage::Starting)));
        Ok(names)
    }

    /// Releases slots whose replicas could not all be started.
    pub(super) fn cancel_addition(&mut self, names: &[Arc<str>]) {
        self.slots.retain(|slot| !names.contains(&slot.name));
    }

    /// Notes that a leftover container is being removed.
    pub(super) fn removing(&mut self, id: Arc<str>) {
        self.removals.insert(id);
    }

    /// Chooses `n` replicas to remove: those given, and others by `random`, which returns a number below its argument.
    pub(super) fn choose(
        &self,
        n: usize,
        given: &[String],
        mut random: impl FnMut(usize) -> usize,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        if given.len() > n {
            return Err(Refusal::MoreNamesThanRemovable);
        }
        check(n, given)?;
        if let Some(name) = given.iter().find(|name| !self.slots.iter().any(|slot| *slot.name == ***name)) {
            let known = self.slots.iter().map(|slot| Arc::clone(&slot.name)).collect();
            return Err(Refusal::Unknown { name: name.clone(), known });
        }
        let (now, min) = (self.slots.len(), self.limits.min as usize);
        if n > now || now - n < min {
            return Err(Refusal::BelowMin { now, n, min });
        }
        let mut names: Vec<Arc<str>> = given.iter().map(|name| Arc::from(&**name)).collect();
        let mut rest: Vec<_> = self.slots.iter().map(|slot| &slot.name).collect();
        rest.retain(|name| !names.contains(name));
        while names.len() < n && !rest.is_empty() {
            names.push(Arc::clone(rest.swap_remove(random(rest.len()))));
        }
        Ok(names)
    }

    /// Removes replicas.
    pub(super) fn remove(&mut self, names: &[Arc<str>]) -> Vec<FleetAction> {
        let mut actions = Vec::new();
        for Slot { name, stage, .. } in self.slots.extract_if(.., |slot| names.contains(&slot.name)) {
            match stage {
                Stage::Running { id, ours, .. } => {
                    self.leaving.insert(Arc::clone(&id), Arc::clone(&name));
                    actions.push(FleetAction::RemoveReplica { name, id, ours });
                }
                Stage::Starting => _ = self.cancelled_starts.insert(name),
                Stage::Waiting { .. } => {}
            }
        }
        actions
    }

    /// The removal of a replica has finished.
    pub(super) fn removed(&mut self, id: &Arc<str>) {
        self.leaving.remove(id);
        self.removals.insert(Arc::clone(id)); // an older list may still have it
    }

    /// `n` free names.
    fn new_names(&self, n: usize, given: &[String]) -> Vec<Arc<str>> {
        let slots = self.slots.iter().map(|slot| &*slot.name);
        let leaving = self.leaving().map(|name| &**name);
        names::generate(n, &slots.chain(leaving).chain(given.iter().map(String::as_str)).collect())
    }
}

fn check(n: usize, given: &[String]) -> Result<(), Refusal> {
    if n < 1 {
        return Err(Refusal::Invalid("n must be a whole number from 1".to_owned()));
    }
    let mut before = HashSet::new();
    match given.iter().find(|name| !before.insert(name.as_str())) {
        Some(twice) => Err(Refusal::Invalid(format!("the hostname {twice:?} is given twice"))),
        None => Ok(()),
    }
}

impl Slot {
    fn new(name: Arc<str>, stage: Stage) -> Self {
        Self { name, stage, respawns: 0, backoff: RESTART, exited: false }
    }

    /// Whether it is not adopted.
    pub(super) fn is_ours(&self) -> bool {
        !matches!(self.stage, Stage::Running { ours: false, .. })
    }

    /// The container's id, if it runs.
    pub(super) fn id(&self) -> Option<&Arc<str>> {
        match &self.stage {
            Stage::Running { id, .. } => Some(id),
            Stage::Starting | Stage::Waiting { .. } => None,
        }
    }

    /// Waits for the next start, for `least` or longer; returns the delay.
    fn wait(&mut self, now: Instant, least: Duration) -> Duration {
        let delay = self.backoff.next_delay().max(least);
        self.stage = Stage::Waiting { until: now + delay };
        delay
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
