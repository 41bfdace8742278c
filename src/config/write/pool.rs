//! Pools.

use crate::domain::Ending;
use std::num::{NonZeroU32, NonZeroUsize};

use super::super::model::{Eject, Factor, Hash, Percent, Policy, Pool, Source};
use super::{Map, Outline, discover, duration, health, off, or_off, replicas};

pub(super) fn pool(pool: &Pool) -> Outline {
    let connect =
        Map::new().with("timeout", duration(pool.connect.timeout)).with("attempts", pool.connect.attempts);
    let timeouts = Map::new()
        .with("idle", or_off(pool.timeouts.idle))
        .with("half_closed", or_off(pool.timeouts.half_closed))
        .with("lifetime", or_off(pool.timeouts.lifetime));
    let limits = Map::new()
        .with("connections", pool.limits.connections.map_or(0, NonZeroU32::get))
        .with("queue", pool.limits.queue)
        .with("queue_timeout", duration(pool.limits.queue_timeout));
    let shadow = pool.shadow.iter().map(|algorithm| Outline::text(algorithm.name())).collect::<Vec<_>>();
    // The source that finds replicas goes without saying.
    let implied = pool.replicas.as_ref().map(|replicas| Source::Docker(replicas.source()));
    let sources = pool.discover.iter().filter(|source| implied.as_ref() != Some(source));
    let sources = sources.map(discover::source).collect::<Vec<_>>();
    let checks = pool.health.iter().map(health::health).collect::<Vec<_>>();
    Map::new()
        .with("balance", pool.balance.name())
        .with_some("hash", pool.balance.hashes().then(|| hash(&pool.hash)))
        .with_some("shadow", (!shadow.is_empty()).then_some(Outline::List(shadow)))
        .with_some("discover", (!sources.is_empty()).then_some(Outline::List(sources)))
        .with_some("health", (!checks.is_empty()).then_some(Outline::List(checks)))
        .with_some("replicas", pool.replicas.as_ref().map(replicas::replicas))
        .with_some("eject", pool.eject.as_ref().map(eject))
        .with("panic", percent(pool.panic))
        .with("connect", connect)
        .with("timeouts", timeouts)
        .with("keepalive", or_off(pool.keepalive))
        .with("user_timeout", or_off(pool.user_timeout))
        .with("limits", limits)
        .with("slow_start", duration(pool.slow_start))
        .with("on_down", policy(pool.on_down))
        .with("on_leave", policy(pool.on_leave))
        .with("on_drain", policy(pool.on_drain))
        .into()
}

fn hash(hash: &Hash) -> Outline {
    Map::new()
        .with("key", hash.key.name())
        .with_some("slots", hash.slots.map(NonZeroUsize::get))
        .with_some("virtual_nodes", hash.virtual_nodes.map(NonZeroUsize::get))
        .with_some("load_factor", hash.load_factor.map(factor))
        .into()
}

fn eject(eject: &Eject) -> Outline {
    let slow = eject.slow.map(|slow| {
        Map::new()
            .with("factor", factor(slow.factor))
            .with("floor", duration(slow.floor))
            .with("answers", slow.answers.get())
            .with("every", duration(slow.every))
    });
    Map::new()
        .with("failures", eject.failures.map_or(off(), |n| Outline::from(n.get())))
        .with("for", duration(eject.period))
        .with("at_most", percent(eject.at_most))
        .with_some("slow", slow)
        .into()
}

fn policy(policy: Policy) -> Outline {
    match policy {
        Policy::Keep => Outline::text("keep"),
        Policy::End { how, after, over } => {
            let how = match how {
                Ending::Close => "close",
                Ending::Reset => "reset",
            };
            Map::new().with(how, duration(over)).with("after", duration(after)).into()
        }
    }
}

fn percent(Percent(percent): Percent) -> Outline {
    Outline::text(format!("{percent}%"))
}

fn factor(factor: Factor) -> Outline {
    Outline::Decimal(factor.get())
}
