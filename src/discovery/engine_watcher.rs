//! Watches the containers of a Docker engine, for the Docker source and for replicas.
//!
//! An event only signals *that* something has changed. The watcher then lists the containers again, so a duplicate,
//! late or reordered event does no harm, and the next listing makes up for a lost one. It subscribes before it lists,
//! and requests the events of the last seconds again, so no change is missed between the two.
//!
//! A container that restarted while the engine was unreachable for longer looks as if it had never stopped; whether it
//! can be used is for the pool's checks to find out.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, UNIX_EPOCH};

use bollard::Docker as Engine;
use bollard::errors::Error;
use bollard::models::{
    ContainerSummary, ContainerSummaryStateEnum as State, EventMessage, EventMessageTypeEnum as EventType,
};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::container_filter::ContainerFilter;
use super::containers;
use super::engine::EngineAddress;
use crate::backoff::Backoff;

/// Events this close together cause one listing, such as those of a Compose project that starts. A new subscription has
/// this long to take effect before the first listing.
pub(super) const GATHER: Duration = Duration::from_millis(20);
/// The first listing after the engine refused a subscription waits this long: the next refusal may be on its way.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// After a change the list is read again after these delays, last first: a change may reach it later than the event.
const RELIST: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(100)];
/// The interval while the list still has a container running that has ended by its event; on a busy machine that takes
/// seconds.
const UNTIL_LISTED: Duration = Duration::from_millis(200);
/// The interval while nothing happens: a connection that died silently delivers no events either.
const REGULAR: Duration = Duration::from_secs(30);
/// A new subscription requests the events of this time again.
const RECENT: Duration = Duration::from_secs(5);
/// Delays between attempts to reach the engine.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// Changes to the set of containers, or to their condition.
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

type EventResult = Result<EventMessage, Error>;
type EngineEvents = Pin<Box<dyn Stream<Item = EventResult> + Send>>;
type PendingRequest<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// Which containers the engine lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that run.
    Running,
    /// Those that have ended or were never started, too.
    All,
}

/// The engine's containers at one moment.
pub struct Listing {
    /// The engine, for further requests.
    pub engine: Engine,
    /// Whether this is the first listing since the watcher connected.
    pub first: bool,
    /// The containers within the scope, those included that the filter does not match.
    pub containers: Vec<ContainerSummary>,
    /// The ids of containers that are listed as running, but have ended since they were listed before: either the list
    /// is late, or they have started again.
    pub ended: HashSet<String>,
}

/// Follows an engine's events, reconnects, and lists its containers whenever something may have changed.
pub struct EngineWatcher {
    address: EngineAddress,
    filter: ContainerFilter,
    scope: Scope,
    link: Link,
    /// When to connect or to list next.
    due: Instant,
    /// Listings since the watcher connected.
    listings: u64,
    /// The number of delays in [`RELIST`] that are still to come.
    relists: usize,
    backoff: Backoff,
    /// The ids of the containers that the filter matched in the last listing.
    matched: HashSet<String>,
    ended: EndedContainers,
    /// When the last event happened, by the engine's clock, in nanoseconds since the epoch.
    last_event: i64,
    /// Whether the engine answered the last subscription with an error.
    refused: bool,
}

/// The connection to the engine. Requests in flight are kept here, so that [`EngineWatcher::next`] is cancel safe.
enum Link {
    Disconnected,
    Connecting(PendingRequest<Engine>),
    Connected(EngineConnection),
}

struct EngineConnection {
    engine: Engine,
    since: Instant,
    events: EngineEvents,
    listing: Option<PendingRequest<Vec<ContainerSummary>>>,
}

enum Wake {
    Event(Option<EventResult>),
    ListingDue,
    Listed(Result<Vec<ContainerSummary>, String>),
}

impl EngineConnection {
    async fn wake(&mut self, due: Instant) -> Wake {
        let Self { events, listing, .. } = self;
        let list = async {
            match listing {
                Some(listing) => Wake::Listed(listing.await),
                None => {
                    sleep_until(due).await;
                    Wake::ListingDue
                }
            }
        };
        tokio::select! {
            biased;
            event = events.next() => Wake::Event(event),
            wake = list => wake,
        }
    }
}

impl EngineWatcher {
    /// Watches the containers that `filter` matches; connects to the engine when first polled.
    pub fn new(address: EngineAddress, filter: ContainerFilter, scope: Scope) -> Self {
        Self {
            address,
            filter,
            scope,
            link: Link::Disconnected,
            due: Instant::now(),
            listings: 0,
            relists: 0,
            backoff: RECONNECT,
            matched: HashSet::new(),
            ended: EndedContainers::default(),
            last_event: 0,
            refused: false,
        }
    }

