//! `/api/v1/logs`: the last lines of the log, and those that follow, by Server-Sent Events: each line is a `line`
//! event, as it was written, whose id is its number. Who connects again with `Last-Event-ID` misses none that is kept;
//! who does not keep up is told by `skipped` how many are not.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::events::{Left, Stop, send};
use super::request::Asked;
use super::{App, Failure};
use crate::telemetry::log;
use crate::telemetry::tail::Lines;

/// So many events may wait for a slow reader.
const WAITING: usize = 64;
/// From one reading to the next, so that lines gather.
const GATHER: Duration = Duration::from_millis(50);
/// Lines before those that follow, if it is not said how many.
const LINES: usize = 100;

/// What is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// `GET /api/v1/logs?lines=&follow=`.
pub(super) async fn logs(
    State(app): State<App>,
    Extension(Stop(stop)): Extension<Stop>,
    headers: HeaderMap,
    Asked(wanted): Asked<Wanted>,
) -> Result<Response, Failure> {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let place = app.streams.place()?;
    let (events, told) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            () = stop.cancelled() => {}
            () = events.closed() => {}
            _ = tell(&wanted, seen, &events) => {}
        }
    });
    let told = stream::unfold(told, |mut told| async { Some((told.recv().await?, told)) });
    let body = Sse::new(told.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default());
    // Proxies in between are not to collect it.
    Ok(([(header::HeaderName::from_static("x-accel-buffering"), "no")], body).into_response())
}

/// Tells the lines that are wanted of those after number `seen`, or of all if nobody has seen any.
async fn tell(wanted: &Wanted, seen: Option<u64>, events: &mpsc::Sender<Event>) -> Result<(), Left> {
    let tail = log::tail();
    let mut read = match (seen, wanted.lines) {
        // A number that was not given yet is one of an earlier process: everything is news then.
        (Some(seen), None) => tail.after(if seen > tail.latest() { 0 } else { seen }),
        (_, lines) => tail.last(lines.unwrap_or(LINES)),
    };
    loop {
        let Lines { skipped, lines, latest } = read;
        if skipped > 0 {
            let data = json!({"lines": skipped}).to_string();
            send(events, Event::default().event("skipped").data(data)).await?;
        }
        let first = latest + 1 - lines.len() as u64;
        for (number, line) in (first..).zip(lines) {
            send(events, Event::default().event("line").id(number.to_string()).data(line)).await?;
        }
        if !wanted.follow {
            return Ok(());
        }
        tokio::time::sleep(GATHER).await;
        read = tail.next(latest).await;
    }
}
