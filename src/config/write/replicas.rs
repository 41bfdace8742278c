//! Replicas.

use super::super::model::{Adopt, Autoscale, Replicas};
use super::{Map, Outline, duration};

pub(super) fn replicas(replicas: &Replicas) -> Outline {
    let env =
        replicas.env.iter().map(|(name, value)| (name.clone(), Outline::text(value))).collect::<Vec<_>>();
    let command =
        replicas.command.as_ref().map(|words| Outline::List(words.iter().map(Outline::text).collect()));
    Map::new()
        .with("image", &*replicas.image)
        .with("port", replicas.port)
        .with("min", replicas.min)
        .with("max", replicas.max)
        .with("respawn", replicas.respawn)
        .with("group", &*replicas.group)
        .with_some("network", replicas.network.as_deref())
        .with_some("engine", replicas.engine.as_deref())
        .with_some("env", (!env.is_empty()).then_some(Outline::Map(env)))
        .with_some("command", command)
        .with_some("adopt", replicas.adopt.as_ref().map(adopt))
        .with("healthcheck", replicas.healthcheck)
        .with_some("drain", replicas.drain.map(duration))
        .with("stop_timeout", duration(replicas.stop_timeout))
        .with_some("autoscale", replicas.autoscale.as_ref().map(autoscale))
        .into()
}

fn adopt(adopt: &Adopt) -> Outline {
    match adopt {
        Adopt::Name(pattern) => Outline::text(pattern),
        Adopt::Label(label) => Map::new().with("label", &**label).into(),
    }
}

fn autoscale(autoscale: &Autoscale) -> Outline {
    Map::new()
        .with("connections_per_backend", autoscale.connections_per_backend.get())
        .with("up_after", duration(autoscale.up_after))
        .with("down_after", duration(autoscale.down_after))
        .with("cooldown", duration(autoscale.cooldown))
        .with("step", autoscale.step.get())
        .with("dry_run", autoscale.dry_run)
        .into()
}
