//! Where a pool's backends come from.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Adopt;

/// One place that backends come from (an item of `discover`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Written down.
    Static(Vec<StaticBackend>),
    /// The A and AAAA records of a name.
    Dns(Dns),
    /// The SRV records of a name.
    Srv(Srv),
    /// Written down in a file of its own, which is read again when it changes.
    File(File),
    /// The containers of a Docker engine that have a label.
    Docker(Docker),
}

/// Tells a pool's sources apart, and one that was re-configured from one that is new.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKey {
    /// All that is written down in the configuration.
    Static,
    /// The records of a name, with the port that its backends listen on.
    Dns(String, u16),
    /// The SRV records of a name.
    Srv(String),
    /// A file.
    File(PathBuf),
    /// The containers with a label, of an engine, with what decides where they are connected to: when that changes, the
    /// old places wait for the new ones to be found and checked, as those of any source that is taken away.
    Docker {
        /// The label.
        label: String,
        /// The port of those that name none.
        port: Option<u16>,
        /// The network.
        network: Option<String>,
        /// The engine.
        engine: Option<String>,
    },
    /// No source of the configuration: what operators have added while the program runs.
    Operator,
}

impl From<&Source> for SourceKey {
    fn from(source: &Source) -> Self {
        match source {
            Source::Static(_) => Self::Static,
            Source::Dns(dns) => Self::Dns(dns.name.clone(), dns.port),
            Source::Srv(srv) => Self::Srv(srv.name.clone()),
            Source::File(file) => Self::File(file.path.clone()),
            Source::Docker(docker) => Self::Docker {
                label: docker.label.clone(),
                port: docker.port,
                network: docker.network.clone(),
                engine: docker.engine.clone(),
            },
        }
    }
}

impl SourceKey {
    /// As one word, for machines: `dns:backend:5000`.
    pub fn word(&self) -> String {
        match self {
            Self::Static => "static".to_owned(),
            Self::Dns(name, port) => format!("dns:{name}:{port}"),
            Self::Srv(name) => format!("srv:{name}"),
            Self::File(path) => format!("file:{}", path.display()),
            Self::Docker { label, .. } => format!("docker:{label}"),
            Self::Operator => "operator".to_owned(),
        }
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("the configuration"),
            Self::Dns(name, port) => write!(f, "dns {name}:{port}"),
            Self::Srv(name) => write!(f, "srv {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Docker { label, port, network, engine } => {
                write!(f, "docker {label}")?;
                port.iter().try_for_each(|port| write!(f, " port {port}"))?;
                network.iter().try_for_each(|network| write!(f, " in {network}"))?;
                engine.iter().try_for_each(|engine| write!(f, " at {engine}"))
            }
            Self::Operator => f.write_str("what operators added"),
        }
    }
}

/// A backend that is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticBackend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name; the address when none was given.
    pub name: Arc<str>,
    /// Its share; 0 means that it gets nothing new.
    pub weight: u32,
    /// Used only while no other one is up.
    pub backup: bool,
    /// Connections at once; `None`: what the pool says.
    pub connections: Option<NonZeroU32>,
}

impl StaticBackend {
    /// A backend with the defaults.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, name: address.to_string().into(), weight: 1, backup: false, connections: None }
    }
}

/// A name whose A and AAAA records are backends (`dns`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name asked for, as written.
    pub name: String,
    /// The port of every backend found.
    pub port: u16,
    /// How it is asked for.
    pub query: Query,
}

impl Dns {
    /// A name with the defaults.
    pub fn new(name: String, port: u16) -> Self {
        Self { name, port, query: Query::default() }
    }
}

/// A name whose SRV records (RFC 2782) say where the backends are: target, port, weight and priority (`srv`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// The name asked for, as written: `_service._tcp.name`.
    pub name: String,
    /// How it is asked for.
    pub query: Query,
}

/// How a name is asked for (beside `dns` and `srv`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// How often, whatever the answer's TTL.
    pub every: Duration,
    /// The server asked; `None`: those of `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
    /// How long the last good answer stands while asking fails.
    pub hold: Duration,
    /// How long an address must be missing from good answers before its backend leaves.
    pub flap: Duration,
    /// Which addresses are taken.
    pub family: Family,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(1),
            server: None,
            hold: Duration::from_secs(10),
            flap: Duration::from_secs(3),
            family: Family::Any,
        }
    }
}

/// Which address family is asked for (`family`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Both A and AAAA.
    Any,
    /// A only.
    V4,
    /// AAAA only.
    V6,
}

/// A file with a list of backends, as it would stand under `static` (`file`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path; a relative one begins where the process was started.
    pub path: PathBuf,
    /// How often it is looked at.
    pub every: Duration,
}

impl File {
    /// A file with the defaults.
    pub fn new(path: PathBuf) -> Self {
        Self { path, every: Duration::from_secs(1) }
    }
}

/// The running containers of a Docker engine that have a label (`docker`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    /// The label, as `key` or `key=value`.
    pub label: String,
    /// The port of those that name none with the label `pointsman.port`.
    pub port: Option<u16>,
    /// The network whose addresses are taken; `None`: the first that this process can be expected to reach, by name.
    pub network: Option<String>,
    /// The engine, as `unix:///path` or `tcp://host:port`; `None`: `$DOCKER_HOST`, or `/var/run/docker.sock`.
    pub engine: Option<String>,
    /// Whether a container that has a HEALTHCHECK is up only while the engine calls it healthy.
    pub healthcheck: bool,
    /// How long the last good state stands while the engine cannot be asked.
    pub hold: Duration,
    /// Containers that count as if they had the label: those that a pool adopts among its replicas.
    pub adopt: Option<Adopt>,
}

impl Docker {
    /// A label with the defaults.
    pub fn new(label: String) -> Self {
        let hold = Duration::from_secs(10);
        Self { label, port: None, network: None, engine: None, healthcheck: true, hold, adopt: None }
    }
}
