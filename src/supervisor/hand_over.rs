//! What the running process hands over, and what a new one takes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::Supervisor;
use crate::config::NoBackend;
use crate::domain::ListenerState;
use crate::hand_over::{HandOver, HandedSocket, InheritedSockets, SocketOwner, SocketPlace, Taken};
use crate::pool::PoolHandOver;

/// What the process before has handed over.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Its listening sockets.
    pub sockets: InheritedSockets,
    /// What it knew of its pools.
    pools: Vec<(Arc<str>, PoolHandOver)>,
    /// The listeners that operators drain.
    draining: Vec<Arc<str>>,
    /// The largest number that it may give to a connection.
    pub(super) numbered: u64,
}

/// A process that takes over numbers its connections from the next multiple of this: the one before may accept some more.
const NUMBERS: u64 = 1_000_000;

/// How long a hand-over waits for a listener that is closing. At the process's limit of connections that may take as long
/// as a connection lasts.
const CLOSING: Duration = Duration::from_secs(5);
/// How long the signals and orders to this process wait for such a listener.
const CLOSING_BRIEFLY: Duration = Duration::from_millis(500);

impl Inherited {
    /// What was handed over, without the state directory.
    pub(crate) fn new(
        sockets: Vec<HandedSocket>,
        pools: Vec<(Arc<str>, PoolHandOver)>,
        draining: Vec<Arc<str>>,
        next_conn: u64,
    ) -> Self {
        let numbered = next_conn.next_multiple_of(NUMBERS);
        Self { sockets: sockets.into_iter().collect(), pools, draining, numbered }
    }

    /// Whether an operator drained a listener in the process before.
    pub(super) fn drains(&self, listener: &str) -> bool {
        self.draining.iter().any(|draining| **draining == *listener)
    }

    /// What the process before knew of a pool.
    pub(super) fn pool(&mut self, name: &str) -> PoolHandOver {
        let index = self.pools.iter().position(|(of, _)| **of == *name);
        index.map(|index| self.pools.swap_remove(index).1).unwrap_or_default()
    }
}

impl Supervisor {
    /// The sockets and the pools, for a process that takes over. Until [`resume`](Self::resume) or
    /// [`handed_over`](Self::handed_over), no listener is opened or closed, and no replica is started or stopped.
    pub(crate) async fn offer(&mut self) -> io::Result<HandOver> {
        // Two processes must not manage the same containers.
        self.replicas.clear();
        self.overview.replicas.store(Arc::default());
        self.kernel_plane.hold(true);
        let mut offer = HandOver { next_conn: self.report().await.next_conn, ..HandOver::default() };
        for running in self.listeners.values() {
            offer.sockets.extend(running.listener_task.share(CLOSING).await?);
            let listener = &running.listener_task.listener;
            if listener.state() == ListenerState::Draining {
                offer.draining.push(Arc::clone(&listener.name));
            }
        }
        for (name, handle) in &self.pools {
            offer.pools.push((Arc::clone(name), handle.pool.hand_over().await));
        }
        Ok(offer)
    }

    /// The listening sockets, for the service manager to keep: those that are not closed before their listener is
    /// removed or drained, as closing a socket that is also kept elsewhere does not refuse connections.
    pub(crate) async fn listening_sockets(&self) -> io::Result<Vec<HandedSocket>> {
        let mut sockets = Vec::new();
        for running in self.listeners.values() {
            let listener = &running.listener_task.listener;
            let refuses = listener.settings.load().no_backend == NoBackend::Refuse;
            if refuses || listener.state() == ListenerState::Draining {
                continue;
            }
            let shared = running.listener_task.share(CLOSING_BRIEFLY).await;
            running.listener_task.resume();
            match shared {
                Ok(shared) => sockets.extend(shared),
                // It was drained, and opens again after that: then its sockets are asked for.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sockets)
    }

    /// The other process did not take over: everything continues as before [`offer`](Self::offer).
    pub(crate) fn resume(&mut self) {
        self.kernel_plane.hold(false);
        self.listeners.values().for_each(|running| running.listener_task.resume());
        let config = self.config.clone();
        self.change_replicas(&config);
        self.publish();
    }

    /// Another process has taken over these addresses: stops accepting there, and closes the others, in the background.
    pub(crate) fn handed_over(&mut self, taken: &Taken) {
        for (name, running) in std::mem::take(&mut self.listeners) {
            let owner = SocketOwner::Listener(name);
            let of = |place: &&SocketPlace| {
                let held = running.addresses.iter();
                held.clone()
                    .any(|(configured, bound)| (configured, bound) == (&place.configured, &place.address))
            };
            let places = taken.places.iter().filter(|place| place.owner == owner).filter(of);
            let taken = places.map(|place| place.configured.clone()).collect();
            self.closing.spawn(running.listener_task.hand_over(taken));
        }
        let kernel_plane = self.kernel_plane.clone();
        self.closing.spawn(async move { kernel_plane.abandon().await });
    }

    /// Closes the inherited sockets that the configuration did not need, and returns where they belong: the process
    /// before still has them, and accepts what waits in them.
    pub(crate) fn drop_inherited(&mut self) -> Vec<SocketPlace> {
        let left = std::mem::take(&mut self.inherited);
        let places: Vec<_> = left.sockets.places().cloned().collect();
        for place in places.iter().filter(|place| place.owner == SocketOwner::AtItsAddress) {
            warn!(address = %place.address, "no listener has the address of this socket of the service manager: closed");
        }
        places
    }
}
