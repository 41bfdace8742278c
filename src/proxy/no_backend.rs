//! What a client gets when no pool or no backend can serve it.

use std::future::poll_fn;
use std::time::Duration;

use super::relay::RelayBuffers;
use super::sockets;
use super::stream::{Push, Stream};
use crate::config::NoBackend;
use crate::protocol::client_hello::Alert;

/// How long to wait for a client's request before the response is sent anyway.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a lingering close waits for the client's FIN.
const LINGER: Duration = Duration::from_secs(2);

/// RFC 9110, 15.6.4 and 10.2.3.
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 25\r\n\
    Retry-After: 1\r\n\
    Cache-Control: no-store\r\n\
    Connection: close\r\n\
    \r\n\
    No backend is available.\n";

/// Rejects a client. `has_sent`: bytes from it were already read.
pub(super) async fn reject(client: &Stream, has_sent: bool, how: NoBackend, buffers: &RelayBuffers) {
    match how {
        // The kernel completed the connection before the listener closed: a reset comes closest to a refusal.
        NoBackend::Reset | NoBackend::Refuse => sockets::reset_on_close(client),
        NoBackend::Close => lingering_close(client, buffers).await,
        NoBackend::Http503 => unavailable(client, has_sent, buffers).await,
    }
}

/// Waits for the request and sends the response.
async fn unavailable(client: &Stream, has_sent: bool, buffers: &RelayBuffers) {
    if !has_sent {
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, read(client, buffers)).await;
    }
    if client.write(UNAVAILABLE, Push::Now).is_ok() {
        lingering_close(client, buffers).await;
    }
}

/// Sends a TLS alert and closes.
pub(super) async fn alert(client: &Stream, alert: Alert, buffers: &RelayBuffers) {
    if client.write(&alert.record(), Push::Now).is_ok() {
        lingering_close(client, buffers).await;
    }
}

/// Closes in an orderly way: closing with bytes unread would send a reset, and that may overtake what was written
/// (RFC 9112, 9.6).
async fn lingering_close(client: &Stream, buffers: &RelayBuffers) {
    if client.finish().is_err() {
        return;
    }
    let rest = async { while read(client, buffers).await {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Reads and discards; `false` at the end of the stream.
async fn read(client: &Stream, buffers: &RelayBuffers) -> bool {
    loop {
        if poll_fn(|cx| client.poll_readable(cx)).await.is_err() {
            return false;
        }
        match client.read(&mut buffers.buffer.borrow_mut()) {
            Ok(n) => return n > 0,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::UNAVAILABLE;

    #[test]
    fn the_response_has_the_length_in_its_header() {
        let text = std::str::from_utf8(UNAVAILABLE).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
