//! Names, addresses, labels and engines: where backends are found.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::backend_name::{BACKEND_NAME_RULE, is_backend_name};
use super::super::kind::Kind;
use super::super::outline::Outline;
use super::super::scalar::{any_text, pattern, text_that};
use super::super::yaml::YamlNode;
use super::bind::unix_path;
use super::{looks_like_a_name, text_from};
use crate::domain::SocketAddress;

/// The address of a backend.
pub(in crate::config) fn socket_address() -> Kind<SocketAddress> {
    let parse = |node: &YamlNode| {
        let text = node.text().unwrap_or_default();
        backend_address(text).map_err(|error| {
            if text.rsplit_once(':').is_some_and(|(host, _)| looks_like_a_name(host))
                && !text.starts_with(SocketAddress::UNIX)
            {
                "must be an IP address and a port; for a name write `dns: NAME:PORT`".to_owned()
            } else {
                error
            }
        })
    };
    Kind::scalar(parse, |address| Outline::text(address.to_string()), || text_from(4))
}

/// Reads the address of a backend: `10.0.0.1:5000`, `[::1]:5000`, `unix:/path`.
pub fn backend_address(text: &str) -> Result<SocketAddress, String> {
    if let Some(path) = text.strip_prefix(SocketAddress::UNIX) {
        let address = unix_path(path)?;
        return if is_backend_name(&address.default_name()) {
            Ok(address)
        } else {
            Err("must be a path with a file name of visible characters after unix:".to_owned())
        };
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address.into()),
        _ => Err("must be an address such as 10.0.0.1:5000 or unix:/path".to_owned()),
    }
}

/// A backend's name.
pub(in crate::config) fn backend_name() -> Kind<Arc<str>> {
    let parse = |node: &YamlNode| {
        let name = node.text().filter(|name| is_backend_name(name));
        name.map(Arc::from).ok_or_else(|| format!("must have {BACKEND_NAME_RULE}"))
    };
    Kind::scalar(
        parse,
        |name| Outline::text(name),
        || serde_json::json!({"type": "string", "minLength": 1, "maxLength": 259}),
    )
}

/// The name of a zone.
pub(in crate::config) fn zone_name() -> Kind<Arc<str>> {
    // What a name must have holds here too: zones are shown in the same places.
    backend_name()
}

/// A DNS name and a port.
pub(in crate::config) fn name_and_port() -> Kind<(String, u16)> {
    let print = |(name, port): &(String, u16)| Outline::text(format!("{name}:{port}"));
    Kind::scalar(read_name_and_port, print, any_text)
}

fn read_name_and_port(node: &YamlNode) -> Result<(String, u16), String> {
    let text = node.text().unwrap_or_default();
    let (name, port) = text.rsplit_once(':').ok_or("must be a name and a port, such as backend:5000")?;
    if name.parse::<IpAddr>().is_ok() || name.starts_with('[') {
        return Err(format!("must be a name; for an address write `static: [{text}]`"));
    }
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or("must be a name and a port from 1 to 65535, such as backend:5000")?;
    if !is_dns_name(name) {
        return Err(
            "must be a DNS name (letters, digits, - and _) and a port, such as backend:5000".to_owned()
        );
    }
    Ok((name.to_owned(), port))
}

/// `_service._tcp.name`, the only form that RFC 2782 defines for TCP.
pub(in crate::config) fn srv_name() -> Kind<String> {
    Kind::scalar(read_srv_name, |name| Outline::text(name), || pattern(r"^_[^.]+\._[tT][cC][pP]\.[^.:]+"))
}

fn read_srv_name(node: &YamlNode) -> Result<String, String> {
    let text = node.text().unwrap_or_default();
    if let Some((name, _)) = text.split_once(':').filter(|(name, _)| is_dns_name(name)) {
        return Err(format!("must have no port: the SRV record contains it, such as {name}"));
    }
    let labels: Vec<&str> = text.split('.').collect();
    match labels[..] {
        [service, protocol, name, ..]
            if is_dns_name(text)
                && service.len() > 1
                && service.starts_with('_')
                && protocol.eq_ignore_ascii_case("_tcp")
                && !name.is_empty() =>
        {
            Ok(text.to_owned())
        }
        _ => Err("must be the name of an SRV record, such as _web._tcp.example.com".to_owned()),
    }
}

pub(super) fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(label)
}

/// The address of a DNS server.
pub(in crate::config) fn dns_server() -> Kind<SocketAddr> {
    let parse = |node: &YamlNode| {
        let text = node.text().unwrap_or_default();
        let with_port = text.parse::<SocketAddr>().ok();
        let address = with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)));
        address.ok_or_else(|| "must be the IP address of a DNS server, such as 127.0.0.11".to_owned())
    };
    Kind::scalar(parse, |server| Outline::text(server.to_string()), any_text)
}

/// A label of containers.
pub(in crate::config) fn docker_label() -> Kind<String> {
    let must = "must be a label of containers, such as pointsman.pool=web";
    text_that(
        must,
        || pattern(r"^[^=\s]+(=|$)"),
        |label| {
            let key = label.split_once('=').map_or(label, |(key, _)| key);
            !key.is_empty() && !key.contains(char::is_whitespace)
        },
    )
}

/// What keys in etcd begin with. Not empty: the store may have any keys.
pub(in crate::config) fn key_prefix() -> Kind<String> {
    text_that("must be the beginning of keys, such as /services/web/", any_text, |prefix| !prefix.is_empty())
}

/// The name, a tag or the datacenter of a service in Consul.
pub(in crate::config) fn service_name() -> Kind<String> {
    let good = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    text_that("must be a name without spaces, such as web", || pattern(r"^\S+$"), good)
}

/// A Docker engine.
pub(in crate::config) fn engine() -> Kind<String> {
    let must = "must be unix:///path or tcp://host:port";
    text_that(
        must,
        || pattern("^unix:///|^tcp://.+:[0-9]+$"),
        |engine| match engine.split_once("://") {
            Some(("unix", path)) => path.starts_with('/'),
            Some(("tcp", address)) => address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            }),
            _ => false,
        },
    )
}
