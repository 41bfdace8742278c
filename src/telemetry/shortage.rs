//! What this machine is short of (ports, open files, memory), told once a second with a count: the same error meets
//! every client for as long as it lasts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

/// How often shortages are told.
const REPORT: Duration = Duration::from_secs(1);

/// The system calls of one worker that failed for want of local resources, and were not told yet.
#[derive(Debug, Default)]
pub struct Shortages {
    /// Connections to backends that could not be opened.
    pub connects: Count,
    /// Connections of clients that could not be accepted; they wait in the kernel.
    pub accepts: Count,
}

/// Failures that were not told yet: how many, and the last of them in words.
#[derive(Debug, Default)]
pub struct Count(Mutex<Option<(u64, String)>>);

impl Count {
    /// One more; only the last one's words are kept.
    pub fn add(&self, error: String) {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = untold.as_ref().map_or(0, |(count, _)| *count);
        *untold = Some((before.saturating_add(1), error));
    }

    fn take(&self) -> Option<(u64, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Those of several workers together: how many, and the last words of one of them.
fn take<'a>(counts: impl Iterator<Item = &'a Count>) -> Option<(u64, String)> {
    counts.filter_map(Count::take).reduce(|(total, _), (count, error)| (total.saturating_add(count), error))
}

/// Tells what the workers are short of, once a second while they are. Never returns.
pub async fn report(workers: Vec<Arc<Shortages>>) {
    loop {
        tokio::time::sleep(REPORT).await;
        if let Some((connects, error)) = take(workers.iter().map(|worker| &worker.connects)) {
            warn!(connects, error, "no local resources to connect to backends");
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
    }
}
