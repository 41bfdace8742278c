//! Backends that are written down, under `static` or in a file of their own.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::super::backend_name::{BACKEND_NAME_RULE, is_backend_name};
use super::super::decode::{self, Decoder, Table};
use super::super::model::{Algorithm, StaticBackend};
use super::super::report::Place;
use super::super::scalar::{boolean, number, text};
use super::super::tree::{Node, Value};
use super::looks_like_a_name;

/// Backends, and where each of them stands.
pub(super) type Written = Vec<(StaticBackend, Place)>;

/// Reads a list of backends, which are called `one` each and `all` together.
pub(super) fn backends(list: &Node, all: &str, one: &str, d: &Decoder<'_>) -> Written {
    let Value::List(items) = &list.value else {
        let found = decode::describe(list);
        let message = format!("{all} must be a list, such as [10.0.0.1:5000, 10.0.0.2:5000], not {found}");
        d.problem(list.at, message);
        return Written::new();
    };
    items.iter().filter_map(|item| Some((backend(item, one, d)?, item.at))).collect()
}

fn backend(node: &Node, what: &str, d: &Decoder<'_>) -> Option<StaticBackend> {
    if let Value::Scalar(text) = &node.value {
        let address = socket_address(text);
        return match address {
            Ok(address) => Some(StaticBackend::new(address)),
            Err(error) => {
                d.problem(node.at, format!("{what} {error}, not {text:?}"));
                None
            }
        };
    }
    let table = d.table(node, what, ".pools.*.discover.static")?;
    let address = table.read("address", |node| socket_address(text(node).unwrap_or_default()));
    let name = table.read("name", backend_name);
    let weight = table.read("weight", number(0..=256));
    let backup = table.read("backup", boolean);
    let connections = table.read("connections", number(1..=super::MOST)).and_then(NonZeroU32::new);
    if table.present(&["address"]).is_empty() {
        d.problem(table.at, format!("{what} needs an \"address\", such as 10.0.0.1:5000"));
    }
    let mut backend = StaticBackend { connections, ..StaticBackend::new(address?) };
    backend.name = name.unwrap_or(backend.name);
    backend.weight = weight.unwrap_or(backend.weight);
    backend.backup = backup.unwrap_or(backend.backup);
    Some(backend)
}

fn backend_name(node: &Node) -> Result<Arc<str>, String> {
    let name = text(node).ok().filter(|name| is_backend_name(name));
    name.map(Arc::from).ok_or_else(|| format!("must have {BACKEND_NAME_RULE}"))
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

/// That two backends have the same address or the same name is a problem of `whose`.
pub(super) fn check_names(written: &Written, whose: &str, d: &Decoder<'_>) {
    let (mut addresses, mut names) = (HashSet::new(), HashSet::new());
    for (backend, place) in written {
        let (new_address, new_name) = (addresses.insert(backend.address), names.insert(&backend.name));
        if !new_address {
            d.problem(*place, format!("{whose} has the backend {} twice", backend.address));
        } else if !new_name {
            d.problem(*place, format!("{whose} has two backends of the name {:?}", backend.name));
        }
    }
}

/// That weights and backups can do nothing is a problem. The backends are the only ones of the pool if they are
/// `alone`; `at` is where they stand.
pub(super) fn check_use(
    written: &Written,
    at: Place,
    pool: &Table<'_>,
    balance: Option<Algorithm>,
    alone: bool,
) {
    let (what, d) = (&pool.what, pool.decoder);
    for (_, place) in written.iter().filter(|(backend, _)| backend.weight > 1) {
        if balance.is_some_and(|algorithm| !algorithm.heeds_weights()) {
            let message =
                format!("{what} gives a weight, which round-robin does not heed; write `balance: weighted`");
            d.problem(*place, message);
        }
    }
    if !alone || written.is_empty() {
        return;
    }
    if written.iter().all(|(backend, _)| backend.weight == 0) {
        d.problem(at, format!("every backend of {what} has a weight of 0: none would ever be chosen"));
    }
    if written.iter().all(|(backend, _)| backend.backup) {
        d.problem(at, format!("every backend of {what} is a backup: there is none that they stand in for"));
    }
}
