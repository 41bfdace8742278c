//! Server-Sent Events (HTML Living Standard, 9.2.5).
//!
//! A stream produces its next bytes when its reader has read the previous ones: no backlog grows for a slow reader.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ApiError;

/// Bytes of events written at a time, plus at most one event.
pub(super) const BATCH: usize = 16 << 10;
/// Keepalive interval of a stream without events, so that no proxy or NAT drops it as idle.
pub(super) const ALIVE: Duration = Duration::from_secs(15);
/// A comment, which readers ignore.
pub(super) const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// A source of events.
pub(super) trait Source: Send + 'static {
    /// The next bytes, whole events; `None` at the end. A pending call is dropped only with the stream.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// A response with such a stream.
pub(super) fn answer(source: impl Source) -> Response {
    let body = stream::unfold(source, |mut source| async move {
        let bytes = source.next().await?;
        Some((Ok::<_, Infallible>(bytes), source))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // Keeps proxies from buffering it.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

/// Writes an event.
pub(super) fn event(out: &mut String, kind: &str, id: Option<u64>, data: &str) {
    let _ = writeln!(out, "event: {kind}");
    if let Some(id) = id {
        let _ = writeln!(out, "id: {id}");
    }
    for line in data.split('\n').flat_map(|line| line.split('\r')) {
        let _ = writeln!(out, "data: {line}");
    }
    out.push('\n');
}

/// The limit of concurrent streams.
#[derive(Clone, Debug)]
pub(super) struct Streams(Arc<Semaphore>);

/// Streams at once from this machine, and as many from other machines.
const STREAMS: usize = 64;

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS)))
    }
}

impl Streams {
    /// A permit for one more stream; 503 if all are in use.
    pub(super) fn permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let message = format!("{STREAMS} streams of events or the log are already open");
            let hint = "close a dashboard, or poll /api/v1/status";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", message, hint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_kind_its_number_and_each_line_of_its_data() {
        let mut out = String::new();
        event(&mut out, "event", Some(7), "{}");
        event(&mut out, "line", None, "one\ntwo\rdata: three");
        assert_eq!(
            out,
            "event: event\nid: 7\ndata: {}\n\nevent: line\ndata: one\ndata: two\ndata: data: three\n\n"
        );
    }
}
