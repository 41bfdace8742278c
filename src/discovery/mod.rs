//! The sources of backends, one file each.
//!
//! A source reports [`Observation`]s and does not depend on pools. The pool's state machine
//! (`src/pool/state_machine`) decides what they mean for the existing backends. To add a source: its file here, its
//! [`Source`] variant, and a line in [`start`].

mod consul;
pub mod container_filter;
pub mod containers;
mod dns;
mod docker;
pub mod engine;
pub mod engine_watcher;
mod etcd;
mod etcd_json;
mod file;
mod http_api;
mod json_lines;
mod kubernetes;
mod kubernetes_json;
mod once;
mod registry;
mod resolve;
mod rounds;
mod srv;
mod vetted;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

pub use crate::config::SourceKey;
use crate::config::{Source, StaticBackend};
use crate::domain::cause::{Cause, LONGEST, bounded};
use crate::domain::{Resolution, SocketAddress};
use crate::task::spawn;
use http_api::HttpApi;
pub use once::addresses;
#[cfg(any(test, feature = "laws"))]
pub use resolve::laws;

/// A backend as a source reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name; with the address, its identity.
    pub name: Arc<str>,
    /// Whether its name is unknown, so that it is named by its address.
    pub nameless: bool,
    /// The address to connect to.
    pub address: SocketAddress,
    /// Its other addresses, for display.
    pub also: Vec<SocketAddr>,
    /// Its weight; 0: no new connections.
    pub weight: u32,
    /// Its tier: it is used while no backend of a lower tier is up, and for connections that find those full.
    pub tier: u16,
    /// The limit of its open connections; `None`: the pool's.
    pub connections: Option<NonZeroU32>,
    /// The zone in which it runs; `None`: unknown.
    pub zone: Option<Arc<str>>,
    /// Its health, as far as the source knows it.
    pub fitness: Fitness,
}

impl Found {
    /// A backend with default options.
    pub fn new(name: Arc<str>, address: SocketAddress) -> Self {
        Self {
            name,
            nameless: false,
            address,
            also: Vec::new(),
            weight: 1,
            tier: 0,
            connections: None,
            zone: None,
            fitness: Fitness::Unknown,
        }
    }

    /// The addresses of one name as backends: one IPv4 and one IPv6 address are one backend; any others are one each.
    fn of(name: &Arc<str>, addresses: &BTreeSet<IpAddr>, port: u16) -> Vec<Self> {
        let one = |ip: &IpAddr| Self::new(Arc::clone(name), SocketAddr::new(*ip, port).into());
        match addresses.iter().collect::<Vec<_>>()[..] {
            [v4, v6] if v4.is_ipv4() && v6.is_ipv6() => {
                vec![Self { also: vec![SocketAddr::new(*v6, port)], ..one(v4) }]
            }
            ref all => all.iter().map(|ip| one(ip)).collect(),
        }
    }
}

impl From<&StaticBackend> for Found {
    fn from(config: &StaticBackend) -> Self {
        Self {
            weight: config.weight,
            tier: u16::from(config.backup),
            connections: config.connections,
            zone: config.zone.clone(),
            ..Self::new(Arc::clone(&config.name), config.address.clone())
        }
    }
}

/// A backend's health as a source knows it, such as by a container's HEALTHCHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// The source does not know.
    Unknown,
    /// It is not ready yet.
    Starting,
    /// It passes.
    Healthy,
    /// It fails, and why.
    Unhealthy(Cause),
}

/// The result of one poll of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The backends, or why there are none.
    pub outcome: Outcome,
    /// The present names at the addresses, including addresses that were found before and are missing now, as far as
    /// they are known. They distinguish a backend whose address was reused from one that is only gone.
    pub owners: HashMap<IpAddr, Arc<str>>,
}

/// The outcome of one poll. The kinds of failure mean different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The complete set; not empty.
    Backends(Vec<Found>),
    /// There are no backends: the name has no address of the families, the list is empty, no container has the label.
    Empty,
    /// The name does not exist (NXDOMAIN); with Docker: no container of that name runs.
    NoSuchName(Cause),
    /// The server failed (SERVFAIL, REFUSED …), which is inconclusive about the backends.
    ServerFailure(Cause),
    /// No answer in time, which is inconclusive about the backends.
    Timeout(Cause),
    /// The source is invalid or unreadable; the last valid list stays.
    Invalid(Cause),
}

impl Outcome {
    /// Its kind.
    pub fn result(&self) -> Resolution {
        match self {
            Self::Backends(_) => Resolution::Found,
            Self::Empty => Resolution::Empty,
            Self::NoSuchName(_) => Resolution::NoSuchName,
            Self::ServerFailure(_) => Resolution::ServerFailure,
            Self::Timeout(_) => Resolution::Timeout,
            Self::Invalid(_) => Resolution::Invalid,
        }
    }

    /// Two outcomes with the same gist are logged once.
    pub fn gist(&self) -> Gist {
        let mistake = match self {
            // Another mistake is worth another line.
            Self::Invalid(reason) => Some(reason.clone()),
            // The text of these may differ each time.
            _ => None,
        };
        Gist { result: self.result(), mistake }
    }

    /// Why nothing was found in `source`, as a message.
    pub fn trouble(&self, source: &SourceKey) -> Option<Cause> {
        match self {
            Self::Backends(_) => None,
            Self::Empty => Some(nothing_in(source).into()),
            Self::NoSuchName(reason) => Some(reason.clone()),
            Self::ServerFailure(reason) | Self::Timeout(reason) => {
                Some(with_consequence(reason, "; the last conclusive answer stays in use"))
            }
            Self::Invalid(reason) => Some(with_consequence(reason, "; the last valid list stays in use")),
        }
    }