    /// The next listing, or why the engine cannot be watched; the next call tries again. A lost connection that had
    /// worked is an error only if reconnecting fails: the engine may just have restarted. Cancel safe.
    ///
    /// The events are read only while this is polled. An open subscription that is not read blocks the engine once its
    /// socket is full, so [`close`](Self::close) a watcher that is no longer polled.
    pub async fn next(&mut self) -> Result<Listing, String> {
        loop {
            let failure = match &mut self.link {
                Link::Disconnected => {
                    sleep_until(self.due).await;
                    let address = self.address.clone();
                    self.link = Link::Connecting(Box::pin(async move { address.connect().await }));
                    continue;
                }
                Link::Connecting(connecting) => match connecting.await {
                    Ok(engine) => {
                        self.subscribe(engine);
                        continue;
                    }
                    Err(reason) => reason,
                },
                Link::Connected(connection) => match connection.wake(self.due).await {
                    Wake::ListingDue => {
                        connection.listing = Some(list(&self.address, &connection.engine, self.scope));
                        continue;
                    }
                    Wake::Event(Some(Ok(event))) => {
                        self.on_event(&event);
                        continue;
                    }
                    Wake::Event(Some(Err(error))) => {
                        self.refused = matches!(error, Error::DockerResponseServerError { .. });
                        self.address.explain(&error)
                    }
                    Wake::Event(None) => format!("the engine at {} closed its event stream", self.address),
                    Wake::Listed(Ok(containers)) => {
                        connection.listing = None;
                        let engine = connection.engine.clone();
                        return Ok(self.on_list(engine, containers));
                    }
                    Wake::Listed(Err(reason)) => reason,
                },
            };
            let worked = self.listings > 0 && !self.refused;
            debug!(engine = %self.address, reason = failure, "engine connection lost");
            self.disconnect();
            if !worked {
                return Err(failure);
            }
        }
    }

    /// Lists the containers now, for a decision that needs the present state.
    pub async fn list_now(&mut self) -> Result<Listing, String> {
        let listed = self.try_list().await;
        if listed.is_err() {
            self.disconnect();
        }
        listed
    }

    async fn try_list(&mut self) -> Result<Listing, String> {
        let engine = match &mut self.link {
            Link::Connected(connection) => {
                connection.listing = None; // it may be older than the decision
                connection.engine.clone()
            }
            Link::Disconnected | Link::Connecting(_) => {
                let engine = self.address.connect().await?;
                self.subscribe(engine.clone());
                engine
            }
        };
        let containers = list(&self.address, &engine, self.scope).await?;
        Ok(self.on_list(engine, containers))
    }

    /// Brings the next listing forward. While the engine is unreachable, it comes with the next connection.
    pub fn list_within(&mut self, delay: Duration) {
        if matches!(self.link, Link::Connected(_)) {
            self.due = self.due.min(Instant::now() + delay);
        }
    }

    /// Closes the connection. The next poll opens another one.
    pub fn close(&mut self) {
        self.link = Link::Disconnected;
    }

    fn subscribe(&mut self, engine: Engine) {
        self.ended.assume_restarted();
        (self.listings, self.relists) = (0, RELIST.len());
        let now = Instant::now();
        self.due = now + if std::mem::take(&mut self.refused) { AFTER_REFUSAL } else { GATHER };
        let events = Box::pin(subscription(&engine, self.last_event));
        self.link = Link::Connected(EngineConnection { engine, since: now, events, listing: None });
    }

    fn disconnect(&mut self) {
        if let Link::Connected(connection) = std::mem::replace(&mut self.link, Link::Disconnected)
            && connection.since.elapsed() > self.backoff.longest()
        {
            self.backoff.reset();
        }
        self.listings = 0;
        self.due = Instant::now() + self.backoff.next_delay();
    }

    fn on_event(&mut self, event: &EventMessage) {
        self.last_event = event.time_nano.unwrap_or(self.last_event);
        if self.note(event).is_some() {
            self.relists = RELIST.len();
            self.due = self.due.min(Instant::now() + GATHER);
        }
    }

    /// Notes an end or a start; `None` if the event does not concern the watched containers.
    fn note(&mut self, event: &EventMessage) -> Option<()> {
        let actor = event.actor.as_ref()?;
        let (attributes, id) = (actor.attributes.as_ref()?, actor.id.as_ref()?);
        if event.typ == Some(EventType::NETWORK) {
            return self.matched.contains(attributes.get("container")?).then_some(());
        }
        // A container's labels are among its attributes.
        if !self.filter.matches_event(attributes) {
            return None;
        }
        match event.action.as_deref()? {
            "die" => self.ended.on_die(id),
            "start" => self.ended.on_start(id, self.matched.contains(id)),
            _ => {}
        }
        Some(())
    }

