//! Checks of static backends and of sources.

use std::collections::HashSet;

use super::super::decode::{Decoder, FoundValue, MapReader};
use super::super::kind::Kind;
use super::super::model::{Pool, Source, SourceKey, StaticBackend, source, static_backend};
use super::super::yaml::{YamlKey, YamlNode};

/// Reads a node again; its problems are already reported.
fn again<T: 'static>(kind: &Kind<T>, node: &YamlNode) -> Option<T> {
    kind.read(&FoundValue::root(node, "", &Decoder::new("")))
}

/// The items of a pool's `discover`.
fn items(pool: &YamlNode) -> &[YamlNode] {
    pool.get("discover").map(YamlNode::items).unwrap_or_default()
}

/// The backends of a list, each with its node.
pub(super) fn in_list(list: &YamlNode) -> impl Iterator<Item = (StaticBackend, &YamlNode)> {
    list.items().iter().filter_map(|node| Some((again(&static_backend(), node)?, node)))
}

/// The static backends of a pool, each with its node.
pub(super) fn listed(pool: &YamlNode) -> impl Iterator<Item = (StaticBackend, &YamlNode)> {
    items(pool).iter().filter_map(|item| item.get("static")).flat_map(in_list)
}

/// Reports backends of a list that have the same address or the same name.
pub(in crate::config) fn names(list: &YamlNode, found: &FoundValue<'_>) {
    report_duplicates(in_list(list), found);
}

fn report_duplicates<'a>(
    listed: impl Iterator<Item = (StaticBackend, &'a YamlNode)>,
    found: &FoundValue<'_>,
) {
    let (mut addresses, mut names) = (HashSet::new(), HashSet::new());
    for (backend, node) in listed {
        let new = (addresses.insert(backend.address.clone()), names.insert(backend.name.clone()));
        let message = match new {
            (false, _) => format!("{} has the backend {} twice", found.what, backend.address),
            (true, false) => format!("{} has two backends of the name {:?}", found.what, backend.name),
            (true, true) => continue,
        };
        found.decoder.problem(node.at, message);
    }
}

/// Checks the sources and the static backends of a pool, and merges the latter.
pub(super) fn sources(pool: &mut Pool, map: &MapReader<'_>) {
    let (found, what) = (map.found, map.what());
    let mut keys = Vec::new();
    for item in items(found.node) {
        let source = again(&source(), item).filter(|source| !matches!(source, Source::Static(_)));
        let Some(key) = source.as_ref().map(SourceKey::from) else { continue };
        if keys.contains(&key) {
            found.decoder.problem(item.at, format!("{what} has the source \"{key}\" twice"));
        }
        keys.push(key);
    }
    report_duplicates(listed(found.node), found);
    merge_static(pool);
    report_without_effect(pool, map, keys.is_empty());
}

/// Merges all static backends into one source, at the position of the first.
fn merge_static(pool: &mut Pool) {
    let mut all = Vec::new();
    let first = pool.discover.iter().position(|source| matches!(source, Source::Static(_)));
    pool.discover.retain_mut(|source| match source {
        Source::Static(backends) => {
            all.append(backends);
            false
        }
        _ => true,
    });
    if let Some(first) = first {
        pool.discover.insert(first, Source::Static(all));
    }
}

/// Reports weights and backups without effect. `alone`: static backends are the only source in `discover`.
fn report_without_effect(pool: &Pool, map: &MapReader<'_>, alone: bool) {
    let (found, what) = (map.found, map.what());
    let listed: Vec<_> = listed(found.node).collect();
    if !pool.balance.uses_weights() && !map.misread("balance") {
        for (_, node) in listed.iter().filter(|(backend, _)| backend.weight > 1) {
            let message =
                format!("{what} gives a weight, but round-robin ignores weights; write `balance: weighted`");
            found.decoder.problem(node.at, message);
        }
    }
    let key = items(found.node).iter().find_map(|item| item.key("static"));
    let Some(YamlKey { at, .. }) = key.filter(|_| alone && !map.has("replicas") && !listed.is_empty()) else {
        return;
    };
    if listed.iter().all(|(backend, _)| backend.weight == 0) {
        found.decoder.problem(*at, format!("every backend of {what} has a weight of 0: none is ever chosen"));
    }
    if listed.iter().all(|(backend, _)| backend.backup) {
        let message = format!("every backend of {what} is a backup: a pool needs a backend that is not");
        found.decoder.problem(*at, message);
    }
}
