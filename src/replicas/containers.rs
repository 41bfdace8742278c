//! The containers of replicas, at the engine: listed, started, stopped and removed. What is to be done is decided
//! elsewhere.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerState, ContainerSummary, ContainerSummaryStateEnum as State,
    EndpointSettings, EventMessage, HostConfig, NetworkingConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::Stream;
use tokio::time::timeout;

use super::fleet::{Life, Sighting};
use super::names::{self, LEAVING};
use super::refusal::Refusal;
use crate::config::{GROUP_LABEL, Replicas};
use crate::discovery::chosen::Chosen;
use crate::discovery::containers as found;
use crate::discovery::engine::Address;

/// Creating and starting containers takes seconds on a busy machine; this is what nobody waits for.
const SLOW: Duration = Duration::from_secs(60);
/// Besides the time that a container has for its end, that much is the engine's own.
const ENGINES_OWN: Duration = Duration::from_secs(30);
/// The network that every engine has.
const USUAL: &str = "bridge";
/// The label that says which Pointsman has started a container: a number that it draws for each pool.
const INSTANCE_LABEL: &str = "pointsman.instance";
/// What can change who there is.
const EVENTS: [&str; 4] = ["start", "die", "destroy", "rename"];

/// An engine that answers, and what replicas are started with there.
#[derive(Clone, Debug)]
pub(super) struct Yard {
    address: Address,
    engine: Engine,
    config: Arc<Replicas>,
    /// What those that are started are marked with.
    instance: Arc<str>,
    chosen: Chosen,
    network: Arc<str>,
    /// The container that this process is in.
    own: Option<Arc<str>>,
}

/// Why one was not started, and the id of what may be left of it: it could be running, and nobody wants it.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub(super) refusal: Refusal,
    pub(super) left: Option<Arc<str>>,
}

impl From<Refusal> for NotStarted {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, left: None }
    }
}

/// Who there is at the engine.
#[derive(Debug)]
pub(super) struct List {
    /// The replicas' containers, the oldest first.
    pub(super) sightings: Vec<Sighting>,
    /// All that run and that a Pointsman has started, whosever they are.
    pub(super) labelled: Vec<Labelled>,
    /// The names of all containers.
    pub(super) taken: BTreeSet<String>,
    /// Where those that run are connected to, by id.
    pub(super) addresses: HashMap<Arc<str>, Vec<IpAddr>>,
}

/// A container that a Pointsman has started.
#[derive(Clone, Debug)]
pub(super) struct Labelled {
    /// The engine's id.
    pub(super) id: Arc<str>,
    /// What the engine calls it.
    pub(super) container: Arc<str>,
    /// Whose it is.
    pub(super) group: Arc<str>,
    /// Who has started it; `None`: one that did not say so yet.
    pub(super) instance: Option<Arc<str>>,
}

impl Yard {
    /// Finds the engine; why it cannot, otherwise. Those that are started are marked with `instance`.
    pub(super) async fn open(config: &Arc<Replicas>, instance: &Arc<str>) -> Result<Self, String> {
        let address = Address::new(config.engine.as_deref());
        let engine = address.connect().await?;
        let own = own_container();
        let network = match &config.network {
            Some(network) => network.as_str().into(),
            None => own_network(&engine, own.as_deref()).await,
        };
        let chosen = Chosen::new(&format!("{GROUP_LABEL}={}", config.group), config.adopt.as_ref());
        Ok(Self {
            address,
            engine,
            config: Arc::clone(config),
            instance: Arc::clone(instance),
            chosen,
            network,
            own,
        })
    }

    /// The network that they join.
    pub(super) fn network(&self) -> &str {
        &self.network
    }

    /// What happens to containers, from now on.
    pub(super) fn events(&self) -> impl Stream<Item = Result<EventMessage, Error>> + Send + use<> {
        let filters = HashMap::from([("type", vec!["container"]), ("event", EVENTS.to_vec())]);
        self.engine.events(Some(EventsOptionsBuilder::default().filters(&filters).build()))
    }

    /// Whether an event is about a replica.
    pub(super) fn concerns(&self, event: &EventMessage) -> bool {
        let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
        attributes.is_some_and(|attributes| self.chosen.tells_of(attributes))
    }

