//! The ClientHello of a TLS connection, read before the connection is routed and passed on as it is.

use std::sync::Arc;
use std::time::Duration;

use super::preface::{NotRead, read_more};
use super::relay::RelayBuffers;
use super::stream::{Push, Stream};
use crate::domain::{CloseReason, PrefaceError, PrefaceKind};
use crate::protocol::client_hello::{self, Alert, LONGEST, Protocols};
use crate::protocol::postgres::{ACCEPTED, FirstBytes, NOT_OFFERED, SSL_REQUEST};

/// How long a connection may take to send its ClientHello, if nothing else is configured.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// How a connection begins.
#[derive(Debug)]
pub(super) enum Beginning {
    /// With a ClientHello.
    Tls(Hello),
    /// With other bytes.
    Other,
    /// With no byte within the time limit.
    Silence,
}

/// What the ClientHello contains.
#[derive(Debug, Default)]
pub(super) struct Hello {
    /// The server name.
    pub(super) server_name: Option<Arc<str>>,
    /// The application protocols.
    pub(super) protocols: Protocols,
    /// PostgreSQL's SSLRequest preceded it: the backend must get one too.
    pub(super) after_ssl_request: bool,
}

impl Hello {
    /// Why it matches no rule.
    pub(super) fn alert(&self) -> Alert {
        match (&self.server_name, self.protocols.iter().next()) {
            (Some(_), _) => Alert::UnrecognizedName,
            (None, Some(_)) => Alert::NoApplicationProtocol,
            (None, None) => Alert::HandshakeFailure,
        }
    }
}

/// Reads until the ClientHello in `bytes` is complete, or until the bytes cannot become one. `postgres`: answers PostgreSQL's
/// requests for encryption, and removes them from `bytes`.
pub(super) async fn read(
    stream: &Stream,
    buffers: &RelayBuffers,
    bytes: &mut Vec<u8>,
    postgres: bool,
    limit: Duration,
) -> Result<Beginning, NotRead> {
    match tokio::time::timeout(limit, read_beginning(stream, buffers, bytes, postgres)).await {
        Ok(read) => read,
        Err(_) if bytes.is_empty() => Ok(Beginning::Silence),
        Err(_) => Err(NotRead::TimedOut(PrefaceKind::Tls)),
    }
}

async fn read_beginning(
    stream: &Stream,
    buffers: &RelayBuffers,
    bytes: &mut Vec<u8>,
    postgres: bool,
) -> Result<Beginning, NotRead> {
    let (mut may_request, mut after_ssl_request) = (postgres, false);
    loop {
        match if may_request { FirstBytes::of(bytes) } else { FirstBytes::Other } {
            FirstBytes::SslRequest => {
                answer(stream, bytes, ACCEPTED)?;
                (may_request, after_ssl_request) = (false, true);
                continue;
            }
            FirstBytes::GssRequest => {
                answer(stream, bytes, NOT_OFFERED)?;
                continue;
            }
            FirstBytes::Incomplete => {}
            FirstBytes::Other => match client_hello::parse(bytes) {
                Ok(Some(hello)) => {
                    return Ok(Beginning::Tls(Hello {
                        server_name: hello.server_name.map(Arc::from),
                        protocols: hello.protocols,
                        after_ssl_request,
                    }));
                }
                Ok(None) => {}
                // After the answer to its request, a client can only continue with TLS.
                Err(PrefaceError::Missing(_)) if !after_ssl_request => return Ok(Beginning::Other),
                Err(error) => return Err(NotRead::Invalid(error)),
            },
        }
        read_more(stream, buffers, bytes, LONGEST, PrefaceKind::Tls).await?;
    }
}

/// Answers the request at the beginning of `bytes`, and removes it.
fn answer(stream: &Stream, bytes: &mut Vec<u8>, answer: u8) -> Result<(), NotRead> {
    bytes.drain(..SSL_REQUEST.len());
    match stream.write(&[answer], Push::Now) {
        Ok(_) => Ok(()),
        // The client is gone, or has sent a great many requests without reading the answers.
        Err(_) => Err(NotRead::Left(CloseReason::ClientReset)),
    }
}
