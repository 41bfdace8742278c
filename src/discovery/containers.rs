//! What the engine's list of running containers says, as backends: which of them, where, how much, how well. Pure:
//! `docker.rs` asks for the list.
//!
//! A container tells of itself with labels: `pointsman.name`, `pointsman.port`, `pointsman.weight` (0 to 256),
//! `pointsman.backup` (true or false), `pointsman.connections` (at once).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use bollard::models::{
    ContainerSummary, ContainerSummaryHealthStatusEnum as HealthStatus, ContainerSummaryStateEnum as State,
    EndpointSettings, PortSummaryTypeEnum as Protocol,
};
use ipnet::IpNet;

use super::chosen::Chosen;
use super::{Fitness, Found};
use crate::config::{BACKEND_NAME_RULE, Docker, is_backend_name};
use crate::domain::cause::{Cause, bounded};
use crate::sanitize;

/// The largest share that a container can ask for, as in a static list.
const LARGEST_WEIGHT: u32 = 256;
/// A rejected label is logged up to this length, in characters: the engine allows any length.
const SHOWN: usize = 80;

/// What a list says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The backends.
    pub(super) found: Vec<Found>,
    /// Whose the addresses are, of all containers.
    pub(super) owners: BTreeMap<IpAddr, Arc<str>>,
    /// What the people who run the containers should know.
    pub(super) complaints: BTreeSet<Complaint>,
}

/// Something about a container that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Complaint {
    pub(super) id: String,
    pub(super) name: Arc<str>,
    /// What is wrong and what to do.
    pub(super) reason: String,
    /// It is no backend because of that.
    pub(super) skipped: bool,
}

/// What the engine says of how a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It runs, and has no HEALTHCHECK.
    Running,
    /// Its HEALTHCHECK has not passed yet.
    Starting,
    Healthy,
    Unhealthy,
    /// It is frozen: its kernel still accepts connections, and nobody serves them.
    Paused,
    /// It is just not running.
    Away,
}

/// Reads a list of containers; `why` says, by id, why those that are unhealthy are. `near` says whether this
/// process has an address in a network.
pub(super) fn read(
    settings: &Docker,
    containers: &[ContainerSummary],
    why: &HashMap<String, Cause>,
    near: &dyn Fn(&IpNet) -> bool,
) -> Reading {
    let chosen = Chosen::new(&settings.label, settings.adopt.as_ref());
    let mut reading = Reading::default();
    let running = || containers.iter().filter(|container| condition(container) != Condition::Away);
    for container in running() {
        let name = name(container);
        for endpoint in endpoints(container).values() {
            reading.owners.extend(endpoint.addresses().map(|net| (net.addr(), Arc::clone(&name))));
        }
    }
    for container in running().filter(|container| chosen.has(container)) {
        let mut complaints = Vec::new();
        match found(settings, container, why, near, &mut complaints) {
            Ok(found) => {
                // Networks that cannot reach each other may use the same addresses: then it is the backend's.
                let addresses = std::iter::once(found.address).chain(found.also.iter().copied());
                reading.owners.extend(addresses.map(|address| (address.ip(), Arc::clone(&found.name))));
                reading.found.push(found);
            }
            Err(reason) => complaints.push((reason, true)),
        }
        reading.complaints.extend(complaints.into_iter().map(|(reason, skipped)| Complaint {
            id: id(container).to_owned(),
            name: name(container),
            reason,
            skipped,
        }));
    }
    reading.found.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
    reading
}

