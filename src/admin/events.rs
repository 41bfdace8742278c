//! `/api/v1/events`: the live events, by Server-Sent Events (HTML Living Standard, 9.2).
//!
//! A stream begins with `hello`. Then come `status` each second (the reply of `/api/v1/status`), `decisions` when there
//! are new ones (the latest only: there may be thousands), and an `event` for each entry of the journal, with the
//! entry's number as id. A client that reconnects with `Last-Event-ID` gets all kept events after that one; `lagged`
//! counts the lost ones. With a state directory this is so across a restart, too.
//!
//! A slow reader gets fewer events: after it has read one, the next `status` is the latest one, and `lagged` counts the
//! events that the journal has dropped meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::access::{Peer, PerOrigin};
use super::connections::rendered;
use super::pending::Pending;
use super::sse::{self, BATCH, Source};
use super::{ApiError, App};
use crate::api::{Hello, JournalEntry, Lagged, StatusReply};
use crate::domain::ConnectionRecord;
use crate::telemetry::journal::Journal;

/// The time between `status` events, and between polls for new decisions.
const STATUS: Duration = Duration::from_secs(1);
const DECISIONS: Duration = Duration::from_millis(500);
/// The most decisions in an event.
const LATEST: usize = 20;
/// Entries read from the journal at a time.
const ENTRIES: usize = 64;
/// Milliseconds after which a client reconnects when it loses the stream.
const RETRY: u64 = 1000;

/// Ends the streams when the server stops.
#[derive(Clone, Debug)]
pub(super) struct Stop(pub(super) CancellationToken);

/// The latest `status` event, serialized once and shared by all readers.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    latest: Mutex<Option<Snapshot>>,
    /// The same event, counted among the bytes that wait for the readers of each origin.
    counted: PerOrigin<Mutex<Option<Snapshot>>>,
}

#[derive(Clone, Debug)]
struct Snapshot {
    made: Instant,
    event: Bytes,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// The latest event; `make` serializes it again when it is too old. `None`: unread events of slow readers leave no
    /// room for another one.
    fn latest(
        &self,
        peer: Option<Peer>,
        pending: &PerOrigin<Pending>,
        make: impl FnOnce() -> String,
    ) -> Option<Bytes> {
        let snapshot = self.made(make);
        let mut counted = lock(self.counted.of(peer));
        if counted.as_ref().is_none_or(|counted| counted.made != snapshot.made) {
            *counted = None; // release it before counting the next one
            let event = pending.of(peer).count(snapshot.event)?;
            *counted = Some(Snapshot { made: snapshot.made, event });
        }
        counted.as_ref().map(|counted| counted.event.clone())
    }

    fn made(&self, make: impl FnOnce() -> String) -> Snapshot {
        let mut latest = lock(&self.latest);
        match &*latest {
            Some(snapshot) if snapshot.made.elapsed() < STATUS / 2 => snapshot.clone(),
            _ => {
                let mut event = String::new();
                sse::event(&mut event, "status", None, &make());
                let snapshot = Snapshot { made: Instant::now(), event: event.into() };
                *latest = Some(snapshot.clone());
                snapshot
            }
        }
    }
}

