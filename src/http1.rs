//! HTTP/1.1 over a connection to a server: for checks, for the client of the admin API and for the demo's clients.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use crate::task::spawn;

/// A connection of any kind.
trait AnyStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> AnyStream for S {}

/// The sender of requests, and the task that drives the connection.
pub type HttpConnection = (SendRequest<Full<Bytes>>, AbortOnDropHandle<hyper::Result<()>>);

/// Starts HTTP on an open connection. `longest_head` limits the heads of responses, in bytes; `None`: as hyper does.
///
/// The connection is boxed, so that the compiler generates hyper's client once and not for each kind of connection.
pub async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    longest_head: Option<usize>,
) -> hyper::Result<HttpConnection> {
    let stream: Box<dyn AnyStream> = Box::new(stream);
    let mut builder = Builder::new();
    if let Some(longest) = longest_head {
        builder.max_buf_size(longest);
    }
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    Ok((sender, AbortOnDropHandle::new(spawn(connection))))
}

/// Percent-encodes a part of a path or a value in a query, except its unreserved characters (RFC 3986, 2.3).
pub fn encode(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_path_are_encoded() {
        assert_eq!(encode("a b/ü?#%"), "a%20b%2F%C3%BC%3F%23%25");
        assert_eq!(encode("[::1]:80"), "%5B%3A%3A1%5D%3A80");
        assert_eq!(encode("web-1.x_y~z"), "web-1.x_y~z");
    }
}
