//! Replicas: backends of a pool that Pointsman itself starts, as containers.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::Docker;

/// The label that says whose replica a container is; its value is [`Replicas::group`].
pub const GROUP_LABEL: &str = "pointsman.replicas";

/// What a pool's replicas are, and how many there are (`replicas`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// The image that each of them runs. No other one is ever started.
    pub image: String,
    /// The port that they serve.
    pub port: u16,
    /// So many there are at least, and are started when there are fewer.
    pub min: u32,
    /// So many there are at most.
    pub max: u32,
    /// Whether one that died is replaced by another one of the same name.
    pub respawn: bool,
    /// By what the engine knows them: the value of their label, and the beginning of their containers' names. Two
    /// Pointsmans at one engine must not have the same.
    pub group: Arc<str>,
    /// The network that they join; `None`: the one that Pointsman's own container is in, else the engine's `bridge`.
    pub network: Option<String>,
    /// The engine, as `unix:///path` or `tcp://host:port`; `None`: `$DOCKER_HOST`, or `/var/run/docker.sock`.
    pub engine: Option<String>,
    /// What they find in their environment, besides `SERVER_ID` and `SERVER_NAME`.
    pub env: BTreeMap<String, String>,
    /// What they run instead of what the image says.
    pub command: Option<Vec<String>>,
    /// Containers that others have started, and that are replicas too.
    pub adopt: Option<Adopt>,
    /// Whether one that has a HEALTHCHECK is up only while the engine calls it healthy.
    pub healthcheck: bool,
    /// How long one that is taken out may finish its connections; `None`: as long as the whole process when it stops.
    pub drain: Option<Duration>,
    /// How long one may take to end after its stop signal, in whole seconds, before it is killed.
    pub stop_timeout: Duration,
    /// By what their number follows the load; `None`: only by what people say.
    pub autoscale: Option<Autoscale>,
}

impl Replicas {
    /// Replicas with the defaults.
    pub fn new(group: Arc<str>, image: String, port: u16) -> Self {
        Self {
            image,
            port,
            min: 1,
            max: 10,
            respawn: true,
            group,
            network: None,
            engine: None,
            env: BTreeMap::new(),
            command: None,
            adopt: None,
            healthcheck: true,
            drain: None,
            stop_timeout: Duration::from_secs(10),
            autoscale: None,
        }
    }

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

/// Which containers of others are adopted (`replicas.adopt`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// Those whose name is like this; `*` stands for anything.
    Name(String),
    /// Those that have this label, as `key` or `key=value`.
    Label(String),
}

/// By what the number of replicas follows the load (`replicas.autoscale`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autoscale {
    /// Open connections that one backend is to carry.
    pub connections_per_backend: NonZeroU32,
    /// There must be more for this long until replicas are added.
    pub up_after: Duration,
    /// Fewer must be enough for this long until replicas are taken out.
    pub down_after: Duration,
    /// Nothing is changed for this long after a change.
    pub cooldown: Duration,
    /// So many are added or taken out at once, at most.
    pub step: NonZeroU32,
    /// It is only told what would be done.
    pub dry_run: bool,
}

impl Autoscale {
    /// A target with the defaults.
    pub fn new(connections_per_backend: NonZeroU32) -> Self {
        Self {
            connections_per_backend,
            up_after: Duration::from_secs(5),
            down_after: Duration::from_secs(60),
            cooldown: Duration::from_secs(10),
            step: NonZeroU32::MIN.saturating_add(1),
            dry_run: false,
        }
    }
}
