//! One attempt to connect to a backend, with what is sent before the client's bytes.

use std::future::poll_fn;
use std::io;

use rand::Rng;
use socket2::SockRef;

use super::context::WorkerContext;
use super::stream::{Push, Stream};
use crate::config::{self, SourceAddress};
use crate::domain::{Client, SocketAddress};
use crate::outgoing::connect_unix;
use crate::pool::Backend;
use crate::protocol::postgres;

/// What a connection to a backend begins with.
#[derive(Debug)]
pub(super) struct Opening {
    /// The client.
    pub(super) client: Client,
    /// The PROXY header, if one is sent.
    pub(super) header: Option<Vec<u8>>,
    /// PostgreSQL's request for TLS follows.
    pub(super) requests_tls: bool,
    /// The client's bytes follow at once.
    pub(super) has_more: bool,
}

/// Connects to one backend and sends the opening, which the client's bytes must follow. Also returns the address that
/// the connection comes from, if it is configured.
pub(super) async fn attempt(
    backend: &Backend,
    settings: &config::Pool,
    opening: &Opening,
    context: &WorkerContext,
) -> io::Result<(Stream, Option<SourceAddress>)> {
    let limit = settings.connect.timeout;
    let first_bytes = opening.has_more || opening.header.is_some();
    let random = || context.random.borrow_mut().next_u64();
    let source = settings.connect.source_for(opening.client, &backend.address, random);
    let connecting = async {
        let stream = match &backend.address {
            SocketAddress::Tcp(address) => {
                let stream = context.handshakes.connect(*address, source, first_bytes).await?;
                if settings.user_timeout.is_some() {
                    SockRef::from(&stream).set_tcp_user_timeout(settings.user_timeout)?;
                }
                Stream::Tcp(stream)
            }
            SocketAddress::Unix(path) => Stream::Unix(connect_unix(path).await?),
        };
        if let Some(header) = &opening.header {
            let push = if opening.has_more { Push::WithNext } else { Push::Now };
            send(&stream, header, push).await?;
        }
        if opening.requests_tls {
            request_tls(&stream).await?;
        }
        Ok((stream, source))
    };
    tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
        let message = format!("no answer within {}", humantime::format_duration(limit));
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    })
}

/// Sends the first bytes of a connection, which fit into the kernel's buffer.
pub(super) async fn send(stream: &Stream, bytes: &[u8], push: Push) -> io::Result<()> {
    // A Unix socket is connected at once, and the runtime does not know yet that it is ready.
    poll_fn(|cx| stream.poll_writable(cx)).await?;
    match stream.write(bytes, push)? {
        sent if sent < bytes.len() => {
            Err(io::Error::other("the kernel accepted only a part of the first bytes"))
        }
        _ => Ok(()),
    }
}

/// Asks a PostgreSQL server for TLS. It must answer before the ClientHello: it refuses bytes that come with the request
/// (CVE-2021-23214).
async fn request_tls(stream: &Stream) -> io::Result<()> {
    send(stream, &postgres::SSL_REQUEST, Push::Now).await?;
    loop {
        poll_fn(|cx| stream.poll_readable(cx)).await?;
        let mut answer = [0];
        return match stream.read(&mut answer) {
            Ok(1) if answer == [postgres::ACCEPTED] => Ok(()),
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection instead of answering PostgreSQL's request for TLS",
            )),
            Ok(_) => Err(io::Error::other("it does not offer TLS to PostgreSQL's clients")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => Err(error),
        };
    }
}
