//! Names that are asked for: `dns` and `srv` in `discover`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::decode::Table;
use super::super::model::{Dns, Family, Query, Srv};
use super::super::scalar::{choice, duration, text};
use super::super::tree::Node;
use super::SHORTEST;

pub(super) fn dns(table: &Table<'_>) -> Option<Dns> {
    let target = table.read("dns", name_and_port);
    let query = query(table);
    let (name, port) = target?;
    Some(Dns { query, ..Dns::new(name, port) })
}

pub(super) fn srv(table: &Table<'_>) -> Option<Srv> {
    let name = table.read("srv", service);
    let query = query(table);
    Some(Srv { name: name?, query })
}

/// What stands beside them.
fn query(table: &Table<'_>) -> Query {
    let mut query = Query::default();
    query.every = table.read("every", duration(SHORTEST)).unwrap_or(query.every);
    query.server = table.read("server", server);
    query.hold = table.read("hold", duration(Duration::ZERO)).unwrap_or(query.hold);
    query.flap = table.read("flap", duration(Duration::ZERO)).unwrap_or(query.flap);
    let families = [("any", Family::Any), ("4", Family::V4), ("6", Family::V6)];
    query.family = table.read("family", choice(&families)).unwrap_or(query.family);
    query
}

fn name_and_port(node: &Node) -> Result<(String, u16), String> {
    let text = text(node).unwrap_or_default();
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

/// `_service._tcp.name`, the only form that RFC 2782 knows for TCP.
fn service(node: &Node) -> Result<String, String> {
    let text = text(node).unwrap_or_default();
    if let Some((name, _)) = text.split_once(':').filter(|(name, _)| is_dns_name(name)) {
        return Err(format!("must have no port, which the record tells, such as {name}"));
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

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(label)
}

fn server(node: &Node) -> Result<SocketAddr, String> {
    let text = text(node).unwrap_or_default();
    let with_port = text.parse::<SocketAddr>().ok();
    let address = with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)));
    address.ok_or_else(|| "must be the IP address of a DNS server, such as 127.0.0.11".to_owned())
}
