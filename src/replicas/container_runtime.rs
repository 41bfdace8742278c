//! Starts, inspects, stops and removes the containers of replicas. What to do is decided elsewhere.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerState, ContainerSummary, ContainerSummaryStateEnum as State,
    EndpointSettings, HostConfig, NetworkingConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use tokio::time::timeout;

use super::fleet::{ReplicaContainer, RunState};
use super::names::{self, LEAVING};
use super::refusal::Refusal;
use crate::config::{GROUP_LABEL, Replicas};
use crate::discovery::container_filter::ContainerFilter;
use crate::discovery::containers as found;
use crate::discovery::engine::EngineAddress;

/// The time limit of a request: creating and starting containers takes seconds on a busy machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Added to a container's stop timeout when waiting for the engine to stop it.
const STOP_OVERHEAD: Duration = Duration::from_secs(30);
/// The network that every engine has.
const DEFAULT_NETWORK: &str = "bridge";
/// The label with the number of the Pointsman that started a container; it draws one for each pool.
const INSTANCE_LABEL: &str = "pointsman.instance";

/// An engine that answers, and the settings to start replicas with.
#[derive(Clone, Debug)]
pub(super) struct ContainerRuntime {
    address: EngineAddress,
    engine: Engine,
    config: Arc<Replicas>,
    /// The value of [`INSTANCE_LABEL`].
    instance: Arc<str>,
    filter: ContainerFilter,
    network: Arc<str>,
    /// The container in which this process runs.
    own: Option<Arc<str>>,
}

/// Why a replica was not started, and the id of its container if that may be left over, perhaps running.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub(super) refusal: Refusal,
    pub(super) leftover: Option<Arc<str>>,
}

impl From<Refusal> for NotStarted {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, leftover: None }
    }
}

/// The containers at the engine.
#[derive(Debug)]
pub(super) struct Inventory {
    /// The replicas' containers, the oldest first.
    pub(super) replicas: Vec<ReplicaContainer>,
    /// The running containers that any Pointsman has started.
    pub(super) labelled: Vec<LabelledContainer>,
    /// The names of all containers.
    pub(super) names: HashSet<String>,
    /// The addresses of the replicas' containers, by id.
    pub(super) addresses: HashMap<Arc<str>, Vec<IpAddr>>,
}

/// A container that a Pointsman has started.
#[derive(Clone, Debug)]
pub(super) struct LabelledContainer {
    pub(super) id: Arc<str>,
    /// The engine's name for it.
    pub(super) container: Arc<str>,
    pub(super) group: Arc<str>,
    /// The Pointsman that started it; `None`: an older version, which did not set the label.
    pub(super) instance: Option<Arc<str>>,
}

impl ContainerRuntime {
    /// The address of the engine, and the containers that count as replicas.
    pub(super) fn scope(config: &Replicas) -> (EngineAddress, ContainerFilter) {
        let filter = ContainerFilter::new(&format!("{GROUP_LABEL}={}", config.group), config.adopt.as_ref());
        (EngineAddress::new(config.engine.as_deref()), filter)
    }

    /// Finds out which network replicas join. They are started with `instance` in a label.
    pub(super) async fn new(engine: Engine, config: &Arc<Replicas>, instance: &Arc<str>) -> Self {
        let (address, filter) = Self::scope(config);
        let own = own_container();
        let network = match &config.network {
            Some(network) => network.as_str().into(),
            None => own_network(&engine, own.as_deref()).await,
        };
        Self {
            address,
            engine,
            config: Arc::clone(config),
            instance: Arc::clone(instance),
            filter,
            network,
            own,
        }
    }

    /// The network that replicas join.
    pub(super) fn network(&self) -> &str {
        &self.network
    }

    /// What the engine's list of all containers means.
    pub(super) fn read(&self, mut containers: Vec<ContainerSummary>) -> Inventory {
        containers.sort_by_key(|container| container.created);
        let is_own = |container: &ContainerSummary| self.own.as_deref() == Some(found::id(container));
        let replicas =
            || containers.iter().filter(|container| self.filter.matches(container) && !is_own(container));
        let names = containers.iter().flat_map(|container| container.names.iter().flatten());
        Inventory {
            replicas: replicas().map(|container| replica_container(container, &self.config.group)).collect(),
            addresses: replicas()
                .map(|container| (found::id(container).into(), addresses_of(container)))
                .collect(),
            labelled: containers.iter().filter_map(labelled).collect(),
            names: names.map(|name| name.trim_start_matches('/').to_owned()).collect(),
        }
    }

