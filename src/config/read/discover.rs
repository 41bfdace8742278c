//! Where backends come from: `discover`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::super::decode::{self, Table, choice, duration, number, text};
use super::super::model::{Algorithm, Dns, Family, Source, StaticBackend};
use super::super::report::Place;
use super::super::tree::{Node, Value};
use super::{SHORTEST, looks_like_a_name};

pub(super) fn discover(pool: &Table<'_>, balance: Algorithm) -> Vec<Source> {
    let d = pool.decoder;
    let Some(node) = pool.get("discover") else {
        d.problem(pool.at, format!("{} needs \"discover\": where its backends come from", pool.what));
        return Vec::new();
    };
    let items = match &node.value {
        Value::List(items) if !items.is_empty() => items,
        Value::List(_) => {
            d.problem(
                node.at,
                format!("\"discover\" in {} is empty: at least one source is needed", pool.what),
            );
            return Vec::new();
        }
        _ => {
            let found = decode::describe(node);
            d.problem(
                node.at,
                format!(
                    "\"discover\" in {} must be a list, such as [{{dns: backend:5000}}], not {found}",
                    pool.what
                ),
            );
            return Vec::new();
        }
    };
    let mut written: Vec<(StaticBackend, Place)> = Vec::new();
    let mut sources = Vec::new();
    let mut static_at = None;
    for item in items {
        let Some(table) = d.table(item, &format!("\"discover\" in {}", pool.what), ".pools.*.discover")
        else {
            continue;
        };
        match (table.get("static"), table.get("dns")) {
            (Some(list), None) => {
                static_at = static_at.or(Some(table.place("static")));
                static_backends(list, &table, &mut written);
            }
            (None, Some(node)) => {
                let at = node.at;
                if let Some(dns) = dns(&table) {
                    let same = |source: &Source| matches!(source, Source::Dns(other) if other.name == dns.name && other.port == dns.port);
                    if sources.iter().any(same) {
                        d.problem(at, format!("{} asks for {}:{} twice", pool.what, dns.name, dns.port));
                    }
                    sources.push(Source::Dns(dns));
                }
            }
            // Keys of the other kinds are told as unknown, which says more.
            (None, None) if !table.later() => {
                d.problem(table.at, format!("{} needs one of \"static\" and \"dns\"", table.what));
            }
            (None, None) => {}
            (Some(_), Some(_)) => {
                d.problem(
                    table.at,
                    format!(
                        "{} has both \"static\" and \"dns\": make them two items of the list",
                        table.what
                    ),
                );
            }
        }
    }
    check_static(&written, static_at, pool, balance, sources.is_empty());
    if !written.is_empty() {
        sources.insert(0, Source::Static(written.into_iter().map(|(backend, _)| backend).collect()));
    }
    sources
}

fn check_static(
    written: &[(StaticBackend, Place)],
    at: Option<Place>,
    pool: &Table<'_>,
    balance: Algorithm,
    alone: bool,
) {
    let d = pool.decoder;
    for (index, (backend, place)) in written.iter().enumerate() {
        if written[..index].iter().any(|(other, _)| other.address == backend.address) {
            d.problem(*place, format!("{} has the backend {} twice", pool.what, backend.address));
        } else if written[..index].iter().any(|(other, _)| other.name == backend.name) {
            d.problem(*place, format!("{} has two backends of the name {:?}", pool.what, backend.name));
        }
        if balance == Algorithm::RoundRobin && backend.weight > 1 {
            d.problem(
                *place,
                format!(
                    "{} gives a weight, which round-robin does not heed; write `balance: weighted`",
                    pool.what
                ),
            );
        }
    }
    if let Some(at) = at
        && alone
        && !written.is_empty()
        && written.iter().all(|(backend, _)| backend.weight == 0)
    {
        d.problem(at, format!("every backend of {} has a weight of 0: none would ever be chosen", pool.what));
    }
}

fn static_backends(list: &Node, table: &Table<'_>, written: &mut Vec<(StaticBackend, Place)>) {
    let d = table.decoder;
    let Value::List(items) = &list.value else {
        let found = decode::describe(list);
        d.problem(
            list.at,
            format!("\"static\" must be a list, such as [10.0.0.1:5000, 10.0.0.2:5000], not {found}"),
        );
        return;
    };
    if items.is_empty() {
        d.problem(list.at, "\"static\" is empty: at least one backend is needed");
    }
    for item in items {
        let mut backend = None;
        if let Value::Scalar(text) = &item.value {
            match socket_address(text) {
                Ok(address) => backend = Some(StaticBackend::new(address)),
                Err(error) => d.problem(item.at, format!("a backend under \"static\" {error}, not {text:?}")),
            }
        } else if let Some(inner) = d.table(item, "a backend under \"static\"", ".pools.*.discover.static") {
            let address = inner.read("address", |node| socket_address(text(node).unwrap_or_default()));
            let name = inner.read("name", |node| text(node).map(Arc::from));
            let weight = inner.read("weight", number(0..=256)).and_then(|n| u32::try_from(n).ok());
            if address.is_none() && inner.present(&["address"]).is_empty() {
                d.problem(inner.at, "a backend under \"static\" needs an \"address\", such as 10.0.0.1:5000");
            }
            if let Some(address) = address {
                let mut one = StaticBackend::new(address);
                one.name = name.unwrap_or(one.name);
                one.weight = weight.unwrap_or(one.weight);
                backend = Some(one);
            }
        }
        written.extend(backend.map(|backend| (backend, item.at)));
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        _ if text.rsplit_once(':').is_some_and(|(host, _)| looks_like_a_name(host)) => {
            Err("must be an IP address and a port; for a name write `dns: NAME:PORT`".to_owned())
        }
        _ => Err("must be an IP address and a port, such as 10.0.0.1:5000".to_owned()),
    }
}

fn dns(table: &Table<'_>) -> Option<Dns> {
    let target = table.read("dns", |node| {
        let text = text(node).unwrap_or_default();
        let (host, port) = text.rsplit_once(':').ok_or("must be a name and a port, such as backend:5000")?;
        if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
            return Err(format!("must be a name; for an address write `static: [{text}]`"));
        }
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or("must be a name and a port from 1 to 65535, such as backend:5000")?;
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(
                "must be a DNS name (letters, digits, - and _) and a port, such as backend:5000".to_owned()
            );
        }
        Ok((host.to_owned(), port))
    });
    let every = table.read("every", duration(SHORTEST));
    let server = table.read("server", |node| {
        let text = text(node).unwrap_or_default();
        let with_port = text.parse::<SocketAddr>().ok();
        let address = with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)));
        address.ok_or_else(|| "must be the IP address of a DNS server, such as 127.0.0.11".to_owned())
    });
    let hold = table.read("hold", duration(Duration::ZERO));
    let flap = table.read("flap", duration(Duration::ZERO));
    let families = [("any", Family::Any), ("4", Family::V4), ("6", Family::V6)];
    let family = table.read("family", choice(&families));
    let (name, port) = target?;
    let mut dns = Dns::new(name, port);
    let query = &mut dns.query;
    query.every = every.unwrap_or(query.every);
    query.server = server;
    query.hold = hold.unwrap_or(query.hold);
    query.flap = flap.unwrap_or(query.flap);
    query.family = family.unwrap_or(query.family);
    Some(dns)
}
