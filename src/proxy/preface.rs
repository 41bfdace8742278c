//! The preface of a connection: what is read from the client before the connection is routed, and the PROXY header that
//! backends receive.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;

use super::access_list::Networks;
use super::context::ConnectionId;
use super::hello::Hello;
use super::relay::RelayBuffers;
use super::stream::Stream;
use crate::config::{self, SendProxyProtocol};
use crate::domain::{Client, CloseReason, PrefaceError, PrefaceKind};
use crate::protocol::proxy_header::{self, Endpoints, LONGEST, ProxyHeader, Tlv};

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
    /// The proxy that sent the client's address in it.
    pub(super) proxy: Option<Client>,
    /// The ClientHello after it, if that is read and the client has sent one.
    pub(super) hello: Option<Box<Hello>>,
    /// The bytes that were read after the header, the ClientHello included.
    pub(super) rest: Vec<u8>,
}

/// Why the preface was not read.
#[derive(Debug)]
pub(super) enum NotRead {
    /// The peer closed or reset the connection before it sent a byte.
    Left(CloseReason),
    /// The preface was not complete in time.
    TimedOut(PrefaceKind),
    /// The preface is invalid.
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

    /// Whether a peer may send a header. A peer over a Unix socket may: the mode of the socket's file limits access.
    pub(super) fn trusts(&self, peer: Client) -> bool {
        match peer {
            Client::Tcp(address) => {
                self.trusted.as_ref().is_some_and(|trusted| trusted.contains(address.ip()))
            }
            Client::Unix => true,
        }
    }

    /// Reads the header, and no more than [`LONGEST`] bytes.
    pub(super) async fn read(&self, stream: &Stream, buffers: &RelayBuffers) -> Result<Preface, NotRead> {
        let timed_out = Err(NotRead::TimedOut(PrefaceKind::Proxy));
        tokio::time::timeout(self.timeout, read(stream, buffers)).await.unwrap_or(timed_out)
    }
}

async fn read(stream: &Stream, buffers: &RelayBuffers) -> Result<Preface, NotRead> {
    let mut bytes = Vec::new();
    loop {
        read_more(stream, buffers, &mut bytes, LONGEST, PrefaceKind::Proxy).await?;
        if let Some((header, length)) = proxy_header::parse(&bytes).map_err(NotRead::Invalid)? {
            bytes.drain(..length);
            return Ok(Preface { header: Some(Box::new(header)), rest: bytes, ..Preface::default() });
        }
    }
}

/// Waits for further bytes from the client and adds them to `bytes`, up to `most` in total.
pub(super) async fn read_more(
    stream: &Stream,
    buffers: &RelayBuffers,
    bytes: &mut Vec<u8>,
    most: usize,
    kind: PrefaceKind,
) -> Result<(), NotRead> {
    let left = |reason| match bytes.is_empty() {
        true => NotRead::Left(reason),
        false => NotRead::Invalid(PrefaceError::Truncated(kind)),
    };
    loop {
        // It fails only when the runtime ends.
        if poll_fn(|cx| stream.poll_readable(cx)).await.is_err() {
            return Err(left(CloseReason::Internal));
        }
        let mut buffer = buffers.buffer.borrow_mut();
        let room = most.saturating_sub(bytes.len()).min(buffer.len());
        match stream.read(&mut buffer[..room]) {
            Ok(0) => return Err(left(CloseReason::ClientClosed)),
            Ok(read) => {
                bytes.extend_from_slice(&buffer[..read]);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(left(CloseReason::ClientReset)),
        }
    }
}

/// The data about a client for the PROXY header.
pub(super) struct HeaderSource<'a> {
    pub(super) client: Client,
    pub(super) stream: &'a Stream,
    /// The incoming header.
    pub(super) received: Option<&'a ProxyHeader>,
    /// The server name that it requests.
    pub(super) server_name: Option<&'a str>,
    /// Its connection's identifier.
    pub(super) unique_id: ConnectionId,
}

impl HeaderSource<'_> {
    /// The PROXY header for a backend.
    pub(super) fn header(&self, wanted: SendProxyProtocol) -> Vec<u8> {
        let mut header = ProxyHeader {
            endpoints: self.received.and_then(|header| header.endpoints).or_else(|| self.own_endpoints()),
            tlvs: self.received.map(|header| header.tlvs.clone()).unwrap_or_default(),
        };
        if let Some(name) = self.server_name.filter(|_| wanted.authority) {
            header.add(Tlv::Authority, name.as_bytes());
        }
        if wanted.unique_id {
            header.add(Tlv::UniqueId, self.unique_id.to_string().as_bytes());
        }
        proxy_header::write(wanted.version, &header)
    }

    /// The two ends of the client's connection; `None`: it has no addresses.
    fn own_endpoints(&self) -> Option<Endpoints> {
        let Client::Tcp(source) = self.client else { return None };
        let local: Option<SocketAddr> = SockRef::from(self.stream).local_addr().ok()?.as_socket();
        Some(Endpoints::new(source, local?))
    }
}
