//! Laws of the admin server that hold for any request. Property tests and the fuzzer (`tests/fuzz`) assert them.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::access::Peer;
use super::events::Stop;
use super::framing::{Framing, Framings, Watched};
use super::{replicas, server};
use crate::api::{ErrorReply, ReplicaFailure};

/// Far longer than the server takes for any request here.
const LIMIT: Duration = Duration::from_secs(20);

/// Asserts the laws for a request from this machine: its method and target in the first line, and its body behind it.
///
/// # Panics
/// If a law does not hold.
pub(crate) async fn check_request(router: Router, bytes: &[u8]) {
    let Some(request) = request(bytes) else { return };
    let what = format!("{} {}", request.method(), request.uri());
    let (path, is_head) = (request.uri().path().to_owned(), request.method() == Method::HEAD);
    let work = async {
        let Ok(response) = TowerToHyperService::new(router).call(request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes);
        (head, body.unwrap_or_else(|error| panic!("the reply to {what} breaks off: {error}")))
    };
    let Ok((head, body)) = timeout(LIMIT, work).await else { panic!("no reply to {what}") };
    assert_ne!(head.status, StatusCode::INTERNAL_SERVER_ERROR, "{what}: {}", body.escape_ascii());
    if is_head || !(head.status.is_client_error() || head.status.is_server_error()) {
        return;
    }
    let message = if replicas::has_own_shape(&path) {
        serde_json::from_slice::<ReplicaFailure>(&body).map(|failure| failure.message)
    } else {
        serde_json::from_slice::<ErrorReply>(&body).map(|reply| reply.error.message)
    };
    let is_told = message.is_ok_and(|message| !message.is_empty());
    assert!(is_told, "{what} gets {} without a message: {}", head.status, body.escape_ascii());
}

fn request(bytes: &[u8]) -> Option<Request> {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let (line, body) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n')?);
    let (method, target) = text(line)?.split_once(' ')?;
    let target: Uri = target.parse().ok().filter(|uri: &Uri| uri.path().starts_with('/'))?;
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(Bytes::copy_from_slice(&body[1..])))
        .ok()?;
    request.extensions_mut().insert(Peer::Unix);
    // Streams end at once.
    let stop = CancellationToken::new();
    stop.cancel();
    request.extensions_mut().insert(Stop(stop));
    Some(request)
}

/// Asserts for the bytes of a connection that every request which hyper finds in it has its framing, which `framing.rs`
/// reads from the same bytes.
///
/// # Panics
/// If a law does not hold.
pub(crate) async fn check_framings(bytes: &[u8]) {
    let (mut client, connection) = tokio::io::duplex(1 << 20);
    let framings = Framings::default();
    let connection = TokioIo::new(Watched::new(connection, framings.clone()));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let framing = framings.next();
        async move {
            let head = format!("{request:?}");
            let is_coded = request.headers().contains_key(header::TRANSFER_ENCODING);
            assert!(framing.is_some(), "the framing of {head} is unknown");
            assert!(!is_coded || framing != Some(Framing::Length), "{head} has a Transfer-Encoding");
            let _ = request.into_body().collect().await; // breaks off where the bytes end
            let mut response = Response::new(Empty::<Bytes>::new());
            if framing != Some(Framing::Length) {
                // As `message.rs` answers: it is the last request of its connection.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    // A client that has sent everything would count as gone.
    let served = server::protocol(LIMIT).half_close(true).serve_connection(connection, service);
    let work = async {
        let sent = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        };
        tokio::join!(served, sent)
    };
    assert!(timeout(LIMIT, work).await.is_ok(), "{} is served forever", bytes.escape_ascii());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a request consists of, well-formed and not.
    const PIECES: [&str; 26] = [
        "GET / HTTP/1.1\r\n",
        "POST /add HTTP/1.1\r\n",
        "PUT / HTTP/1.0\r\n",
        "\r\n",
        "\n",
        "\r",
        "Host: x\r\n",
        "Content-Length: 5\r\n",
        "content-length: 0\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length : 5\r\n",
        "Content-Length:\r\n",
        " Content-Length: 7\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "Transfer-Encoding: \r\n",
        "X: y\n",
        "X\r\n",
        ": z\r\n",
        "\0",
        "hello",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
    ];

    proptest! {
        #[test]
        fn each_request_that_is_served_has_its_framing(
            pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 1..14),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(check_framings(pieces.concat().as_bytes()));
        }
    }
}
