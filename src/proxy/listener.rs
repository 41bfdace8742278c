//! A listener as all workers share it: its settings, and the count of its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::access_list::AccessList;
use super::client_limits::ClientLimits;
use super::preface::ExpectedHeader;
use crate::config::{self, NoBackend, PerClient, SocketMode, SocketOptions};
use crate::pool::Pool;

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What happens to its connections; replaced by a reload.
    pub settings: ArcSwap<Settings>,
    accepted: AtomicU64,
    admitted: Arc<AtomicUsize>,
    /// The connections of each client.
    pub(crate) clients: Arc<ClientLimits>,
}

/// What happens to a listener's connections.
#[derive(Debug)]
pub struct Settings {
    /// Where they are routed.
    pub pool: Arc<Pool>,
    /// What a client gets when no backend is up.
    pub no_backend: NoBackend,
    /// The clients that are admitted.
    pub access: AccessList,
    /// The PROXY header that it expects, if any.
    pub proxy_protocol: Option<ExpectedHeader>,
    /// Connections at once.
    pub max_connections: Option<usize>,
    /// The limits of each client.
    pub per_client: Option<PerClient>,
    /// Options of its TCP sockets.
    pub options: SocketOptions,
    /// Which users may connect to its Unix sockets.
    pub socket_mode: SocketMode,
}

impl Settings {
    /// The settings of a configured listener in front of that pool.
    pub fn new(pool: Arc<Pool>, listener: &config::Listener) -> Self {
        Self {
            pool,
            no_backend: listener.no_backend,
            access: AccessList::new(&listener.allow, &listener.deny),
            proxy_protocol: listener.proxy_protocol.as_ref().map(ExpectedHeader::new),
            max_connections: listener.max_connections,
            per_client: listener.per_client,
            options: listener.options,
            socket_mode: listener.socket_mode,
        }
    }
}

impl Listener {
    /// A listener without connections.
    pub fn new(name: Arc<str>, settings: Settings) -> Self {
        Self {
            name,
            settings: ArcSwap::from_pointee(settings),
            accepted: AtomicU64::new(0),
            admitted: Arc::default(),
            clients: Arc::new(ClientLimits::new()),
        }
    }

    /// Counts an accepted connection.
    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// All connections that were accepted, including rejected ones.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that were admitted and have not ended.
    pub fn active(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Admits a connection, unless `limit` are open already.
    pub fn admit(&self, limit: Option<usize>) -> Option<Admitted> {
        let before = self.admitted.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(Arc::clone(&self.admitted));
        limit.is_none_or(|limit| before < limit).then_some(admitted)
    }
}

/// Counts a connection of a listener until it is dropped.
#[derive(Debug)]
pub struct Admitted(Arc<AtomicUsize>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
