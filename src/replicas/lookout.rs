//! When the engine is looked at, and whether it answers: at its events, at a moment after each of them, and now and then.
//! What follows from what is seen is not decided here.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::EventMessage;
use futures_util::{Stream, StreamExt};
use tracing::{debug, info, warn};

use super::containers::{List, Yard};
use super::fleet::Life;
use crate::config::Replicas;
use crate::domain::cause::{LONGEST, bounded};

/// Events this close together make one look.
const GATHER: Duration = Duration::from_millis(20);
/// What an event tells of may reach the engine's list a moment later: these pauses are made before one more look.
const ONCE_MORE: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(100)];
/// While the list has somebody running who has ended by what an event told, it is looked this often.
const UNTIL_KNOWN: Duration = Duration::from_millis(200);
/// While nothing happens it is looked this often.
const EVERY: Duration = Duration::from_secs(30);
/// From one try to reach the engine to the next: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often it is told that the engine cannot be asked.
const TELL: Duration = Duration::from_secs(60);

/// What happens at an engine.
type Events = dyn Stream<Item = Result<EventMessage, Error>> + Send;
/// One thing that happened there; `None`: no more is heard.
pub(super) type Happened = Option<Result<EventMessage, Error>>;

/// Who looks at an engine.
pub(super) struct Lookout {
    /// Whose replicas it looks for.
    pool: Arc<str>,
    /// What those that are started are marked with.
    instance: Arc<str>,
    /// The engine, while it answers.
    yard: Option<Yard>,
    events: Option<Pin<Box<Events>>>,
    look_at: Instant,
    /// So many more looks are due soon after the next one, as something has happened.
    looks: usize,
    /// The ids of those that have ended, by what events tell, and still run, by what the list tells: on a busy machine
    /// that can be seconds.
    ended: HashSet<String>,
    retry: Duration,
    /// Why the engine cannot be asked.
    trouble: Option<String>,
    /// When that was told last.
    told: Option<Instant>,
}

impl Lookout {
    /// Looks for the replicas of that pool, at once.
    pub(super) fn new(pool: Arc<str>, instance: Arc<str>) -> Self {
        Self {
            pool,
            instance,
            yard: None,
            events: None,
            look_at: Instant::now(),
            looks: ONCE_MORE.len(),
            ended: HashSet::new(),
            retry: RETRY.0,
            trouble: None,
            told: None,
        }
    }

    /// The engine, while it answers.
    pub(super) fn yard(&self) -> Option<&Yard> {
        self.yard.as_ref()
    }

    /// Why the engine cannot be asked; `None`: it can.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// When to look next.
    pub(super) fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Looks at once, for another configuration.
    pub(super) fn begin_anew(&mut self) {
        self.unsubscribe();
        self.look_at = Instant::now();
    }

    /// Closes the connection to the engine's events. The next poll opens a new one.
    pub(super) fn unsubscribe(&mut self) {
        (self.yard, self.events) = (None, None);
    }

    /// Looks at the engine; why that is not possible, otherwise.
    pub(super) async fn look(&mut self, config: &Arc<Replicas>) -> Result<(Yard, List), String> {
        let held = self.events.is_some();
        let looked = self.try_look(config).await;
        let pause = match &looked {
            Ok(_) => {
                if self.trouble.take().is_some() {
                    info!(pool = %self.pool, "replicas: the engine answers again");
                }
                // A list alone is not enough: whoever forbids the events would be asked again and again.
                if held {
                    (self.retry, self.told) = (RETRY.0, None);
                }
                let pause = self.looks.checked_sub(1).map_or(EVERY, |next| ONCE_MORE[next]);
                self.looks = self.looks.saturating_sub(1);
                if self.ended.is_empty() { pause } else { pause.min(UNTIL_KNOWN) }
            }
            Err(reason) => {
                self.unsubscribe();
                if self.told.is_none_or(|told| told.elapsed() >= TELL) {
                    self.told = Some(Instant::now());
                    warn!(pool = %self.pool, reason, "replicas: nothing can be started or stopped");
                }
                self.trouble = Some(reason.clone());
                self.patience()
            }
        };
        self.look_at = Instant::now() + pause;
        looked
    }

    async fn try_look(&mut self, config: &Arc<Replicas>) -> Result<(Yard, List), String> {
        let yard = match &self.yard {
            Some(yard) => yard.clone(),
            None => {
                let yard = Yard::open(config, &self.instance).await?;
                debug!(pool = %self.pool, network = yard.network(), "replicas: engine found");
                self.events = Some(Box::pin(yard.events()));
                self.yard = Some(yard.clone());
                // An event that the subscription came too late for is made up for by one more look.
                self.looks = ONCE_MORE.len();
                yard
            }
        };
        let list = yard.list().await?;
        let runs = |id: &str| list.sightings.iter().any(|seen| *seen.id == *id && seen.life == Life::Running);
        self.ended.retain(|id| runs(id));
        Ok((yard, list))
    }

    /// The next event; never, while the engine is away. May be dropped while it waits.
    pub(super) async fn event(&mut self) -> Happened {
        match &mut self.events {
            Some(events) => events.next().await,
            None => std::future::pending().await,
        }
    }

    /// Takes in what happened: when to look next.
    pub(super) fn heed(&mut self, event: Happened) {
        let concerned = |event: &EventMessage| self.yard.as_ref().is_some_and(|yard| yard.concerns(event));
        match event {
            Some(Ok(event)) if concerned(&event) => {
                match (event.action.as_deref(), event.actor.and_then(|actor| actor.id)) {
                    (Some("die"), Some(id)) => _ = self.ended.insert(id),
                    (Some("start"), Some(id)) => _ = self.ended.remove(&id),
                    _ => {}
                }
                self.looks = ONCE_MORE.len();
                self.look_at = self.look_at.min(Instant::now() + GATHER);
            }
            Some(Ok(_)) => {}
            ended => {
                self.unsubscribe();
                let reason = match ended {
                    Some(Err(error)) => bounded(&error.to_string(), LONGEST),
                    _ => "the stream has ended".to_owned(),
                };
                debug!(pool = %self.pool, reason, "replicas: the engine's events cannot be followed");
                self.look_at = Instant::now() + self.patience();
            }
        }
    }

    /// The pause before the engine is tried again, which grows.
    fn patience(&mut self) -> Duration {
        let pause = self.retry;
        self.retry = (self.retry * 2).min(RETRY.1);
        pause
    }
}
