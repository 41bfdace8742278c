//! Converts the engine's list of containers to backends with names, addresses, weights and health. Pure: `docker.rs`
//! gets the list.
//!
//! A container sets its own options with labels: `pointsman.name`, `pointsman.port`, `pointsman.weight` (0 to 256),
//! `pointsman.backup` (true or false), `pointsman.connections` (the limit of open connections), `pointsman.zone`.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use bollard::models::{
    ContainerSummary, ContainerSummaryHealthStatusEnum as HealthStatus, ContainerSummaryStateEnum as State,
    EndpointSettings, PortSummaryTypeEnum as Protocol,
};
use ipnet::IpNet;
use litemap::LiteMap;

use super::container_filter::ContainerFilter;
use super::{Fitness, Found};
use crate::config::{BACKEND_NAME_RULE, Docker, is_backend_name};
use crate::domain::cause::{Cause, bounded};
use crate::sanitize;

/// The largest weight, as in a static list.
const LARGEST_WEIGHT: u32 = 256;
/// A rejected label is logged up to this length, in characters: the engine allows any length.
const SHOWN: usize = 80;

/// The contents of a list.
#[derive(Debug, Default)]
pub(super) struct ParsedList {
    /// The backends.
    pub(super) found: Vec<Found>,
    /// The name of the container at each address, for all containers.
    pub(super) owners: HashMap<IpAddr, Arc<str>>,
    /// Mistakes in the setup of containers, sorted.
    pub(super) setup_errors: Vec<SetupError>,
}

/// A mistake in the setup of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetupError {
    pub(super) id: String,
    pub(super) name: Arc<str>,
    /// What is wrong and what to do.
    pub(super) reason: String,
    /// Whether the container is no backend because of it; otherwise only a label is ignored.
    pub(super) skipped: bool,
}

/// The condition of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It runs and has no HEALTHCHECK.
    Running,
    /// Its HEALTHCHECK has not passed yet.
    Starting,
    Healthy,
    Unhealthy,
    /// It is frozen: its kernel still accepts connections, but nothing serves them.
    Paused,
    NotRunning,
}

/// Reads a list of containers. `reasons` has, by id, why containers are unhealthy; `is_local` returns whether this
/// process has an address in a network.
pub(super) fn read(
    settings: &Docker,
    filter: &ContainerFilter,
    containers: &[ContainerSummary],
    reasons: &HashMap<String, Cause>,
    is_local: &dyn Fn(&IpNet) -> bool,
) -> ParsedList {
    let mut reading = ParsedList::default();
    let running = || containers.iter().filter(|container| condition(container) != Condition::NotRunning);
    for container in running() {
        let name = name(container);
        for endpoint in endpoints(container).values() {
            reading.owners.extend(endpoint.addresses().map(|net| (net.addr(), Arc::clone(&name))));
        }
    }
    for container in running().filter(|container| filter.matches(container)) {
        let mut setup_errors = Vec::new();
        match found(settings, container, reasons, is_local, &mut setup_errors) {
            Ok(found) => {
                // Separate networks may use the same addresses: then the backend owns them.
                let addresses = found.address.ip().into_iter().chain(found.also.iter().map(SocketAddr::ip));
                reading.owners.extend(addresses.map(|ip| (ip, Arc::clone(&found.name))));
                reading.found.push(found);
            }
            Err(reason) => setup_errors.push((reason, true)),
        }
        reading.setup_errors.extend(setup_errors.into_iter().map(|(reason, skipped)| SetupError {
            id: id(container).to_owned(),
            name: name(container),
            reason,
            skipped,
        }));
    }
    reading.setup_errors.sort_unstable();
    reading.found.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    reading
}

/// A container as a backend, or why it is none.
fn found(
    settings: &Docker,
    container: &ContainerSummary,
    reasons: &HashMap<String, Cause>,
    is_local: &dyn Fn(&IpNet) -> bool,
    setup_errors: &mut Vec<(String, bool)>,
) -> Result<Found, String> {
    let endpoints = endpoints(container);
    let endpoint = endpoint(settings, container, &endpoints, is_local)?;
    let mut label = Labels { container, setup_errors };
    let rule = format!("a name of {BACKEND_NAME_RULE}");
    label.read("name", &rule, |name: &String| name.is_empty() || is_backend_name(name));
    let port = label.read("port", "a port from 1 to 65535", |port: &u16| *port > 0).or(settings.port);
    let weight = label.read("weight", "a whole number from 0 to 256", |weight| *weight <= LARGEST_WEIGHT);
    let backup = label.read("backup", "true or false", |_: &bool| true);
    let connections = label.read("connections", "a whole number from 1", |_: &NonZeroU32| true);
    let zone = label.read("zone", &rule, |zone: &String| zone.is_empty() || is_backend_name(zone));
    let port = port.map_or_else(|| only_port(container), Ok)?;
    let mut addresses = endpoint.addresses().map(|net| SocketAddr::new(net.addr(), port));
    let address = addresses.next().ok_or("it has no address")?;
    Ok(Found {
        also: addresses.collect(),
        weight: weight.unwrap_or(1),
        tier: u16::from(backup.unwrap_or(false)),
        connections,
        zone: zone.filter(|zone| !zone.is_empty()).map(Arc::from),
        fitness: fitness(settings, container, reasons),
        ..Found::new(name(container), address.into())
    })
}

