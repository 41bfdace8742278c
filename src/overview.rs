//! The state of the running process: written by the supervisor, read by the admin server and the demo.

mod drain;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use litemap::LiteMap;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::{Mutex, oneshot};
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::domain::{Cause, CloseReason, ConnectionRecord, SocketAddress, Timestamp};
use crate::pool::{Pool, RECENT};
use crate::proxy::admit::Limit;
use crate::proxy::context::Shared;
use crate::proxy::listener::Listener;
use crate::proxy::progress::CloseRequest;
use crate::proxy::worker::WorkerHandle;
use crate::replicas::Replicas;
use crate::state_directory::StateDirectory;
use crate::story::samples::{Counts, EVERY, PoolCounts, Samples};
use crate::task::spawn;
use crate::telemetry::ConnectError;
use crate::telemetry::filter::{ConnectionFilter, ConnectionSubject};
use crate::telemetry::journal::Journal;
use crate::telemetry::records::Records;

/// The pause after a listing of connections, in multiples of its duration: listings take at most a tenth of the
/// workers' time.
const PAUSE_FACTOR: u32 = 9;
/// The maximum of that pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Not accepting connections yet.
    Starting,
    /// Accepting connections.
    Serving,
    /// Stopping: open connections may finish.
    Draining,
}

/// Results of reloads. The start counts as a success, but not as a reload.
#[derive(Debug)]
pub(crate) struct Reloads {
    applied: AtomicU64,
    refused: AtomicU64,
    last_refused: AtomicBool,
    /// In milliseconds since the epoch.
    last_success: AtomicU64,
    /// Why the configuration that was given last is not in effect, and since when.
    rejected: ArcSwapOption<(SystemTime, Cause)>,
}

impl Reloads {
    fn new() -> Self {
        Self {
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_refused: AtomicBool::new(false),
            last_success: AtomicU64::new(now()),
            rejected: ArcSwapOption::empty(),
        }
    }

    /// Records that the configuration in the file is not the one in effect, and why.
    pub(crate) fn reject(&self, why: &str) {
        let since = self.rejected.load().as_ref().map_or_else(SystemTime::now, |before| before.0);
        self.rejected.store(Some(Arc::new((since, Cause::from(why)))));
    }

    /// Since when and why the configuration in the file is not the one in effect; `None`: it is.
    pub(crate) fn rejected(&self) -> Option<Arc<(SystemTime, Cause)>> {
        self.rejected.load_full()
    }

    /// Counts a reload that was applied or refused.
    pub(crate) fn note(&self, applied: bool) {
        self.last_refused.store(!applied, Ordering::Relaxed);
        if applied {
            self.last_success.store(now(), Ordering::Relaxed);
            self.rejected.store(None);
        }
        let counter = if applied { &self.applied } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reloads that were applied.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Reloads that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the last reload was applied.
    pub(crate) fn last_succeeded(&self) -> bool {
        !self.last_refused.load(Ordering::Relaxed)
    }

    /// When the current configuration was applied, in seconds since the epoch.
    pub(crate) fn last_success(&self) -> f64 {
        self.last_success.load(Ordering::Relaxed) as f64 / 1e3
    }
}

/// In milliseconds since the epoch.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The state of the running process.
#[derive(Debug)]
pub(crate) struct Overview {
    /// When the process started.
    pub started: Instant,
    /// The same by the system's clock.
    pub started_at: Timestamp,
    /// The limit of connections.
    pub limit: Arc<Limit>,
    /// The workers' recent decisions and ended connections.
    pub workers: Vec<Arc<Shared>>,
    /// The workers, to list and to close connections.
    pub handles: Vec<WorkerHandle>,
    /// The runtime of the control plane.
    pub control: RuntimeMetrics,
    /// The pools.
    pub pools: ArcSwap<LiteMap<Arc<str>, Arc<Pool>>>,
    /// Their replicas; pools without replicas are absent.
    pub replicas: ArcSwap<LiteMap<Arc<str>, Replicas>>,
    /// The listeners with their addresses, including ports that the kernel chose.
    pub listeners: ArcSwap<Vec<(Arc<Listener>, Vec<SocketAddress>)>>,
    /// Recent events.
    pub journal: Journal,
    /// What outlives the process.
    pub state: StateDirectory,
    /// Results of reloads.
    pub reloads: Reloads,
    /// The current configuration.
    pub config: ArcSwap<Config>,
    /// What the pools counted in each second of the last hour.
    pub samples: Samples,
    phase: AtomicU8,
    /// Until when the process drains; unset: it does not.
    drain_deadline: OnceLock<Instant>,
    /// Whether another process is taking over, so that changes would be lost.
    handing_over: AtomicBool,
    /// Held during a listing of connections and the pause after it.
    listing: Arc<Mutex<()>>,
}

impl Overview {
    /// The state of a starting process; the journal continues that of the state directory. It is called on the runtime of
    /// the control plane.
    pub(crate) fn new(
        config: Config,
        state: StateDirectory,
        limit: Arc<Limit>,
        workers: Vec<Arc<Shared>>,
        handles: Vec<WorkerHandle>,
    ) -> Self {
        Self {
            started: Instant::now(),
            started_at: Timestamp::now(),
            limit,
            workers,
            handles,
            control: Handle::current().metrics(),
            pools: ArcSwap::default(),
            replicas: ArcSwap::default(),
            listeners: ArcSwap::default(),
            journal: Journal::restore(state.clone()),
            state,
            reloads: Reloads::new(),
            config: ArcSwap::from_pointee(config),
            listing: Arc::default(),
            samples: Samples::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            drain_deadline: OnceLock::new(),
            handing_over: AtomicBool::new(false),
        }
    }

