//! A listener whose connections the kernel forwards, and its rules.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::warn;

use super::conntrack::ConntrackEntry;
use super::forwarded::{self, Ends, Target};
use super::listener_rules::{self, Family, ListenerRules};
use super::nft::{Error, MOST_SLOTS};
use crate::balance::SlotChoice;
use crate::config::{Algorithm, HashKey};
use crate::domain::SocketAddress;
use crate::pool::{Backend, Pool, PoolSnapshot, PoolStatus};
use crate::proxy::listener::Listener;

/// A listener whose connections the kernel forwards.
pub(super) struct Served {
    pub(super) listener: Arc<Listener>,
    pub(super) pool: Arc<Pool>,
    pub(super) addresses: Vec<SocketAddress>,
    pub(super) snapshot: Arc<PoolSnapshot>,
    /// The backends in the rules, and those that were in them and are still in the pool.
    pub(super) backends: HashMap<SocketAddr, Arc<Backend>>,
    /// Backends that the kernel cannot reach, which were reported.
    pub(super) unreachable: HashSet<u64>,
    /// Whether its rules continue connections of other machines, for IPv4 and for IPv6.
    pub(super) can_continue: [bool; 2],
    /// Reports changes of the pool.
    pub(super) follower: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Where the kernel has sent a connection.
pub(super) fn target(served: &[Served], entry: &ConntrackEntry) -> Option<Target> {
    let Ends { listener: to, backend, .. } = Ends::of(entry);
    let served = served.iter().find(|served| served.addresses.iter().any(|at| forwarded::accepts(at, to)))?;
    Some(Target {
        listener: Arc::clone(&served.listener),
        pool: Arc::clone(&served.pool),
        backend: served.backend(backend)?,
        snapshot: Arc::clone(&served.snapshot),
        can_continue: served.can_continue[usize::from(to.is_ipv6())],
    })
}

impl Served {
    /// The backend at an address.
    fn backend(&self, address: SocketAddr) -> Option<Arc<Backend>> {
        let in_pool = || {
            let status = self.pool.status();
            let at = |backend: &Backend| backend.address.tcp().map(canonical) == Some(address);
            status.members.iter().find(|entry| at(&entry.backend)).map(|entry| Arc::clone(&entry.backend))
        };
        self.backends.get(&address).cloned().or_else(in_pool)
    }

    /// Its rules for the pool's current snapshot.
    pub(super) fn rules(&mut self) -> Result<ListenerRules, Error> {
        let settings = self.listener.settings.load();
        let pool_settings = self.pool.settings();
        self.snapshot = self.pool.snapshot();
        let status = self.pool.status();
        let known = |backend: &Backend| status.members.iter().any(|entry| entry.backend.key == backend.key);
        self.backends.retain(|_, backend| known(backend));
        // Also while there is no backend.
        let choice = match pool_settings.balance {
            balance if balance.hashes() => SlotChoice::Client,
            Algorithm::Random => SlotChoice::Random,
            _ => SlotChoice::Rotation,
        };
        let mut slots = [Vec::new(), Vec::new()];
        for (slots, v4) in slots.iter_mut().zip([true, false]) {
            let forwardable = |backend: &Backend| is_forwardable(backend).is_some_and(|is_v4| is_v4 == v4);
            let Some(table) = self.snapshot.slots(&pool_settings.hash, forwardable) else { continue };
            if table.owners.len() > MOST_SLOTS {
                return Err(Error::TooManySlots(table.owners.len()));
            }
            let backends: Vec<_> = self.snapshot.backends().filter(|backend| forwardable(backend)).collect();
            let address = |owner: u32| backends[owner as usize].address.tcp();
            for backend in &backends {
                if let Some(address) = backend.address.tcp() {
                    self.backends.insert(canonical(address), Arc::clone(backend));
                }
            }
            *slots = table.owners.into_iter().filter_map(address).collect();
        }
        for backend in self.snapshot.backends().filter(|backend| is_forwardable(backend).is_none()) {
            if self.unreachable.insert(backend.key) {
                warn!(
                    listener = %self.listener.name, backend = %backend.name, address = %backend.address,
                    "the kernel cannot forward to this address: the backend gets no connection of this listener"
                );
            }
        }
        let rules = ListenerRules {
            name: listener_rules::identifier(&self.listener.name),
            addresses: self.addresses.iter().filter_map(SocketAddress::tcp).collect(),
            masquerade: settings.masquerade,
            events: settings.conntrack_events,
            choice,
            connect: pool_settings.connect.timeout,
            key: if pool_settings.balance.hashes() { pool_settings.hash.key } else { HashKey::SourceIp },
            slots,
            backends: known_addresses(&status),
            timeouts: [pool_settings.timeouts.idle, pool_settings.timeouts.half_closed],
        };
        self.can_continue = Family::ALL.map(|family| rules.continues(family).is_some());
        Ok(rules)
    }
}

/// The addresses of all backends of a pool, in order.
fn known_addresses(status: &PoolStatus) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> =
        status.members.iter().filter_map(|entry| entry.backend.address.tcp()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The address as the kernel reports it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the kernel can forward packets to a backend, and then whether by IPv4.
fn is_forwardable(backend: &Backend) -> Option<bool> {
    let ip = backend.address.tcp()?.ip().to_canonical();
    (!ip.is_loopback()).then(|| ip.is_ipv4())
}
