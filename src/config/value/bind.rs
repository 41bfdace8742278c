//! Addresses to listen on, and conflicts between them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::super::decode::FoundValue;
use super::super::kind::Kind;
use super::super::model::BindAddress;
use super::super::outline::Outline;
use super::{looks_like_a_name, text_from};
use crate::own;

/// An address to listen on.
pub(in crate::config) fn bind() -> Kind<BindAddress> {
    let print = |address: &BindAddress| Outline::text(address.to_string());
    Kind::scalar(|node| bind_address(node.text().unwrap_or_default()), print, || text_from(2))
}

/// Reads an address to listen on: `0.0.0.0:8080`, `[::]:8080`, `:8080` (every IPv4 address), `unix:/path`.
pub(crate) fn bind_address(text: &str) -> Result<BindAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        // The kernel's limit, the final NUL included (unix(7)).
        return match path.len() {
            0 => Err("must name a path after unix:".to_owned()),
            1..=107 => Ok(BindAddress::Unix(PathBuf::from(path))),
            _ => Err("must be a path of at most 107 bytes after unix:".to_owned()),
        };
    }
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    if let Ok(address) = full.parse() {
        return Ok(BindAddress::Tcp(address));
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

/// The addresses that a configuration listens on, each with its owner.
#[derive(Default)]
pub(in crate::config) struct BoundAddresses(Vec<(BindAddress, String)>);

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
    pub(in crate::config) fn owner(&self, address: SocketAddr) -> Option<&str> {
        let listens = |(bound, _): &&(BindAddress, String)| match bound {
            BindAddress::Tcp(bound) => own::reaches(address, *bound, own::is_local),
            BindAddress::Unix(_) => false,
        };
        self.0.iter().find(listens).map(|(_, owner)| &**owner)
    }
}

/// Whether the kernel refuses to bind both.
fn clash(a: &BindAddress, b: &BindAddress) -> bool {
    // An IPv6 socket on every address serves IPv4 too.
    let covers = |one: &SocketAddr, other: &SocketAddr| {
        one.ip() == other.ip() || one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    match (a, b) {
        (BindAddress::Tcp(a), BindAddress::Tcp(b)) => {
            a.port() != 0 && a.port() == b.port() && (covers(a, b) || covers(b, a))
        }
        (BindAddress::Unix(a), BindAddress::Unix(b)) => a == b,
        _ => false,
    }
}