    /// Creates and starts a replica, in a container with a name that is not taken; the container's id.
    pub(super) async fn start(&self, name: &str, mut taken: HashSet<String>) -> Result<Arc<str>, NotStarted> {
        let id: Arc<str> = loop {
            let container = names::container(&self.config.group, name, &taken);
            let options = CreateContainerOptionsBuilder::default().name(&container).build();
            let create = self.engine.create_container(Some(options), self.body(name));
            match timeout(REQUEST_TIMEOUT, create).await {
                Ok(Ok(created)) => break created.id.into(),
                Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => {
                    return Err(Refusal::NoImage(self.config.image.clone()).into());
                }
                // The name was taken since the last listing.
                Ok(Err(Error::DockerResponseServerError { status_code: 409, .. }))
                    if taken.insert(container) => {}
                Ok(Err(error)) => return Err(self.failed(name, &self.explain(&error)).into()),
                Err(_) => {
                    let reason = format!("it was not created within {REQUEST_TIMEOUT:?}");
                    return Err(self.failed(name, &reason).into());
                }
            }
        };
        let reason = match timeout(REQUEST_TIMEOUT, self.engine.start_container(&id, None)).await {
            Ok(Ok(())) => return Ok(id),
            Ok(Err(error)) => self.explain(&error),
            Err(_) => format!("it was not started within {REQUEST_TIMEOUT:?}"),
        };
        // An engine that did not answer in time may still start it.
        let leftover = self.remove(&id).await.is_err().then_some(id);
        Err(NotStarted { refusal: self.failed(name, &reason), leftover })
    }

    fn body(&self, name: &str) -> ContainerCreateBody {
        let (config, host) = (&self.config, names::host(name));
        let own = [("SERVER_ID", names::server_id(name)), ("SERVER_NAME", name)];
        let given = config.env.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let own = own.into_iter().filter(|(key, _)| !config.env.contains_key(*key));
        // The default network does not resolve names.
        let aliases = (&*self.network != DEFAULT_NETWORK).then(|| vec![host.clone()]);
        let endpoint = EndpointSettings { aliases, ..EndpointSettings::default() };
        ContainerCreateBody {
            image: Some(config.image.clone()),
            cmd: config.command.clone(),
            env: Some(own.chain(given).map(|(key, value)| format!("{key}={value}")).collect()),
            labels: Some(HashMap::from([
                (GROUP_LABEL.to_owned(), config.group.to_string()),
                ("pointsman.name".to_owned(), name.to_owned()),
                (INSTANCE_LABEL.to_owned(), self.instance.to_string()),
            ])),
            host_config: Some(HostConfig {
                network_mode: Some(self.network.to_string()),
                ..HostConfig::default()
            }),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(self.network.to_string(), endpoint)])),
            }),
            hostname: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    /// Marks a container as being removed, so that a Pointsman that starts later finishes the removal.
    pub(super) async fn mark_leaving(&self, id: &str) -> Result<(), String> {
        let inspected = self.within(self.engine.inspect_container(id, None)).await?;
        let name = inspected.name.unwrap_or_default();
        let name = name.trim_start_matches('/');
        if name.ends_with(LEAVING) {
            return Ok(());
        }
        let marked = format!("{name}-{}{LEAVING}", names::short_id(id));
        let options = RenameContainerOptionsBuilder::default().name(&marked).build();
        self.within(self.engine.rename_container(id, options)).await
    }

    /// The addresses of a container.
    pub(super) async fn addresses(&self, id: &str) -> Result<Vec<IpAddr>, String> {
        let inspected = self.within(self.engine.inspect_container(id, None)).await?;
        let networks = inspected.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        Ok(addresses(networks.values()))
    }

    /// The text of why a container ended.
    pub(super) async fn exit_cause(&self, id: &str) -> String {
        // A container that runs again has no exit code.
        let runs_again =
            |state: &ContainerState| state.running == Some(true) && state.restarting != Some(true);
        let state = match self.within(self.engine.inspect_container(id, None)).await {
            Ok(inspected) => inspected.state.unwrap_or_default(),
            Err(_) => return "it was removed".to_owned(),
        };
        match (state.oom_killed, state.exit_code) {
            (Some(true), _) => "out of memory".to_owned(),
            (_, Some(code)) if !runs_again(&state) => format!("exit code {code}"),
            (_, _) => "it ended".to_owned(),
        }
    }

    /// Stops a container within its stop timeout, and removes it.
    pub(super) async fn stop(&self, id: &str) -> Result<(), String> {
        let grace = self.config.stop_timeout;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let engine = self.engine.clone().with_timeout(grace + STOP_OVERHEAD);
        match engine.stop_container(id, Some(options)).await {
            // 304: it has stopped already; 404: it is gone.
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 304 | 404, .. }) => {}
            Err(error) => return Err(self.explain(&error)),
        }
        self.remove(id).await
    }

    /// Removes a container with its anonymous volumes, even if it runs.
    pub(super) async fn remove(&self, id: &str) -> Result<(), String> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match timeout(REQUEST_TIMEOUT, self.engine.remove_container(id, Some(options))).await {
            // 404: it is gone; 409: its removal is in progress.
            Ok(Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. })) => Ok(()),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => {
                Err(format!("the engine at {} did not remove it within {REQUEST_TIMEOUT:?}", self.address))
            }
        }
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error)),
            Err(_) => {
                Err(format!("the engine at {} did not answer within {REQUEST_TIMEOUT:?}", self.address))
            }
        }
    }

    /// What went wrong and what to do.
    fn explain(&self, error: &Error) -> String {
        match error {
            Error::DockerResponseServerError { status_code: 403, .. } => {
                format!("{}; replicas also need POST and DELETE of /containers", self.address.explain(error))
            }
            Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
            error => self.address.explain(error),
        }
    }

    fn failed(&self, name: &str, reason: &str) -> Refusal {
        Refusal::Failed(format!(
            "{name:?} could not be started from the image {:?}: {reason}",
            self.config.image
        ))
    }
}

