//! The load of a pool's replicas, by the pool's open connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::scale::ReplicaLoad;
use crate::domain::BackendState;
use crate::pool::Pool;

/// A replica counts as starting for this long, unless it is up before.
const STARTUP: Duration = Duration::from_secs(30);

/// The times of recent starts, by name.
#[derive(Debug, Default)]
pub(super) struct RecentStarts(HashMap<Arc<str>, Instant>);

impl RecentStarts {
    /// A replica has just been started.
    pub(super) fn note(&mut self, name: &Arc<str>) {
        self.0.insert(Arc::clone(name), Instant::now());
        self.0.retain(|_, at| at.elapsed() < STARTUP);
    }
}

/// The present load of the pool.
pub(super) fn load(pool: &Pool, fleet: &Fleet, starts: &RecentStarts) -> ReplicaLoad {
    let status = pool.status();
    let open: u64 = status.members.iter().map(|entry| u64::from(entry.backend.load.open())).sum();
    let up = |name: &Arc<str>| {
        let mut members = status.members.iter();
        members.any(|entry| *entry.backend.name == **name && entry.state == BackendState::Up)
    };
    let wanted = |name: &Arc<str>| fleet.slots().iter().any(|slot| slot.name == *name);
    let fresh = |(name, at): (&Arc<str>, &Instant)| wanted(name) && at.elapsed() < STARTUP && !up(name);
    let joining = starts.0.iter().any(fresh);
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ReplicaLoad {
        open: open + pool.queue.len() as u64,
        up: number(status.members.iter().filter(|entry| entry.state == BackendState::Up).count()),
        replicas: number(fleet.slots().len()),
        starting: fleet.is_starting() || joining,
        leaving: fleet.leaving().next().is_some(),
    }
}

/// The `n` replicas with the fewest open connections, of equals the newest. Adopted ones are left out: only a command
/// removes them.
pub(super) fn least_busy(pool: &Pool, fleet: &Fleet, n: usize) -> Vec<Arc<str>> {
    let status = pool.status();
    let open = |name: &Arc<str>| -> u32 {
        let members = status.members.iter().filter(|entry| *entry.backend.name == **name);
        members.map(|entry| entry.backend.load.open()).sum()
    };
    let slots = fleet.slots().iter().rev().filter(|slot| slot.is_ours());
    let mut names: Vec<_> = slots.map(|slot| (open(&slot.name), Arc::clone(&slot.name))).collect();
    names.sort_by_key(|(open, _)| *open);
    names.into_iter().take(n).map(|(_, name)| name).collect()
}
