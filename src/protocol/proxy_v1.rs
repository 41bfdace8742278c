//! Version 1 of the PROXY protocol: a line of text (section 2.1 of `proxy-protocol.txt`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::proxy_header::{Endpoints, ProxyHeader, SameFamily};
use crate::domain::PrefaceError;
use crate::domain::PrefaceKind::Proxy;

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The longest line with its end, in bytes.
const LONGEST: usize = 107;

/// Reads a header at the beginning of `bytes`, which begin like the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, PrefaceError> {
    let line = &bytes[..bytes.len().min(LONGEST)];
    let Some(length) = line.windows(2).position(|two| two == b"\r\n") else {
        return if line.len() < LONGEST { Ok(None) } else { Err(PrefaceError::TooLong(Proxy)) };
    };
    let text = std::str::from_utf8(&line[..length]).map_err(|_| PrefaceError::Malformed(Proxy))?;
    let endpoints = endpoints(text).ok_or(PrefaceError::Malformed(Proxy))?;
    Ok(Some((ProxyHeader { endpoints, tlvs: Vec::new() }, length + 2)))
}

/// The addresses in a line; `Some(None)`: it is valid and has none.
fn endpoints(line: &str) -> Option<Option<Endpoints>> {
    let mut words = line.split(' ');
    let (_proxy, family) = (words.next()?, words.next()?);
    if family == "UNKNOWN" {
        return Some(None); // "the receiver must ignore anything presented before the CRLF"
    }
    let mut ip = || {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (ip()?, ip()?);
    let mut address = |ip| Some(SocketAddr::new(ip, port(words.next()?)?));
    let (source, destination) = (address(source)?, address(destination)?);
    let whole = words.next().is_none();
    whole.then(|| Some(Endpoints::new(source, destination)))
}

/// A decimal number without a sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let number = word.parse::<u16>().ok()?;
    (number.to_string() == word).then_some(number)
}

/// A header; without addresses, the family is UNKNOWN.
pub(super) fn write(endpoints: Option<Endpoints>) -> Vec<u8> {
    let Some(endpoints) = endpoints else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let ips = match endpoints.ips() {
        SameFamily::V4([source, destination]) => format!("TCP4 {source} {destination}"),
        SameFamily::V6([source, destination]) => format!("TCP6 {source} {destination}"),
    };
    format!("PROXY {ips} {} {}\r\n", endpoints.source.port(), endpoints.destination.port()).into_bytes()
}