    /// Whether another process is taking over, so that changes would be lost.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::SeqCst)
    }

    /// Sets whether another process is taking over.
    pub(crate) fn set_handing_over(&self, handing_over: bool) {
        self.handing_over.store(handing_over, Ordering::SeqCst);
    }

    /// What the process is doing.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Sets what the process is doing.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The connections that were routed or rejected last, newest first, at most `limit`.
    pub(crate) fn decisions(&self, limit: usize) -> Vec<ConnectionRecord> {
        self.matching_decisions(&ConnectionFilter::default(), limit)
    }

    /// The same for the connections that match `filter`.
    pub(crate) fn matching_decisions(
        &self,
        filter: &ConnectionFilter,
        limit: usize,
    ) -> Vec<ConnectionRecord> {
        Records::gather(self.routed(), limit, |record| filter.matches_record(record))
    }

    /// Each worker's connections that were routed or rejected last, and those that failed.
    pub(crate) fn routed(&self) -> impl Iterator<Item = &Records> {
        self.workers.iter().flat_map(|worker| worker.records.routed())
    }

    /// Each worker's connections that ended last, and those that failed.
    pub(crate) fn ended(&self) -> impl Iterator<Item = &Records> {
        self.workers.iter().flat_map(|worker| worker.records.ended())
    }

    /// The open connections that match `filter`, oldest first, at most `limit`, and how many match.
    pub(crate) async fn connections(
        &self,
        filter: &ConnectionFilter,
        limit: usize,
    ) -> (Vec<ConnectionRecord>, usize) {
        let filter = filter.clone();
        let list = async move |handles: Vec<WorkerHandle>| {
            let (mut all, mut total) = (Vec::new(), 0);
            for handle in handles {
                let (some, of) = handle.connections(filter.clone(), limit).await;
                all.extend(some);
                total += of;
            }
            (all, total)
        };
        let (mut all, total) = self.one_at_a_time(list).await;
        all.sort_by_key(|record: &ConnectionRecord| record.accepted);
        all.truncate(limit);
        (all, total)
    }

    /// The open connections of `subject`, at most `limit` of each worker.
    pub(crate) async fn find_connections(
        &self,
        subject: ConnectionSubject,
        limit: usize,
    ) -> Vec<ConnectionRecord> {
        let list = async move |handles: Vec<WorkerHandle>| {
            let mut all = Vec::new();
            for handle in handles {
                all.extend(handle.find(subject, limit).await);
            }
            all
        };
        self.one_at_a_time(list).await
    }

    /// Runs one listing at a time, with a pause after it, so that any number of requests leaves the workers time for
    /// their connections. A separate task runs it, because a canceled request costs the workers the same time.
    async fn one_at_a_time<T, F>(&self, list: impl FnOnce(Vec<WorkerHandle>) -> F) -> T
    where
        T: Default + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let permit = Arc::clone(&self.listing).lock_owned().await;
        let (reply, replied) = oneshot::channel();
        let listed = list(self.handles.clone());
        spawn(async move {
            let began = Instant::now();
            let _ = reply.send(listed.await);
            tokio::time::sleep((began.elapsed() * PAUSE_FACTOR).min(LONGEST_PAUSE)).await;
            drop(permit);
        });
        replied.await.unwrap_or_default() // the runtime is shutting down
    }

    /// Closes the connection `conn`; returns its record, if it was open.
    pub(crate) async fn close_connection(
        &self,
        conn: u64,
        request: CloseRequest,
    ) -> Option<ConnectionRecord> {
        for handle in &self.handles {
            if let Some(was) = handle.close(conn, request).await {
                return Some(was);
            }
        }
        None
    }

    /// Whether traffic should be sent here: the process accepts connections, and every pool has queried its sources once.
    /// A pool without an up backend does not make it unready: no other instance would find more.
    pub(crate) fn ready(&self) -> bool {
        self.phase() == Phase::Serving && self.pools.load().values().all(|pool| pool.settled())
    }

    /// Samples the pools' counters every second for as long as the process runs.
    pub(crate) async fn sample(overview: Weak<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut advanced = Instant::now();
        loop {
            ticks.tick().await;
            let Some(overview) = overview.upgrade() else { return };
            overview.samples.take(SystemTime::now(), overview.counts());
            if advanced.elapsed() >= RECENT {
                advanced = Instant::now();
                overview.advance_latencies();
            }
        }
    }

    fn advance_latencies(&self) {
        for pool in self.pools.load().values() {
            for entry in &pool.status().members {
                entry.backend.latency.connect.advance();
                entry.backend.latency.first_byte.advance();
            }
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts { pools: LiteMap::new(), failures: LiteMap::new() };
        for (name, pool) in &**self.pools.load() {
            let [routed, retried] = pool.counters.routed_and_retried();
            let mut seen = [0; CloseReason::ALL.len()];
            for (reason, n) in pool.counters.failures_seen() {
                seen[reason.index()] = n;
            }
            counts.pools.insert(
                Arc::clone(name),
                PoolCounts { routed, retried, seen, unanswered: pool.counters.unanswered() },
            );
            for entry in &pool.status().members {
                let backend = &entry.backend;
                let mut kinds = [0; ConnectError::ALL.len()];
                for (kind, (_, n)) in kinds.iter_mut().zip(backend.connect_failures()) {
                    *kind = n;
                }
                if kinds.iter().any(|n| *n > 0) {
                    let key = (Arc::clone(name), backend.key);
                    counts.failures.insert(key, (Arc::clone(&backend.name), kinds));
                }
            }
        }
        counts
    }
}
