//! The containers of a Docker engine that have a label, as backends. [`EngineWatcher`] lists them, `containers.rs`
//! interprets the list.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::ContainerSummary;
use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::container_filter::ContainerFilter;
use super::containers::{self, Condition, SetupError};
use super::engine::EngineAddress;
use super::engine_watcher::{EngineWatcher, GATHER, Listing, Scope};
use super::rounds::query_each;
use super::{Observation, Outcome, Sink};
use crate::config::Docker;
use crate::domain::Cause;

/// The least interval between listings that failed connections trigger.
const BETWEEN_LISTINGS: Duration = Duration::from_millis(100);
/// The time limit for querying why containers are unhealthy.
const REASON_TIMEOUT: Duration = Duration::from_secs(2);

/// Follows the engine until dropped, and lists its containers on demand when notified.
pub(super) async fn watch(settings: Docker, query_now: Arc<Notify>, sink: Sink) {
    let address = EngineAddress::new(settings.engine.as_deref());
    let filter = ContainerFilter::new(&settings.label, settings.adopt.as_ref());
    let mut engine = EngineWatcher::new(address, filter.clone(), Scope::Running);
    let mut source = DockerSource {
        settings,
        filter,
        reasons: HashMap::new(),
        inspections: JoinSet::new(),
        setup_errors: Vec::new(),
    };
    loop {
        tokio::select! {
            listing = engine.next() => sink(match listing {
                Ok(listing) => source.observe(listing),
                Err(reason) => {
                    Observation { outcome: Outcome::ServerFailure(reason.into()), owners: Default::default() }
                }
            }),
            Some(Ok(inspected)) = source.inspections.join_next() => {
                source.note_reasons(inspected);
                engine.list_within(GATHER);
            }
            () = query_now.notified() => engine.list_within(BETWEEN_LISTINGS),
        }
    }
}

/// The id and the name of an unhealthy container, and its HEALTHCHECK's last output, if there is one and it came in
/// time.
type Inspected = ((String, Arc<str>), Option<Option<String>>);

struct DockerSource {
    settings: Docker,
    filter: ContainerFilter,
    /// Why containers are unhealthy, by id; queried when they become unhealthy, until the engine answers in time.
    reasons: HashMap<String, Cause>,
    /// The requests for the reasons, which run in the background.
    inspections: JoinSet<Vec<Inspected>>,
    /// The mistakes in the last listing, sorted.
    setup_errors: Vec<SetupError>,
}

impl DockerSource {
    fn observe(&mut self, listing: Listing) -> Observation {
        let Listing { engine, mut containers, ended, .. } = listing;
        containers.retain(|container| !ended.contains(containers::id(container)));
        self.inspect_unhealthy(&engine, &containers);
        let reading = containers::read(&self.settings, &self.filter, &containers, &self.reasons, &is_local);
        self.log_setup_errors(reading.setup_errors);
        let outcome = match reading.found {
            found if found.is_empty() => Outcome::Empty,
            found => Outcome::Backends(found),
        };
        Observation { outcome, owners: reading.owners }
    }

    /// Starts to query why containers became unhealthy. Until the answer comes, they are unhealthy without a reason.
    fn inspect_unhealthy(&mut self, engine: &Engine, containers: &[ContainerSummary]) {
        let unhealthy: HashMap<&str, Arc<str>> = containers
            .iter()
            .filter(|container| self.settings.healthcheck && self.filter.matches(container))
            .filter(|container| containers::condition(container) == Condition::Unhealthy)
            .map(|container| (containers::id(container), containers::name(container)))
            .collect();
        self.reasons.retain(|id, _| unhealthy.contains_key(id.as_str()));
        let mut unknown = Vec::new();
        for (id, name) in unhealthy {
            if !self.reasons.contains_key(id) {
                self.reasons.insert(id.to_owned(), containers::unhealthy_because(""));
                unknown.push((id.to_owned(), name));
            }
        }
        if unknown.is_empty() {
            return;
        }
        let (engine, deadline) = (engine.clone(), Instant::now() + REASON_TIMEOUT);
        let inspect = move |(id, _): &(String, Arc<str>)| {
            let (engine, id) = (engine.clone(), id.clone());
            async move { engine.inspect_container(&id, None).await.ok()?.state?.health?.log?.pop()?.output }
        };
        self.inspections.spawn(query_each(unknown, inspect, deadline));
    }

    fn note_reasons(&mut self, inspected: Vec<Inspected>) {
        for ((id, name), output) in inspected {
            let Some(output) = output else {
                self.reasons.remove(&id); // not in time: the next listing queries it again
                continue;
            };
            let Some(output) = output.filter(|output| !output.trim().is_empty()) else { continue };
            if let Some(reason) = self.reasons.get_mut(&id) {
                *reason = containers::unhealthy_because(&output);
                info!(container = %name, label = self.settings.label, reason = &**reason, "container unhealthy");
            }
        }
    }

    /// Logs what is wrong with a container, once.
    fn log_setup_errors(&mut self, setup_errors: Vec<SetupError>) {
        let is_new = |error: &&SetupError| self.setup_errors.binary_search(error).is_err();
        for SetupError { name, reason, skipped, .. } in setup_errors.iter().filter(is_new) {
            let label = &self.settings.label;
            if *skipped {
                warn!(container = %name, label, reason, "container skipped");
            } else {
                warn!(container = %name, label, reason, "container label ignored");
            }
        }
        self.setup_errors = setup_errors;
    }
}

/// Whether this process has an address in the network. The kernel chooses the source address of a UDP socket when it is
/// connected; nothing is sent.
fn is_local(network: &IpNet) -> bool {
    let any = match network {
        IpNet::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let source = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(SocketAddr::new(network.addr(), 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| network.contains(&source.ip()))
}
