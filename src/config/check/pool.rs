//! The rules of a pool and its parts.

use std::num::NonZeroUsize;

use super::super::decode::MapReader;
use super::super::model::{Algorithm, ClientTls, Eject, Health, Pool, RegistryServer, Replicas, Source};
use super::backends;

/// Checks the parts of a pool together.
pub(in crate::config) fn pool(pool: &mut Pool, map: &MapReader<'_>) {
    if !map.has("discover") && !map.has("replicas") {
        map.found.problem(format!("{} needs \"discover\": where its backends come from", map.what()));
    }
    pool.shadow.retain(|algorithm| *algorithm != pool.balance);
    backends::sources(pool, map);
    if let Some(replicas) = &mut pool.replicas {
        if replicas.group.is_empty() {
            replicas.group = map.found.key.into();
        }
        let written = map.get("replicas").and_then(|replicas| replicas.get("healthcheck"));
        if written.is_none() {
            replicas.healthcheck = pool.health.is_empty();
        }
        pool.discover.push(Source::Docker(replicas.source()));
    }
    for health in &mut pool.health {
        health.proxy_header = pool.send_proxy_protocol.map(|header| header.version);
        health.source.clone_from(&pool.connect.source);
    }
    ring(pool, map);
    queue(pool, map);
}

/// Checks that the ring's keys have an effect and that the ring has enough slots for the static backends.
fn ring(pool: &Pool, map: &MapReader<'_>) {
    let Some(hash) = map.get("hash") else { return };
    if pool.balance.hashes() && pool.balance != Algorithm::RingHash && !map.misread("balance") {
        for key in ["slots", "virtual_nodes"].into_iter().filter_map(|key| hash.key(key)) {
            let (text, what, balance) = (&key.text, map.what(), pool.balance.name());
            let message = format!("{text:?} in \"hash\" in {what} does nothing: {balance} has no ring");
            map.found.decoder.problem(key.at, message);
        }
    }
    let Some(slots) = pool.hash.slots else { return };
    let each = pool.hash.virtual_nodes.map_or(1, NonZeroUsize::get);
    let listed = backends::listed(map.found.node).filter(|(backend, _)| !backend.backup);
    let nodes = listed.map(|(backend, _)| backend.weight as usize).sum::<usize>().saturating_mul(each);
    if nodes > slots.get() {
        let what = map.what();
        map.problem("hash", format!("{what} has {slots} slots, but its backends have {nodes} virtual nodes"));
    }
}

/// Checks that a queue comes with a limit of connections: without one, clients never wait.
fn queue(pool: &Pool, map: &MapReader<'_>) {
    let Some(limits) = map.get("limits") else { return };
    let limited = match limits.get("connections") {
        Some(connections) => connections.text() != Some("0"),
        None => false,
    };
    let may_limit = |source: &Source| match source {
        Source::Static(backends) => backends.iter().any(|backend| backend.connections.is_some()),
        Source::Dns(_) | Source::Srv(_) | Source::Consul(_) | Source::Kubernetes(_) => false,
        Source::File(_) | Source::Docker(_) | Source::Etcd(_) => true,
    };
    if pool.limits.queue > 0
        && !limited
        && !pool.discover.is_empty()
        && !pool.discover.iter().any(may_limit)
        && let Some(key) = limits.key("queue")
    {
        let message = format!(
            "\"queue\" in \"limits\" in {} does nothing: no backend has a limit; give them one, such as \
             `connections: 100`",
            map.what()
        );
        map.found.decoder.problem(key.at, message);
    }
}

/// Checks the times of a health check.
pub(in crate::config) fn health(health: &mut Health, map: &MapReader<'_>) {
    let what = map.what();
    let every = humantime::format_duration(health.every);
    if health.timeout > health.every {
        let timeout = humantime::format_duration(health.timeout);
        let message = format!(
            "the timeout of {what} ({timeout}) is longer than its interval ({every}): a check must end before the \
             next begins"
        );
        map.problem("timeout", message);
    }
    if let Some(fast) = health.fast_every.filter(|fast| *fast >= health.every) {
        let fast = humantime::format_duration(fast);
        let message = format!("the fast_every of {what} ({fast}) is not shorter than its every ({every})");
        map.problem("fast_every", message);
    }
}

/// Checks that the certificates of servers can be verified.
pub(in crate::config) fn client_tls(tls: &mut ClientTls, map: &MapReader<'_>) {
    if tls.verify && tls.ca_file.is_none() && !map.misread("ca_file") && !map.misread("verify") {
        let what = map.what();
        map.found.problem(format!(
            "{what} needs \"ca_file\": the certificates of the authorities that may have issued the server's, or \
             `verify: false` if any server may pass"
        ));
    }
}

/// Checks that there is TLS exactly if an endpoint has it.
pub(in crate::config) fn registry(source: &mut impl RegistryServer, map: &MapReader<'_>) {
    if map.misread("endpoints") || map.misread("tls") {
        return;
    }
    let encrypted = source.endpoints().iter().any(|url| url.tls);
    match source.tls() {
        None if encrypted => {
            let message = format!(
                "{} needs \"tls\" for an endpoint with https: `tls: {{ca_file: FILE}}`, or `verify: false` in it if any \
                 server may answer",
                map.what()
            );
            map.problem("endpoints", message);
        }
        Some(_) if !encrypted => {
            let message = format!("\"tls\" in {} does nothing: no endpoint begins with https://", map.what());
            map.problem("tls", message);
        }
        _ => {}
    }
}

/// Checks that ejection has a reason.
pub(in crate::config) fn eject(eject: &mut Eject, map: &MapReader<'_>) {
    if eject.failures.is_none() && !map.has("slow") {
        let message = format!("{} has no reason left: give it failures, or slow", map.what());
        map.problem("failures", message);
    }
}

/// Checks the numbers of replicas.
pub(in crate::config) fn replicas(replicas: &mut Replicas, map: &MapReader<'_>) {
    let (min, max) = (replicas.min, replicas.max);
    if min > max {
        let message = format!("\"min\" in {} is {min}, which is more than \"max\": {max}", map.what());
        map.problem("min", message);
    }
    // Without a replica there is no connection to count.
    if let Some(node) = map.get("autoscale").filter(|_| min == 0) {
        let message = format!("\"autoscale\" in {} needs a \"min\" of at least 1", map.what());
        map.found.decoder.problem(node.at, message);
    }
}
