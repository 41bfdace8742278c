//! `/api/v1/events`: what happens, as it happens, by Server-Sent Events (HTML Living Standard, 9.2).
//!
//! A stream begins with `hello`, then `status` follows each second (what `/api/v1/status` says), `decisions` when there are new ones
//! (only the latest of them: there may be thousands), and a `fact` for each entry of the journal, whose number is the
//! event's id. Who connects again with `Last-Event-ID` misses none that is kept; `lagged` says how many are not.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::overview::Overview;
use super::status::Status;
use super::{App, Failure};
use crate::telemetry::decisions::Decision;

/// Streams at once.
const STREAMS: usize = 64;
/// From one `status` to the next, and how often it is looked for decisions.
const STATUS: Duration = Duration::from_secs(1);
const DECISIONS: Duration = Duration::from_millis(500);
/// So many decisions are told at a time.
const LATEST: usize = 20;
/// So many events may wait for a slow reader; one that does not take them is left.
const WAITING: usize = 64;
/// Time for a slow reader to take one.
const PATIENCE: Duration = Duration::from_secs(20);
/// After this time a client that has lost the stream asks again.
const RETRY: Duration = Duration::from_secs(1);

/// Ends the streams when the server stops.
#[derive(Clone, Debug)]
pub(super) struct Stop(pub(super) CancellationToken);

/// The streams of a process, and what they share.
#[derive(Debug)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    /// The last status in JSON, and when it was made: one for all that look.
    status: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(STREAMS)), status: Mutex::default() }
    }
}

impl Streams {
    /// A place for one more stream, if there is one.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = format!("{STREAMS} others follow the events or the log already");
            let hint = "close a dashboard, or ask /api/v1/status now and then";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", message, hint)
        })
    }

    fn status(&self, overview: &Overview) -> Arc<str> {
        let mut last = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, text)) if at.elapsed() < STATUS / 2 => Arc::clone(text),
            _ => {
                let text: Arc<str> = in_json(&Status::of(overview)).into();
                *last = Some((Instant::now(), Arc::clone(&text)));
                text
            }
        }
    }
}

/// Nothing of ours fails to be put into JSON.
fn in_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// `GET /api/v1/events`.
pub(super) async fn events(
    State(app): State<App>,
    Extension(Stop(stop)): Extension<Stop>,
    headers: HeaderMap,
) -> Response {
    let place = match app.streams.place() {
        Ok(place) => place,
        Err(failure) => return failure.into_response(),
    };
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let (events, told) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        tokio::select! {
            biased; // what has happened is told before the end: last of all, how the drain went
            _ = tell(&app, seen, &events, place) => {}
            () = stop.cancelled() => {}
            () = events.closed() => {}
        }
    });
    let told = stream::unfold(told, |mut told| async { Some((told.recv().await?, told)) });
    let beginning = stream::once(async { Event::default().retry(RETRY) });
    let body = Sse::new(beginning.chain(told).map(Ok::<_, Infallible>));
    // Proxies in between are not to collect it.
    ([(header::HeaderName::from_static("x-accel-buffering"), "no")], body.keep_alive(KeepAlive::default()))
        .into_response()
}

/// The other side takes no more.
pub(super) struct Left;

/// Hands an event to a reader that has some time to take it.
pub(super) async fn send(events: &mpsc::Sender<Event>, event: Event) -> Result<(), Left> {
    match tokio::time::timeout(PATIENCE, events.send(event)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Left),
    }
}

fn event(kind: &str, data: impl AsRef<str>) -> Event {
    Event::default().event(kind).data(data)
}

/// Tells all that happens to one that has seen the facts up to `seen`, for as long as it listens.
async fn tell(
    app: &App,
    seen: Option<u64>,
    events: &mpsc::Sender<Event>,
    _place: OwnedSemaphorePermit,
) -> Result<(), Left> {
    let journal = &app.overview.journal;
    let mut latest = journal.latest();
    let newest = *latest.borrow();
    // A number that was not given yet is one of an earlier process: everything is news then.
    let mut told = seen.map_or(newest, |seen| if seen > newest { 0 } else { seen });
    let hello = json!({"version": env!("CARGO_PKG_VERSION"), "latest": newest});
    send(events, event("hello", hello.to_string())).await?;
    let mut newest_decision = None;
    let (mut status, mut decisions) = (tokio::time::interval(STATUS), tokio::time::interval(DECISIONS));
    for interval in [&mut status, &mut decisions] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    latest.mark_changed();
    loop {
        tokio::select! {
            // The journal lives as long as this.
            _ = latest.changed() => {
                latest.borrow_and_update();
                let (entries, forgotten) = journal.after(told);
                if forgotten > 0 {
                    send(events, event("lagged", json!({"missed": forgotten}).to_string())).await?;
                }
                for entry in entries {
                    told = entry.id;
                    send(events, event("fact", in_json(&entry)).id(entry.id.to_string())).await?;
                }
            }
            _ = status.tick() => send(events, event("status", app.streams.status(&app.overview))).await?,
            _ = decisions.tick() => {
                let new = news(app.overview.decisions(LATEST), &mut newest_decision);
                if !new.is_empty() {
                    let data: Value = json!({"decisions": new});
                    send(events, event("decisions", data.to_string())).await?;
                }
            }
        }
    }
}

/// Those of the latest decisions, newest first, that came after the newest one before; that is the newest then.
fn news(latest: Vec<Decision>, newest: &mut Option<(std::time::SystemTime, u64)>) -> Vec<Decision> {
    let key = |decision: &Decision| (decision.at, decision.conn);
    let before = *newest;
    *newest = latest.first().map(key).or(before);
    latest.into_iter().filter(|decision| before.is_none_or(|before| key(decision) > before)).collect()
}
