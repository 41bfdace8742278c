//! The containers of a Docker engine that have a label, as its events tell of them.
//!
//! An event says only *that* something has happened. What is true then is read anew from the engine's list of
//! running containers, so that an event too many, or in another order, or twice, does no harm; and one that never
//! came is made up for by the next reading. Events are subscribed to before the first reading, and those of the last
//! seconds are asked for again, so that nothing is lost in between.
//!
//! Of what happened while the engine was away for longer than that, the list tells only the result: a container that was
//! restarted meanwhile looks as if it had never ended, and whether it can be used the pool's checks decide.
//!
//! What the list means is in `containers.rs`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bollard::Docker as Engine;
use bollard::errors::Error;
use bollard::models::{ContainerSummary, EventMessage, EventMessageTypeEnum as EventType};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{Stream, StreamExt};
use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::chosen::Chosen;
use super::containers::{self, Complaint, Condition};
use super::engine::Address;
use super::rounds::ask_each;
use super::{Observation, Outcome, Sink};
use crate::config::Docker;
use crate::domain::Cause;

/// Events this close together make one reading: those of a Compose project that starts, say.
const GATHER: Duration = Duration::from_millis(20);
/// Readings that a failed connection asks for are at least this far apart.
const BETWEEN_READINGS: Duration = Duration::from_millis(100);
/// Whoever has refused to tell its events may do so again this late, and is not read before.
const REFUSAL: Duration = Duration::from_secs(1);
/// After something has happened it is read once more: what an event tells of may reach the list a moment later.
const ONCE_MORE: Duration = Duration::from_secs(1);
/// While nothing happens it is read this often: a connection that has died silently brings no events either.
const EVERY: Duration = Duration::from_secs(30);
/// Events this old are asked for again when subscribing.
const RECENT: Duration = Duration::from_secs(5);
/// What unhealthy containers have not told of their HEALTHCHECKs within this time is not waited for.
const WHY: Duration = Duration::from_secs(2);
/// From one try to reach the engine to the next: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// What can change the set of backends, or how they are.
const EVENTS: [&str; 9] = [
    "start",
    "die",
    "destroy",
    "pause",
    "unpause",
    "health_status",
    "rename",
    // A network's events, with the container among their attributes.
    "connect",
    "disconnect",
];

/// Follows the engine for ever, and reads out of turn when notified. The first reading is at once.
pub(super) async fn watch(settings: Docker, ask_now: Arc<Notify>, sink: Sink) {
    let mut watcher = Watcher::new(settings, sink);
    let mut retry = RETRY.0;
    loop {
        let (began, before) = (Instant::now(), watcher.readings);
        let reason = watcher.follow(&ask_now).await;
        debug!(engine = %watcher.engine, reason, "engine connection ended");
        // One that worked has perhaps only been restarted: to say so is early when it cannot be reached again.
        // Who refuses to tell its events may let its list be read all the same.
        if watcher.readings == before || watcher.refused {
            watcher.observed(Outcome::ServerFailure(reason.into()));
        }
        if began.elapsed() > RETRY.1 {
            retry = RETRY.0;
        }
        sleep(retry).await;
        retry = (retry * 2).min(RETRY.1);
    }
}

/// The id and the name of an unhealthy container, and its HEALTHCHECK's last output, if it has one and told it in time.
type Answer = ((String, Arc<str>), Option<Option<String>>);

struct Watcher {
    settings: Docker,
    engine: Address,
    chosen: Chosen,
    sink: Sink,
    /// The ids of the containers that have the label, as of the last reading.
    labelled: HashSet<String>,
    /// Those that have ended by what events say, and whether they have started again. The engine tells of an end before
    /// its list knows of it.
    ended: HashMap<String, bool>,
    /// When the last event happened, by the engine's clock, in nanoseconds since the epoch.
    heard: i64,
    /// Why the unhealthy ones are: asked for once, when they become so.
    why: HashMap<String, Cause>,
    /// The asking for it, which nothing else waits for.
    asking: JoinSet<Vec<Answer>>,
    complaints: BTreeSet<Complaint>,
    /// Readings that succeeded.
    readings: u64,
    /// The last subscription was answered with an error.
    refused: bool,
}

