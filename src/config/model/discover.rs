//! Where a pool's backends come from.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::decode::FoundValue;
use super::super::keys::{Beside, ConfigKeys, settings, words};
use super::super::kind::word;
use super::super::kind::{Kind, list, optional, shorthand, table};
use super::super::outline::{Map, Outline};
use super::super::scalar::{MOST, flag, interval, path, port, text, time, whole};
use super::super::shape::ValueShape;
use super::super::value::{
    HttpUrl, ServicePort, backend_name, dns_server, docker_label, engine, name_and_port, socket_address,
    srv_name, zone_name,
};
use super::registry::{ConsulItem, EtcdItem, KubernetesItem};
use super::{Adopt, Consul, Etcd, Kubernetes};
use crate::domain::SocketAddress;

/// The keys of the kinds of sources.
const SOURCES: [&str; 8] = ["static", "dns", "srv", "file", "docker", "etcd", "consul", "kubernetes"];
/// Keys that some of these kinds allow in addition.
const BESIDE: [&str; 6] = ["every", "server", "hold", "flap", "family", "zone"];

/// One source of backends (an item of `discover`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Listed in the configuration.
    Static(Vec<StaticBackend>),
    /// The A and AAAA records of a name.
    Dns(Dns),
    /// The SRV records of a name.
    Srv(Srv),
    /// Listed in a separate file, which is read again when it changes.
    File(File),
    /// The containers of a Docker engine that have a label.
    Docker(Docker),
    /// The keys under a prefix in etcd.
    Etcd(Etcd),
    /// The instances of a service in Consul.
    Consul(Consul),
    /// The Pods of a Service of Kubernetes.
    Kubernetes(Kubernetes),
}

/// Identifies a source of a pool: a reconfigured source keeps its key, and a new source has another key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKey {
    /// All backends in the configuration itself.
    Static,
    /// The records of a name, with the port that its backends listen on.
    Dns(String, u16),
    /// The SRV records of a name.
    Srv(String),
    /// A file.
    File(PathBuf),
    /// The containers of an engine that have a label, and the settings that determine their addresses. When these
    /// change, the backends at the old addresses stay until the new ones are found and checked, as with any removed
    /// source.
    Docker {
        /// The label.
        label: String,
        /// The port of containers that specify none.
        port: Option<u16>,
        /// The network.
        network: Option<String>,
        /// The engine.
        engine: Option<String>,
    },
    /// The keys under a prefix in etcd.
    Etcd {
        /// The prefix.
        prefix: String,
        /// The members.
        endpoints: Vec<HttpUrl>,
    },
    /// The instances of a service in Consul, and the settings that determine which these are.
    Consul {
        /// The service.
        service: String,
        /// Tags that all of them have.
        tags: Vec<String>,
        /// The datacenter.
        datacenter: Option<String>,
        /// The agents.
        endpoints: Vec<HttpUrl>,
    },
    /// The Pods of a Service of Kubernetes, and the settings that determine which these are.
    Kubernetes {
        /// The Service.
        service: String,
        /// Its namespace.
        namespace: Option<String>,
        /// The port.
        port: Option<ServicePort>,
        /// The API servers.
        endpoints: Vec<HttpUrl>,
    },
    /// Backends that operators have added at run time; not in the configuration.
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
            Source::Etcd(etcd) => {
                Self::Etcd { prefix: etcd.prefix.clone(), endpoints: etcd.endpoints.clone() }
            }
            Source::Consul(consul) => Self::Consul {
                service: consul.service.clone(),
                tags: consul.tags.clone(),
                datacenter: consul.datacenter.clone(),
                endpoints: consul.endpoints.clone(),
            },
            Source::Kubernetes(kubernetes) => Self::Kubernetes {
                service: kubernetes.service.clone(),
                namespace: kubernetes.namespace.clone(),
                port: kubernetes.port.clone(),
                endpoints: kubernetes.endpoints.clone(),
            },
        }
    }
}

impl SourceKey {
    /// The key as one word, for machines: `dns:backend:5000`.
    pub fn word(&self) -> String {
        match self {
            Self::Static => "static".to_owned(),
            Self::Dns(name, port) => format!("dns:{name}:{port}"),
            Self::Srv(name) => format!("srv:{name}"),
            Self::File(path) => format!("file:{}", path.display()),
            Self::Docker { label, .. } => format!("docker:{label}"),
            Self::Etcd { prefix, .. } => format!("etcd:{prefix}"),
            Self::Consul { service, .. } => format!("consul:{service}"),
            Self::Kubernetes { service, .. } => format!("kubernetes:{service}"),
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
            Self::Etcd { prefix, endpoints } => {
                write!(f, "etcd {prefix}")?;
                write_endpoints(f, endpoints)
            }
            Self::Consul { service, tags, datacenter, endpoints } => {
                write!(f, "consul {service}")?;
                tags.iter().try_for_each(|tag| write!(f, " tagged {tag}"))?;
                datacenter.iter().try_for_each(|datacenter| write!(f, " in {datacenter}"))?;
                write_endpoints(f, endpoints)
            }
            Self::Kubernetes { service, namespace, port, endpoints } => {
                write!(f, "kubernetes {service}")?;
                port.iter().try_for_each(|port| write!(f, " port {port}"))?;
                namespace.iter().try_for_each(|namespace| write!(f, " in {namespace}"))?;
                write_endpoints(f, endpoints)
            }
            Self::Operator => f.write_str("what operators added"),
        }
    }
}

