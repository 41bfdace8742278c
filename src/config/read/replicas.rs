//! Backends that Pointsman starts itself: `replicas`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::super::decode::Table;
use super::super::model::{Adopt, Autoscale, Health, Replicas};
use super::super::scalar::{boolean, duration, duration_within, number, text};
use super::super::tree::{Node, Value};
use super::{MOST, SHORTEST, discover};

/// More containers than this are none that one engine starts for one pool.
const MOST_REPLICAS: u64 = 500;
/// The engine counts it in whole seconds.
const STOP_TIMEOUT: [Duration; 2] = [Duration::ZERO, Duration::from_secs(3600)];

/// The replicas of a pool of that name, whose backends are checked so.
pub(super) fn replicas(pool: &Table<'_>, name: &str, health: &[Health]) -> Option<Replicas> {
    let table = pool.table("replicas")?;
    let image = table.read("image", |node| text(node).map(str::to_owned));
    let port = table.read("port", number(1..=65535));
    let unset = Replicas::new(name.into(), String::new(), 0);
    let mut replicas = Replicas {
        image: image.unwrap_or_default(),
        port: port.unwrap_or_default(),
        min: table.read("min", number(0..=MOST_REPLICAS)).unwrap_or(unset.min),
        max: table.read("max", number(1..=MOST_REPLICAS)).unwrap_or(unset.max),
        respawn: table.read("respawn", boolean).unwrap_or(unset.respawn),
        group: table.read("group", group).unwrap_or(unset.group),
        network: table.read("network", network),
        engine: table.read("engine", discover::engine),
        env: env(&table),
        command: table.read("command", command),
        adopt: adopt(&table),
        // Its own checks know sooner whether one can serve.
        healthcheck: table.read("healthcheck", boolean).unwrap_or(health.is_empty()),
        drain: table.read("drain", duration(Duration::ZERO)),
        stop_timeout: {
            let [least, most] = STOP_TIMEOUT;
            table.read("stop_timeout", duration_within(least..=most)).unwrap_or(unset.stop_timeout)
        },
        autoscale: None,
    };
    let d = table.decoder;
    for key in ["image", "port"] {
        if table.present(&[key]).is_empty() {
            d.problem(table.at, format!("{} needs {key:?}", table.what));
        }
    }
    if replicas.min > replicas.max {
        let (min, max) = (replicas.min, replicas.max);
        let message = format!("\"min\" in {} is {min}, which is more than \"max\": {max}", table.what);
        d.problem(table.place("min"), message);
    }
    if let Some(inner) = table.table("autoscale") {
        replicas.autoscale = autoscale(&inner);
        if replicas.min == 0 {
            // Nobody has a connection while nobody is there to have one.
            d.problem(inner.at, format!("{} needs a \"min\" of 1 at least beside it", inner.what));
        }
    }
    Some(replicas)
}

/// One in which they have addresses of their own.
fn network(node: &Node) -> Result<String, String> {
    match text(node)? {
        "host" | "none" => Err("must be a network in which containers have addresses".to_owned()),
        network => Ok(network.to_owned()),
    }
}

/// It stands in the names of containers and hosts.
fn group(node: &Node) -> Result<Arc<str>, String> {
    let group = text(node).unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !group.starts_with(|c: char| c.is_ascii_alphanumeric()) || !group.chars().all(good) {
        return Err(
            "must be letters from a to z, digits, '-', '_' and '.', and begin with one of the first two"
                .to_owned(),
        );
    }
    Ok(group.into())
}

fn env(table: &Table<'_>) -> BTreeMap<String, String> {
    let Some(inner) = table.table("env") else { return BTreeMap::new() };
    let d = inner.decoder;
    let mut env = BTreeMap::new();
    for (key, node) in inner.named() {
        if key.text.is_empty() || key.text.contains(['=', '\0']) {
            d.problem(key.at, format!("{:?} in {} is no name of a variable", key.text, inner.what));
        }
        match &node.value {
            Value::Scalar(text) => _ = env.insert(key.text.to_string(), text.to_string()),
            Value::Null => _ = env.insert(key.text.to_string(), String::new()),
            Value::List(_) | Value::Map(_) => {
                d.problem(node.at, format!("{:?} in {} must be text", key.text, inner.what));
            }
        }
    }
    env
}

/// A list of words, as for execve(2): nothing splits them, no shell reads them.
fn command(node: &Node) -> Result<Vec<String>, String> {
    let wrong = || "must be a list of words, such as [gunicorn, \"app:app\"]".to_owned();
    match &node.value {
        Value::List(words) if !words.is_empty() => {
            words.iter().map(|word| text(word).map(str::to_owned).map_err(|_| wrong())).collect()
        }
        _ => Err(wrong()),
    }
}

fn adopt(table: &Table<'_>) -> Option<Adopt> {
    let pattern = |node: &Node| {
        let pattern = text(node).unwrap_or_default();
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
        match pattern.chars().all(good) && pattern.chars().any(|c| c != '*') {
            true => Ok(Adopt::Name(pattern.to_owned())),
            false => Err("must be a name of containers, such as server_*".to_owned()),
        }
    };
    if !matches!(table.get("adopt")?.value, Value::Map(_)) {
        return table.read("adopt", pattern);
    }
    let inner = table.table("adopt")?;
    match inner.kind(&["name", "label"])? {
        "name" => inner.read("name", pattern),
        _ => inner.read("label", discover::label).map(Adopt::Label),
    }
}

fn autoscale(table: &Table<'_>) -> Option<Autoscale> {
    let per = table.read("connections_per_backend", number(1..=MOST)).and_then(NonZeroU32::new);
    let unset = Autoscale::new(NonZeroU32::MIN);
    let time = |key, default| table.read(key, duration(SHORTEST)).unwrap_or(default);
    let autoscale = Autoscale {
        connections_per_backend: per.unwrap_or(NonZeroU32::MIN),
        up_after: time("up_after", unset.up_after),
        down_after: time("down_after", unset.down_after),
        cooldown: time("cooldown", unset.cooldown),
        step: table.read("step", number(1..=MOST_REPLICAS)).and_then(NonZeroU32::new).unwrap_or(unset.step),
        dry_run: table.read("dry_run", boolean).unwrap_or(unset.dry_run),
    };
    if table.present(&["connections_per_backend"]).is_empty() {
        let message = format!("{} needs \"connections_per_backend\"", table.what);
        table.decoder.problem(table.at, message);
    }
    Some(autoscale)
}
