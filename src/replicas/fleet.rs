//! Which replicas there are to be, which there are, and what follows from the difference. A pure state machine: what
//! is seen at the engine goes in, what is to be done there comes out, the time is handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names::{self, LEAVING};
use super::{Refusal, Settings};

/// One that has lived for this long has not died of its start.
const STABLE: Duration = Duration::from_secs(60);
/// The pause before one that died soon is started again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// One that others have started, and that has ended, has so long to be back before another one stands in for it: it may just be
/// restarted, by whoever looks after it.
const RETURN: Duration = Duration::from_secs(3);
/// One that was just started may be missing from a list that was made before.
const UNSEEN: Duration = Duration::from_secs(5);
/// How long a container may stay created but not started before it is removed: another Pointsman of the group may be
/// about to start it, and gives the engine a minute for that.
const UNSTARTED: Duration = Duration::from_secs(120);

/// A container as the engine's list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// The engine's id.
    pub(super) id: Arc<str>,
    /// What people call it.
    pub(super) name: Arc<str>,
    /// What the engine calls it.
    pub(super) container: String,
    /// Whether it has our label; else it is adopted.
    pub(super) ours: bool,
    /// How it is.
    pub(super) life: Life,
}

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Not started yet.
    Created,
    /// It runs.
    Running,
    /// It ended, and the engine starts it again, as its restart policy says.
    Restarting,
    /// It ran.
    Ended,
}

/// What is to be done at the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start one of that name; [`Fleet::started`] or [`Fleet::start_failed`] is told how that went.
    Start(Arc<str>),
    /// One died by itself. Tell people, and when the next one is started, if so; and remove it if it is ours.
    Bury { name: Arc<str>, id: Arc<str>, ours: bool, again_in: Option<Duration> },
    /// One died by itself, and the engine starts it again. Tell people.
    Mourn { name: Arc<str>, id: Arc<str> },
    /// Remove what is left of one.
    Remove(Arc<str>),
    /// Drain one, stop it and remove it; [`Fleet::left`] is told when that is done.
    Leave { name: Arc<str>, id: Arc<str>, ours: bool },
}

/// One replica that there is to be.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Its name.
    pub(super) name: Arc<str>,
    /// How far it is.
    pub(super) stage: Stage,
    /// How often it was replaced.
    pub(super) respawns: u64,
    /// Those times in a row that it died soon or could not be started.
    falls: u32,
    /// It died, and nobody stands in for it yet.
    died: bool,
}

/// How far a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its start is under way.
    Starting,
    /// It runs, or the engine starts it again.
    Running { id: Arc<str>, ours: bool, seen: bool, since: Instant, restarting: bool },
    /// It died, or could not be started, and is started again then, unless it is back.
    Waiting { until: Instant },
}

/// The replicas of a pool.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    settings: Settings,
    slots: Vec<Slot>,
    /// Those that are being taken out, by id.
    leaving: BTreeMap<Arc<str>, Arc<str>>,
    /// Those that were taken out while they were being started, by name.
    doomed: BTreeSet<Arc<str>>,
    /// What is left of others and is being removed, by id.
    remains: BTreeSet<Arc<str>>,
    /// Containers that are created but not started, by id, with the time at which each was first seen.
    unstarted: BTreeMap<Arc<str>, Instant>,
    /// Whether the engine's list was ever seen.
    known: bool,
    /// Whether those that miss to the minimum are to be started.
    fill: bool,
    /// How often one was replaced.
    respawns: u64,
}

