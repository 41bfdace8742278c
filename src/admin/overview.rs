//! Everything that there is to see of the running program: kept up to date by the supervisor, read by the admin
//! server and by the demo.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, oneshot};

use crate::config::{BindAddress, Config};
use crate::pool::Pool;
use crate::proxy::admit::Limit;
use crate::proxy::listener::Listener;
use crate::proxy::open::Open;
use crate::proxy::progress::End;
use crate::proxy::worker::{Shared, WorkerHandle};
use crate::replicas::Replicas;
use crate::story::samples::Samples;
use crate::telemetry::decisions::{Decision, Decisions, Which, Whose};
use crate::telemetry::ends::Ends;
use crate::telemetry::journal::Journal;

/// After the workers have listed their connections, they do not do it again for so many times the time that it took,
/// and at most for so long.
const RESTS: u32 = 9;
const LONGEST_REST: Duration = Duration::from_millis(500);

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It is not accepting yet.
    Starting,
    /// It is.
    Serving,
    /// It was told to stop.
    Draining,
}

/// How the reloads went. The configuration of the start counts as one that succeeded, but not as a reload.
#[derive(Debug)]
pub struct Reloads {
    applied: AtomicU64,
    refused: AtomicU64,
    last_refused: AtomicBool,
    /// In milliseconds since the epoch.
    last_success: AtomicU64,
}

impl Reloads {
    fn new() -> Self {
        Self {
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_refused: AtomicBool::new(false),
            last_success: AtomicU64::new(now()),
        }
    }

    /// Notes a reload: whether it was applied, or refused.
    pub fn note(&self, applied: bool) {
        self.last_refused.store(!applied, Ordering::Relaxed);
        if applied {
            self.last_success.store(now(), Ordering::Relaxed);
        }
        let counter = if applied { &self.applied } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reloads that were applied.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Reloads that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the configuration that it was given last is the one at work.
    pub fn last_succeeded(&self) -> bool {
        !self.last_refused.load(Ordering::Relaxed)
    }

    /// When the one at work came, in seconds since the epoch.
    pub fn last_success(&self) -> f64 {
        self.last_success.load(Ordering::Relaxed) as f64 / 1e3
    }
}

/// In milliseconds since the epoch.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// What there is to see.
#[derive(Debug)]
pub struct Overview {
    /// When the process started.
    pub started: Instant,
    /// The limit of connections.
    pub limit: Arc<Limit>,
    /// What each worker shows.
    pub workers: Vec<Arc<Shared>>,
    /// Where each worker is asked about its connections.
    pub handles: Vec<WorkerHandle>,
    /// The pools.
    pub pools: ArcSwap<BTreeMap<Arc<str>, Arc<Pool>>>,
    /// The replicas of those that have any.
    pub replicas: ArcSwap<BTreeMap<Arc<str>, Replicas>>,
    /// The listeners, each with the addresses that it has, ports chosen by the kernel included.
    pub listeners: ArcSwap<Vec<(Arc<Listener>, Vec<BindAddress>)>>,
    /// What has happened lately.
    pub journal: Journal,
    /// What became of the configurations that it was given.
    pub reloads: Reloads,
    /// The configuration at work.
    pub config: ArcSwap<Config>,
    /// What was counted in each of the last seconds.
    pub samples: Samples,
    phase: AtomicU8,
    /// Held by who has the workers list their connections.
    listing: Arc<Mutex<()>>,
}

impl Overview {
    /// An overview of a process that is starting.
    pub fn new(
        config: Config,
        limit: Arc<Limit>,
        workers: Vec<Arc<Shared>>,
        handles: Vec<WorkerHandle>,
    ) -> Self {
        Self {
            started: Instant::now(),
            limit,
            workers,
            handles,
            pools: ArcSwap::default(),
            replicas: ArcSwap::default(),
            listeners: ArcSwap::default(),
            journal: Journal::default(),
            reloads: Reloads::new(),
            config: ArcSwap::from_pointee(config),
            listing: Arc::default(),
            samples: Samples::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
        }
    }

    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Notes what the process is doing from now on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The last routing decisions, newest first, at most `limit`.
    pub fn decisions(&self, limit: usize) -> Vec<Decision> {
        self.decisions_of(&Which::default(), limit)
    }

    /// The last of those routing decisions that are asked for, newest first, at most `limit`.
    pub fn decisions_of(&self, which: &Which, limit: usize) -> Vec<Decision> {
        Decisions::gather(&self.kept_decisions(), limit, |decision| decision.is_of(which))
    }

    /// Where each worker keeps its decisions.
    pub fn kept_decisions(&self) -> Vec<Decisions> {
        self.workers.iter().map(|worker| worker.decisions.clone()).collect()
    }

    /// Where each worker keeps its connections that ended.
    pub fn kept_ends(&self) -> Vec<Ends> {
        self.workers.iter().map(|worker| worker.ends.clone()).collect()
    }

    /// The open connections that are asked for, oldest first, at most `limit`, and how many there are.
    pub async fn connections(&self, which: &Which, limit: usize) -> (Vec<Open>, usize) {
        let which = which.clone();
        let look = async move |handles: Vec<WorkerHandle>| {
            let (mut all, mut total) = (Vec::new(), 0);
            for handle in handles {
                let (some, of) = handle.connections(which.clone(), limit).await;
                all.extend(some);
                total += of;
            }
            (all, total)
        };
        let (mut all, total) = self.in_turn(look).await;
        all.sort_by_key(|open| open.since);
        all.truncate(limit);
        (all, total)
    }

    /// The open connections that are meant, at most `limit` of each worker. They are looked for in turn, too.
    pub async fn find_connections(&self, whose: Whose, limit: usize) -> Vec<Open> {
        let look = async move |handles: Vec<WorkerHandle>| {
            let mut all = Vec::new();
            for handle in handles {
                all.extend(handle.find(whose, limit).await);
            }
            all
        };
        self.in_turn(look).await
    }

    /// Has each worker in turn look through its connections. While somebody is being answered, and some time after, others
    /// wait: however many ask, the workers are there for their connections. It goes on in a task of its own: who asks and
    /// leaves before the answer has kept them busy all the same.
    async fn in_turn<T, F>(&self, look: impl FnOnce(Vec<WorkerHandle>) -> F) -> T
    where
        T: Default + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let turn = Arc::clone(&self.listing).lock_owned().await;
        let (answer, answered) = oneshot::channel();
        let look = look(self.handles.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let _ = answer.send(look.await);
            tokio::time::sleep((began.elapsed() * RESTS).min(LONGEST_REST)).await;
            drop(turn);
        });
        answered.await.unwrap_or_default() // a runtime that ends has nothing more to tell
    }

    /// Ends the connection of that number; what it was then, if there is one.
    pub async fn end_connection(&self, conn: u64, end: End) -> Option<Open> {
        for handle in &self.handles {
            if let Some(was) = handle.end(conn, end).await {
                return Some(was);
            }
        }
        None
    }

    /// Whether traffic should be sent here: it accepts, it was not told to stop, and every pool has looked for
    /// its backends once. That none is up does not make it unready: no other instance would find more.
    pub fn ready(&self) -> bool {
        self.phase() == Phase::Serving && self.pools.load().values().all(|pool| pool.settled())
    }
}
