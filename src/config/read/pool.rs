//! Pools: `pools.NAME`.

use crate::domain::Ending;
use std::time::Duration;

use super::super::decode::{Decoder, Table};
use super::super::model::{Percent, Policy, Pool, Source, Timeouts};
use super::super::scalar::{choice, duration, duration_or_off, number, percent};
use super::super::tree::{Node, Value};
use super::discover::Places;
use super::{SHORTEST, balance, discover, eject, health, limits, options, replicas};

/// A pool, and the positions of its configured backends.
pub(super) fn pool(node: &Node, name: &str, d: &Decoder<'_>) -> Option<(Pool, Places)> {
    let what = format!("pool {name:?}");
    let table = d.table(node, &what, ".pools.*")?;
    let mut pool = Pool::new(Vec::new());
    let balance = balance::balance(&table);
    pool.balance = balance.unwrap_or(pool.balance);
    pool.hash = balance::hash(&table, balance);
    pool.shadow = balance::shadow(&table, pool.balance);
    let (discover, places) = discover::discover(&table, balance);
    pool.discover = discover;
    pool.health = health::health(&table);
    pool.replicas = replicas::replicas(&table, name, &pool.health);
    pool.discover.extend(pool.replicas.as_ref().map(|replicas| Source::Docker(replicas.source())));
    balance::check_slots(&table, &pool);
    pool.eject = eject::eject(&table);
    pool.panic = table.read("panic", percent(Percent(0))).unwrap_or(pool.panic);
    if let Some(table) = table.table("connect") {
        pool.connect.timeout = table.read("timeout", duration(SHORTEST)).unwrap_or(pool.connect.timeout);
        pool.connect.attempts = table.read("attempts", number(1..=100)).unwrap_or(pool.connect.attempts);
    }
    if let Some(table) = table.table("timeouts") {
        let limit = |key, default| table.read(key, duration_or_off(SHORTEST)).unwrap_or(default);
        let Timeouts { idle, half_closed, lifetime } = pool.timeouts;
        pool.timeouts = Timeouts {
            idle: limit("idle", idle),
            half_closed: limit("half_closed", half_closed),
            lifetime: limit("lifetime", lifetime),
        };
    }
    pool.keepalive = options::keepalive(&table).unwrap_or(pool.keepalive);
    pool.user_timeout = options::user_timeout(&table).unwrap_or(pool.user_timeout);
    pool.limits = limits::limits(&table, &pool);
    pool.slow_start = limits::slow_start(&table, balance).unwrap_or(pool.slow_start);
    pool.on_down = policy(&table, "on_down").unwrap_or(pool.on_down);
    pool.on_leave = policy(&table, "on_leave").unwrap_or(pool.on_leave);
    pool.on_drain = policy(&table, "on_drain").unwrap_or(pool.on_drain);
    Some((pool, places))
}

fn policy(table: &Table<'_>, key: &'static str) -> Option<Policy> {
    let node = table.get(key)?;
    let end = |how, after, over| Policy::End { how, after, over };
    if let Value::Map(_) = &node.value {
        let inner = table.table(key)?;
        let any = || duration(Duration::ZERO);
        let after = inner.read("after", any()).unwrap_or_default();
        return match (inner.read("close", any()), inner.read("reset", any())) {
            (Some(over), None) => Some(end(Ending::Close, after, over)),
            (None, Some(over)) => Some(end(Ending::Reset, after, over)),
            (None, None) if !inner.present(&["close", "reset"]).is_empty() => None, // told already
            _ => {
                inner
                    .decoder
                    .problem(inner.at, format!("{} is either close or reset with a duration", inner.what));
                None
            }
        };
    }
    let words = [
        ("keep", Policy::Keep),
        ("close", end(Ending::Close, Duration::ZERO, Duration::ZERO)),
        ("reset", end(Ending::Reset, Duration::ZERO, Duration::ZERO)),
    ];
    let also = |error| format!("{error}, or as {{close: 30s}}");
    table.read(key, |node| choice(&words)(node).map_err(also))
}
