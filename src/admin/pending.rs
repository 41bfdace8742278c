//! The limit of bytes in answers that wait for slow clients.
//!
//! An answer stays in memory until its client has read it. All unread answers share a limit in bytes, one for clients
//! on this machine and one for remote clients. An answer that would exceed the limit is replaced by 503.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ApiError;
use super::access::{Peer, PerOrigin};

/// The limit of unread bytes: some scrapes of 10,000 backends, or a hundred snapshots of 1,500.
pub(super) const LIMIT: usize = 64 << 20;
/// Answers up to this size are not counted. A connection has one at a time, and each origin has 128 connections: 2 MiB.
const SMALL: usize = 16 << 10;
/// The unit of counting, in bytes.
const UNIT: usize = 1 << 10;

/// The unread answers. Clones share the count.
#[derive(Clone, Debug)]
pub(super) struct Pending(Arc<Semaphore>);

impl Default for Pending {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LIMIT / UNIT)))
    }
}

/// Bytes that count until their last clone is dropped.
struct Counted {
    bytes: Bytes,
    _units: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Pending {
    /// The same bytes, counted while they exist. `None`: too many bytes wait. A body larger than the limit counts
    /// as the limit: it is allowed alone.
    pub(super) fn count(&self, bytes: Bytes) -> Option<Bytes> {
        if bytes.len() <= SMALL {
            return Some(bytes);
        }
        let units = bytes.len().div_ceil(UNIT).min(LIMIT / UNIT) as u32;
        let units = Arc::clone(&self.0).try_acquire_many_owned(units).ok()?;
        Some(Bytes::from_owner(Counted { bytes, _units: units }))
    }
}

/// Counts answers with a known length. Streams count their own bytes.
pub(super) async fn count(
    State(pending): State<PerOrigin<Pending>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if response.body().size_hint().exact().is_none_or(|length| length <= SMALL as u64) {
        return response;
    }
    let (head, body) = response.into_parts();
    let counted = to_bytes(body, usize::MAX).await.ok().and_then(|bytes| pending.of(peer).count(bytes));
    match counted {
        Some(bytes) => Response::from_parts(head, Body::from(bytes)),
        None => {
            let limit = LIMIT >> 20;
            let message = format!("{limit} MiB of answers wait for clients that are slow to read them");
            let hint = "retry in a second, or find out which clients do not read their answers";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, hint).at(&path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_answers_wait_their_bytes_are_bounded() {
        let pending = Pending::default();
        let answer = |length: usize| pending.count(vec![0; length].into());
        let waiting: Vec<_> = std::iter::from_fn(|| answer(1 << 20)).take(1000).collect();
        assert_eq!(waiting.iter().map(Bytes::len).sum::<usize>(), LIMIT);
        assert!(answer(SMALL).is_some(), "a short answer is always given");
        // A slice of an answer keeps the whole answer in memory.
        let part = waiting[0].slice(..1);
        drop(waiting);
        assert!(answer(LIMIT).is_none());
        drop(part);
        let large = answer(2 * LIMIT).unwrap();
        assert!(answer(1 << 20).is_none());
        drop(large);
        assert!(answer(1 << 20).is_some());
    }
}
