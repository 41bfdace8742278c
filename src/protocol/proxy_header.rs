//! The PROXY protocol, versions 1 and 2: a header with the addresses of the connection that a proxy relays. HAProxy's
//! `proxy-protocol.txt` specifies it; the sections below are its.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{proxy_v1, proxy_v2};
use crate::domain::PrefaceError;
use crate::domain::PrefaceKind::Proxy;

/// The longest header that is accepted, in bytes: as long as nginx accepts. Version 1 has at most 107 (section 2.1).
pub const LONGEST: usize = 4096;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// The two ends of a connection, IPv4-mapped IPv6 addresses as IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// Of a client at `source` that connected to `destination`.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { source: canonical(source), destination: canonical(destination) }
    }

    /// The addresses as a header has them, of one family: if one is an IPv6 address, the other is IPv4-mapped.
    pub(super) fn ips(&self) -> SameFamily {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => SameFamily::V4([source, destination]),
            (source, destination) => SameFamily::V6([source, destination].map(|ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            })),
        }
    }
}

/// The source and destination of a header.
pub(super) enum SameFamily {
    V4([Ipv4Addr; 2]),
    V6([Ipv6Addr; 2]),
}

/// What a header contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The relayed connection; `None`: the proxy's own connection is meant (LOCAL), or the header has no TCP addresses
    /// (UNKNOWN, UNSPEC, datagrams, Unix sockets).
    pub endpoints: Option<Endpoints>,
    /// The TLVs of version 2 that concern the relayed connection, as they were received: all but the checksum and the
    /// padding (sections 2.2.3 and 2.2.4).
    pub tlvs: Vec<u8>,
}

/// The types of TLVs that a proxy adds (section 2.2).
#[derive(Clone, Copy, Debug)]
pub enum Tlv {
    /// `PP2_TYPE_AUTHORITY`: the server name that a TLS client asks for.
    Authority = 0x02,
    /// `PP2_TYPE_UNIQUE_ID`: at most 128 bytes that identify the connection.
    UniqueId = 0x05,
}

impl ProxyHeader {
    /// Adds a TLV, unless the header has one of that type, which a proxy closer to the client has set, or would become
    /// too long.
    pub fn add(&mut self, tlv: Tlv, value: &[u8]) {
        let kind = tlv as u8;
        let fits = self.tlvs.len() + 3 + value.len() <= proxy_v2::MOST_TLVS;
        if !fits || proxy_v2::split(&self.tlvs).any(|(present, _)| present == kind) {
            return;
        }
        let Ok(length) = u16::try_from(value.len()) else { return };
        self.tlvs.push(kind);
        self.tlvs.extend(length.to_be_bytes());
        self.tlvs.extend_from_slice(value);
    }
}

/// Reads a header at the beginning of `bytes`, and how many bytes it has; `None`: more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, PrefaceError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(proxy_v2::SIGNATURE) {
        proxy_v2::parse(bytes)
    } else if begins(proxy_v1::SIGNATURE) {
        proxy_v1::parse(bytes)
    } else {
        Err(PrefaceError::Missing(Proxy))
    }
}

/// A header of that version. Version 1 has no TLVs, and version 2 is LOCAL without addresses.
pub fn write(version: ProxyVersion, header: &ProxyHeader) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => proxy_v1::write(header.endpoints),
        ProxyVersion::V2 => proxy_v2::write(header),
    }
}

/// The header of a health check, which relays no connection. `own`: the two ends of the check's connection, which version
/// 1 carries: some servers reject UNKNOWN (section 2.1). `None`: it uses a Unix socket.
pub fn write_local(version: ProxyVersion, own: Option<Endpoints>) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => proxy_v1::write(own),
        ProxyVersion::V2 => proxy_v2::write(&ProxyHeader::default()),
    }
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
