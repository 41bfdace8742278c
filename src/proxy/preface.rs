//! The preface of a connection: the PROXY header that a proxy in front sends before the client's bytes, and the one that
//! backends receive.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;

use super::access_list::AccessList;
use super::stream::Stream;
use crate::config;
use crate::domain::{Client, CloseReason, PrefaceError};
use crate::protocol::proxy_header::{self, Endpoints, LONGEST, ProxyHeader, ProxyVersion};

/// The PROXY header that a listener expects (`proxy_protocol`).
#[derive(Debug)]
pub struct ExpectedHeader {
    /// The proxies in front.
    trusted: AccessList,
    /// How long the header may take.
    timeout: Duration,
}

/// What precedes a connection's own bytes.
#[derive(Debug, Default)]
pub(super) struct Preface {
    /// The PROXY header; `None`: none was expected.
    pub(super) header: Option<Box<ProxyHeader>>,
    /// The bytes that were read after it.
    pub(super) rest: Vec<u8>,
}

/// Why there is no preface.
#[derive(Debug)]
pub(super) struct NotRead {
    pub(super) reason: CloseReason,
    /// For [`CloseReason::PrefaceInvalid`].
    pub(super) error: Option<PrefaceError>,
}

impl From<CloseReason> for NotRead {
    fn from(reason: CloseReason) -> Self {
        Self { reason, error: None }
    }
}

impl From<PrefaceError> for NotRead {
    fn from(error: PrefaceError) -> Self {
        Self { reason: CloseReason::PrefaceInvalid, error: Some(error) }
    }
}

impl Preface {
    /// The client that the header tells.
    pub(super) fn client(&self) -> Option<Client> {
        Some(Client::Tcp(self.header.as_ref()?.endpoints?.source))
    }
}

impl ExpectedHeader {
    pub(super) fn new(config: &config::ProxyProtocol) -> Self {
        Self { trusted: AccessList::new(&config.trust, &[]), timeout: config.timeout }
    }

    /// Reads the header that `peer` sends, and no more than [`LONGEST`] bytes.
    pub(super) async fn read(&self, stream: &Stream, peer: Client) -> Result<Preface, NotRead> {
        if !self.trusted.admits(peer) {
            return Err(PrefaceError::Untrusted.into());
        }
        let read = tokio::time::timeout(self.timeout, read(stream));
        read.await.unwrap_or(Err(CloseReason::PrefaceTimeout.into()))
    }
}

async fn read(stream: &Stream) -> Result<Preface, NotRead> {
    let (mut bytes, mut filled) = (vec![0; LONGEST], 0);
    loop {
        // An error means that the runtime shuts down, and the next read fails too.
        let _ = poll_fn(|cx| stream.poll_readable(cx)).await;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) if filled == 0 => return Err(CloseReason::ClientClosed.into()),
            Ok(0) => return Err(PrefaceError::Truncated.into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(CloseReason::ClientReset.into()),
        }
        if let Some((header, length)) = proxy_header::parse(&bytes[..filled])? {
            let rest = bytes[length..filled].to_vec();
            return Ok(Preface { header: Some(Box::new(header)), rest });
        }
    }
}

/// The PROXY header for a backend of this client: `told` is the header that came in, and `stream` the client's.
pub(super) fn to_send(
    version: ProxyVersion,
    told: Option<&ProxyHeader>,
    client: Client,
    stream: &Stream,
) -> Vec<u8> {
    let endpoints = told.and_then(|told| told.endpoints).or_else(|| own_endpoints(client, stream));
    let fields = told.map(|told| told.fields.clone()).unwrap_or_default();
    proxy_header::write(version, &ProxyHeader { endpoints, fields })
}

/// The two ends of the client's connection; `None`: it has no addresses.
fn own_endpoints(client: Client, stream: &Stream) -> Option<Endpoints> {
    let Client::Tcp(source) = client else { return None };
    let local: Option<SocketAddr> = SockRef::from(stream).local_addr().ok()?.as_socket();
    Endpoints::new(source, local?)
}
