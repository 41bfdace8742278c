//! Rules about more than one key, and defaults that depend on another key.

mod backends;
mod listener;
mod pool;

pub(super) use backends::names as backend_names;
pub(super) use listener::per_client;
pub(super) use pool::{eject, health, pool, replicas};

use std::collections::BTreeSet;

use super::decode::{MapReader, nearest};
use super::model::Config;
use super::value::BoundAddresses;
use super::yaml::{YamlNode, YamlValue};

/// Checks the listeners and pools together.
pub(super) fn config(config: &mut Config, map: &MapReader<'_>) {
    for key in ["listeners", "pools"] {
        let needed = format!("at least one is needed, as `{key}: {{NAME: …}}`");
        match map.get(key) {
            None => map.found.problem(format!("there are no {key}: {needed}")),
            Some(node) if named(node).next().is_none() && !map.misread(key) => {
                map.problem(key, format!("{key:?} is empty: {needed}"));
            }
            Some(_) => {}
        }
    }
    let mut bound = BoundAddresses::default();
    if let Some(bind) = map.get("admin").and_then(|admin| admin.get("bind")) {
        bound.add("\"admin\"", &map.found.item(bind, String::new()));
    }
    let pools: Vec<_> = map.get("pools").into_iter().flat_map(named).collect();
    for (name, node) in map.get("listeners").into_iter().flat_map(named) {
        let what = format!("listener {name:?}");
        for bind in node.get("bind").into_iter().flat_map(YamlNode::items) {
            bound.add(&what, &map.found.item(bind, String::new()));
        }
        let pool = node.get("pool").and_then(|pool| Some((pool, pool.text()?)));
        if let Some((node, pool)) = pool.filter(|(_, pool)| !pools.iter().any(|(name, _)| name == pool)) {
            let known: BTreeSet<_> = pools.iter().map(|(name, _)| format!("{name:?}")).collect();
            let end = match nearest(pool, pools.iter().map(|(name, _)| *name)) {
                Some(near) => format!("; did you mean {near:?}?"),
                None if known.is_empty() => String::new(),
                None => format!("; there is {}", Vec::from_iter(known).join(", ")),
            };
            let message = format!("{what} names the pool {pool:?}, which does not exist{end}");
            map.found.item(node, String::new()).problem(message);
        }
        if let Some(listener) = config.listeners.get_mut(name)
            && let Some(pool) = config.pools.get(&listener.pool)
            && node.get("keepalive").is_none()
        {
            listener.options.keepalive = pool.keepalive;
        }
    }
    for (name, pool) in pools {
        for (backend, node) in backends::listed(pool) {
            let address = backend.address;
            if let Some(owner) = bound.owner(address) {
                let message =
                    format!("pool {name:?} cannot have the backend {address}: {owner} listens there");
                map.found.item(node, String::new()).problem(message);
            }
        }
    }
}

/// The names and values of a map.
fn named(node: &YamlNode) -> impl Iterator<Item = (&str, &YamlNode)> {
    let pairs = match &node.value {
        YamlValue::Map(pairs) => &pairs[..],
        _ => &[],
    };
    pairs.iter().map(|(key, node)| (&*key.text, node))
}