    /// The backends; `None` if the outcome is inconclusive about them.
    pub fn seen(&self) -> Option<&[Found]> {
        match self {
            Self::Backends(found) => Some(found),
            Self::Empty | Self::NoSuchName(_) => Some(&[]),
            Self::ServerFailure(_) | Self::Timeout(_) | Self::Invalid(_) => None,
        }
    }
}

/// What is worth another line in the log when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gist {
    result: Resolution,
    mistake: Option<Cause>,
}

/// A reason with its consequence, which is kept even if the reason is long.
fn with_consequence(reason: &str, consequence: &str) -> Cause {
    let room = LONGEST - consequence.chars().count();
    Cause::from(bounded(reason, room) + consequence)
}

/// Why a source that works has no backends.
fn nothing_in(source: &SourceKey) -> &'static str {
    match source {
        SourceKey::Static | SourceKey::File(_) | SourceKey::Operator => "the list is empty",
        SourceKey::Dns(..) | SourceKey::Srv(_) => "the name exists but has no address",
        SourceKey::Docker { .. } => "no running container that can be a backend has the label",
        SourceKey::Etcd { .. } => "no key under the prefix is a valid backend",
        SourceKey::Consul { .. } => "no instance of the service can be a backend",
        SourceKey::Kubernetes { .. } => "no endpoint of the Service can be a backend",
    }
}

/// Receives the observations of a source.
pub type Sink = Box<dyn Fn(Observation) + Send>;

/// A running source; it stops when dropped.
#[derive(Debug)]
pub struct RunningSource {
    query_now: Arc<Notify>,
    _task: Option<AbortOnDropHandle<()>>,
}

impl RunningSource {
    /// Polls soon instead of at the next regular time: the last answer may be stale.
    pub fn query_now(&self) {
        self.query_now.notify_one();
    }
}

/// What is wrong with the files that a source needs to reach its server, as far as it can be known without the server.
pub async fn file_problems(source: &Source) -> Vec<String> {
    match source {
        Source::Etcd(etcd) => http_api::file_problems(etcd).await,
        Source::Consul(consul) => http_api::file_problems(consul).await,
        Source::Kubernetes(settings) => {
            let mut problems = http_api::file_problems(settings).await;
            problems.extend(kubernetes::namespace(settings).await.err());
            problems
        }
        // The file of a file source is read as a whole (`src/cli/preflight.rs`).
        Source::Static(_) | Source::Dns(_) | Source::Srv(_) | Source::File(_) | Source::Docker(_) => {
            Vec::new()
        }
    }
}

/// The number of open files that `source` may need at once.
pub fn files(source: &Source) -> u64 {
    /// A query goes to up to two servers at a time.
    const SERVERS: u64 = 2;
    const FAMILIES: u64 = 2;
    /// A TCP connection to each server, for answers that do not fit a datagram.
    const OVER_TCP: u64 = 4;
    /// Two streams: events and lists.
    const ENGINE: u64 = 4;
    /// A watch, a read besides, and a file with a password or certificates or a lookup of the host.
    const REGISTRY: u64 = 3;
    match source {
        Source::Static(_) => 0,
        Source::File(_) => 1,
        // Reverse lookups follow the address queries.
        Source::Dns(_) => rounds::AT_ONCE as u64 * SERVERS + OVER_TCP,
        Source::Srv(_) => rounds::AT_ONCE as u64 * SERVERS * FAMILIES + OVER_TCP,
        Source::Docker(_) => rounds::AT_ONCE as u64 + ENGINE,
        Source::Etcd(_) | Source::Consul(_) | Source::Kubernetes(_) => REGISTRY,
    }
}

/// Starts watching `source`; needs a tokio runtime.
pub fn start(source: &Source, sink: Sink) -> RunningSource {
    let query_now = Arc::new(Notify::new());
    let sink = vetted::vetted(SourceKey::from(source), sink);
    let task = match source {
        Source::Static(backends) => {
            let outcome = Outcome::Backends(backends.iter().map(Found::from).collect());
            sink(Observation { outcome, owners: HashMap::new() });
            None
        }
        Source::Dns(settings) => {
            let source = dns::DnsSource::new(settings.clone());
            Some(spawn(rounds::watch(source, Arc::clone(&query_now), sink)))
        }
        Source::Srv(settings) => {
            let source = srv::SrvSource::new(settings.clone());
            Some(spawn(rounds::watch(source, Arc::clone(&query_now), sink)))
        }
        Source::File(settings) => Some(spawn(file::watch(settings.clone(), Arc::clone(&query_now), sink))),
        Source::Docker(settings) => {
            Some(spawn(docker::watch(settings.clone(), Arc::clone(&query_now), sink)))
        }
        Source::Etcd(settings) => {
            let (api, etcd) = (HttpApi::new(settings), etcd::EtcdSource::new(settings.clone()));
            Some(spawn(registry::watch(etcd, SourceKey::from(source), api, Arc::clone(&query_now), sink)))
        }
        Source::Consul(settings) => {
            let (api, consul) = (HttpApi::new(settings), consul::ConsulSource::new(settings.clone()));
            Some(spawn(registry::watch(consul, SourceKey::from(source), api, Arc::clone(&query_now), sink)))
        }
        Source::Kubernetes(settings) => {
            let (api, kubernetes) =
                (HttpApi::new(settings), kubernetes::KubernetesSource::new(settings.clone()));
            Some(spawn(registry::watch(
                kubernetes,
                SourceKey::from(source),
                api,
                Arc::clone(&query_now),
                sink,
            )))
        }
    };
    RunningSource { query_now, _task: task.map(AbortOnDropHandle::new) }
}
