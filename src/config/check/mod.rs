//! Rules about more than one key, and defaults that depend on another key.

mod backends;
mod listener;
mod pool;

pub(super) use backends::names as backend_names;
pub(super) use listener::{bandwidth, listener, per_client};
pub(super) use pool::{client_tls, eject, health, pool, registry, replicas};

use super::decode::MapReader;
use super::model::{Config, PlaneChoice, Pool};
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
        listener::pools(&what, node, &pools.iter().map(|(name, _)| *name).collect::<Vec<_>>(), map.found);
        let Some(listener) = config.listeners.get_mut(name) else { continue };
        let settings: Vec<_> = listener.pools().filter_map(|pool| config.pools.get(pool)).collect();
        let uses_name = settings.iter().any(|pool| pool.uses_server_name());
        if let (Some(first), None) = (settings.first(), node.get("keepalive")) {
            let alike = settings.iter().all(|pool| pool.keepalive == first.keepalive);
            listener.options.keepalive = if alike { first.keepalive } else { Pool::default().keepalive };
        }
        if listener.plane == PlaneChoice::Kernel {
            let obstacles = listener.kernel_obstacles(|pool| config.pools.get(pool));
            let at = node.key("plane").map_or(node.at, |key| key.at);
            for obstacle in obstacles {
                let message = format!("{what} has `plane: kernel`, but {obstacle}");
                map.found.decoder.problem(at, message);
            }
        }
        listener.reads_hello = uses_name || !listener.alpn.is_empty() || !listener.sni.is_empty();
        if listener.reads_hello || node.get("alpn").or(node.get("sni")).is_some() {
            continue;
        }
        for (key, given) in [("postgres", listener.postgres), ("hello_timeout", true)] {
            if let Some(key_at) = node.key(key).filter(|_| given) {
                let why = "the ClientHello is read only with alpn, sni, or a pool that uses the server name (hash \
                           key sni, or authority in send_proxy_protocol)";
                map.found.decoder.problem(key_at.at, format!("{key:?} in {what} does nothing: {why}"));
            }
        }
    }
    for (name, pool) in pools {
        for (backend, node) in backends::listed(pool) {
            let address = &backend.address;
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
