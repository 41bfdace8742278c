//! Addresses to listen on, and conflicts between them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::super::decode::FoundValue;
use super::super::kind::Kind;
use super::super::outline::Outline;
use super::{looks_like_a_name, text_from};
use crate::domain::SocketAddress;
use crate::own;

/// An address to listen on.
pub(in crate::config) fn bind() -> Kind<SocketAddress> {
    let print = |address: &SocketAddress| Outline::text(address.to_string());
    Kind::scalar(|node| bind_address(node.text().unwrap_or_default()), print, || text_from(2))
}

/// Reads an address to listen on: `0.0.0.0:8080`, `[::]:8080`, `:8080` (every IPv4 address), `unix:/path`.
pub fn bind_address(text: &str) -> Result<SocketAddress, String> {
    if let Some(path) = text.strip_prefix(SocketAddress::UNIX) {
        return unix_path(path);
    }
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    if let Ok(address) = full.parse() {
        return Ok(SocketAddress::Tcp(address));
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    Err(if text.parse::<IpAddr>().is_ok() {
        "must have a port, such as 0.0.0.0:8080".to_owned()
    } else if looks_like_a_name(host) && text != host {
        "must be an IP address and a port: the address of an interface of this machine, or 0.0.0.0".to_owned()
    } else {
        "must be an address and a port, such as 0.0.0.0:8080, or unix:/path".to_owned()
    })
}

/// The path of a Unix socket.
pub(super) fn unix_path(path: &str) -> Result<SocketAddress, String> {
    // The kernel's limit, the final NUL included (unix(7)).
    match path.len() {
        0 => Err("must name a path after unix:".to_owned()),
        1..=107 => Ok(SocketAddress::Unix(Path::new(path).into())),
        _ => Err("must be a path of at most 107 bytes after unix:".to_owned()),
    }
}

/// The addresses that a configuration listens on, each with its owner.
#[derive(Default)]
pub(in crate::config) struct BoundAddresses(Vec<(SocketAddress, String)>);

impl BoundAddresses {
    /// Adds the address in `found`, which belongs to `owner`. Two owners of one address are a problem.
    pub(in crate::config) fn add(&mut self, owner: &str, found: &FoundValue<'_>) {
        let Ok(address) = bind_address(found.node.text().unwrap_or_default()) else { return };
        if let Some((other, first)) = self.0.iter().find(|(other, _)| clash(&address, other)) {
            let same = if address == *other { String::new() } else { format!(" as {other}") };
            found.problem(format!("{owner} cannot listen on {address}: {first} does already{same}"));
        }
        self.0.push((address, owner.to_owned()));
    }

    /// The owner of the bind address that accepts connections to `address` on this machine, if any.
    pub(in crate::config) fn owner(&self, address: &SocketAddress) -> Option<&str> {
        let listens = |(bound, _): &&(SocketAddress, String)| own::reaches(address, bound, own::is_local);
        self.0.iter().find(listens).map(|(_, owner)| &**owner)
    }
}

/// Whether the kernel refuses to bind both.
fn clash(a: &SocketAddress, b: &SocketAddress) -> bool {
    // An IPv6 socket on every address serves IPv4 too.
    let covers = |one: &SocketAddr, other: &SocketAddr| {
        one.ip() == other.ip() || one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    match (a, b) {
        (SocketAddress::Tcp(a), SocketAddress::Tcp(b)) => {
            a.port() != 0 && a.port() == b.port() && (covers(a, b) || covers(b, a))
        }
        (SocketAddress::Unix(a), SocketAddress::Unix(b)) => a == b,
        _ => false,
    }
}
