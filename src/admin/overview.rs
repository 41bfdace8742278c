//! Everything that there is to see of the running program: kept up to date by the supervisor, read by the admin
//! server and by the demo.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::config::BindAddress;
use crate::pool::Pool;
use crate::proxy::admit::Limit;
use crate::proxy::listener::Listener;
use crate::proxy::worker::Shared;

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

/// What there is to see.
#[derive(Debug)]
pub struct Overview {
    /// When the process started.
    pub started: Instant,
    /// The limit of connections.
    pub limit: Arc<Limit>,
    /// What each worker shows.
    pub workers: Vec<Arc<Shared>>,
    /// The pools.
    pub pools: ArcSwap<BTreeMap<Arc<str>, Arc<Pool>>>,
    /// The listeners, each with the addresses that it has, ports chosen by the kernel included.
    pub listeners: ArcSwap<Vec<(Arc<Listener>, Vec<BindAddress>)>>,
    phase: AtomicU8,
}

impl Overview {
    /// An overview of a process that is starting.
    pub fn new(limit: Arc<Limit>, workers: Vec<Arc<Shared>>) -> Self {
        Self {
            started: Instant::now(),
            limit,
            workers,
            pools: ArcSwap::default(),
            listeners: ArcSwap::default(),
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

    /// Whether traffic should be sent here: it accepts, it was not told to stop, and every pool has looked for
    /// its backends once. That none is up does not make it unready: no other instance would find more.
    pub fn ready(&self) -> bool {
        self.phase() == Phase::Serving && self.pools.load().values().all(|pool| pool.settled())
    }
}
