//! What conntrack tells of the connections: its events, and its entries, where those are looked at.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::super::connections::Connections;
use super::super::conntrack::{ConntrackEntry, ConntrackEvent, Tuple};
use super::super::served::target;
use super::{Kernel, Task};

/// Reads of events before other work gets a turn.
const AT_ONCE: usize = 4;
/// The time between two reads of events while there are any: many events are read with one system call, and the log is at most
/// that late.
const MODERATION: Duration = Duration::from_millis(1);
/// The time until the next attempt after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Entries that are asked for at once.
const ASKED: usize = 64;

impl Task {
    /// Reads the events that are there, and sets when it is done again.
    pub(super) fn read_events(&mut self) {
        let read = self.read_some(AT_ONCE);
        let now = Instant::now();
        self.next_read = match read {
            EventsRead { failed: true, .. } => Some(now + RETRY),
            EventsRead { may_have_more: true, .. } => Some(now),
            EventsRead { some, .. } => some.then(|| now + MODERATION),
        };
        if read.lost {
            self.shared.events_lost.fetch_add(1, Ordering::Relaxed);
            warn!("events of conntrack were lost: connections are compared with its table");
            self.resync();
        }
    }

    /// Reads events with at most `most` system calls; if some were lost, reads all.
    fn read_some(&mut self, most: usize) -> EventsRead {
        let mut found = EventsRead::default();
        let Some(kernel) = &mut self.kernel else { return found };
        let (connections, served, now) = (&mut self.connections, &self.served, Instant::now());
        for n in 0.. {
            found.may_have_more = true;
            if n >= most && !found.lost {
                break;
            }
            let read = kernel.events.read(|event| match event {
                ConntrackEvent::New(entry) | ConntrackEvent::Changed(entry) => {
                    connections.follow(&entry, now, |entry| target(served, entry));
                }
                ConntrackEvent::Gone(entry) => connections.gone(&entry, now, |entry| target(served, entry)),
            });
            found.may_have_more = false;
            match read {
                Ok(()) => found.some = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => found.lost = true,
                Err(error) => {
                    error!(%error, "cannot read the events of conntrack: retrying");
                    found.failed = true;
                    break;
                }
            }
        }
        found
    }

    /// Looks at the entries of the connections that one side has ended: both may have by now. An entry that is gone is reported with
    /// its bytes.
    pub(super) fn look_at_ending(&mut self) {
        let tuples = self.connections.take_ending(Instant::now());
        self.each_entry(&tuples, Connections::look_at);
    }

    /// Reads the entries of these connections.
    pub(super) fn each_entry(&mut self, tuples: &[Tuple], each: fn(&mut Connections, &ConntrackEntry)) {
        let Some(kernel) = &mut self.kernel else { return };
        for tuples in tuples.chunks(ASKED) {
            match kernel.table.entries(tuples) {
                Ok(found) => found.iter().for_each(|(_, entry)| each(&mut self.connections, entry)),
                Err(error) => {
                    error!(%error, "cannot read conntrack's entries: retrying");
                    kernel.reopen();
                }
            }
        }
    }

    /// Compares the connections with the table: adds those that are not known, and ends those that are gone.
    pub(super) fn resync(&mut self) {
        // What is reported already is older than the table.
        self.read_some(usize::MAX);
        let Some(kernel) = &mut self.kernel else { return };
        let (now, mut present) = (Instant::now(), HashSet::new());
        let (connections, served) = (&mut self.connections, &self.served);
        let dumped = kernel.table.dump(|entry| {
            present.insert(entry.original);
            connections.follow(&entry, now, |entry| target(served, entry));
        });
        match dumped {
            Ok(()) => connections.keep(|original| present.contains(original), now),
            Err(error) => {
                error!(%error, "cannot read conntrack's table: open connections may be missing");
                kernel.reopen();
            }
        }
    }
}

/// What a read of events has found.
#[derive(Default)]
struct EventsRead {
    /// There were some.
    some: bool,
    /// Some may be left.
    may_have_more: bool,
    /// The kernel has dropped some.
    lost: bool,
    /// They cannot be read.
    failed: bool,
}

/// Returns when events are to be read: at that time, or as soon as there are some. Under load the time comes first, and the
/// kernel need not wake this thread for each event.
pub(super) async fn events_due(kernel: Option<&Kernel>, at: Option<Instant>) {
    match (at, kernel) {
        (Some(_), _) => until(at).await,
        (None, Some(kernel)) => {
            if let Err(error) = kernel.events.readable().await {
                error!(%error, "cannot wait for the events of conntrack: they are read once a second");
                tokio::time::sleep(RETRY).await;
            }
        }
        (None, None) => std::future::pending().await,
    }
}

/// Returns at that time; at once without one.
pub(super) async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time.into()).await;
    }
}