/// Reads the labels of a container that are meant for Pointsman, and reports invalid ones.
struct Labels<'a> {
    container: &'a ContainerSummary,
    setup_errors: &'a mut Vec<(String, bool)>,
}

impl Labels<'_> {
    fn read<T: FromStr>(&mut self, key: &str, rule: &str, is_valid: impl Fn(&T) -> bool) -> Option<T> {
        let text = label(self.container, key)?;
        let value = text.trim().parse().ok().filter(is_valid);
        if value.is_none() {
            let text = sanitize::shortened(text, SHOWN);
            let reason =
                format!("its label pointsman.{key} must be {rule}, not {text:?}; the label is ignored");
            self.setup_errors.push((reason, false));
        }
        value
    }
}

fn label<'a>(container: &'a ContainerSummary, key: &str) -> Option<&'a str> {
    Some(container.labels.as_ref()?.get(&format!("pointsman.{key}"))?.as_str())
}

/// The port of a container if none is configured: the only one that its image exposes.
fn only_port(container: &ContainerSummary) -> Result<u16, String> {
    let ports = container.ports.iter().flatten().filter(|port| port.typ == Some(Protocol::TCP));
    // An engine lists a published port once for each address that it is published at.
    let ports: HashSet<u16> = ports.map(|port| port.private_port).collect();
    match (ports.len(), ports.into_iter().next()) {
        (1, Some(port)) => Ok(port),
        (_, None) => {
            Err("its port is unknown: give it the label pointsman.port, or the source a port".into())
        }
        (several, _) => Err(format!(
            "it exposes {several} ports: choose one with the label pointsman.port, or give the source a port"
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
    /// The addresses; the first is the one to connect to.
    fn addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.into_iter().chain(self.v6)
    }
}

impl From<&EndpointSettings> for Endpoint {
    fn from(settings: &EndpointSettings) -> Self {
        let net = |ip: &Option<String>, prefix: Option<i64>| {
            let ip: IpAddr = ip.as_deref()?.parse().ok()?;
            let alone = IpNet::from(ip);
            // Without a prefix the network is unknown.
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
fn endpoints(container: &ContainerSummary) -> LiteMap<&str, Endpoint> {
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    networks
        .into_iter()
        .flatten()
        .map(|(name, settings)| (name.as_str(), Endpoint::from(settings)))
        .filter(|(_, endpoint)| endpoint.addresses().next().is_some())
        .collect()
}

/// The endpoint to reach a container by.
fn endpoint<'a>(
    settings: &Docker,
    container: &ContainerSummary,
    endpoints: &'a LiteMap<&str, Endpoint>,
    is_local: &dyn Fn(&IpNet) -> bool,
) -> Result<&'a Endpoint, String> {
    if endpoints.is_empty() {
        let mode = container.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
        return Err(match mode {
            Some("host") => "it shares its host's network, where the engine knows no address: list it under \
                             `static`, or give it a network of its own"
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
    let shared = || endpoints.values().find(|endpoint| endpoint.addresses().any(|net| is_local(&net)));
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        (first, _) => shared().or(first).ok_or_else(|| "it has no address".to_owned()),
    }
}

fn fitness(settings: &Docker, container: &ContainerSummary, reasons: &HashMap<String, Cause>) -> Fitness {
    match condition(container) {
        Condition::Paused => Fitness::Unhealthy("it is paused".into()),
        _ if !settings.healthcheck => Fitness::Unknown,
        Condition::Starting => Fitness::Starting,
        Condition::Healthy => Fitness::Healthy,
        Condition::Unhealthy => {
            Fitness::Unhealthy(reasons.get(id(container)).cloned().unwrap_or_else(|| unhealthy_because("")))
        }
        Condition::Running | Condition::NotRunning => Fitness::Unknown,
    }
}

/// The condition of a container.
pub(super) fn condition(container: &ContainerSummary) -> Condition {
    match container.state {
        Some(State::RUNNING) => {}
        Some(State::PAUSED) => return Condition::Paused,
        _ => return Condition::NotRunning,
    }
    match container.health.as_ref().and_then(|health| health.status) {
        Some(HealthStatus::STARTING) => Condition::Starting,
        Some(HealthStatus::HEALTHY) => Condition::Healthy,
        Some(HealthStatus::UNHEALTHY) => Condition::Unhealthy,
        Some(HealthStatus::NONE) => Condition::Running,
        // Before API version 1.52 the list has it only in words: `Up 3 seconds (health: starting)`. Inspecting the
        // container instead would wait for a start or stop in progress.
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
pub fn id(container: &ContainerSummary) -> &str {
    container.id.as_deref().unwrap_or_default()
}

/// The name of a container as a backend: its label if valid, otherwise its own name. Links give it more names, such as
/// `/web/db`.
pub fn name(container: &ContainerSummary) -> Arc<str> {
    let labelled = label(container, "name").map(str::trim).filter(|name| is_backend_name(name));
    let own = || {
        let mut names = container.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        names.find(|name| is_backend_name(name))
    };
    labelled.or_else(own).unwrap_or_else(|| id(container)).into()
}

/// Why a container is unhealthy, given the last output of its HEALTHCHECK.
pub(super) fn unhealthy_because(output: &str) -> Cause {
    /// The length of the output in the log, in characters.
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
