//! The latest events, kept in memory for the event stream, the dashboard, `why` and `story`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::domain::Event;

/// How many events are kept.
const KEPT: usize = 4096;

/// An event, and when it happened.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number; the next one's is one more. The first of a process is 1.
    pub id: u64,
    /// When it was recorded.
    pub at: SystemTime,
    /// The event as a sentence.
    pub sentence: Box<str>,
    /// The event.
    pub event: Arc<Event>,
}

/// The events of the process, in their order. Clones share the same journal.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<JournalState>);

#[derive(Debug, Default)]
struct JournalState {
    kept: Mutex<VecDeque<Entry>>,
    latest: watch::Sender<u64>,
}

impl Journal {
    /// Writes an event to the log and keeps it; the oldest one is dropped.
    pub fn record(&self, event: Event) {
        event.log();
        let sentence = event.sentence().into();
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let id = *self.0.latest.borrow() + 1;
        kept.push_back(Entry { id, at: SystemTime::now(), sentence, event: Arc::new(event) });
        self.0.latest.send_replace(id); // under the lock, so that no number is used twice
    }

    /// The kept events after that number, oldest first, and how many after it were dropped.
    pub fn after(&self, id: u64) -> (Vec<Entry>, u64) {
        self.after_limited(id, usize::MAX)
    }

    /// The same, but at most `limit` events.
    pub fn after_limited(&self, id: u64, limit: usize) -> (Vec<Entry>, u64) {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = kept.front().map_or(0, |first| first.id.saturating_sub(id.saturating_add(1)));
        let from = kept.partition_point(|entry| entry.id <= id);
        (kept.range(from..).take(limit).cloned().collect(), dropped)
    }

    /// The number of the latest event, and every change of that; 0: there is none.
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.0.latest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(weight: u32) -> Event {
        Event::WeightChanged { pool: "web".into(), backend: "a".into(), weight }
    }

    #[test]
    fn a_reader_gets_every_event_and_the_number_of_dropped_ones() {
        let journal = Journal::default();
        assert_eq!((journal.after(0).0.len(), *journal.latest().borrow()), (0, 0));
        for weight in 1..=5 {
            journal.record(event(weight));
        }
        let (entries, dropped) = journal.after(3);
        assert_eq!((entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), dropped), (vec![4, 5], 0));
        assert_eq!(*entries[0].event, event(4));
        for weight in 0..KEPT as u32 {
            journal.record(event(weight));
        }
        let (entries, dropped) = journal.after(2);
        assert_eq!((entries.len(), dropped, entries[0].id), (KEPT, 3, 6));
        let (entries, dropped) = journal.after_limited(2, 2);
        assert_eq!((entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), dropped), (vec![6, 7], 3));
        assert_eq!(journal.after(u64::MAX), journal.after(5 + KEPT as u64));
    }

    impl PartialEq for Entry {
        fn eq(&self, other: &Self) -> bool {
            self.id == other.id && self.event == other.event
        }
    }

    #[test]
    fn two_writers_never_share_a_number() {
        let journal = Journal::default();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1000).for_each(|weight| journal.record(event(weight))));
            }
        });
        let ids: Vec<_> = journal.after(0).0.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, (1..=2000).collect::<Vec<_>>());
    }
}
