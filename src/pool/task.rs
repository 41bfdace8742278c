//! A pool at work: runs its sources and checkers, feeds the keeper, does what it says, publishes the result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::counters::{Counters, observe};
use super::event::{Command, Effect, Event, Failure};
use super::keeper::Keeper;
use super::state::State;
use super::totals::Former;
use super::view::{Roster, View};
use super::{Backend, Pool, Queue};
use crate::config::{self, Source};
use crate::discovery::{self, Observation, Outcome, SourceKey};
use crate::health::{CheckError, Checked, Checker, Pace};
use crate::telemetry::flow::Flows;

/// So many failed connects may wait for the keeper; more would say nothing new.
const FAILURES_WAITING: usize = 256;
/// So much news makes one view at most: others want their turn too.
const AT_ONCE: u32 = 1024;

/// News for a pool's task.
#[derive(Debug)]
pub(super) enum News {
    /// Of the source of that number: one that was replaced may still be heard.
    Observed(SourceKey, u64, Observation),
    Checked {
        backend: Arc<Backend>,
        round: u64,
        check: usize,
        checked: Checked,
    },
    Told {
        key: u64,
        command: Command,
        who: Arc<str>,
        done: oneshot::Sender<()>,
    },
    Reconfigured(u64, Box<config::Pool>),
    Removed,
}

/// A running pool, held by the supervisor. Its task ends when it was removed and its last backend is gone, or
/// with the runtime.
#[derive(Debug)]
pub struct Handle {
    /// What the proxy sees of it.
    pub pool: Arc<Pool>,
    news: mpsc::UnboundedSender<News>,
    /// The configuration that it was told last.
    sent: config::Pool,
}

impl Handle {
    /// Starts a pool, whose checks keep to `pace`; needs a tokio runtime.
    pub fn start(name: Arc<str>, config: &config::Pool, pace: &Arc<Pace>) -> Self {
        let (news, received) = mpsc::unbounded_channel();
        let (failures, failed) = mpsc::channel(FAILURES_WAITING);
        let keeper = Keeper::new(config.clone());
        let pool = Arc::new(Pool {
            name,
            counters: Counters::default(),
            unserved: Flows::default(),
            queue: Queue::default(),
            view: ArcSwap::from_pointee(View::new(config, &[], None)),
            roster: ArcSwap::from_pointee(Roster::new(&[], Former::default())),
            settings: ArcSwap::from_pointee(config.clone()),
            settled: watch::Sender::new(0),
            wanted: AtomicU64::new(1),
            up: watch::Sender::new(0),
            failures,
            news: news.clone(),
        });
        let task = Task {
            keeper,
            pool: Arc::clone(&pool),
            news: news.clone(),
            sources: BTreeMap::new(),
            checkers: HashMap::new(),
            pace: Arc::clone(pace),
            configuration: 1,
            service: None,
            done: Vec::new(),
            round: 0,
            former: Former::default(),
        };
        tokio::spawn(task.run(received, failed));
        Self { pool, news, sent: config.clone() }
    }

    /// Takes another configuration from now on; what it does not change goes on undisturbed.
    pub fn reconfigure(&mut self, config: &config::Pool) {
        if self.sent != *config {
            self.sent.clone_from(config);
            let number = self.pool.wanted.fetch_add(1, Ordering::AcqRel) + 1;
            let _ = self.news.send(News::Reconfigured(number, Box::new(config.clone())));
        }
    }

    /// Lets the backends go; running connections follow `on_leave`.
    pub fn remove(self) {
        let _ = self.news.send(News::Removed);
    }
}

/// Who serves a pool's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Nobody,
    Primaries,
    Backups,
    /// Panic.
    All,
}

struct Task {
    keeper: Keeper,
    pool: Arc<Pool>,
    news: mpsc::UnboundedSender<News>,
    sources: BTreeMap<SourceKey, (Source, u64, discovery::Running)>,
    checkers: HashMap<u64, Vec<Checker>>,
    pace: Arc<Pace>,
    /// The number of the configuration in force.
    configuration: u64,
    /// Who served the pool's clients when that was told last.
    service: Option<Service>,
    /// Operators who wait for what they wanted to be done.
    done: Vec<oneshot::Sender<()>>,
    /// Counts how often the pool's checks have changed.
    round: u64,
    /// What the backends that are gone have counted.
    former: Former,
}

