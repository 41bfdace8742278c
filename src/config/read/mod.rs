//! The one way from what the user wrote to what it means: defaults, ranges, and what must fit together.

mod bind;
mod discover;
mod health;
mod listener;
mod options;
mod pool;
mod process;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::decode::{Decoder, TOP, Table};
use super::model::{Config, Pool};
use super::tree::{Key, Node};
use bind::Binds;
pub use bind::bind_address;

/// A shorter interval would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(10);

/// Reads a whole configuration. The result is meaningful only if no problem was noted.
pub(super) fn config(root: &Node, d: &Decoder) -> Option<Config> {
    let top = d.table(root, TOP, "")?;
    let runtime = process::runtime(&top);
    let log = process::log(&top);
    let mut binds = Binds::default();
    let admin = process::admin(&top, &mut binds);
    let mut pools = BTreeMap::new();
    for (key, node) in named(&top, "pools") {
        // A pool with problems is known all the same, so that those who name it are not told that it is not there.
        let pool = pool::pool(node, &key.text, d).unwrap_or_else(|| Pool::new(Vec::new()));
        pools.insert(Arc::from(&*key.text), pool);
    }
    let mut listeners = BTreeMap::new();
    for (key, node) in named(&top, "listeners") {
        if let Some(listener) = listener::listener(node, &key.text, &pools, &mut binds, d) {
            listeners.insert(Arc::from(&*key.text), listener);
        }
    }
    Some(Config { runtime, log, admin, listeners, pools })
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
        // Names stand in log lines, metric labels, and as POOL/BACKEND on the command line.
        let good = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if key.text.is_empty() || !key.text.chars().all(good) {
            d.problem(key.at, format!("the name {:?} must be letters, digits, '-', '_' and '.'", key.text));
        }
    }
    table.named()
}

/// Whether the host of an address is a name, not a number.
fn looks_like_a_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':')
}