    /// Who there is, those included that have ended.
    pub(super) async fn list(&self) -> Result<List, String> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let list = self.engine.list_containers(Some(options));
        let mut list = self.address.within(list).await?;
        list.sort_by_key(|container| container.created);
        let own = |container: &&ContainerSummary| self.own.as_deref() != Some(found::id(container));
        let chosen = || list.iter().filter(|container| self.chosen.has(container)).filter(own);
        let taken = list.iter().flat_map(|container| container.names.iter().flatten());
        Ok(List {
            sightings: chosen().map(|container| sighting(container, &self.config.group)).collect(),
            addresses: chosen()
                .map(|container| (found::id(container).into(), addresses_of(container)))
                .collect(),
            labelled: list.iter().filter_map(labelled).collect(),
            taken: taken.map(|name| name.trim_start_matches('/').to_owned()).collect(),
        })
    }

    /// Creates and starts the replica of that name, as a container whose name is none of those; its id.
    pub(super) async fn start(
        &self,
        name: &str,
        mut taken: BTreeSet<String>,
    ) -> Result<Arc<str>, NotStarted> {
        let id: Arc<str> = loop {
            let container = names::container(&self.config.group, name, &taken);
            let options = CreateContainerOptionsBuilder::default().name(&container).build();
            let create = self.engine.create_container(Some(options), self.body(name));
            match timeout(SLOW, create).await {
                Ok(Ok(created)) => break created.id.into(),
                Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => {
                    return Err(Refusal::NoImage(self.config.image.clone()).into());
                }
                // Somebody was faster with that name.
                Ok(Err(Error::DockerResponseServerError { status_code: 409, .. }))
                    if taken.insert(container) => {}
                Ok(Err(error)) => return Err(self.failed(name, &self.explain(&error)).into()),
                Err(_) => {
                    return Err(self.failed(name, &format!("it was not created within {SLOW:?}")).into());
                }
            }
        };
        let why = match timeout(SLOW, self.engine.start_container(&id, None)).await {
            Ok(Ok(())) => return Ok(id),
            Ok(Err(error)) => self.explain(&error),
            Err(_) => format!("it was not started within {SLOW:?}"),
        };
        // An engine that did not answer in time may start it all the same.
        let left = self.remove(&id).await.is_err().then_some(id);
        Err(NotStarted { refusal: self.failed(name, &why), left })
    }

    /// What a replica of that name is.
    fn body(&self, name: &str) -> ContainerCreateBody {
        let (config, host) = (&self.config, names::host(name));
        let own = [("SERVER_ID", names::server_id(name)), ("SERVER_NAME", name)];
        let given = config.env.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let own = own.into_iter().filter(|(key, _)| !config.env.contains_key(*key));
        // Containers on the usual network cannot be found by any name.
        let aliases = (&*self.network != USUAL).then(|| vec![host.clone()]);
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

    /// Marks one of ours as being taken out, for whoever starts anew and finds it.
    pub(super) async fn mark(&self, id: &str) -> Result<(), String> {
        let inspected = self.within(self.engine.inspect_container(id, None)).await?;
        let name = inspected.name.unwrap_or_default();
        let name = name.trim_start_matches('/');
        if name.ends_with(LEAVING) {
            return Ok(());
        }
        let short = &id[..id.len().min(12)];
        let options =
            RenameContainerOptionsBuilder::default().name(&format!("{name}-{short}{LEAVING}")).build();
        self.within(self.engine.rename_container(id, options)).await
    }

    /// Where a container is connected to, by addresses.
    pub(super) async fn addresses(&self, id: &str) -> Result<Vec<IpAddr>, String> {
        let inspected = self.within(self.engine.inspect_container(id, None)).await?;
        let networks = inspected.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        Ok(addresses(networks.values()))
    }

    /// Why one has ended, in words.
    pub(super) async fn epitaph(&self, id: &str) -> String {
        // One that runs again has no exit code any longer.
        let back = |state: &ContainerState| state.running == Some(true) && state.restarting != Some(true);
        let state = match self.within(self.engine.inspect_container(id, None)).await {
            Ok(inspected) => inspected.state.unwrap_or_default(),
            Err(_) => return "it was removed".to_owned(),
        };
        match (state.oom_killed, state.exit_code) {
            (Some(true), _) => "out of memory".to_owned(),
            (_, Some(code)) if !back(&state) => format!("exit code {code}"),
            (_, _) => "it ended".to_owned(),
        }
    }

    /// Stops a container, in the time that it has for that, and removes it.
    pub(super) async fn stop(&self, id: &str) -> Result<(), String> {
        let grace = self.config.stop_timeout;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let patient = self.engine.clone().with_timeout(grace + ENGINES_OWN);
        match patient.stop_container(id, Some(options)).await {
            // 304: it is stopped already.
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 304 | 404, .. }) => {}
            Err(error) => return Err(self.explain(&error)),
        }
        self.remove(id).await
    }

    /// Removes a container with its anonymous volumes, whatever it is doing. That it is gone already is as good.
    pub(super) async fn remove(&self, id: &str) -> Result<(), String> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match timeout(SLOW, self.engine.remove_container(id, Some(options))).await {
            // 409: somebody else is removing it.
            Ok(Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. })) => Ok(()),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(format!("the engine at {} did not remove it within {SLOW:?}", self.address)),
        }
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
        match timeout(SLOW, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error)),
            Err(_) => Err(format!("the engine at {} did not answer within {SLOW:?}", self.address)),
        }
    }

    /// What went wrong, and what to do.
    pub(super) fn explain(&self, error: &Error) -> String {
        match error {
            Error::DockerResponseServerError { status_code: 403, .. } => {
                format!("{}; replicas need POST and DELETE of /containers too", self.address.explain(error))
            }
            Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
            error => self.address.explain(error),
        }
    }

    fn failed(&self, name: &str, why: &str) -> Refusal {
        Refusal::Failed(format!(
            "{name:?} could not be started from the image {:?}: {why}",
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

/// A container that a Pointsman has started, if it is one and runs.
fn labelled(container: &ContainerSummary) -> Option<Labelled> {
    let labels = container.labels.as_ref()?;
    let running = container.state == Some(State::RUNNING);
    let mut names = container.names.iter().flatten().map(|name| name.trim_start_matches('/'));
    labels.get(GROUP_LABEL).filter(|_| running).map(|group| Labelled {
        id: found::id(container).into(),
        container: names.find(|name| !name.contains('/')).unwrap_or_default().into(),
        group: group.as_str().into(),
        instance: labels.get(INSTANCE_LABEL).map(|instance| instance.as_str().into()),
    })
}

/// A container of the list. Ours are those of our group: those of another one that are adopted have an owner.
fn sighting(container: &ContainerSummary, group: &str) -> Sighting {
    let label = |key: &str| container.labels.as_ref().and_then(|labels| labels.get(key));
    let mut own = container.names.iter().flatten().map(|name| name.trim_start_matches('/'));
    Sighting {
        id: found::id(container).into(),
        name: found::name(container),
        container: own.find(|name| !name.contains('/')).unwrap_or_default().to_owned(),
        ours: label(GROUP_LABEL).is_some_and(|label| label == group),
        life: match container.state {
            Some(State::CREATED) => Life::Created,
            Some(State::RUNNING | State::PAUSED | State::STOPPING) => Life::Running,
            Some(State::RESTARTING) => Life::Restarting,
            _ => Life::Ended,
        },
    }
}

/// The id of the container that this process is in, if it is in one: the engine mounts files of its own into it.
fn own_container() -> Option<Arc<str>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    container_of(&mounts).map(Arc::from)
}

fn container_of(mounts: &str) -> Option<&str> {
    // Field 4 is the file on the host, field 5 the place where it is mounted (proc(5)).
    let hosts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mounted =
        hosts.filter(|fields| matches!(fields.get(4), Some(&("/etc/hostname" | "/etc/resolv.conf"))));
    let ids = mounted.filter_map(|fields| {
        let (_, rest) = fields.get(3)?.split_once("/containers/")?;
        rest.split('/').next()
    });
    ids.into_iter().find(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The network that replicas join if nothing else is said: the one that this process is in.
async fn own_network(engine: &Engine, own: Option<&str>) -> Arc<str> {
    let inspected = match own {
        Some(id) => timeout(SLOW, engine.inspect_container(id, None)).await.ok().and_then(Result::ok),
        None => None,
    };
    let networks = inspected.and_then(|own| own.network_settings?.networks).unwrap_or_default();
    // Those of one's own making first: only there do containers find each other by name.
    let names: BTreeSet<_> = networks.into_keys().filter(|name| name != "host" && name != "none").collect();
    let first = names.iter().find(|name| *name != USUAL);
    first.map_or(USUAL, String::as_str).into()
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