/// A value as JSON. Serializing the types of the API cannot fail.
///
/// It is written as axum's `Json` does, so that the compiler generates the serialization of a type once for both.
pub(super) fn in_json(value: &impl Serialize) -> String {
    let mut json = BytesMut::new().writer();
    match serde_json::to_writer(&mut json, value) {
        Ok(()) => String::from_utf8(json.into_inner().into()).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// `GET /api/v1/events`.
pub(super) async fn events(
    State(app): State<App>,
    Extension(Stop(stop)): Extension<Stop>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let peer = peer.map(|Extension(peer)| peer);
    let permit = app.streams.of(peer).permit()?;
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    Ok(sse::answer(EventReader::new(app, peer, stop, seen, permit)))
}

/// The journal for one reader.
struct JournalReader {
    journal: Journal,
    /// The number of the last event that was sent.
    sent: u64,
}

impl JournalReader {
    /// The next events, if there are any.
    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        let (entries, dropped) = self.journal.after_limited(self.sent, ENTRIES);
        if dropped > 0 {
            sse::event(&mut out, "lagged", None, &in_json(&Lagged { missed: dropped }));
        }
        for entry in entries {
            if out.len() >= BATCH {
                break;
            }
            self.sent = entry.id;
            sse::event(&mut out, "event", Some(self.sent), &in_json(&JournalEntry::from(entry)));
        }
        (!out.is_empty()).then(|| out.into())
    }
}

/// The events for one reader.
struct EventReader {
    app: App,
    peer: Option<Peer>,
    stop: CancellationToken,
    hello: Option<Bytes>,
    entries: JournalReader,
    latest: watch::Receiver<u64>,
    status: Interval,
    decisions: Interval,
    newest_decision: Option<(SystemTime, u64)>,
    _permit: OwnedSemaphorePermit,
}

impl EventReader {
    /// For a reader that has received the events up to `seen`.
    fn new(
        app: App,
        peer: Option<Peer>,
        stop: CancellationToken,
        seen: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let journal = app.overview.journal.clone();
        let mut latest = journal.latest();
        let newest = *latest.borrow();
        latest.mark_changed();
        let mut hello = format!("retry: {RETRY}\n\n");
        let started = app.overview.started_at;
        let version = env!("CARGO_PKG_VERSION").into();
        let first = Hello { version, latest: newest, started, demo: app.demo };
        sse::event(&mut hello, "hello", None, &in_json(&first));
        let every = |time| {
            let mut interval = interval(time);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            app,
            peer,
            stop,
            hello: Some(hello.into()),
            // A number above the latest one is from an earlier process whose journal was lost: send everything.
            entries: JournalReader {
                journal,
                sent: seen.map_or(newest, |seen| if seen > newest { 0 } else { seen }),
            },
            latest,
            status: every(STATUS),
            decisions: every(DECISIONS),
            newest_decision: None,
            _permit: permit,
        }
    }

    /// The latest status, or a keepalive when there is no room for it.
    fn status(&self) -> Bytes {
        let App { overview, problems, snapshots, pending, .. } = &self.app;
        let make = || in_json(&StatusReply::of(overview, problems));
        snapshots.latest(self.peer, pending, make).unwrap_or(sse::COMMENT)
    }

    /// The latest decisions, if there are new ones.
    fn decisions(&mut self) -> Option<Bytes> {
        let new = newer(self.app.overview.decisions(LATEST), &mut self.newest_decision);
        let mut out = String::new();
        if !new.is_empty() {
            sse::event(&mut out, "decisions", None, &in_json(&rendered(&new)));
        }
        (!out.is_empty()).then(|| out.into())
    }
}

impl Source for EventReader {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(hello) = self.hello.take() {
            return Some(hello);
        }
        loop {
            if self.stop.is_cancelled() {
                return self.entries.next(); // the last event is the result of the drain
            }
            let bytes = tokio::select! {
                // The sender lives as long as the journal.
                _ = self.latest.changed() => {
                    let entries = self.entries.next();
                    if entries.is_some() {
                        self.latest.mark_changed(); // there may be more events
                    }
                    entries
                }
                _ = self.status.tick() => Some(self.status()),
                _ = self.decisions.tick() => self.decisions(),
                () = self.stop.cancelled() => None,
            };
            if bytes.is_some() {
                return bytes;
            }
        }
    }
}

/// The records after `newest`, the newest first. Sets `newest` to the newest of them.
fn newer(latest: Vec<ConnectionRecord>, newest: &mut Option<(SystemTime, u64)>) -> Vec<ConnectionRecord> {
    let key = |record: &ConnectionRecord| (record.at(), record.conn);
    let before = *newest;
    *newest = latest.first().map(key).or(before);
    latest.into_iter().filter(|record| before.is_none_or(|before| key(record) > before)).collect()
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
