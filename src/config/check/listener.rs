//! The rules of a listener's parts.

use super::super::decode::{FoundValue, MapReader, nearest};
use super::super::model::{Bandwidth, Listener, NoBackend, PerClient};
use super::super::yaml::YamlNode;
use super::named;

/// The keys that assign connections to pools.
const RULES: [&str; 3] = ["sources", "alpn", "sni"];

/// Checks that connections have one way to a pool.
pub(in crate::config) fn listener(listener: &mut Listener, map: &MapReader<'_>) {
    let rule = RULES.into_iter().find(|key| map.has(key));
    match (map.has("pool"), rule) {
        (false, None) => map.needs("pool", ", such as web, or rules: sources, alpn or sni"),
        (true, Some(rule)) => {
            let advice = format!("with {rule:?}, call the pool of the remaining connections \"default\"");
            map.problem("pool", format!("\"pool\" in {} would take every connection: {advice}", map.what()));
        }
        _ => {}
    }
    if map.has("default") && rule.is_none() {
        let advice = "without sources, alpn or sni, call it \"pool\"";
        map.problem("default", format!("\"default\" in {} does nothing: {advice}", map.what()));
    }
    let single = listener.pool.as_ref().is_some_and(|pool| pool.single().is_some());
    if listener.no_backend == NoBackend::Refuse && !single && !map.misread("pool") {
        let message = "\"no_backend: refuse\" needs a single pool: otherwise the pool of a connection is not known \
                       before it is accepted";
        map.problem("no_backend", message);
    }
}

/// Reports the pools of a listener that do not exist; `pools` are the names of those that do.
pub(super) fn pools(what: &str, listener: &YamlNode, pools: &[&str], root: &FoundValue<'_>) {
    let target = |key: &str| listener.get(key).into_iter();
    let rules = RULES.into_iter().flat_map(|key| target(key).flat_map(named).map(|(_, node)| node));
    for node in target("pool").chain(target("default")).chain(rules) {
        let names = node.text().into_iter().chain(named(node).map(|(name, _)| name));
        for pool in names.filter(|pool| !pools.contains(pool)) {
            let mut known: Vec<_> = pools.iter().map(|name| format!("{name:?}")).collect();
            known.sort();
            let end = match nearest(pool, pools.iter().copied()) {
                Some(near) => format!("; did you mean {near:?}?"),
                None if known.is_empty() => String::new(),
                None => format!("; there is {}", known.join(", ")),
            };
            let message = format!("{what} names the pool {pool:?}, which does not exist{end}");
            root.item(node, String::new()).problem(message);
        }
    }
}

/// Checks that there is a limit.
pub(in crate::config) fn per_client(limits: &mut PerClient, map: &MapReader<'_>) {
    let PerClient { connections, rate, .. } = limits;
    has_limit(connections.is_some() || rate.is_some(), ["connections", "rate"], map);
}

/// The same for the bandwidth.
pub(in crate::config) fn bandwidth(limits: &mut Bandwidth, map: &MapReader<'_>) {
    let Bandwidth { per_connection, total } = limits;
    has_limit(per_connection.is_some() || total.is_some(), ["per_connection", "total"], map);
}

fn has_limit(any: bool, keys: [&str; 2], map: &MapReader<'_>) {
    if !any && !keys.into_iter().any(|key| map.misread(key)) {
        let [one, other] = keys;
        map.found.problem(format!("{} sets no limit: add {one} or {other}", map.what()));
    }
}