impl Watcher {
    fn new(settings: Docker, sink: Sink) -> Self {
        Self {
            engine: Address::new(settings.engine.as_deref()),
            chosen: Chosen::new(&settings.label, settings.adopt.as_ref()),
            settings,
            sink,
            labelled: HashSet::new(),
            ended: HashMap::new(),
            heard: 0,
            why: HashMap::new(),
            asking: JoinSet::new(),
            complaints: BTreeSet::new(),
            readings: 0,
            refused: false,
        }
    }

    /// Connects to the engine and follows its events until that fails; why it did.
    async fn follow(&mut self, ask_now: &Notify) -> String {
        // Whether they have started again meanwhile, perhaps no event tells.
        self.ended.values_mut().for_each(|started| *started = true);
        let engine = match self.engine.connect().await {
            Ok(engine) => engine,
            Err(reason) => return reason,
        };
        let mut events = pin!(subscribe(&engine, self.heard));
        let mut news = true;
        // Time for the subscription to be in force.
        let mut due = Instant::now() + if std::mem::take(&mut self.refused) { REFUSAL } else { GATHER };
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Ok(event)) if self.heed(&event) => {
                        news = true;
                        due = due.min(Instant::now() + GATHER);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        self.refused = matches!(error, Error::DockerResponseServerError { .. });
                        return self.engine.explain(&error);
                    }
                    None => return format!("the engine at {} has ended its stream of events", self.engine),
                },
                () = sleep_until(due) => {
                    let pause = match self.read(&engine).await {
                        Ok(true) => GATHER,
                        Ok(false) if std::mem::take(&mut news) => ONCE_MORE,
                        Ok(false) => EVERY,
                        Err(reason) => return reason,
                    };
                    due = Instant::now() + pause;
                }
                Some(Ok(answers)) = self.asking.join_next() => {
                    self.learn_why(answers);
                    due = due.min(Instant::now() + GATHER);
                }
                () = ask_now.notified() => due = due.min(Instant::now() + BETWEEN_READINGS),
            }
        }
    }

    /// Takes in an event; whether it can change anything here.
    fn heed(&mut self, event: &EventMessage) -> bool {
        self.heard = event.time_nano.unwrap_or(self.heard);
        let (Some(actor), Some(action)) = (&event.actor, &event.action) else { return false };
        let (Some(attributes), Some(id)) = (&actor.attributes, &actor.id) else { return false };
        if event.typ == Some(EventType::NETWORK) {
            return attributes.get("container").is_some_and(|id| self.labelled.contains(id));
        }
        if !self.chosen.tells_of(attributes) {
            return false; // a container's labels are among its attributes
        }
        match action.as_str() {
            "die" => _ = self.ended.insert(id.clone(), false),
            // What runs now is not what ran before, however fast it was: one reading has to be without it.
            // Without an end before it, a start is the first one, which the list may have known of already.
            "start" => match self.ended.get_mut(id) {
                Some(started) if self.labelled.contains(id) => *started = true,
                _ => _ = self.ended.remove(id),
            },
            _ => {}
        }
        true
    }

    /// Reads the whole state and hands it on; whether somebody was left out who has started again.
    async fn read(&mut self, engine: &Engine) -> Result<bool, String> {
        let mut list = self.engine.within(engine.list_containers(None)).await?;
        let ids: HashSet<&str> = list.iter().map(containers::id).collect();
        self.ended.retain(|id, _| ids.contains(id.as_str()));
        list.retain(|container| !self.ended.contains_key(containers::id(container)));
        let ended = self.ended.len();
        self.ended.retain(|_, started| !*started);
        let restarted = self.ended.len() < ended;
        self.wonder_why(engine, &list);
        let reading = containers::read(&self.settings, &list, &self.why, &near);
        let labelled = list.iter().filter(|container| self.chosen.has(container));
        self.labelled = labelled.map(|container| containers::id(container).to_owned()).collect();
        self.complain(reading.complaints);
        self.readings += 1;
        let outcome = match reading.found {
            found if found.is_empty() => Outcome::Empty,
            found => Outcome::Backends(found),
        };
        (self.sink)(Observation { outcome, owners: reading.owners });
        Ok(restarted)
    }

    /// Begins to ask why those are unhealthy of whom it is not known yet. That they are is told meanwhile.
    fn wonder_why(&mut self, engine: &Engine, list: &[ContainerSummary]) {
        let unhealthy: HashMap<&str, Arc<str>> = list
            .iter()
            .filter(|container| self.settings.healthcheck && self.chosen.has(container))
            .filter(|container| containers::condition(container) == Condition::Unhealthy)
            .map(|container| (containers::id(container), containers::name(container)))
            .collect();
        self.why.retain(|id, _| unhealthy.contains_key(id.as_str()));
        let mut unknown = Vec::new();
        for (id, name) in unhealthy {
            if !self.why.contains_key(id) {
                self.why.insert(id.to_owned(), containers::unhealthy_because(""));
                unknown.push((id.to_owned(), name));
            }
        }
        if unknown.is_empty() {
            return;
        }
        let (engine, deadline) = (engine.clone(), Instant::now() + WHY);
        let ask = move |(id, _): &(String, Arc<str>)| {
            let (engine, id) = (engine.clone(), id.clone());
            async move { engine.inspect_container(&id, None).await.ok()?.state?.health?.log?.pop()?.output }
        };
        self.asking.spawn(ask_each(unknown, ask, deadline));
    }

    /// Takes in what the HEALTHCHECKs said last. Who has told nothing is unhealthy all the same.
    fn learn_why(&mut self, answers: Vec<Answer>) {
        for ((id, name), output) in answers {
            let Some(output) = output.flatten().filter(|output| !output.trim().is_empty()) else { continue };
            if let Some(why) = self.why.get_mut(&id) {
                *why = containers::unhealthy_because(&output);
                info!(container = %name, label = self.settings.label, reason = &**why, "container unhealthy");
            }
        }
    }

    /// Says what is wrong with a container, once.
    fn complain(&mut self, complaints: BTreeSet<Complaint>) {
        for Complaint { name, reason, skipped, .. } in complaints.difference(&self.complaints) {
            let label = &self.settings.label;
            if *skipped {
                warn!(container = %name, label, reason, "container skipped");
            } else {
                warn!(container = %name, label, reason, "container label ignored");
            }
        }
        self.complaints = complaints;
    }

    fn observed(&self, outcome: Outcome) {
        (self.sink)(Observation { outcome, owners: Default::default() });
    }
}

/// Subscribes to events: those of the last seconds again, but none that was `heard` already.
fn subscribe(engine: &Engine, heard: i64) -> impl Stream<Item = Result<EventMessage, Error>> + use<> {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    let unheard = Duration::from_nanos(u64::try_from(heard).unwrap_or_default() + 1);
    // A clock that was set back must not make us deaf.
    let since = now.saturating_sub(RECENT).max(if unheard < now { unheard } else { Duration::ZERO });
    let filters = HashMap::from([("type", vec!["container", "network"]), ("event", EVENTS.to_vec())]);
    let options = EventsOptionsBuilder::default()
        .since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
        .filters(&filters)
        .build();
    engine.events(Some(options))
}

/// Whether this process has an address in the network: whether the kernel would send from one to the address. Nothing is sent.
fn near(network: &IpNet) -> bool {
    let any = match network {
        IpNet::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let ours = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(SocketAddr::new(network.addr(), 9))?;
        socket.local_addr()
    });
    ours.is_ok_and(|ours| network.contains(&ours.ip()))
}