impl Task {
    async fn run(
        mut self,
        mut news: mpsc::UnboundedReceiver<News>,
        mut failures: mpsc::Receiver<(u64, Failure, u32)>,
    ) {
        self.start_sources();
        let mut removed = false;
        while !(removed && self.keeper.members().is_empty()) {
            let deadline = self.keeper.deadline(Instant::now());
            let mut event = tokio::select! {
                Some(news) = news.recv() => self.event(news),
                Some((key, failure, in_a_row)) = failures.recv() => Event::Failed(key, failure, in_a_row),
                () = until(deadline), if deadline.is_some() => Event::Tick,
            };
            let (mut effects, mut reconfigured) = (Vec::new(), false);
            // All that is known by now makes one view: thousands of checks may end together.
            for handled in 1.. {
                removed |= matches!(event, Event::Removed);
                reconfigured |= matches!(event, Event::Reconfigured(_));
                self.keeper.take_in(event, Instant::now(), &mut effects);
                if handled == AT_ONCE {
                    break;
                }
                event = match news.try_recv() {
                    Ok(news) => self.event(news),
                    Err(_) => match failures.try_recv() {
                        Ok((key, failure, in_a_row)) => Event::Failed(key, failure, in_a_row),
                        Err(_) => break,
                    },
                };
            }
            self.keeper.follow(Instant::now(), &mut effects);
            if reconfigured || effects.iter().any(Effect::shows) {
                self.bury(&effects);
                self.publish();
            }
            self.done.drain(..).for_each(|done| _ = done.send(()));
            for effect in effects {
                self.carry_out(effect);
            }
            self.tell_service();
            if self.keeper.settled() {
                let number = self.configuration;
                self.pool.settled.send_if_modified(|before| std::mem::replace(before, number) != number);
            }
        }
    }

    /// Notes what news means outside the keeper, and hands on the rest.
    fn event(&mut self, news: News) -> Event {
        match news {
            News::Observed(source, number, _) if self.sources.get(&source).is_none_or(|s| s.1 != number) => {
                Event::Tick // it answers a question that nobody asks any longer
            }
            News::Observed(source, _, observation) => {
                self.pool.counters.resolved(observation.outcome.result());
                Event::Observed(source, observation)
            }
            News::Checked { backend, round, check, checked } => {
                observe(&self.pool.counters.check, checked.took);
                if round != self.round {
                    return Event::Tick; // it is a result of a check that the pool no longer has
                }
                let result = checked.result.clone();
                let tell = backend.checked(check, checked, Instant::now());
                if let Err(CheckError::Local(error)) = &result
                    && tell
                {
                    warn!(pool = %self.pool.name, backend = %backend.name, error, "check without result, for a reason of our own");
                }
                Event::Checked(backend.key, check, result)
            }
            News::Reconfigured(number, config) => {
                self.configuration = number;
                self.round += u64::from(self.pool.settings.load().health != config.health);
                self.pool.settings.store(Arc::new((*config).clone()));
                self.start_sources();
                Event::Reconfigured(config)
            }
            News::Told { key, command, who, done } => {
                self.done.push(done);
                Event::Told(key, command, who)
            }
            News::Removed => {
                self.sources.clear();
                Event::Removed
            }
        }
    }

    /// Brings the running sources in line with the settings; one that did not change goes on.
    fn start_sources(&mut self) {
        let settings = self.pool.settings();
        self.sources.retain(|_, (source, ..)| settings.discover.contains(source));
        for source in &settings.discover {
            let key = SourceKey::from(source);
            if self.sources.contains_key(&key) {
                continue;
            }
            let (news, from, number) = (self.news.clone(), key.clone(), self.configuration);
            let sink = move |observation| {
                let _ = news.send(News::Observed(from.clone(), number, observation));
            };
            let running = discovery::start(source, Box::new(sink));
            self.sources.insert(key, (source.clone(), number, running));
        }
    }

