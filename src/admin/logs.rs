//! `/api/v1/logs`: the last lines of the log, and those that follow, by Server-Sent Events: each line is a `line`
//! event, as it was written, whose id is its number. A client that reconnects with `Last-Event-ID` gets all kept
//! lines; `skipped` counts those that a slow client has lost.

use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::access::Peer;
use super::events::{Stop, in_json};
use super::request::QueryParams;
use super::sse::{self, ALIVE, BATCH, Source};
use super::{ApiError, App};
use crate::api::Skipped;
use crate::telemetry::log;
use crate::telemetry::tail::{Lines, Tail};

/// The delay before new lines are read, so that several are sent together.
const GATHER: Duration = Duration::from_millis(50);
/// The default number of last lines.
const LINES: usize = 100;

/// What is wanted.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    /// The number of last lines, of those that are kept (256 KiB); absent with Last-Event-ID: those after that line.
    #[cfg_attr(test, schemars(with = "usize", extend("default" = 100)))]
    lines: Option<usize>,
    /// Whether to follow with new lines, without an end.
    #[serde(default)]
    follow: bool,
}

/// `GET /api/v1/logs?lines=&follow=`.
pub(super) async fn logs(
    State(app): State<App>,
    Extension(Stop(stop)): Extension<Stop>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    QueryParams(wanted): QueryParams<LogsQuery>,
) -> Result<Response, ApiError> {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let permit = app.streams.of(peer.map(|Extension(peer)| peer)).permit()?;
    Ok(sse::answer(Log::new(log::tail(), &wanted, seen, stop, permit)))
}

/// The lines for one reader.
struct Log {
    tail: &'static Tail,
    /// The number of the last line that was read.
    read: u64,
    /// The last line to send.
    until: Option<u64>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Log {
    /// The lines to send after number `seen`, or all lines if `seen` is absent.
    fn new(
        tail: &'static Tail,
        wanted: &LogsQuery,
        seen: Option<u64>,
        stop: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let latest = tail.latest();
        let read = match (seen, wanted.lines) {
            // A number above the latest one comes from an earlier process: send everything.
            (Some(seen), None) => {
                if seen > latest {
                    0
                } else {
                    seen
                }
            }
            (_, lines) => tail.before_last(lines.unwrap_or(LINES)),
        };
        Self { tail, read, until: (!wanted.follow).then_some(latest), stop, _permit: permit }
    }

    /// The next lines, if there are any.
    fn lines(&mut self) -> Option<Bytes> {
        let Lines { skipped, lines, latest } = self.tail.after(self.read, BATCH);
        let mut out = String::new();
        if skipped > 0 {
            sse::event(&mut out, "skipped", None, &in_json(&Skipped { lines: skipped }));
        }
        let numbered = (self.read + skipped + 1..).zip(lines);
        for (number, line) in
            numbered.take_while(|(number, _)| self.until.is_none_or(|until| *number <= until))
        {
            sse::event(&mut out, "line", Some(number), &line);
        }
        self.read = latest;
        (!out.is_empty()).then(|| out.into())
    }
}

impl Source for Log {
    async fn next(&mut self) -> Option<Bytes> {
        if self.until.is_some_and(|until| self.read >= until) {
            return None;
        }
        let lines = self.lines();
        if lines.is_some() || self.until.is_some() || self.stop.is_cancelled() {
            return lines;
        }
        tokio::select! {
            () = self.tail.wait(self.read) => {
                tokio::time::sleep(GATHER).await;
                self.lines()
            }
            () = tokio::time::sleep(ALIVE) => Some(sse::COMMENT),
            () = self.stop.cancelled() => self.lines(),
        }
    }
}
