//! Gentle rebalancing of long-lived connections (`rebalance` of a pool): after a scale-out or a recovery, the new backend
//! would get only new connections. Idle connections of the backends with more than their share are closed at a limited rate;
//! their clients connect again, and the algorithm chooses.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::balance::surplus::{Occupied, surplus};
use crate::config::{self, Rebalance};
use crate::domain::{BackendState, CloseReason, Ending, Event};
use crate::overview::{Overview, Phase};
use crate::pool::{Entry, Pool};
use crate::proxy::progress::CloseRequest;
use crate::proxy::table::IdleOf;

/// The interval between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// An imbalance begins when it was there for so many looks in a row, and is over when it was gone for so many: connections
/// come and go.
const STEADY: u32 = 5;
/// Idle connections are closed as a server closes them.
const MOVE: CloseRequest = CloseRequest { reason: CloseReason::Rebalanced, how: Ending::Close };

/// What is known of a pool between two looks.
#[derive(Debug, Default)]
struct Imbalance {
    /// Looks in a row that found what `begun` does not say.
    changed: u32,
    begun: bool,
    /// How many connections may be closed now; a part of one remains from the time before.
    allowance: f64,
    closed: u64,
}

/// Rebalances the pools that ask for it, for as long as the process serves.
pub(super) async fn run(overview: Weak<Overview>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut pools: HashMap<Arc<str>, Imbalance> = HashMap::new();
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let Some(overview) = overview.upgrade() else { return };
        let now = Instant::now();
        let passed = now.duration_since(std::mem::replace(&mut last, now));
        let current = overview.pools.load_full();
        pools.retain(|name, _| current.contains_key(name));
        for (name, pool) in &*current {
            let settings = pool.settings();
            match settings.rebalance.filter(|_| overview.phase() == Phase::Serving) {
                Some(rebalance) => {
                    let imbalance = pools.entry(Arc::clone(name)).or_default();
                    imbalance.look(&overview, pool, &settings, rebalance, passed).await;
                }
                None => drop(pools.remove(name)),
            }
        }
    }
}

impl Imbalance {
    async fn look(
        &mut self,
        overview: &Overview,
        pool: &Pool,
        settings: &config::Pool,
        rebalance: Rebalance,
        passed: Duration,
    ) {
        let surplus = surplus_of(pool, settings, rebalance);
        let total: u64 = surplus.iter().map(|(_, surplus)| u64::from(*surplus)).sum();
        self.changed = if (total > 0) == self.begun { 0 } else { self.changed + 1 };
        let turns = self.changed >= STEADY;
        if turns {
            (self.begun, self.changed) = (!self.begun, 0);
        }
        let name = &pool.name;
        if turns && self.begun {
            let mut idle = 0;
            for (key, _) in &surplus {
                idle += idle_connections(overview, name, *key, rebalance.idle, 0).await.idle;
            }
            (self.allowance, self.closed) = (0.0, 0);
            let seconds = (total as f64 / rebalance.rate.per_second()).ceil() as u64;
            let (pool, dry_run) = (Arc::clone(name), rebalance.dry_run);
            overview.journal.record(Event::RebalanceStarted { pool, surplus: total, idle, seconds, dry_run });
        }
        if turns && !self.begun {
            let (pool, closed) = (Arc::clone(name), self.closed);
            overview.journal.record(Event::RebalanceDone { pool, closed });
        }
        if !self.begun || rebalance.dry_run {
            return;
        }
        // What was not used because no connection was idle is not saved up.
        let rate = rebalance.rate.per_second();
        self.allowance = (self.allowance + rate * passed.as_secs_f64()).min(rate.max(1.0));
        for (key, surplus) in surplus {
            let most = (self.allowance as u32).min(surplus);
            if most > 0 {
                let closed = idle_connections(overview, name, key, rebalance.idle, most).await.closed;
                self.allowance -= closed as f64;
                self.closed += closed;
            }
        }
    }
}

/// The backends with a surplus of connections, each with it, the largest first. Only backends of the tier and the zones in
/// use count: the others are to have none.
fn surplus_of(pool: &Pool, settings: &config::Pool, rebalance: Rebalance) -> Vec<(u64, u32)> {
    let (snapshot, status) = (pool.snapshot(), pool.status());
    let chosen: HashSet<u64> = snapshot.backends().map(|backend| backend.key).collect();
    let is_in_use = |entry: &&Entry| entry.state == BackendState::Up && chosen.contains(&entry.backend.key);
    let in_use: Vec<_> = status.members.iter().filter(is_in_use).collect();
    let occupied: Vec<_> = in_use
        .iter()
        .map(|entry| {
            let weight = if settings.balance.uses_weights() { entry.weight } else { 1 };
            // In its slow start, a backend gets a part of its share.
            Occupied { open: entry.backend.load.open(), weight: weight * entry.ramp }
        })
        .collect();
    let tolerance = f64::from(rebalance.tolerance.0) / 100.0;
    let all = in_use.iter().zip(surplus(&occupied, tolerance));
    let mut some: Vec<_> = all
        .filter(|(_, surplus)| *surplus > 0)
        .map(|(entry, surplus)| (entry.backend.key, surplus))
        .collect();
    some.sort_by_key(|(_, surplus)| std::cmp::Reverse(*surplus));
    some
}

/// The connections of a backend that have been idle for the time `idle`, of which at most `most` are closed.
async fn idle_connections(
    overview: &Overview,
    pool: &Arc<str>,
    backend: u64,
    idle: Duration,
    most: u32,
) -> IdleOf {
    let mut all = IdleOf::default();
    for worker in &overview.handles {
        let left = most.saturating_sub(u32::try_from(all.closed).unwrap_or(u32::MAX));
        let one = worker.close_idle(Arc::clone(pool), backend, idle, left, MOVE).await;
        all.idle += one.idle;
        all.closed += one.closed;
    }
    all
}
