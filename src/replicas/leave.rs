//! How a replica is taken out: it gets nothing new, finishes its connections, is stopped, and is removed.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::containers::Yard;
use crate::domain::AdminState;
use crate::pool::{Command, Entry, Pool};

/// How often it is looked whether connections remain.
const LOOK: Duration = Duration::from_millis(50);
/// None must have been there for this long: one may just be on its way, chosen a moment before.
const QUIET: Duration = Duration::from_millis(500);
/// The pause before something is tried again that the engine could not do: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// One that is being taken out.
pub(super) struct Leaver {
    pool: Arc<Pool>,
    yard: Yard,
    name: Arc<str>,
    id: Arc<str>,
    ours: bool,
    /// How long its connections have.
    limit: Duration,
    addresses: Vec<IpAddr>,
    /// The backends that were told, by their keys.
    told: HashSet<u64>,
}

impl Leaver {
    /// The replica of that name and container, which has `limit` to finish its connections.
    pub(super) fn new(
        pool: &Arc<Pool>,
        yard: &Yard,
        (name, id): (&Arc<str>, &Arc<str>),
        ours: bool,
        limit: Duration,
        addresses: Vec<IpAddr>,
    ) -> Self {
        Self {
            pool: Arc::clone(pool),
            yard: yard.clone(),
            name: Arc::clone(name),
            id: Arc::clone(id),
            ours,
            limit,
            addresses,
            told: HashSet::new(),
        }
    }

    /// Tells the pool to send it nothing new.
    pub(super) async fn out_of_service(&mut self) {
        for entry in self.entries() {
            if self.told.insert(entry.backend.key) {
                let command = Command::SetAdminState(AdminState::Draining);
                self.pool.tell(&entry.backend, command, "the removal of its replica".into()).await;
            }
        }
    }

    /// What it is to the pool.
    fn entries(&self) -> Vec<Entry> {
        let status = self.pool.status();
        // An address alone may be a stranger's by now. Of two replicas with one name, one has its id behind it.
        let named = |name: &str| {
            self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
        };
        let is = |entry: &&Entry| {
            self.addresses.contains(&entry.backend.address.ip()) && named(&entry.backend.name)
        };
        status.members.iter().filter(is).cloned().collect()
    }

    /// Waits for its connections, and then ends it; tries that until it is done.
    pub(super) async fn leave(mut self) {
        let (pool, replica, limit) = (Arc::clone(&self.pool.name), Arc::clone(&self.name), self.limit);
        if self.ours {
            // It only matters if this process ends before it does.
            let _ = self.yard.mark(&self.id).await;
        }
        let began = Instant::now();
        let open = self.finish(began + limit).await;
        if open > 0 {
            warn!(%pool, replica = &*replica, open, "replica has not finished in time: it is stopped all the same");
        }
        let mut again = AGAIN.0;
        while let Err(reason) = self.yard.stop(&self.id).await {
            warn!(%pool, replica = &*replica, reason, "replica cannot be stopped; trying again");
            sleep(again).await;
            again = (again * 2).min(AGAIN.1);
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(%pool, replica = &*replica, took_ms, "replica gone");
    }

    /// Returns when it has no connection, or at the deadline: how many it has then.
    async fn finish(&mut self, deadline: Instant) -> u32 {
        let mut quiet = Instant::now();
        loop {
            if self.addresses.is_empty() {
                // One of which the engine does not know is gone.
                self.addresses = self.yard.addresses(&self.id).await.unwrap_or_default();
            }
            // One that has just been started may be found only now.
            self.out_of_service().await;
            let open = self.entries().iter().map(|entry| entry.backend.load.open()).sum();
            let now = Instant::now();
            if open > 0 {
                quiet = now;
            }
            if now - quiet >= QUIET || now >= deadline {
                return open;
            }
            sleep(LOOK).await;
        }
    }
}

/// Removes what is left of a container; tries that until it is done.
pub(super) async fn sweep(yard: &Yard, pool: &str, id: &str) {
    let mut again = AGAIN.0;
    while let Err(reason) = yard.remove(id).await {
        warn!(pool, container = id, reason, "container cannot be removed; trying again");
        sleep(again).await;
        again = (again * 2).min(AGAIN.1);
    }
}