/// Writes where the server of a source is.
fn write_endpoints(f: &mut fmt::Formatter<'_>, endpoints: &[HttpUrl]) -> fmt::Result {
    for (index, url) in endpoints.iter().enumerate() {
        write!(f, "{}{url}", if index == 0 { " at " } else { ", " })?;
    }
    Ok(())
}

/// The kind of `discover`.
pub(super) fn sources() -> Kind<Vec<Source>> {
    list(source(), "", "[{dns: backend:5000}]", Some("at least one source is needed"))
}

/// The kind of an item of `discover`.
pub(in crate::config) fn source() -> Kind<Source> {
    Kind::new(read, |source| Some(write(source)), shape)
}

/// Reads a source; each kind has its own keys.
fn read(found: &FoundValue<'_>) -> Option<Source> {
    let map = found.map([&SOURCES[..], &BESIDE].concat())?;
    match map.kind(&SOURCES) {
        Some("static") => found.table(&SOURCES).map(|StaticSource { backends }| Source::Static(backends)),
        Some("dns") => found
            .table(&SOURCES)
            .map(|DnsSource { dns: (name, port), query }| Source::Dns(Dns { name, port, query })),
        Some("srv") => found.table(&SOURCES).map(Source::Srv),
        Some("file") => found.table(&SOURCES).map(Source::File),
        Some("docker") => found
            .table(&SOURCES)
            .map(|DockerSource { docker, hold }| Source::Docker(Docker { hold, ..docker })),
        Some("etcd") => found.table(&SOURCES).map(|item: EtcdItem| Source::Etcd(item.into())),
        Some("consul") => found.table(&SOURCES).map(|item: ConsulItem| Source::Consul(item.into())),
        Some(_) => found.table(&SOURCES).map(|item: KubernetesItem| Source::Kubernetes(item.into())),
        None => {
            map.report_unknown(&[]);
            None
        }
    }
}

fn write(source: &Source) -> Outline {
    let mut map = Map::new();
    match source {
        Source::Static(backends) => StaticSource { backends: backends.clone() }.write(&mut map),
        Source::Dns(Dns { name, port, query }) => {
            DnsSource { dns: (name.clone(), *port), query: query.clone() }.write(&mut map);
        }
        Source::Srv(srv) => srv.write(&mut map),
        Source::File(file) => file.write(&mut map),
        Source::Docker(docker) => DockerSource { hold: docker.hold, docker: docker.clone() }.write(&mut map),
        Source::Etcd(etcd) => EtcdItem::from(etcd.clone()).write(&mut map),
        Source::Consul(consul) => ConsulItem::from(consul.clone()).write(&mut map),
        Source::Kubernetes(kubernetes) => KubernetesItem::from(kubernetes.clone()).write(&mut map),
    }
    map.into()
}

fn shape() -> ValueShape {
    ValueShape::Any(vec![
        table::<StaticSource>().shape(),
        table::<DnsSource>().shape(),
        table::<Srv>().shape(),
        table::<File>().shape(),
        table::<DockerSource>().shape(),
        table::<EtcdItem>().shape(),
        table::<ConsulItem>().shape(),
        table::<KubernetesItem>().shape(),
    ])
}

settings! {
    /// An item of `discover` with its backends.
    struct StaticSource {
        /// Backends that are written down here: addresses, or maps with more.
        backends as "static": Vec<StaticBackend> => static_backends(Some("at least one backend is needed")),
            absent Vec::new(), required "[10.0.0.1:5000]";
    }
}

/// A list of backends.
pub(in crate::config) fn static_backends(empty: Option<&'static str>) -> Kind<Vec<StaticBackend>> {
    list(static_backend(), "a backend", "[10.0.0.1:5000, 10.0.0.2:5000]", empty)
}

pub(in crate::config) fn static_backend() -> Kind<StaticBackend> {
    shorthand(socket_address(), StaticBackend::new)
}

