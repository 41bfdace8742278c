//! What the connections of a pool say of its replicas: how much they carry, and who of them carries least.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::scale::Load;
use crate::domain::BackendState;
use crate::pool::Pool;

/// One that was started is not waited for any longer than this to be up.
const TO_BE_UP: Duration = Duration::from_secs(30);

/// When those were started that run, by name: how long somebody may take to be up.
#[derive(Debug, Default)]
pub(super) struct Starts(HashMap<Arc<str>, Instant>);

impl Starts {
    /// One has just been started.
    pub(super) fn note(&mut self, name: &Arc<str>) {
        self.0.insert(Arc::clone(name), Instant::now());
        self.0.retain(|_, at| at.elapsed() < TO_BE_UP);
    }
}

/// The load that the replicas of that pool share.
pub(super) fn load(pool: &Pool, fleet: &Fleet, starts: &Starts) -> Load {
    let status = pool.status();
    let active: u64 = status.members.iter().map(|entry| u64::from(entry.backend.load.open())).sum();
    let up = |name: &Arc<str>| {
        let mut members = status.members.iter();
        members.any(|entry| *entry.backend.name == **name && entry.state == BackendState::Up)
    };
    let wanted = |name: &Arc<str>| fleet.slots().iter().any(|slot| slot.name == *name);
    let fresh = |(name, at): (&Arc<str>, &Instant)| wanted(name) && at.elapsed() < TO_BE_UP && !up(name);
    let joining = starts.0.iter().any(fresh);
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Load {
        open: active + pool.queue.len() as u64,
        up: number(status.members.iter().filter(|entry| entry.state == BackendState::Up).count()),
        replicas: number(fleet.slots().len()),
        starting: fleet.is_starting() || joining,
        leaving: fleet.leaving().next().is_some(),
    }
}

/// The replicas that have the fewest connections to finish; of equals the newest. Those that others have started are
/// not among them: they go only if somebody says so.
pub(super) fn least_busy(pool: &Pool, fleet: &Fleet, n: usize) -> Vec<Arc<str>> {
    let status = pool.status();
    let active = |name: &Arc<str>| -> u32 {
        let members = status.members.iter().filter(|entry| *entry.backend.name == **name);
        members.map(|entry| entry.backend.load.open()).sum()
    };
    let slots = fleet.slots().iter().rev().filter(|slot| slot.is_ours());
    let mut names: Vec<_> = slots.map(|slot| (active(&slot.name), Arc::clone(&slot.name))).collect();
    names.sort_by_key(|(active, _)| *active);
    names.into_iter().take(n).map(|(_, name)| name).collect()
}
