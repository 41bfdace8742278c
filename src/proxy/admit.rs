//! Admission to the process: so many connections at once, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::listener::Listener;

/// Files that the process needs beside its connections: listeners, log, admin server, checks, DNS.
const RESERVED_FILES: u64 = 256;
/// Files that a connection needs: one on each side.
const FILES_PER_CONNECTION: u64 = 2;

/// Pipes that a worker may have at most, for bursts; and their part of the open files, one in so many.
const PIPES: u64 = 64;
const FILES_FOR_PIPES: u64 = 16;
const FILES_PER_PIPE: u64 = 2;

/// The limit of connections that the whole process relays at once.
#[derive(Debug)]
pub struct Limit {
    /// How many.
    pub connections: usize,
    /// Pipes of each worker.
    pub pipes: usize,
    places: Arc<Semaphore>,
    reached: AtomicBool,
}

impl Limit {
    /// A limit of `wanted` connections, or of what `files` open files allow to so many workers.
    pub fn new(wanted: Option<usize>, files: u64, workers: usize) -> Self {
        let workers = u64::try_from(workers).unwrap_or(u64::MAX).max(1);
        let pipes = (files / FILES_FOR_PIPES / FILES_PER_PIPE / workers).min(PIPES);
        let reserved = RESERVED_FILES + pipes * FILES_PER_PIPE * workers;
        let allowed = files.saturating_sub(reserved).max(FILES_PER_CONNECTION) / FILES_PER_CONNECTION;
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let connections = wanted.map_or(allowed, |wanted| wanted.min(allowed));
        let pipes = usize::try_from(pipes).unwrap_or(usize::MAX);
        Self {
            connections,
            pipes,
            places: Arc::new(Semaphore::new(connections)),
            reached: AtomicBool::new(false),
        }
    }

    /// Connections that have a place now.
    pub fn open(&self) -> usize {
        self.connections.saturating_sub(self.places.available_permits())
    }

    /// Takes a place, waiting for one if need be. The limit reached and left again is logged once each.
    pub(super) async fn admit(&self, listener: &Listener) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            if self.reached.load(Ordering::Relaxed) && self.places.available_permits() > self.connections / 10
            {
                self.reached.store(false, Ordering::Relaxed);
                info!(limit = self.connections, "connections are below the limit again");
            }
            return Some(permit);
        }
        if !self.reached.swap(true, Ordering::Relaxed) {
            warn!(
                limit = self.connections,
                listener = %listener.name,
                "the limit of connections is reached: new ones wait; raise runtime.max_connections or the open-file limit"
            );
        }
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}