impl Fleet {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            slots: Vec::new(),
            leaving: BTreeMap::new(),
            doomed: BTreeSet::new(),
            remains: BTreeSet::new(),
            unstarted: BTreeMap::new(),
            known: false,
            fill: true,
            respawns: 0,
        }
    }

    /// Takes other limits from now on.
    pub(super) fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
        self.fill = true;
    }

    /// Whether the engine's list was ever seen.
    pub(super) fn known(&self) -> bool {
        self.known
    }

    /// Those that there are to be, the oldest first.
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Those that are being taken out.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &Arc<str>> {
        self.leaving.values().chain(&self.doomed)
    }

    /// How often one was replaced.
    pub(super) fn respawns(&self) -> u64 {
        self.respawns
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        let runs = |slot: &&Slot| matches!(slot.stage, Stage::Running { restarting: false, .. });
        self.slots.iter().filter(runs).count()
    }

    /// Whether somebody is being started.
    pub(super) fn is_starting(&self) -> bool {
        self.slots.iter().any(|slot| slot.stage == Stage::Starting)
    }

    /// Takes in the engine's list, the oldest container first.
    pub(super) fn see(&mut self, list: &[Sighting], now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let gone = |id: &Arc<str>| !list.iter().any(|seen| seen.id == *id);
        self.remains.retain(|id| !gone(id));
        let is_created = |id: &Arc<str>| list.iter().any(|seen| seen.id == *id && seen.life == Life::Created);
        self.unstarted.retain(|id, _| is_created(id));
        for seen in list {
            if !self.leaving.contains_key(&seen.id) && !self.remains.contains(&seen.id) {
                self.see_one(seen, now, &mut actions);
            }
        }
        let lost = self.slots.iter().filter_map(|slot| match &slot.stage {
            Stage::Running { id, seen, since, .. } if gone(id) && (*seen || now - *since > UNSEEN) => {
                Some(Arc::clone(id))
            }
            _ => None,
        });
        for id in lost.collect::<Vec<_>>() {
            self.died(&id, now, &mut actions);
        }
        self.known = true;
        actions.extend(self.due(now));
        actions
    }

    fn see_one(&mut self, seen: &Sighting, now: Instant, actions: &mut Vec<Action>) {
        let id = Arc::clone(&seen.id);
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id() == Some(&seen.id)) {
            match (&mut slot.stage, seen.life) {
                (Stage::Running { .. }, Life::Ended) => self.died(&id, now, actions),
                (Stage::Running { seen, restarting, .. }, life) => {
                    *seen = true;
                    let before = std::mem::replace(restarting, life == Life::Restarting);
                    if *restarting && !before {
                        actions.push(Action::Mourn { name: Arc::clone(&slot.name), id });
                    }
                }
                _ => {}
            }
            return;
        }
        if seen.ours && seen.life != Life::Ended && seen.container.ends_with(LEAVING) {
            // Somebody before us had begun to take it out.
            self.leaving.insert(Arc::clone(&id), Arc::clone(&seen.name));
            actions.push(Action::Leave { name: Arc::clone(&seen.name), id, ours: true });
            return;
        }
        if seen.ours && self.doomed.contains(&seen.name) {
            return; // it leaves when it has been started
        }
        let restarting = seen.life == Life::Restarting;
        let running =
            Stage::Running { id: Arc::clone(&id), ours: seen.ours, seen: true, since: now, restarting };
        let slot = self.slots.iter_mut().find(|slot| slot.name == seen.name);
        match (seen.life, slot) {
            (_, Some(Slot { stage: Stage::Starting, .. })) => {} // how that goes is told soon
            (Life::Running | Life::Restarting, Some(slot @ Slot { stage: Stage::Waiting { .. }, .. })) => {
                // It is back, or somebody else was faster.
                (slot.stage, slot.died) = (running, false);
            }
            (Life::Running | Life::Restarting, Some(_)) => {
                let short = &id[..id.len().min(12)];
                self.slots.push(Slot::new(format!("{} ({short})", seen.name).into(), running));
            }
            (Life::Running | Life::Restarting, None) => {
                self.slots.push(Slot::new(Arc::clone(&seen.name), running));
            }
            (Life::Created | Life::Ended, _) if !seen.ours => {}
            (Life::Ended, None)
                if !self.known && self.settings.respawn && !seen.container.ends_with(LEAVING) =>
            {
                // It died while nobody looked.
                let waiting = Stage::Waiting { until: now };
                self.slots.push(Slot { died: true, ..Slot::new(Arc::clone(&seen.name), waiting) });
                self.remains.insert(Arc::clone(&id));
                let again_in = Some(Duration::ZERO);
                actions.push(Action::Bury { name: Arc::clone(&seen.name), id, ours: true, again_in });
            }
            (Life::Created, _) if now - *self.unstarted.entry(Arc::clone(&id)).or_insert(now) < UNSTARTED => {
            }
            (Life::Created | Life::Ended, _) => {
                self.remains.insert(Arc::clone(&id));
                actions.push(Action::Remove(id));
            }
        }
    }

    fn died(&mut self, id: &Arc<str>, now: Instant, actions: &mut Vec<Action>) {
        let Some(index) = self.slots.iter().position(|slot| slot.id() == Some(id)) else { return };
        let slot = &mut self.slots[index];
        let Stage::Running { ours, since, .. } = slot.stage else { return };
        if ours {
            self.remains.insert(Arc::clone(id));
        }
        slot.died = true;
        if now - since >= STABLE {
            slot.falls = 0;
        }
        let name = Arc::clone(&slot.name);
        let least = if ours { Duration::ZERO } else { RETURN };
        let again_in = self.settings.respawn.then(|| slot.fall(now, least));
        if again_in.is_none() {
            self.slots.remove(index);
        }
        actions.push(Action::Bury { name, id: Arc::clone(id), ours, again_in });
    }

    /// What is to be done by now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Action> {
        if !self.known {
            return Vec::new();
        }
        let mut actions = Vec::new();
        for slot in &mut self.slots {
            if matches!(slot.stage, Stage::Waiting { until } if until <= now) {
                slot.stage = Stage::Starting;
                actions.push(Action::Start(Arc::clone(&slot.name)));
            }
        }
        if std::mem::take(&mut self.fill) {
            let missing = (self.settings.min as usize).saturating_sub(self.slots.len());
            for name in self.made_up(missing) {
                self.slots.push(Slot::new(Arc::clone(&name), Stage::Starting));
                actions.push(Action::Start(name));
            }
            // Those of others are theirs to take away.
            let surplus = self.slots.len().saturating_sub(self.settings.max as usize);
            let newest = self.slots.iter().rev().filter(|slot| slot.is_ours()).take(surplus);
            let names: Vec<_> = newest.map(|slot| Arc::clone(&slot.name)).collect();
            actions.extend(self.leave(&names));
        }
        actions
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let until = |slot: &Slot| match slot.stage {
            Stage::Waiting { until } => Some(until),
            Stage::Starting | Stage::Running { .. } => None,
        };
        self.slots.iter().filter_map(until).min()
    }

    /// One has been started. What is to be done if nobody wants it any longer.
    pub(super) fn started(&mut self, name: &str, id: Arc<str>, now: Instant) -> Option<Action> {
        self.doomed.remove(name);
        let slot = self.slots.iter_mut().find(|slot| *slot.name == *name && slot.stage == Stage::Starting);
        match slot {
            Some(slot) => {
                slot.stage = Stage::Running { id, ours: true, seen: false, since: now, restarting: false };
                if std::mem::take(&mut slot.died) {
                    slot.respawns += 1;
                    self.respawns += 1;
                }
                None
            }
            None => {
                self.leaving.insert(Arc::clone(&id), name.into());
                Some(Action::Leave { name: name.into(), id, ours: true })
            }
        }
    }

    /// One could not be started; when that is tried again, if it is still wanted.
    pub(super) fn start_failed(&mut self, name: &str, now: Instant) -> Option<Duration> {
        self.doomed.remove(name);
        let slot = self.slots.iter_mut().find(|slot| *slot.name == *name && slot.stage == Stage::Starting)?;
        slot.falls = slot.falls.max(1); // not at once: nothing has changed
        Some(slot.fall(now, Duration::ZERO))
    }

    /// Reserves the places of `n` more, whose starts are under way from now on, and gives their names.
    pub(super) fn add(&mut self, n: usize, given: &[String]) -> Result<Vec<Arc<str>>, Refusal> {
        if given.len() > n {
            return Err(Refusal::MoreNamesThanAdded);
        }
        self.check(n, given)?;
        for name in given {
            if let Some(why) = names::wrong(name) {
                return Err(Refusal::Wrong(why));
            }
            if self.slots.iter().any(|slot| *slot.name == **name) {
                return Err(Refusal::Taken(name.clone()));
            }
            if self.leaving().any(|leaving| **leaving == **name) {
                return Err(Refusal::StillLeaving(name.clone()));
            }
        }
        let (now, max) = (self.slots.len(), self.settings.max as usize);
        if now + n > max {
            return Err(Refusal::AboveMax { now, n, max });
        }
        let mut names: Vec<Arc<str>> = given.iter().map(|name| Arc::from(&**name)).collect();
        let taken = given.iter().map(String::as_str);
        names.extend(self.made_up_besides(n - given.len(), taken));
        self.slots.extend(names.iter().map(|name| Slot::new(Arc::clone(name), Stage::Starting)));
        Ok(names)
    }

    /// Gives places up again, with what may have been started in them.
    pub(super) fn take_back(&mut self, names: &[Arc<str>]) {
        self.slots.retain(|slot| !names.contains(&slot.name));
    }

    /// Notes that what is left of one is being removed.
    pub(super) fn removing(&mut self, id: Arc<str>) {
        self.remains.insert(id);
    }

    /// Whom to take out: those given, and others drawn with `random`, which gives a number below its argument.
    pub(super) fn choose(
        &self,
        n: usize,
        given: &[String],
        mut random: impl FnMut(usize) -> usize,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        if given.len() > n {
            return Err(Refusal::MoreNamesThanRemovable);
        }
        self.check(n, given)?;
        if let Some(name) = given.iter().find(|name| !self.slots.iter().any(|slot| *slot.name == ***name)) {
            let known = self.slots.iter().map(|slot| Arc::clone(&slot.name)).collect();
            return Err(Refusal::Unknown { name: name.clone(), known });
        }
        let (now, min) = (self.slots.len(), self.settings.min as usize);
        if n > now || now - n < min {
            return Err(Refusal::BelowMin { now, n, min });
        }
        let mut names: Vec<Arc<str>> = given.iter().map(|name| Arc::from(&**name)).collect();
        let mut others: Vec<_> = self.slots.iter().map(|slot| &slot.name).collect();
        others.retain(|name| !names.contains(name));
        while names.len() < n && !others.is_empty() {
            names.push(Arc::clone(others.swap_remove(random(others.len()))));
        }
        Ok(names)
    }

    /// Takes these out.
    pub(super) fn leave(&mut self, names: &[Arc<str>]) -> Vec<Action> {
        let mut actions = Vec::new();
        let (go, stay): (Vec<_>, Vec<_>) =
            self.slots.drain(..).partition(|slot: &Slot| names.contains(&slot.name));
        self.slots = stay;
        for Slot { name, stage, .. } in go {
            match stage {
                Stage::Running { id, ours, .. } => {
                    self.leaving.insert(Arc::clone(&id), Arc::clone(&name));
                    actions.push(Action::Leave { name, id, ours });
                }
                Stage::Starting => _ = self.doomed.insert(name),
                Stage::Waiting { .. } => {}
            }
        }
        actions
    }

    /// One that was taken out is no more.
    pub(super) fn left(&mut self, id: &Arc<str>) {
        self.leaving.remove(id);
        self.remains.insert(Arc::clone(id)); // a list that was made before may still have it
    }

    fn check(&self, n: usize, given: &[String]) -> Result<(), Refusal> {
        if n < 1 {
            return Err(Refusal::Wrong("n must be a whole number from 1".to_owned()));
        }
        let mut before = BTreeSet::new();
        match given.iter().find(|name| !before.insert(name.as_str())) {
            Some(twice) => Err(Refusal::Wrong(format!("the hostname {twice:?} is there twice"))),
            None => Ok(()),
        }
    }

    fn made_up(&self, n: usize) -> Vec<Arc<str>> {
        self.made_up_besides(n, std::iter::empty())
    }

    fn made_up_besides<'a>(&'a self, n: usize, taken: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
        let slots = self.slots.iter().map(|slot| &*slot.name);
        names::made_up(n, &slots.chain(self.leaving().map(|name| &**name)).chain(taken).collect())
    }
}

impl Slot {
    fn new(name: Arc<str>, stage: Stage) -> Self {
        Self { name, stage, respawns: 0, falls: 0, died: false }
    }

    /// Whether nobody else has started it.
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

    /// Notes that it fell; when it is started again, which is after `least` or later.
    fn fall(&mut self, now: Instant, least: Duration) -> Duration {
        let pause = match self.falls {
            0 => Duration::ZERO,
            falls => PAUSE.0.saturating_mul(1 << (falls - 1).min(16)).min(PAUSE.1),
        };
        let pause = pause.max(least);
        self.falls = self.falls.saturating_add(1);
        self.stage = Stage::Waiting { until: now + pause };
        pause
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
