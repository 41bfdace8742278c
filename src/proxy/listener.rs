//! A listener as all workers share it: its settings, and the count of its connections.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::access_list::AccessList;
use super::bandwidth::BandwidthLimits;
use super::client_limits::ClientLimits;
use super::hello;
use super::preface::ExpectedHeader;
use super::routing::Routing;
use crate::config::{
    self, Buffers, ClientAddress, ConntrackEvents, NoBackend, PerClient, SocketMode, SocketOptions,
};
use crate::domain::{CloseReason, ListenerState, Plane};
use crate::pool::Pool;
use crate::telemetry::flow::Flow;

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What happens to its connections; replaced by a reload.
    pub settings: ArcSwap<Settings>,
    draining: AtomicBool,
    kernel_obstacle: Mutex<Option<Arc<str>>>,
    /// Notified when the kernel can no longer have the rules that its connections need.
    pub kernel_plane_failed: Notify,
    accepted: AtomicU64,
    admitted: Arc<AtomicUsize>,
    /// The connections that ended before their pool was known.
    pub without_pool: Arc<Flow>,
    /// The client-visible failures among them, by [`CloseReason::index`].
    failures_without_pool: [AtomicU64; CloseReason::ALL.len()],
    /// The connections of each client.
    pub clients: Arc<ClientLimits>,
    /// PostgreSQL cancel requests, which all backends got.
    pub cancel_requests: AtomicU64,
    /// Bytes that its bandwidth limits have delayed: from the clients, and from the backends.
    pub bytes_delayed: [AtomicU64; 2],
}

/// What happens to a listener's connections.
#[derive(Debug)]
pub struct Settings {
    /// What forwards their bytes.
    pub plane: Plane,
    /// Whether the backends of connections that the kernel forwards see this machine's address instead of the client's.
    pub masquerade: bool,
    /// Which events of those connections conntrack reports.
    pub conntrack_events: ConntrackEvents,
    /// Which pools they go to.
    pub routing: Routing,
    /// How long a connection may take to send its ClientHello; `None`: the ClientHello is not read.
    pub hello_timeout: Option<Duration>,
    /// Whether its clients speak PostgreSQL's protocol, with a request for TLS before the ClientHello.
    pub postgres: bool,
    /// What a client gets when no backend is up.
    pub no_backend: NoBackend,
    /// The clients that are admitted.
    pub access: AccessList,
    /// The PROXY header that it expects, if any.
    pub proxy_protocol: Option<ExpectedHeader>,
    /// The maximum number of open connections.
    pub max_connections: Option<usize>,
    /// The limits of each client.
    pub per_client: Option<PerClient>,
    /// The limits of its bytes per second.
    pub bandwidth: Option<BandwidthLimits>,
    /// How much waits in the kernel for a client.
    pub buffers: Buffers,
    /// Options of its TCP sockets.
    pub options: SocketOptions,
    /// Which users may connect to its Unix sockets.
    pub socket_mode: SocketMode,
}

impl Settings {
    /// The settings of a configured listener. `pool` finds a pool by its name; `None`: one of them does not exist.
    pub fn new(
        listener: &config::Listener,
        plane: Plane,
        pool: impl Fn(&str) -> Option<Arc<Pool>>,
    ) -> Option<Self> {
        Some(Self {
            plane,
            masquerade: listener.client_address == ClientAddress::Masquerade,
            conntrack_events: listener.conntrack_events,
            routing: Routing::new(listener, pool)?,
            hello_timeout: listener.reads_hello.then(|| listener.hello_timeout.unwrap_or(hello::TIMEOUT)),
            postgres: listener.postgres,
            no_backend: listener.no_backend,
            access: AccessList::new(&listener.allow, &listener.deny),
            proxy_protocol: listener.proxy_protocol.as_ref().map(ExpectedHeader::new),
            max_connections: listener.max_connections,
            per_client: listener.per_client,
            bandwidth: listener.bandwidth.map(BandwidthLimits::new),
            buffers: listener.buffers,
            options: listener.options,
            socket_mode: listener.socket_mode,
        })
    }
}

impl Listener {
    /// A listener without connections.
    pub fn new(name: Arc<str>, settings: Settings) -> Self {
        Self {
            name,
            settings: ArcSwap::from_pointee(settings),
            draining: AtomicBool::new(false),
            kernel_obstacle: Mutex::default(),
            kernel_plane_failed: Notify::new(),
            accepted: AtomicU64::new(0),
            admitted: Arc::default(),
            without_pool: Arc::default(),
            failures_without_pool: Default::default(),
            clients: Arc::new(ClientLimits::new()),
            cancel_requests: AtomicU64::new(0),
            bytes_delayed: Default::default(),
        }
    }

    /// Whether an operator drains it.
    pub fn state(&self) -> ListenerState {
        if self.draining.load(Ordering::Relaxed) { ListenerState::Draining } else { ListenerState::Up }
    }

    /// Sets whether an operator drains it. Its addresses are closed and opened elsewhere.
    pub fn set_state(&self, state: ListenerState) {
        self.draining.store(state == ListenerState::Draining, Ordering::Relaxed);
    }

    /// Why this process forwards its bytes although the kernel is to do so, or may (`plane: kernel`, `plane: auto`); `None`:
    /// what its settings name does.
    pub fn kernel_obstacle(&self) -> Option<Arc<str>> {
        self.kernel_obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it.
    pub fn set_kernel_obstacle(&self, obstacle: Option<Arc<str>>) {
        *self.kernel_obstacle.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
    }

    /// Counts an accepted connection.
    pub fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a client-visible failure of a connection whose pool was not known.
    pub(super) fn client_visible_failure(&self, reason: CloseReason) {
        self.failures_without_pool[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// The client-visible failures of connections whose pool was not known, by reason.
    pub fn failures_without_pool(&self) -> impl Iterator<Item = (CloseReason, u64)> {
        let count = |reason: CloseReason| self.failures_without_pool[reason.index()].load(Ordering::Relaxed);
        CloseReason::ALL.into_iter().map(move |reason| (reason, count(reason))).filter(|(_, n)| *n > 0)
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
