//! Replicas: backends of a pool that Pointsman itself starts, as containers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;

use super::super::check;
use super::super::decode::MapReader;
use super::super::keys::{ConfigKeys, settings};
use super::super::kind::{Kind, optional, shorthand, table};
use super::super::outline::Map;
use super::super::scalar::{MOST, flag, interval, port, text, time, time_within, whole};
use super::super::shape::KeyShape;
use super::super::value::{command, container_name, docker_label, engine, environment, group, network};
use super::Docker;

/// The label that marks a container as a replica; its value is the pool's `group`.
pub const GROUP_LABEL: &str = "pointsman.replicas";

/// More containers than one engine starts for one pool.
const MOST_REPLICAS: u64 = 500;
/// The engine counts it in whole seconds.
const LONGEST_STOP: Duration = Duration::from_secs(3600);

settings! {
    /// What a pool's replicas are, and how many there are (`replicas`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Replicas, check check::replicas {
        /// The image that each of them runs. No other one is ever started.
        image: String => text(), absent String::new(), required "backend-flask";
        /// The port that they serve.
        port: u16 => port(), absent 0, required "5000";
        /// The minimum: when there are fewer, more are started.
        min: u32 => whole(0..=MOST_REPLICAS), default 1;
        /// The maximum.
        max: u32 => whole(1..=MOST_REPLICAS), default 10;
        /// Whether a replica that died is replaced by another one of the same name; if not, it stays missing until one
        /// is added.
        respawn: bool => flag(), default true;
        /// Their name at the engine: the value of their label pointsman.replicas, and the beginning of their containers'
        /// names. Two Pointsmans at one engine must not have the same. Absent: the pool's name.
        group: Arc<str> => group(), absent Arc::default(), example "web";
        /// The network that they join. Absent: that of Pointsman's own container, or else the engine's bridge.
        network: Option<String> => optional(network()), absent None, example "web";
        /// The engine, as unix:///path or tcp://host:port. Absent: $DOCKER_HOST, or /var/run/docker.sock.
        engine: Option<String> => optional(engine()), absent None, example "unix:///var/run/docker.sock";
        /// What they find in their environment, besides SERVER_ID and SERVER_NAME.
        env: LiteMap<String, String> => environment(), absent LiteMap::new(), example "{NAME: a value}";
        /// What they run instead of the image's command, as a list of words; no shell reads it.
        command: Option<Vec<String>> => optional(command()), absent None, example "[gunicorn, \"app:app\"]";
        /// Containers that Pointsman did not start and that are replicas too: by their name, in which * stands for anything,
        /// or by a label.
        adopt: Option<Adopt> => optional(adopt()), absent None, example "server_*";
        /// Whether a replica that has a HEALTHCHECK is up only while the engine calls it healthy. Absent: if the pool has
        /// no checks of its own, which know sooner whether it can serve.
        healthcheck: bool => flag(), absent true, example "false";
        /// How long a replica that is taken out may finish its connections before it is stopped. Absent:
        /// runtime.drain.timeout.
        drain: Option<Duration> => optional(time()), absent None, example "30s";
        /// How long a replica may take to end after its stop signal before it is killed, in whole seconds.
        stop_timeout: Duration => time_within(Duration::ZERO..=LONGEST_STOP), default Duration::from_secs(10);
        /// How their number follows the load. Absent: only operators change it.
        autoscale: Option<Autoscale> => optional(table()), absent None;
    }
}

impl Replicas {
    /// The source that finds them.
    pub fn source(&self) -> Docker {
        Docker {
            port: Some(self.port),
            network: self.network.clone(),
            engine: self.engine.clone(),
            healthcheck: self.healthcheck,
            adopt: self.adopt.clone(),
            ..Docker::new(format!("{GROUP_LABEL}={}", self.group))
        }
    }
}

/// The containers to adopt that Pointsman did not start (`replicas.adopt`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// Containers whose name matches; `*` stands for any text.
    Name(String),
    /// Containers that have this label, as `key` or `key=value`.
    Label(String),
}

impl ConfigKeys for Adopt {
    fn names(names: &mut Vec<&'static str>) {
        names.extend(ADOPT);
    }

    fn describe(keys: &mut Vec<KeyShape>) {
        let name = KeyShape {
            shape: container_name().shape(),
            ..KeyShape::new("name", &["A name, such as server_*."])
        };
        let label = KeyShape {
            shape: docker_label().shape(),
            ..KeyShape::new("label", &["A label, as KEY or KEY=VALUE."])
        };
        keys.extend([name, label]);
    }

    fn needs() -> Option<(&'static str, &'static [&'static str])> {
        Some(("oneOf", &ADOPT))
    }

    fn read(map: &MapReader<'_>) -> Option<Self> {
        match map.kind(&ADOPT)? {
            "name" => map.read("name", &container_name()).value().map(Self::Name),
            _ => map.read("label", &docker_label()).value().map(Self::Label),
        }
    }

    fn write(&self, map: &mut Map) {
        match self {
            Self::Name(name) => map.put("name", container_name().write(name)),
            Self::Label(label) => map.put("label", docker_label().write(label)),
        }
    }
}

const ADOPT: [&str; 2] = ["name", "label"];

fn adopt() -> Kind<Adopt> {
    shorthand(container_name(), Adopt::Name)
}

settings! {
    /// How the number of replicas follows the load (`replicas.autoscale`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Autoscale: new {
        /// Open connections that one backend should carry.
        connections_per_backend: NonZeroU32 => whole(1..=MOST), absent NonZeroU32::MIN, required "50";
        /// The load must be above that for this long before replicas are added.
        up_after: Duration => interval(), default Duration::from_secs(5);
        /// Fewer backends must be enough for this long, at the highest load of that time, before replicas are removed.
        down_after: Duration => interval(), default Duration::from_secs(60);
        /// Nothing is changed for this long after a change, by autoscaling or by hand.
        cooldown: Duration => interval(), default Duration::from_secs(10);
        /// At most so many are added or removed at once.
        step: NonZeroU32 => whole(1..=MOST_REPLICAS), default NonZeroU32::MIN.saturating_add(1);
        /// Only log what would be done.
        dry_run: bool => flag(), default false;
    }
}