    /// Keeps what those who are gone have counted, while somebody of their name is there.
    fn bury(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Changed { backend, to: State::Gone, .. } = effect {
                self.former.bury(backend);
            }
        }
        let members = self.keeper.members();
        self.former.keep(|name| members.iter().any(|member| *member.backend.name == *name));
    }

    /// A changed view must be out before anything else is done: connections that come meanwhile must not be
    /// sent to whom the keeper has just ruled out.
    fn publish(&self) {
        let members = self.keeper.members();
        let view = View::new(&self.pool.settings.load(), members, Some(&self.pool.view.load()));
        let up = view.len();
        self.pool.view.store(Arc::new(view));
        self.pool.queue.look_again();
        self.pool.roster.store(Arc::new(Roster::new(members, self.former.clone())));
        self.pool.up.send_if_modified(|before| std::mem::replace(before, up) != up);
    }

    /// Tells who serves the pool's clients now, if that is others than before.
    fn tell_service(&mut self) {
        if self.service.is_none() && !self.keeper.settled() {
            return; // whoever is checked first at a start is no news
        }
        let view = self.pool.view.load();
        let service = match () {
            () if view.is_empty() => Service::Nobody,
            () if view.panic => Service::All,
            () if view.backups => Service::Backups,
            () => Service::Primaries,
        };
        let pool = &self.pool.name;
        let up = self.keeper.members().iter().filter(|member| member.state == State::Up).count();
        match (self.service.replace(service), service) {
            (before, now) if before == Some(now) => {}
            (None, Service::Nobody | Service::Primaries) => {} // a start, of which more is told elsewhere
            (_, Service::Nobody) => {
                warn!(%pool, "no backend is up: clients of this pool are turned away until one is");
            }
            (_, Service::All) => {
                let (used, panic) = (view.len(), self.pool.settings.load().panic.0);
                warn!(%pool, up, used, panic, "panic: too few backends are up, so all are used");
            }
            (_, Service::Backups) => warn!(%pool, used = view.len(), "no primary is up: backups are used"),
            (Some(Service::All), _) => info!(%pool, up, "panic is over: enough backends are up"),
            (_, Service::Primaries) => info!(%pool, used = view.len(), "primaries are used again"),
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Changed { backend, from, to, cause } => self.tell(&backend, from, to, &cause),
            Effect::Check(backend) => {
                backend.check_anew();
                let settings = self.pool.settings();
                let start = |(index, health): (usize, &config::Health)| {
                    let (news, backend, address) = (self.news.clone(), Arc::clone(&backend), backend.address);
                    let (round, check) = (self.round, index);
                    let sink = move |checked| {
                        let backend = Arc::clone(&backend);
                        let _ = news.send(News::Checked { backend, round, check, checked });
                    };
                    Checker::start(address, health.clone(), &self.pace, Box::new(sink))
                };
                let checkers = settings.health.iter().enumerate().map(start).collect();
                self.checkers.insert(backend.key, checkers);
            }
            Effect::Uncheck(key) => {
                self.checkers.remove(&key);
            }
            Effect::Named(backend) => {
                info!(pool = %self.pool.name, backend = %backend.name, address = %backend.address, "backend named");
            }
            Effect::Weighed { backend, weight } => {
                info!(pool = %self.pool.name, backend = %backend.name, weight, "backend weight");
            }
            Effect::Reshape => {} // the view is out already
            Effect::Spared { backend, cause } => {
                warn!(pool = %self.pool.name, backend = %backend.name, cause = &*cause, "not ejected: as many are out as eject.at_most allows");
            }
            Effect::CheckNow(key) => {
                self.checkers.get(&key).into_iter().flatten().for_each(Checker::check_now);
            }
            Effect::Doubt(key) => {
                self.checkers.get(&key).and_then(|checkers| checkers.first()).iter().for_each(|c| c.doubt());
            }
            Effect::AskNow => self.sources.values().for_each(|(.., running)| running.ask_now()),
            Effect::Answers { source, trouble } => self.tell_answers(&source, trouble.as_ref()),
        }
    }

    fn tell(&self, backend: &Backend, from: State, to: State, cause: &str) {
        macro_rules! tell {
            ($level:ident, $message:literal) => {
                $level!(
                    pool = %self.pool.name,
                    backend = %backend.name,
                    address = %backend.address,
                    from = %from.name(),
                    to = %to.name(),
                    cause,
                    $message
                )
            };
        }
        match to {
            State::Joining => tell!(info, "backend joining"),
            State::Up => tell!(info, "backend up"),
            State::Down => tell!(warn, "backend down"),
            State::Ejected => tell!(warn, "backend ejected"),
            State::Draining => tell!(info, "backend draining"),
            State::Maintenance => tell!(info, "backend maintenance"),
            State::Gone => tell!(info, "backend gone"),
        }
    }

    fn tell_answers(&self, source: &SourceKey, trouble: Option<&Outcome>) {
        let pool = &self.pool.name;
        let Some((trouble, reason)) = trouble.and_then(|outcome| Some((outcome, outcome.trouble(source)?)))
        else {
            info!(%pool, source = &*source.to_string(), "resolved again");
            return;
        };
        warn!(%pool, source = &*source.to_string(), result = %trouble.result(), reason, "resolve failed");
    }
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
