//! The one way from what the user wrote to what it means: defaults, ranges, and what must fit together.

mod balance;
mod bind;
mod check;
mod discover;
mod dns;
mod eject;
mod health;
mod limits;
mod listener;
mod options;
mod pool;
mod process;
mod replicas;
mod written;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::decode::{Decoder, TOP, Table};
use super::model::{Config, Pool, StaticBackend};
use super::tree::{Key, Node, Value};
use bind::Binds;
pub use bind::bind_address;

/// A shorter interval would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(10);
/// More connections, clients or checks than this are none that one process has.
const MOST: u64 = 1_000_000;

/// Reads a whole configuration. The result is meaningful only if no problem was noted.
pub(super) fn config(root: &Node, d: &Decoder<'_>) -> Option<Config> {
    let top = d.table(root, TOP, "")?;
    let runtime = process::runtime(&top);
    let log = process::log(&top);
    let mut binds = Binds::default();
    let admin = process::admin(&top, &mut binds);
    let (mut pools, mut places) = (BTreeMap::new(), Vec::new());
    for (key, node) in named(&top, "pools") {
        // A pool with problems is known all the same, so that those who name it are not told that it is not there.
        let (pool, written) =
            pool::pool(node, &key.text, d).unwrap_or_else(|| (Pool::new(Vec::new()), Vec::new()));
        places.extend(written.into_iter().map(|(address, place)| (&*key.text, address, place)));
        pools.insert(Arc::from(&*key.text), pool);
    }
    let mut listeners = BTreeMap::new();
    for (key, node) in named(&top, "listeners") {
        if let Some(listener) = listener::listener(node, &key.text, &pools, &mut binds, d) {
            listeners.insert(Arc::from(&*key.text), listener);
        }
    }
    for (pool, address, place) in places {
        if let Some(owner) = binds.owner(address) {
            let message = format!("pool {pool:?} cannot have the backend {address}: {owner} listens there");
            d.problem(place, message);
        }
    }
    Some(Config { runtime, log, admin, listeners, pools })
}

/// Reads the backends of a file that holds nothing else: a list, or a map with the list under `backends`. The result is
/// meaningful only if no problem was noted.
pub(super) fn backends(root: &Node, d: &Decoder<'_>) -> Vec<StaticBackend> {
    let written = match &root.value {
        Value::Map(_) => {
            let Some(table) = d.table(root, "the file", "") else { return Vec::new() };
            let Some(list) = table.get("backends") else {
                d.problem(root.at, "the file needs a list of backends, or \"backends\" with such a list");
                return Vec::new();
            };
            written::backends(list, "\"backends\"", "a backend", d)
        }
        // A file between being emptied and being written again has nothing in it, too.
        Value::Null => {
            d.problem(root.at, "the file is empty; for no backends at all write []");
            return Vec::new();
        }
        _ => written::backends(root, "the file", "a backend", d),
    };
    written::check_names(&written, "the file", d);
    written.into_iter().map(|(backend, _)| backend).collect()
}

/// The things with names of their own under `key`; none at all is a problem.
fn named<'a>(top: &Table<'a>, key: &'static str) -> &'a [(Key, Node)] {
    let d = top.decoder;
    if top.get(key).is_none() {
        d.problem(top.at, format!("there are no {key}: at least one is needed, as `{key}: {{NAME: …}}`"));
    }
    let Some(table) = top.table(key) else { return &[] };
    if table.named().is_empty() {
        d.problem(
            top.place(key),
            format!("{key:?} is empty: at least one is needed, as `{key}: {{NAME: …}}`"),
        );
    }
    for (key, _) in table.named() {
        // Names stand in log lines, metric labels, paths of the admin API, and as POOL/BACKEND on the command line.
        let good = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if !key.text.chars().all(good) || key.text.chars().all(|c| c == '.') {
            let problem = "must be letters, digits, '-', '_' and '.', and not dots alone";
            d.problem(key.at, format!("the name {:?} {problem}", key.text));
        }
    }
    table.named()
}

/// Whether the host of an address is a name, not a number.
fn looks_like_a_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':')
}

#[cfg(test)]
mod tests;