fn addresses_of(container: &ContainerSummary) -> Vec<IpAddr> {
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    addresses(networks.into_iter().flatten().map(|(_, endpoint)| endpoint))
}

fn addresses<'a>(endpoints: impl Iterator<Item = &'a EndpointSettings>) -> Vec<IpAddr> {
    let of = |endpoint: &'a EndpointSettings| [&endpoint.ip_address, &endpoint.global_ipv6_address];
    endpoints.flat_map(of).flatten().filter_map(|ip| ip.parse().ok()).collect()
}

/// The engine's name for a container. Links give it more names, such as `/web/db`.
fn engine_name(container: &ContainerSummary) -> &str {
    let mut names = container.names.iter().flatten().map(|name| name.trim_start_matches('/'));
    names.find(|name| !name.contains('/')).unwrap_or_default()
}

/// The container if a Pointsman has started it and it runs.
fn labelled(container: &ContainerSummary) -> Option<LabelledContainer> {
    let labels = container.labels.as_ref()?;
    let running = container.state == Some(State::RUNNING);
    labels.get(GROUP_LABEL).filter(|_| running).map(|group| LabelledContainer {
        id: found::id(container).into(),
        container: engine_name(container).into(),
        group: group.as_str().into(),
        instance: labels.get(INSTANCE_LABEL).map(|instance| instance.as_str().into()),
    })
}

/// A replica's container. An adopted one may have the label of another group.
fn replica_container(container: &ContainerSummary, group: &str) -> ReplicaContainer {
    let label = |key: &str| container.labels.as_ref().and_then(|labels| labels.get(key));
    ReplicaContainer {
        id: found::id(container).into(),
        name: found::name(container),
        container: engine_name(container).to_owned(),
        ours: label(GROUP_LABEL).is_some_and(|label| label == group),
        state: match container.state {
            Some(State::CREATED) => RunState::Created,
            Some(State::RUNNING | State::PAUSED | State::STOPPING) => RunState::Running,
            Some(State::RESTARTING) => RunState::Restarting,
            _ => RunState::Ended,
        },
    }
}

/// The id of the container in which this process runs, if any: the engine mounts its files there.
fn own_container() -> Option<Arc<str>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    container_of(&mounts).map(Arc::from)
}

fn container_of(mounts: &str) -> Option<&str> {
    // Field 4 is the path on the host, field 5 the mount point (proc(5)).
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mounted =
        lines.filter(|fields| matches!(fields.get(4), Some(&("/etc/hostname" | "/etc/resolv.conf"))));
    let ids = mounted.filter_map(|fields| {
        let (_, rest) = fields.get(3)?.split_once("/containers/")?;
        rest.split('/').next()
    });
    ids.into_iter().find(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The network that replicas join by default: one in which this process is.
async fn own_network(engine: &Engine, own: Option<&str>) -> Arc<str> {
    let inspected = match own {
        Some(id) => {
            timeout(REQUEST_TIMEOUT, engine.inspect_container(id, None)).await.ok().and_then(Result::ok)
        }
        None => None,
    };
    let networks = inspected.and_then(|own| own.network_settings?.networks).unwrap_or_default();
    // A network that was created resolves container names; the default one does not.
    let created =
        networks.into_keys().filter(|name| ![DEFAULT_NETWORK, "host", "none"].contains(&&**name)).min();
    created.as_deref().unwrap_or(DEFAULT_NETWORK).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_in_a_container_finds_its_id_in_its_mounts() {
        let id = "0123456789abcdef".repeat(4);
        let mounts = format!(
            "30 29 0:5 / /proc rw - proc proc rw\n\
             812 30 8:1 /containers/short/etc /etc/other rw - ext4 /dev/sda1 rw\n\
             813 30 8:1 /var/lib/docker/containers/{id}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(container_of(&mounts), Some(&*id));
        assert_eq!(container_of("813 30 8:1 /etc/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"), None);
        assert_eq!(container_of(""), None);
    }
}
