//! Admission to the process: limits the number of open connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::files::Files;
use super::listener::Listener;

/// The limit of open connections of the whole process.
#[derive(Debug)]
pub struct Limit {
    /// How many.
    pub connections: usize,
    /// Pipes of each worker.
    pub pipes: usize,
    permits: Arc<Semaphore>,
    reached: AtomicBool,
}

impl Limit {
    /// A limit of `wanted` connections, or of what the open files allow.
    pub fn new(wanted: Option<usize>, files: &Files) -> Self {
        let allowed = usize::try_from(files.clients()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let connections = wanted.map_or(allowed, |wanted| wanted.min(allowed));
        Self {
            connections,
            pipes: usize::try_from(files.pipes()).unwrap_or(usize::MAX),
            permits: Arc::new(Semaphore::new(connections)),
            reached: AtomicBool::new(false),
        }
    }

    /// Connections that hold a permit now.
    pub fn open(&self) -> usize {
        self.connections.saturating_sub(self.permits.available_permits())
    }

    /// Takes a permit; waits until one is free. Logs when the limit is reached, and when the number is below it again.
    pub(super) async fn admit(&self, listener: &Listener) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            if self.reached.load(Ordering::Relaxed)
                && self.permits.available_permits() > self.connections / 10
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
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }
}