/// A container as a backend, or why it is none.
fn found(
    settings: &Docker,
    container: &ContainerSummary,
    why: &HashMap<String, Cause>,
    near: &dyn Fn(&IpNet) -> bool,
    complaints: &mut Vec<(String, bool)>,
) -> Result<Found, String> {
    let endpoints = endpoints(container);
    let endpoint = endpoint(settings, container, &endpoints, near)?;
    let mut label = Labels { container, complaints };
    let rule = format!("a name of {BACKEND_NAME_RULE}");
    label.read("name", &rule, |name: &String| name.is_empty() || is_backend_name(name));
    let port = label.read("port", "a port from 1 to 65535", |port: &u16| *port > 0).or(settings.port);
    let weight = label.read("weight", "a whole number from 0 to 256", |weight| *weight <= LARGEST_WEIGHT);
    let backup = label.read("backup", "true or false", |_: &bool| true);
    let connections = label.read("connections", "a whole number from 1", |_: &NonZeroU32| true);
    let port = port.map_or_else(|| only_port(container), Ok)?;
    let mut addresses = endpoint.addresses().map(|net| SocketAddr::new(net.addr(), port));
    let address = addresses.next().ok_or("it has no address")?;
    Ok(Found {
        also: addresses.collect(),
        weight: weight.unwrap_or(1),
        tier: u16::from(backup.unwrap_or(false)),
        connections,
        fitness: fitness(settings, container, why),
        ..Found::new(name(container), address)
    })
}

/// The labels of a container that are meant for us; those that make no sense are complained of.
struct Labels<'a> {
    container: &'a ContainerSummary,
    complaints: &'a mut Vec<(String, bool)>,
}

impl Labels<'_> {
    fn read<T: FromStr>(&mut self, what: &str, wanted: &str, good: impl Fn(&T) -> bool) -> Option<T> {
        let text = label(self.container, what)?;
        let value = text.trim().parse().ok().filter(good);
        if value.is_none() {
            let text = sanitize::shortened(text, SHOWN);
            let reason =
                format!("its label pointsman.{what} must be {wanted}, not {text:?}; it is not heeded");
            self.complaints.push((reason, false));
        }
        value
    }
}

fn label<'a>(container: &'a ContainerSummary, what: &str) -> Option<&'a str> {
    Some(container.labels.as_ref()?.get(&format!("pointsman.{what}"))?.as_str())
}

/// The port of a container of which nobody has said it: the only one that its image exposes.
fn only_port(container: &ContainerSummary) -> Result<u16, String> {
    let ports = container.ports.iter().flatten().filter(|port| port.typ == Some(Protocol::TCP));
    let ports: BTreeSet<u16> = ports.map(|port| port.private_port).collect();
    match ports.first() {
        Some(port) if ports.len() == 1 => Ok(*port),
        None => Err("nothing tells its port: give it the label pointsman.port, or the source a port".into()),
        Some(_) => Err(format!(
            "it exposes {} ports, and nothing tells which to use: give it the label pointsman.port, or the source a port",
            ports.len()
        )),
    }
}

/// A container's addresses in one network, each with its prefix.
#[derive(Debug)]
struct Endpoint {
    v4: Option<IpNet>,
    v6: Option<IpNet>,
}

impl Endpoint {
    /// Its addresses, the one that is connected to first.
    fn addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.into_iter().chain(self.v6)
    }
}

impl From<&EndpointSettings> for Endpoint {
    fn from(settings: &EndpointSettings) -> Self {
        let net = |ip: &Option<String>, prefix: Option<i64>| {
            let ip: IpAddr = ip.as_deref()?.parse().ok()?;
            let alone = IpNet::from(ip);
            // Without a prefix nothing is said of its neighbours.
            let prefix = prefix.and_then(|prefix| u8::try_from(prefix).ok()).filter(|prefix| *prefix > 0);
            Some(prefix.and_then(|prefix| IpNet::new(ip, prefix).ok()).unwrap_or(alone))
        };
        Self {
            v4: net(&settings.ip_address, settings.ip_prefix_len),
            v6: net(&settings.global_ipv6_address, settings.global_ipv6_prefix_len),
        }
    }
}

/// The networks in which a container has an address, by name.
fn endpoints(container: &ContainerSummary) -> BTreeMap<&str, Endpoint> {
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    networks
        .into_iter()
        .flatten()
        .map(|(name, settings)| (name.as_str(), Endpoint::from(settings)))
        .filter(|(_, endpoint)| endpoint.addresses().next().is_some())
        .collect()
}

