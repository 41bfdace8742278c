//! The EndpointSlices of Kubernetes as backends: pure (Kubernetes' API reference, "EndpointSlice v1 discovery.k8s.io").

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::registry::Entries;
use super::{Fitness, Found};
use crate::config::{Kubernetes, ServicePort};
use crate::domain::SocketAddress;
use crate::domain::cause::bounded;

/// The length of a message of the API server in ours, in characters.
const LONGEST_SHOWN: usize = 200;
/// The status of a watch whose version is too old (RFC 9110, 15.5.11).
const GONE: u16 = 410;

/// Some of the endpoints of a Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    metadata: ObjectMeta,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMeta {
    #[serde(default)]
    name: String,
    resource_version: String,
}

#[derive(Clone, Debug, Deserialize)]
struct SlicePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<EndpointConditions>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    target_ref: Option<TargetReference>,
    #[serde(default)]
    zone: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetReference {
    kind: String,
    name: String,
}

/// How far an endpoint can be used, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EndpointUse {
    /// It is ready.
    Ready,
    /// It is being shut down and still serves: it is a backup. kube-proxy too uses it while no endpoint is ready.
    LastResort,
    /// It is not ready.
    NotReady,
}

/// A change of the slices.
#[derive(Debug)]
pub(super) enum SliceEvent {
    /// A slice is new, or another one than before.
    Changed(EndpointSlice),
    Deleted(EndpointSlice),
    /// All changes before this version were reported (a bookmark).
    Version(String),
    /// The version that the watch began at is too old.
    Expired,
    /// The watch has ended, and why.
    Error(String),
}

