//! Reports the state of a connection's requests to its slot (`connection_slots.rs`), and keeps long answers out of the reserved
//! slots.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use super::ApiError;
use super::access::Peer;
use super::connection_slots::{Admission, SlotHandle};
use super::host::FOR_ALL;

/// Answers a request, with 503 if only reserved slots are left and its answer is long.
pub(super) async fn admit(
    Extension(slot): Extension<SlotHandle>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let is_short = FOR_ALL.contains(&request.uri().path());
    let admission = slot.begin(request.body().is_end_stream());
    if !is_short && !peer.is_local() {
        slot.wait().await;
    }
    let response = match admission {
        Admission::ShortOnly if !is_short => busy(request.uri().path()),
        Admission::Admitted | Admission::ShortOnly => {
            let receiving = slot.clone();
            next.run(request.map(|body| Body::new(AtEnd::new(body, move || receiving.received())))).await
        }
    };
    slot.received(); // the rest of the request is not needed
    let mut response = response.map(|body| Body::new(AtEnd::new(body, move || slot.answered())));
    if admission == Admission::ShortOnly {
        // A client that sends requests without reading the answers would fill its socket.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn busy(path: &str) -> Response {
    let message = "too many requests are being answered";
    let hint = "retry in a second, or find out which clients do not read their answers";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, hint).at(path)
}

/// A body, and an action that runs once when the body ends or is dropped.
struct AtEnd<F: FnOnce()> {
    body: Body,
    done: Option<F>,
}

impl<F: FnOnce()> AtEnd<F> {
    fn new(body: Body, done: F) -> Self {
        Self { body, done: Some(done) }
    }

    fn end(&mut self) {
        if let Some(done) = self.done.take() {
            done();
        }
    }
}

impl<F: FnOnce() + Unpin> HttpBody for AtEnd<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<F: FnOnce()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        self.end();
    }
}