/// Which network a container is reached by.
fn endpoint<'a>(
    settings: &Docker,
    container: &ContainerSummary,
    endpoints: &'a BTreeMap<&str, Endpoint>,
    near: &dyn Fn(&IpNet) -> bool,
) -> Result<&'a Endpoint, String> {
    if endpoints.is_empty() {
        let mode = container.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
        return Err(match mode {
            Some("host") => "it shares its host's network, and the engine tells no address of that: name it \
                             under `static`, or give it a network of its own"
                .to_owned(),
            Some(mode) => format!("it has no address of its own (its network mode is {mode:?})"),
            None => "it has no address".to_owned(),
        });
    }
    if let Some(wanted) = &settings.network {
        return endpoints.get(wanted.as_str()).ok_or_else(|| {
            let names: Vec<_> = endpoints.keys().copied().collect();
            format!("it is not on the network {wanted:?}, but on {}", names.join(", "))
        });
    }
    let mut all = endpoints.values();
    let shared = || endpoints.values().find(|endpoint| endpoint.addresses().any(|net| near(&net)));
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        (first, _) => shared().or(first).ok_or_else(|| "it has no address".to_owned()),
    }
}

fn fitness(settings: &Docker, container: &ContainerSummary, why: &HashMap<String, Cause>) -> Fitness {
    match condition(container) {
        Condition::Paused => Fitness::Unhealthy("it is paused".into()),
        _ if !settings.healthcheck => Fitness::Unknown,
        Condition::Starting => Fitness::Starting,
        Condition::Healthy => Fitness::Healthy,
        Condition::Unhealthy => {
            let why = why.get(id(container)).cloned();
            Fitness::Unhealthy(why.unwrap_or_else(|| "its HEALTHCHECK fails".into()))
        }
        Condition::Running | Condition::Away => Fitness::Unknown,
    }
}

/// How a container is.
pub(super) fn condition(container: &ContainerSummary) -> Condition {
    match container.state {
        Some(State::RUNNING) => {}
        Some(State::PAUSED) => return Condition::Paused,
        _ => return Condition::Away,
    }
    match container.health.as_ref().and_then(|health| health.status) {
        Some(HealthStatus::STARTING) => Condition::Starting,
        Some(HealthStatus::HEALTHY) => Condition::Healthy,
        Some(HealthStatus::UNHEALTHY) => Condition::Unhealthy,
        Some(HealthStatus::NONE) => Condition::Running,
        // Before version 1.52 of its API the engine's list has it in words only: `Up 3 seconds (health: starting)`.
        // Asking for the container itself would tell it too, but waits for whoever starts or stops it.
        Some(HealthStatus::EMPTY) | None => {
            let status = container.status.as_deref().unwrap_or_default();
            let word = status.rsplit_once('(').and_then(|(_, word)| word.strip_suffix(')'));
            match word {
                Some("health: starting" | "starting") => Condition::Starting,
                Some("healthy") => Condition::Healthy,
                Some("unhealthy") => Condition::Unhealthy,
                _ => Condition::Running,
            }
        }
    }
}

/// The engine's id of a container.
pub(crate) fn id(container: &ContainerSummary) -> &str {
    container.id.as_deref().unwrap_or_default()
}

/// The name of a container: its label if a backend may have that name, otherwise its own name. Links give it more
/// names, such as `/web/db`.
pub(crate) fn name(container: &ContainerSummary) -> Arc<str> {
    let labelled = label(container, "name").map(str::trim).filter(|name| is_backend_name(name));
    let own = || {
        let mut names = container.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        names.find(|name| is_backend_name(name))
    };
    labelled.or_else(own).unwrap_or_else(|| id(container)).into()
}

/// Why a container is unhealthy, given the last output of its HEALTHCHECK.
pub(super) fn unhealthy_because(output: &str) -> Cause {
    /// The length up to which its output is logged, in characters.
    const LONGEST: usize = 200;
    let line = output.lines().map(str::trim).rfind(|line| !line.is_empty());
    match line {
        None => "its HEALTHCHECK fails".into(),
        Some(line) => format!("its HEALTHCHECK fails: {}", bounded(line, LONGEST)).into(),
    }
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
