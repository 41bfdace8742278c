//! The latest events, kept in memory for the event stream, the dashboard, `why` and `story`, and in the state directory
//! for the next process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::saved_event;
use crate::domain::Event;
use crate::state_directory::{StateDirectory, StateFile};

/// How many events are kept.
const KEPT: usize = StateFile::Events.kept();

/// An event, and when it happened.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number; the next one's is one more. The first is 1; with a state directory, processes continue the numbers of
    /// those before them.
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
    state: StateDirectory,
}

impl Journal {
    /// The journal that continues that of the state directory, if there is one.
    pub fn restore(state: StateDirectory) -> Self {
        let (saved, skipped) = state.read(StateFile::Events, saved_event::parse);
        let mut kept = VecDeque::with_capacity(saved.len());
        let mut latest = 0;
        for (id, at, event) in saved {
            // Numbers only grow, whatever the file has.
            if id > latest {
                latest = id;
                kept.push_back(Entry { id, at, sentence: event.sentence().into(), event });
            }
        }
        let events = kept.len();
        let is_configured = state.is_configured();
        let journal = Self(Arc::new(JournalState {
            kept: Mutex::new(kept),
            latest: watch::Sender::new(latest),
            state,
        }));
        if is_configured {
            let version = env!("CARGO_PKG_VERSION").into();
            journal.record(Event::Started { version, events, skipped });
        }
        journal
    }

    /// Writes an event to the log and keeps it; the oldest one is dropped.
    pub fn record(&self, event: Event) {
        event.log();
        let sentence = event.sentence().into();
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let (id, at) = (*self.0.latest.borrow() + 1, SystemTime::now());
        if self.0.state.is_configured() {
            self.0.state.append(StateFile::Events, saved_event::line(id, at, &event));
        }
        kept.push_back(Entry { id, at, sentence, event: Arc::new(event) });
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
    fn a_journal_continues_that_of_the_state_directory() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Journal::restore(StateDirectory::open(folder.path(), None).unwrap());
        let journal = open();
        journal.record(event(1));
        let before = journal.after(0).0;
        assert!(matches!(*before[0].event, Event::Started { events: 0, .. }));
        drop(journal);
        let journal = open();
        journal.record(event(2));
        let (entries, dropped) = journal.after(0);
        assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((&entries[..2], dropped), (&before[..], 0));
        assert_eq!(entries[1].sentence, before[1].sentence);
        assert!(matches!(*entries[2].event, Event::Started { events: 2, skipped: 0, .. }));
        assert_eq!((*journal.latest().borrow(), &*entries[3].event), (4, &event(2)));
        // The numbers grow, whatever the file has.
        drop((journal, entries, before));
        let file = folder.path().join(StateFile::Events.name());
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, [&*text, &text].concat()).unwrap();
        let ids: Vec<_> = open().after(0).0.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_state_directory_keeps_as_many_events_as_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Journal::restore(StateDirectory::open(folder.path(), None).unwrap());
        let journal = open();
        (0..3 * KEPT as u32).for_each(|weight| journal.record(event(weight)));
        // While the disk is slow, the oldest lines may be dropped: not the latest.
        let before = journal.after(0).0.split_off(1);
        drop(journal);
        let after = open().after(0).0;
        assert_eq!(after.len(), KEPT);
        assert_eq!((after[0].id, &after[..KEPT - 1]), (before[0].id, &before[..]));
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
