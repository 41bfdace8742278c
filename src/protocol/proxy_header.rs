//! The PROXY protocol, versions 1 and 2: a proxy tells a server the addresses of the connection that it relays. "The
//! PROXY protocol" of HAProxy (`proxy-protocol.txt`) specifies it; the sections below are its.

use std::net::SocketAddr;

use super::{proxy_v1, proxy_v2};
use crate::domain::PrefaceError;

/// The longest header that is accepted, in bytes: as long as nginx accepts. Version 1 has at most 107 (section 2.1).
pub(crate) const LONGEST: usize = 4096;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with additional fields.
    V2,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// IPv4 addresses that are mapped into IPv6 become IPv4 addresses; `None` if only one of the two is IPv4, which no
    /// header can express.
    pub(crate) fn new(source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (source, destination) = (canonical(source), canonical(destination));
        (source.is_ipv4() == destination.is_ipv4()).then_some(Self { source, destination })
    }
}

/// What a header tells about the relayed connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    /// The relayed connection; `None`: the proxy's own connection is meant (LOCAL), or the header has no TCP addresses
    /// (UNKNOWN, UNSPEC, datagrams, Unix sockets).
    pub endpoints: Option<Endpoints>,
    /// The additional fields of version 2 that concern the relayed connection, as they were sent: all but the checksum
    /// and the padding (section 2.2.1).
    pub fields: Vec<u8>,
}

/// Reads a header at the beginning of `bytes`, and how many bytes it has; `None`: more bytes are needed.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, PrefaceError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(proxy_v2::SIGNATURE) {
        proxy_v2::parse(bytes)
    } else if begins(proxy_v1::SIGNATURE) {
        proxy_v1::parse(bytes)
    } else {
        Err(PrefaceError::Missing)
    }
}

/// A header of that version. Version 1 has no additional fields.
pub(crate) fn write(version: ProxyVersion, header: &ProxyHeader) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => proxy_v1::write(header.endpoints),
        ProxyVersion::V2 => proxy_v2::write(header),
    }
}

/// The header of a health check, which relays no connection. `own`: the two ends of the check's connection. Version 1
/// has no such header: it tells the check's own addresses, as servers accept them everywhere.
pub(crate) fn write_local(version: ProxyVersion, own: Option<Endpoints>) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => proxy_v1::write(own),
        ProxyVersion::V2 => proxy_v2::write_local(),
    }
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