settings! {
    /// A backend that is written down.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StaticBackend: new {
        /// Where it listens: IP address and port, or unix:/path.
        address: SocketAddress => socket_address(), required "10.0.0.1:5000";
        /// Its name in the log and everywhere else: visible characters, spaces only between them, no slash, at most 259
        /// bytes. Absent: its address, or the file name of its Unix socket.
        name: Arc<str> => backend_name(), absent address.default_name(), example "big";
        /// Its share, with every algorithm but round-robin; 0: it gets no new connections.
        weight: u32 => whole(0..=256), default 1;
        /// Used only while the other backends are down or full (`backup.when` of the pool).
        backup: bool => flag(), default false;
        /// Connections at once. Absent: what the pool's limits say.
        connections: Option<NonZeroU32> => optional(whole(1..=MOST)), absent None, example "100";
        /// The zone in which it runs, for pools that prefer one (`zone` of the pool). Absent: unknown, which counts as
        /// the pool's.
        zone: Option<Arc<str>> => optional(zone_name()), absent None, example "eu-1a";
    }
}

settings! {
    /// An item of `discover` with a name.
    struct DnsSource {
        /// A name whose A and AAAA records are backends, and the port of all of them.
        dns: (String, u16) => name_and_port(), required "backend:5000";
        /// How it is queried.
        query: Query => Beside, absent Query::default();
    }
}

/// A name whose A and AAAA records are backends (`dns`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name to query, as written.
    pub name: String,
    /// The port of every backend found.
    pub port: u16,
    /// How it is queried.
    pub query: Query,
}

impl Dns {
    /// A name with the defaults.
    pub fn new(name: String, port: u16) -> Self {
        Self { name, port, query: Query::default() }
    }
}

settings! {
    /// A name whose SRV records (RFC 2782) say where the backends are (`srv`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Srv {
        /// A name whose SRV records (RFC 2782) contain target, port, weight and priority of the backends; those with a
        /// higher priority number are backups.
        name as "srv": String => srv_name(), required "_web._tcp.example.com";
        /// How it is queried.
        query: Query => Beside, absent Query::default();
    }
}

settings! {
    /// How a name is queried, and what its records do not say (next to `dns` and `srv`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Query: Default {
        /// How often the name is queried, regardless of the TTL.
        every: Duration => interval(), default Duration::from_secs(1);
        /// The DNS server, such as 127.0.0.11 (Docker's), with or without a port. Absent: those of /etc/resolv.conf.
        server: Option<SocketAddr> => optional(dns_server()), absent None, example "127.0.0.11";
        /// How long the last good answer stands while DNS fails; after that, backends leave whose checks fail too.
        hold: Duration => time(), default Duration::from_secs(10);
        /// How long an address must be missing from good answers before its backend leaves.
        flap: Duration => time(), default Duration::from_secs(3);
        /// Which addresses are taken: IPv4, IPv6 or both.
        family: Family => word(), default Family::Any;
        /// The zone in which all its backends run, for pools that prefer one (`zone` of the pool). Absent: unknown,
        /// which counts as the pool's.
        zone: Option<Arc<str>> => optional(zone_name()), absent None, example "eu-1a";
    }
}

words! {
    /// Which address family is queried (`family`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Family {
        /// Both A and AAAA.
        Any = "any",
        /// A only.
        V4 = "4",
        /// AAAA only.
        V6 = "6",
    }
}

settings! {
    /// A file with a list of backends, as it would stand under `static` (`file`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct File: new {
        /// The path of a file that is read again when it changes; a relative one begins where the process was started.
        /// It holds a list of backends as it would stand under static, or a map with such a list under backends.
        path as "file": PathBuf => path(), required "backends.yaml";
        /// How often the file is looked at.
        every: Duration => interval(), default Duration::from_secs(1);
    }
}

settings! {
    /// An item of `discover` with containers.
    struct DockerSource {
        /// Running containers that have a label: the label, or more than that.
        docker: Docker => shorthand(docker_label(), Docker::new), required "pointsman.pool=web";
        /// How long the last good state stays in use while the engine cannot be queried.
        hold: Duration => time(), default HOLD;
    }
}

/// How long the state of a Docker engine stands, by default: time enough to restart the engine.
const HOLD: Duration = Duration::from_secs(10);

settings! {
    /// The running containers of a Docker engine that have a label (`docker`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Docker: new {
        /// The label, as KEY or KEY=VALUE.
        label: String => docker_label(), required "pointsman.pool=web";
        /// The port of containers without a label pointsman.port.
        port: Option<u16> => optional(port()), absent None, example "5000";
        /// The network whose addresses are taken. Absent: the first, by name, that this process can be expected to
        /// reach.
        network: Option<String> => optional(text()), absent None, example "web";
        /// The engine, as unix:///path or tcp://host:port. Absent: $DOCKER_HOST, or /var/run/docker.sock.
        engine: Option<String> => optional(engine()), absent None, example "unix:///var/run/docker.sock";
        /// Whether a container that has a HEALTHCHECK is up only while the engine calls it healthy.
        healthcheck: bool => flag(), default true;
    }
    also {
        /// How long the last good state stays in use while the engine cannot be queried.
        hold: Duration = HOLD;
        /// Containers that count as if they had the label: those that a pool adopts among its replicas.
        adopt: Option<Adopt> = None;
    }
}
