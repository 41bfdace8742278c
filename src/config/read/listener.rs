//! Listeners: `listeners.NAME`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::decode::{Decoder, Table, nearest};
use super::super::model::{BindAddress, Listener, NoBackend, Pool};
use super::super::scalar::{choice, file_mode, number, text};
use super::super::tree::Node;
use super::bind::Binds;
use super::options;

pub(super) fn listener(
    node: &Node,
    name: &str,
    pools: &BTreeMap<Arc<str>, Pool>,
    binds: &mut Binds,
    d: &Decoder<'_>,
) -> Option<Listener> {
    let what = format!("listener {name:?}");
    let table = d.table(node, &what, ".listeners.*")?;
    let mut bind = Vec::new();
    match table.get("bind") {
        None => d.problem(table.at, format!("{what} needs a \"bind\", such as 0.0.0.0:8080")),
        Some(node) => {
            if node.items().is_empty() {
                d.problem(node.at, format!("\"bind\" in {what} is empty: at least one address is needed"));
            }
            for node in node.items() {
                bind.extend(binds.read(node, &what, d));
            }
        }
    }
    let pool = pool(&table, pools);
    let ways = [
        ("reset", NoBackend::Reset),
        ("close", NoBackend::Close),
        ("http-503", NoBackend::Http503),
        ("refuse", NoBackend::Refuse),
    ];
    let no_backend = table.read("no_backend", choice(&ways)).unwrap_or(NoBackend::Reset);
    let max_connections = table.read("max_connections", number(1..=u64::MAX));
    let settings = pool.as_ref().and_then(|pool| pools.get(pool));
    let options = options::options(&table, &bind, settings);
    let socket_mode = table.read("socket_mode", file_mode);
    let unix = |address: &BindAddress| matches!(address, BindAddress::Unix(_));
    if socket_mode.is_some() && !bind.is_empty() && !bind.iter().any(unix) {
        let message = format!("\"socket_mode\" in {what} does nothing: it has no Unix path");
        d.problem(table.place("socket_mode"), message);
    }
    let socket_mode = socket_mode.unwrap_or_default();
    Some(Listener { bind, pool: pool?, no_backend, max_connections, options, socket_mode })
}

/// The pool that a listener names.
fn pool(table: &Table<'_>, pools: &BTreeMap<Arc<str>, Pool>) -> Option<Arc<str>> {
    let (what, d) = (&table.what, table.decoder);
    let Some(node) = table.get("pool") else {
        d.problem(table.at, format!("{what} needs a \"pool\": where its connections go"));
        return None;
    };
    let name = table.read("pool", |node| text(node).map(str::to_owned))?;
    if let Some((name, _)) = pools.get_key_value(&*name) {
        return Some(Arc::clone(name));
    }
    let known: Vec<_> = pools.keys().map(|name| format!("{name:?}")).collect();
    let end = match nearest(&name, pools.keys().map(|name| &**name)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None if known.is_empty() => String::new(),
        None => format!("; there is {}", known.join(", ")),
    };
    d.problem(node.at, format!("{what} names the pool {name:?}, which does not exist{end}"));
    None
}