    fn on_list(&mut self, engine: Engine, containers: Vec<ContainerSummary>) -> Listing {
        let running = containers.iter().filter(|container| is_running(container)).map(containers::id);
        let ended = self.ended.on_list(&running.collect());
        let matched = containers.iter().filter(|container| self.filter.matches(container));
        self.matched = matched.map(|container| containers::id(container).to_owned()).collect();
        let mut delay = self.relists.checked_sub(1).map_or(REGULAR, |next| RELIST[next]);
        self.relists = self.relists.saturating_sub(1);
        if !self.ended.0.is_empty() {
            delay = delay.min(UNTIL_LISTED);
        }
        if self.ended.0.len() < ended.len() {
            delay = GATHER;
        }
        self.due = Instant::now() + delay;
        self.listings += 1;
        Listing { engine, first: self.listings == 1, containers, ended }
    }
}

/// The ids of containers that have ended by their events and are still listed as running; with each, whether it has
/// started again.
#[derive(Debug, Default)]
struct EndedContainers(HashMap<String, bool>);

impl EndedContainers {
    fn on_die(&mut self, id: &str) {
        self.0.insert(id.to_owned(), false);
    }

    /// A listed container that starts again stays ended for one listing, however fast it was. A start without an end
    /// is the first one; the list may already have it.
    fn on_start(&mut self, id: &str, listed: bool) {
        match self.0.get_mut(id) {
            Some(restarted) if listed => *restarted = true,
            _ => _ = self.0.remove(id),
        }
    }

    /// After a reconnect: the start events may be lost.
    fn assume_restarted(&mut self) {
        self.0.values_mut().for_each(|restarted| *restarted = true);
    }

    /// Takes in which containers are listed as running; returns those of them that have ended.
    fn on_list(&mut self, running: &HashSet<&str>) -> HashSet<String> {
        self.0.retain(|id, _| running.contains(id.as_str()));
        let ended = self.0.keys().cloned().collect();
        self.0.retain(|_, restarted| !*restarted);
        ended
    }
}

/// Whether a container's process exists, according to the list.
fn is_running(container: &ContainerSummary) -> bool {
    matches!(container.state, Some(State::RUNNING | State::PAUSED | State::STOPPING))
}

fn list(address: &EngineAddress, engine: &Engine, scope: Scope) -> PendingRequest<Vec<ContainerSummary>> {
    let (address, engine) = (address.clone(), engine.clone());
    let options = ListContainersOptionsBuilder::default().all(scope == Scope::All).build();
    Box::pin(async move { address.within(engine.list_containers(Some(options))).await })
}

/// Subscribes to events: those of the last seconds again, but none older than `last_event`.
fn subscription(engine: &Engine, last_event: i64) -> impl Stream<Item = EventResult> + Send + use<> {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    let unread = Duration::from_nanos(u64::try_from(last_event).unwrap_or_default() + 1);
    // A clock that was set back must not suppress new events.
    let since = now.saturating_sub(RECENT).max(if unread < now { unread } else { Duration::ZERO });
    let filters = HashMap::from([("type", vec!["container", "network"]), ("event", EVENTS.to_vec())]);
    let options = EventsOptionsBuilder::default()
        .since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
        .filters(&filters)
        .build();
    engine.events(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ended: HashSet<String>) -> Vec<String> {
        let mut ids: Vec<_> = ended.into_iter().collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_container_counts_as_ended_until_the_list_shows_its_end() {
        let mut ended = EndedContainers::default();
        ended.on_die("a");
        for _ in 0..3 {
            assert_eq!(ids(ended.on_list(&HashSet::from(["a", "b"]))), ["a"]);
        }
        assert!(ended.on_list(&HashSet::from(["b"])).is_empty());
        assert!(ended.on_list(&HashSet::from(["a", "b"])).is_empty(), "it has started again");
    }

    #[test]
    fn a_restarted_container_has_ended_for_one_listing() {
        let mut ended = EndedContainers::default();
        ended.on_die("a");
        ended.on_start("a", true);
        assert_eq!(ids(ended.on_list(&HashSet::from(["a"]))), ["a"]);
        assert!(ended.on_list(&HashSet::from(["a"])).is_empty());
    }

    #[test]
    fn a_first_start_is_no_restart() {
        let mut ended = EndedContainers::default();
        ended.on_start("a", true);
        ended.on_die("b");
        ended.on_start("b", false);
        assert!(ended.on_list(&HashSet::from(["a", "b"])).is_empty());
    }

    #[test]
    fn after_a_reconnect_a_listed_container_counts_as_restarted() {
        let mut ended = EndedContainers::default();
        ended.on_die("a");
        ended.assume_restarted();
        assert_eq!(ids(ended.on_list(&HashSet::from(["a"]))), ["a"]);
        assert!(ended.on_list(&HashSet::from(["a"])).is_empty());
    }
}
