//! The preface of a connection: the PROXY header that a proxy in front sends before the client's bytes, and the one that
//! backends receive.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;

use super::access_list::Networks;
use super::stream::Stream;
use crate::config;
use crate::domain::{Client, CloseReason, PrefaceError};
use crate::protocol::proxy_header::{self, Endpoints, LONGEST, ProxyHeader, ProxyVersion};

/// The PROXY header that a listener expects (`proxy_protocol`).
#[derive(Debug)]
pub struct ExpectedHeader {
    /// The networks of the proxies in front.
    trusted: Option<Networks>,
    /// How long the header may take.
    timeout: Duration,
}

/// What precedes the client's data.
#[derive(Debug, Default)]
pub(super) struct Preface {
    /// The PROXY header; `None`: none was expected.
    pub(super) header: Option<Box<ProxyHeader>>,
    /// The bytes that were read after it.
    pub(super) rest: Vec<u8>,
}

/// Why there is no preface.
#[derive(Debug)]
pub(super) enum NotRead {
    /// The peer closed or reset the connection before it sent a byte.
    Left(CloseReason),
    /// The header was not complete in time.
    TimedOut,
    /// It is no valid header.
    Invalid(PrefaceError),
}

impl Preface {
    /// The client in the header, if it has one.
    pub(super) fn client(&self) -> Option<Client> {
        Some(Client::Tcp(self.header.as_ref()?.endpoints?.source))
    }
}

impl ExpectedHeader {
    pub(super) fn new(config: &config::ProxyProtocol) -> Self {
        Self { trusted: Networks::new(&config.trust), timeout: config.timeout }
    }

    /// Whether a peer may send a header; a peer over a Unix socket may, as the mode of the socket's file is what limits
    /// it.
    pub(super) fn trusts(&self, peer: Client) -> bool {
        match peer {
            Client::Tcp(address) => {
                self.trusted.as_ref().is_some_and(|trusted| trusted.contains(address.ip()))
            }
            Client::Unix => true,
        }
    }

    /// Reads the header, and no more than [`LONGEST`] bytes.
    pub(super) async fn read(&self, stream: &Stream) -> Result<Preface, NotRead> {
        tokio::time::timeout(self.timeout, read(stream)).await.unwrap_or(Err(NotRead::TimedOut))
    }
}

async fn read(stream: &Stream) -> Result<Preface, NotRead> {
    let left = |filled: usize, reason| match filled {
        0 => NotRead::Left(reason),
        _ => NotRead::Invalid(PrefaceError::Truncated),
    };
    let (mut bytes, mut filled) = (Vec::new(), 0);
    loop {
        // It fails only when the runtime ends.
        if poll_fn(|cx| stream.poll_readable(cx)).await.is_err() {
            return Err(left(filled, CloseReason::Internal));
        }
        bytes.resize(LONGEST, 0);
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(left(filled, CloseReason::ClientClosed)),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(left(filled, CloseReason::ClientReset)),
        }
        if let Some((header, length)) = proxy_header::parse(&bytes[..filled]).map_err(NotRead::Invalid)? {
            let rest = bytes[length..filled].to_vec();
            return Ok(Preface { header: Some(Box::new(header)), rest });
        }
    }
}

/// The PROXY header for a backend of this client: `received` is the header that came in, and `stream` the client's.
pub(super) fn to_send(
    version: ProxyVersion,
    received: Option<&ProxyHeader>,
    client: Client,
    stream: &Stream,
) -> Vec<u8> {
    let endpoints = received.and_then(|header| header.endpoints).or_else(|| own_endpoints(client, stream));
    let tlvs = received.map(|header| header.tlvs.clone()).unwrap_or_default();
    proxy_header::write(version, &ProxyHeader { endpoints, tlvs })
}

/// The two ends of the client's connection; `None`: it has no addresses.
fn own_endpoints(client: Client, stream: &Stream) -> Option<Endpoints> {
    let Client::Tcp(source) = client else { return None };
    let local: Option<SocketAddr> = SockRef::from(stream).local_addr().ok()?.as_socket();
    Some(Endpoints::new(source, local?))
}
