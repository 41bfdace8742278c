//! Removes replicas: a replica stops receiving new connections, finishes the open ones, is stopped and removed.

use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::container_runtime::ContainerRuntime;
use crate::backoff::Backoff;
use crate::pool::{Entry, Pool};

/// The interval between counts of open connections.
const POLL: Duration = Duration::from_millis(50);
/// There must have been no connection for this long: one may be on its way to a backend chosen a moment before.
const IDLE: Duration = Duration::from_millis(500);
/// Delays between attempts at what the engine could not do.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// A replica that is being removed.
pub(super) struct Removal {
    pool: Arc<Pool>,
    runtime: ContainerRuntime,
    name: Arc<str>,
    id: Arc<str>,
    ours: bool,
    drain_timeout: Duration,
    addresses: Vec<IpAddr>,
    /// The keys of the backends that are draining.
    draining: HashSet<u64>,
}

impl Removal {
    /// The removal of a replica with this name and container id.
    pub(super) fn new(
        pool: &Arc<Pool>,
        runtime: &ContainerRuntime,
        (name, id): (&Arc<str>, &Arc<str>),
        ours: bool,
        drain_timeout: Duration,
        addresses: Vec<IpAddr>,
    ) -> Self {
        Self {
            pool: Arc::clone(pool),
            runtime: runtime.clone(),
            name: Arc::clone(name),
            id: Arc::clone(id),
            ours,
            drain_timeout,
            addresses,
            draining: HashSet::new(),
        }
    }

    /// Drains the replica's backends.
    pub(super) async fn drain(&mut self) {
        for entry in self.entries() {
            if self.draining.insert(entry.backend.key) {
                self.pool.drain_for_removal(&entry.backend).await;
            }
        }
    }

    /// The pool's entries for the replica.
    fn entries(&self) -> Vec<Entry> {
        let status = self.pool.status();
        // Another container may have the address by now. Of two replicas with one name, one has its id appended.
        let is_name = |name: &str| {
            self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
        };
        let is_replica = |entry: &&Entry| {
            entry.backend.address.ip().is_some_and(|ip| self.addresses.contains(&ip))
                && is_name(&entry.backend.name)
        };
        status.members.iter().filter(is_replica).cloned().collect()
    }

    /// Waits for the open connections, then stops and removes the container; retries until that succeeds.
    pub(super) async fn run(mut self) {
        if self.ours {
            // Needed only if this process ends before the removal; a failure does not matter.
            let _ = self.runtime.mark_leaving(&self.id).await;
        }
        let (pool, replica) = (Arc::clone(&self.pool.name), Arc::clone(&self.name));
        let began = Instant::now();
        let open = self.finish(began + self.drain_timeout).await;
        if open > 0 {
            warn!(%pool, replica = &*replica, open, "replica drain timed out; stopping it");
        }
        retry(
            || self.runtime.stop(&self.id),
            |reason| warn!(%pool, replica = &*replica, reason, "replica not stopped; retrying"),
        )
        .await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(%pool, replica = &*replica, took_ms, "replica removed");
    }

    /// Waits until no connection is open or the deadline has passed; the number of open connections then.
    async fn finish(&mut self, deadline: Instant) -> u32 {
        let mut idle_since = Instant::now();
        loop {
            if self.addresses.is_empty() {
                // A container that the engine does not know is gone.
                self.addresses = self.runtime.addresses(&self.id).await.unwrap_or_default();
            }
            // Discovery may find a replica that has just started only now.
            self.drain().await;
            let open = self.entries().iter().map(|entry| entry.backend.load.open()).sum();
            let now = Instant::now();
            if open > 0 {
                idle_since = now;
            }
            if now - idle_since >= IDLE || now >= deadline {
                return open;
            }
            sleep(POLL).await;
        }
    }
}

/// Removes a container; retries until that succeeds.
pub(super) async fn remove_container(runtime: &ContainerRuntime, pool: &str, id: &str) {
    let log = |reason| warn!(pool, container = id, reason, "container not removed; retrying");
    retry(|| runtime.remove(id), log).await;
}

async fn retry<F: Future<Output = Result<(), String>>>(attempt: impl Fn() -> F, log: impl Fn(String)) {
    let mut backoff = RETRY;
    while let Err(reason) = attempt().await {
        log(reason);
        sleep(backoff.next_delay()).await;
    }
}