#[derive(Deserialize)]
struct SliceList {
    metadata: ObjectMeta,
    #[serde(default)]
    items: Option<Vec<EndpointSlice>>,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum WatchReply {
    Added(EndpointSlice),
    Modified(EndpointSlice),
    Deleted(EndpointSlice),
    Bookmark(Bookmark),
    Error(ApiStatus),
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: ObjectMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ApiStatus {
    code: u16,
    message: String,
}

impl EndpointSlice {
    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The version of all objects with its last change.
    pub(super) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// The number of the port that `wanted` means.
    fn port(&self, wanted: Option<&ServicePort>) -> Result<u16, String> {
        let over_tcp = |port: &&SlicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let ports: Vec<_> = self.ports.iter().flatten().filter(over_tcp).collect();
        let name_of = |port: &SlicePort| port.name.clone().unwrap_or_default();
        let names = || ports.iter().map(|port| name_of(port)).collect::<Vec<_>>().join(", ");
        let port = match (wanted, &ports[..]) {
            (Some(ServicePort::Number(number)), _) => return Ok(*number),
            (Some(ServicePort::Name(name)), ports) => ports
                .iter()
                .find(|port| port.name.as_ref() == Some(name))
                .ok_or_else(|| format!("it has no TCP port with the name {name:?}; it has: {}", names()))?,
            (None, [port]) => port,
            (None, []) => return Err("it has no TCP port".to_owned()),
            (None, _) => {
                return Err(format!("it has several ports: {}; set `port` to one of them", names()));
            }
        };
        port.port
            .filter(|number| *number > 0)
            .ok_or_else(|| "its port has no number; set `port` to it".to_owned())
    }
}

impl SliceEndpoint {
    /// How far it can be used; `None` if it is being shut down and serves no longer.
    fn usable(&self) -> Option<EndpointUse> {
        let EndpointConditions { ready, serving, terminating } = self.conditions.unwrap_or_default();
        // The API reference states what a missing condition means.
        let ready = ready.unwrap_or(true);
        match (ready, terminating.unwrap_or(false)) {
            (true, _) => Some(EndpointUse::Ready),
            (false, false) => Some(EndpointUse::NotReady),
            (false, true) => serving.unwrap_or(ready).then_some(EndpointUse::LastResort),
        }
    }

    /// Its name: that of its Pod, or else of its host.
    fn name(&self) -> Option<&str> {
        let pod = self.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| &*target.name);
        pod.or(self.hostname.as_deref()).filter(|name| !name.is_empty())
    }

    /// The zone of its node.
    fn zone(&self) -> Option<Arc<str>> {
        self.zone.clone().filter(|zone| !zone.is_empty())
    }

    /// Its address: "fungible" with its others, of which there are none in practice.
    fn ip(&self) -> Result<IpAddr, String> {
        let first = self.addresses.first().ok_or("it has no address")?;
        first.parse().map_err(|_| format!("its address {first:?} is no IP address"))
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// Reads a list of slices: their version, and the slices.
pub(super) fn slice_list(json: &[u8]) -> Result<(String, Vec<EndpointSlice>), String> {
    read(json).map(|SliceList { metadata, items }| (metadata.resource_version, items.unwrap_or_default()))
}

/// Reads a message of a watch.
pub(super) fn slice_event(json: &[u8]) -> Result<SliceEvent, String> {
    Ok(match read(json)? {
        WatchReply::Added(slice) | WatchReply::Modified(slice) => SliceEvent::Changed(slice),
        WatchReply::Deleted(slice) => SliceEvent::Deleted(slice),
        WatchReply::Bookmark(Bookmark { metadata }) => SliceEvent::Version(metadata.resource_version),
        WatchReply::Error(ApiStatus { code: GONE, .. }) => SliceEvent::Expired,
        WatchReply::Error(ApiStatus { code, message }) => {
            SliceEvent::Error(format!("status {code}: {}", bounded(&message, LONGEST_SHOWN)))
        }
    })
}

/// The addresses of a name: how far each can be used, and its zone.
type EndpointAddresses = BTreeMap<IpAddr, (EndpointUse, Option<Arc<str>>)>;
/// The endpoints of a Service by name and port.
type ByName = BTreeMap<(Option<Arc<str>>, u16), EndpointAddresses>;

/// The endpoints of all slices as backends.
pub(super) fn entries<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    settings: &Kubernetes,
) -> Entries {
    let mut entries = Entries::default();
    let mut endpoints = ByName::new();
    for slice in slices {
        add(slice, settings.port.as_ref(), &mut endpoints, &mut entries);
    }
    let mut backends: Vec<_> = endpoints
        .into_iter()
        .flat_map(|((name, port), addresses)| backends(name.as_ref(), port, &addresses))
        .collect();
    // Of two with one address, the one that can be used has it.
    backends.sort_by_key(|(usable, _)| *usable);
    for (usable, found) in backends {
        let fitness = match usable {
            _ if !settings.healthcheck => Fitness::Unknown,
            EndpointUse::Ready | EndpointUse::LastResort => Fitness::Healthy,
            EndpointUse::NotReady => {
                Fitness::Unhealthy("Kubernetes reports that the Pod is not ready".into())
            }
        };
        let tier = u16::from(usable == EndpointUse::LastResort);
        entries.add(&Arc::clone(&found.name), Found { fitness, tier, ..found });
    }
    entries
}

/// Adds the endpoints of a slice.
fn add(slice: &EndpointSlice, port: Option<&ServicePort>, endpoints: &mut ByName, entries: &mut Entries) {
    let of_slice: Vec<_> = slice.endpoints.iter().flatten().collect();
    if of_slice.is_empty() {
        return; // it may have no port either
    }
    let port = match slice.port(port) {
        Ok(port) => port,
        Err(reason) => return entries.refuse(slice.name(), &reason),
    };
    for endpoint in of_slice {
        let Some(usable) = endpoint.usable() else { continue };
        let name = endpoint.name();
        match endpoint.ip() {
            Ok(ip) => {
                let addresses = endpoints.entry((name.map(Arc::from), port)).or_default();
                // While an endpoint moves from one slice to another, both may have it.
                let (known, zone) = addresses.entry(ip).or_insert((usable, None));
                *known = usable.min(*known);
                *zone = zone.take().or_else(|| endpoint.zone());
            }
            Err(reason) => {
                let entry = format!("{} in {}", name.unwrap_or("an endpoint"), slice.name());
                entries.refuse(&entry, &reason);
            }
        }
    }
}

/// The endpoints of one name and port as backends: a Pod with an IPv4 and an IPv6 address is one.
fn backends(name: Option<&Arc<str>>, port: u16, addresses: &EndpointAddresses) -> Vec<(EndpointUse, Found)> {
    let found = match name {
        Some(name) => Found::of(name, &addresses.keys().copied().collect(), port),
        None => addresses.keys().map(|ip| nameless(SocketAddr::new(*ip, port).into())).collect(),
    };
    let of_address = |found: Found| {
        let (usable, zone) = addresses.get(&found.address.ip()?)?.clone();
        Some((usable, Found { zone, ..found }))
    };
    found.into_iter().filter_map(of_address).collect()
}

fn nameless(address: SocketAddress) -> Found {
    Found { nameless: true, ..Found::new(address.default_name(), address) }
}

#[cfg(test)]
#[path = "kubernetes_json_tests.rs"]
mod tests;
