//! Local resource shortages (ports, open files, memory), logged once a second with a count: while a shortage lasts,
//! every client causes the same error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

/// How often shortages are logged.
const REPORT: Duration = Duration::from_secs(1);

/// The system calls of one worker that failed for lack of local resources and are not logged yet.
#[derive(Debug, Default)]
pub struct Shortages {
    /// Connections to backends that could not be opened.
    pub connects: Count,
    /// Client connections that could not be accepted; they wait in the kernel.
    pub accepts: Count,
}

/// Failures, and those of them that are not logged yet: their number and the last error.
#[derive(Debug, Default)]
pub struct Count {
    unlogged: Mutex<Option<(u64, String)>>,
    total: AtomicU64,
}

impl Count {
    /// Adds a failure; only the last error is kept.
    pub fn add(&self, error: String) {
        let mut unlogged = self.unlogged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = unlogged.as_ref().map_or(0, |(count, _)| *count);
        *unlogged = Some((before.saturating_add(1), error));
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    /// The failures since the start.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<(u64, String)> {
        self.unlogged.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The failures of several workers together: their number and the last error of one of them.
fn take<'a>(counts: impl Iterator<Item = &'a Count>) -> Option<(u64, String)> {
    counts.filter_map(Count::take).reduce(|(total, _), (count, error)| (total.saturating_add(count), error))
}

/// Logs the workers' shortages once a second while they last. Never returns.
pub async fn report(workers: Vec<Arc<Shortages>>) {
    loop {
        tokio::time::sleep(REPORT).await;
        if let Some((connects, error)) = take(workers.iter().map(|worker| &worker.connects)) {
            warn!(connects, error, "cannot connect to backends: local resources are exhausted");
        }
        if let Some((accepts, error)) = take(workers.iter().map(|worker| &worker.accepts)) {
            warn!(accepts, error, "accept failed; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_all_workers_are_counted_and_taken_once() {
        let counts = [Count::default(), Count::default(), Count::default()];
        assert_eq!(take(counts.iter()), None);
        counts[0].add("first".to_owned());
        counts[2].add("second".to_owned());
        counts[2].add("third".to_owned());
        assert_eq!(take(counts.iter()), Some((3, "third".to_owned())));
        assert_eq!(take(counts.iter()), None);
        assert_eq!(counts.each_ref().map(Count::total), [1, 0, 2]);
    }
}
