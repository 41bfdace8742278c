//! What has happened lately, kept in memory for those who look: the event stream, the dashboard, `why` and `story`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use super::decisions::unix_seconds;
use super::fact::Fact;

/// How many facts are kept.
const KEPT: usize = 4096;

/// A fact, and when it happened.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its number; the next one's is one more. The first of a process is 1.
    pub id: u64,
    /// When it was told.
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub fact: Arc<Fact>,
}

/// The facts of the process, in the order in which they were told. A clone is the same journal.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Book>);

#[derive(Debug, Default)]
struct Book {
    kept: Mutex<VecDeque<Entry>>,
    latest: watch::Sender<u64>,
}

impl Journal {
    /// Writes a fact to the log and keeps it, forgetting the oldest.
    pub fn tell(&self, fact: Fact) {
        fact.log();
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let id = *self.0.latest.borrow() + 1;
        kept.push_back(Entry { id, at: SystemTime::now(), fact: Arc::new(fact) });
        self.0.latest.send_replace(id); // while nobody else can take the same number
    }

    /// The facts after that number that are kept, oldest first, and how many after it are forgotten.
    pub fn after(&self, id: u64) -> (Vec<Entry>, u64) {
        self.some_after(id, usize::MAX)
    }

    /// The same, but no more than `limit` facts.
    pub fn some_after(&self, id: u64, limit: usize) -> (Vec<Entry>, u64) {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = kept.front().map_or(0, |first| first.id.saturating_sub(id.saturating_add(1)));
        let from = kept.partition_point(|entry| entry.id <= id);
        (kept.range(from..).take(limit).cloned().collect(), forgotten)
    }

    /// The number of the latest fact, and every change of that; 0: there is none.
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.0.latest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(weight: u32) -> Fact {
        Fact::Weight { pool: "web".into(), backend: "a".into(), weight }
    }

    #[test]
    fn who_reads_on_misses_nothing_and_is_told_what_is_forgotten() {
        let journal = Journal::default();
        assert_eq!((journal.after(0).0.len(), *journal.latest().borrow()), (0, 0));
        for weight in 1..=5 {
            journal.tell(fact(weight));
        }
        let (entries, forgotten) = journal.after(3);
        assert_eq!((entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), forgotten), (vec![4, 5], 0));
        assert_eq!(*entries[0].fact, fact(4));
        for weight in 0..KEPT as u32 {
            journal.tell(fact(weight));
        }
        let (entries, forgotten) = journal.after(2);
        assert_eq!((entries.len(), forgotten, entries[0].id), (KEPT, 3, 6));
        let (entries, forgotten) = journal.some_after(2, 2);
        assert_eq!((entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), forgotten), (vec![6, 7], 3));
        assert_eq!(journal.after(u64::MAX), journal.after(5 + KEPT as u64));
    }

    impl PartialEq for Entry {
        fn eq(&self, other: &Self) -> bool {
            self.id == other.id && self.fact == other.fact
        }
    }

    #[test]
    fn two_writers_never_share_a_number() {
        let journal = Journal::default();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1000).for_each(|weight| journal.tell(fact(weight))));
            }
        });
        let ids: Vec<_> = journal.after(0).0.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, (1..=2000).collect::<Vec<_>>());
    }
}
