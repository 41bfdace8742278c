//! A pool at work: runs its sources and checkers, feeds the pool state, does what it says, publishes the result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot, watch};

use super::counters::{Counters, observe};
use super::input::{Command, Effect, Input};
use super::snapshot::{PoolSnapshot, PoolStatus};
use super::state_machine::{NotAdded, NotRemoved, PoolState};
use super::totals::Former;
use super::{Backend, Pool, Queue};
use crate::config::{self, Source};
use crate::discovery::{self, Found, Observation, SourceKey};
use crate::domain::{BackendState, Event, Failure, ServingTier};
use crate::health::late::{self, Lateness};
use crate::health::{CheckError, Checked, Checker, Pace, PoolPace};
use crate::own::OwnAddresses;
use crate::telemetry::flow::Flows;
use crate::telemetry::journal::Journal;

/// So many failed connects may wait for the pool state; more would say nothing new.
const FAILURES_WAITING: usize = 256;
/// So much news makes one snapshot at most: others want their turn too.
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
    /// Answered when the effect of everything sent before it is visible.
    Shown {
        done: oneshot::Sender<()>,
    },
    Added {
        found: Found,
        done: oneshot::Sender<Result<(), NotAdded>>,
    },
    Withdrawn {
        key: u64,
        who: Arc<str>,
        done: oneshot::Sender<Result<(), NotRemoved>>,
    },
    Reconfigured(u64, Box<config::Pool>),
    OwnAddresses {
        own: Arc<OwnAddresses>,
        done: oneshot::Sender<()>,
    },
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
    /// Starts a pool in a process that listens on the addresses `own`. Its checks are scheduled by `pace`, and it
    /// reports events to the journal. Needs a tokio runtime.
    pub fn start(
        name: Arc<str>,
        config: &config::Pool,
        own: &Arc<OwnAddresses>,
        pace: &Arc<Pace>,
        journal: &Journal,
    ) -> Self {
        let (news, received) = mpsc::unbounded_channel();
        let (failures, failed) = mpsc::channel(FAILURES_WAITING);
        let pool_state = PoolState::new(Arc::clone(&name), config.clone(), Arc::clone(own));
        let pool = Arc::new(Pool {
            name,
            counters: Counters::default(),
            unserved: Flows::default(),
            queue: Queue::default(),
            snapshot: ArcSwap::from_pointee(PoolSnapshot::new(config, &[], None)),
            status: ArcSwap::from_pointee(PoolStatus::new(&[], Former::default())),
            settings: ArcSwap::from_pointee(config.clone()),
            settled: watch::Sender::new(0),
            wanted: AtomicU64::new(1),
            up: watch::Sender::new(0),
            shadowed: ArcSwapOption::new(since_now(config)),
            failures,
            news: news.clone(),
        });
        let task = Task {
            pool_state,
            journal: journal.clone(),
            pool: Arc::clone(&pool),
            news: news.clone(),
            sources: BTreeMap::new(),
            checkers: HashMap::new(),
            pace: pace.pool(),
            lateness: Lateness::default(),
            configuration: 1,
            serving: None,
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

    /// The process now listens on these addresses: backends at one of them are refused. The returned receiver resolves
    /// when no connection is routed to them any longer.
    pub fn refuse(&self, own: &Arc<OwnAddresses>) -> oneshot::Receiver<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.news.send(News::OwnAddresses { own: Arc::clone(own), done });
        when_done
    }

    /// Lets the backends go; running connections follow `on_leave`.
    pub fn remove(self) {
        let _ = self.news.send(News::Removed);
    }
}

struct Task {
    pool_state: PoolState,
    journal: Journal,
    pool: Arc<Pool>,
    news: mpsc::UnboundedSender<News>,
    sources: BTreeMap<SourceKey, (Source, u64, discovery::RunningSource)>,
    checkers: HashMap<u64, Vec<Checker>>,
    pace: PoolPace,
    lateness: Lateness,
    /// The number of the configuration in force.
    configuration: u64,
    /// The tier that was reported last.
    serving: Option<ServingTier>,
    /// Replies to operators, sent when their commands have taken effect.
    done: Vec<Box<dyn FnOnce() + Send>>,
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
        while !(removed && self.pool_state.members().is_empty()) {
            let deadline = self.pool_state.deadline(Instant::now());
            let mut event = tokio::select! {
                Some(news) = news.recv() => self.event(news),
                Some((key, failure, in_a_row)) = failures.recv() => Input::Failed(key, failure, in_a_row),
                () = until(deadline), if deadline.is_some() => Input::Tick,
            };
            let (mut effects, mut reconfigured) = (Vec::new(), false);
            // All that is known by now makes one snapshot: thousands of checks may end together.
            for handled in 1.. {
                removed |= matches!(event, Input::Removed);
                reconfigured |= matches!(event, Input::Reconfigured(_));
                self.pool_state.take_in(event, Instant::now(), &mut effects);
                if handled == AT_ONCE {
                    break;
                }
                event = match news.try_recv() {
                    Ok(news) => self.event(news),
                    Err(_) => match failures.try_recv() {
                        Ok((key, failure, in_a_row)) => Input::Failed(key, failure, in_a_row),
                        Err(_) => break,
                    },
                };
            }
            self.pool_state.follow(Instant::now(), &mut effects);
            self.pool.counters.failing(self.pool_state.sources_failing());
            if reconfigured || effects.iter().any(Effect::shows) {
                self.bury(&effects);
                self.publish();
            }
            self.done.drain(..).for_each(|done| done());
            for effect in effects {
                self.carry_out(effect);
            }
            self.report_serving_tier();
            if self.pool_state.settled() {
                let number = self.configuration;
                self.pool.settled.send_if_modified(|before| std::mem::replace(before, number) != number);
            }
        }
    }

    /// Notes what news means outside the pool state, and hands on the rest.
    fn event(&mut self, news: News) -> Input {
        match news {
            News::Observed(source, number, _) if self.sources.get(&source).is_none_or(|s| s.1 != number) => {
                Input::Tick // of a source that was replaced
            }
            News::Observed(source, _, observation) => {
                self.pool.counters.resolved(observation.outcome.result());
                Input::Observed(source, observation)
            }
            News::Checked { backend, round, check, checked } => {
                observe(&self.pool.counters.check, checked.took);
                self.note_delay(check, checked.waited);
                if round != self.round {
                    return Input::Tick; // it is a result of a check that the pool no longer has
                }
                let (result, kind, took) = (checked.result.clone(), checked.kind, checked.took);
                let noted = backend.checked(check, checked, Instant::now());
                // Its name may have become known since its checks began. If it has left meanwhile, nothing follows.
                let now = self.pool_state.living(backend.key);
                if noted.changed
                    && !matches!(result, Err(CheckError::Local(_)))
                    && let Some(backend) = now
                {
                    self.journal.record(Event::CheckResultChanged {
                        pool: Arc::clone(&self.pool.name),
                        backend: Arc::clone(&backend.name),
                        address: backend.address,
                        check: kind,
                        passed: result.is_ok(),
                        error: result.as_ref().err().map(|error| error.to_string().into()),
                        took_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
                    });
                }
                if let Err(CheckError::Local(error)) = &result
                    && noted.tell
                {
                    let name = &now.unwrap_or(&backend).name;
                    let (pool, backend) = (Arc::clone(&self.pool.name), Arc::clone(name));
                    self.journal.record(Event::CheckInconclusive { pool, backend, error: error.clone() });
                }
                Input::Checked(backend.key, check, result)
            }
            News::Reconfigured(number, config) => {
                self.configuration = number;
                self.round += u64::from(self.pool.settings.load().health != config.health);
                let before = self.pool.settings();
                if (&before.shadow, before.balance) != (&config.shadow, config.balance) {
                    // Only what was counted over the same time can be compared.
                    self.pool_state.members().iter().for_each(|member| member.backend.reset_pick_counters());
                    self.pool.shadowed.store(since_now(&config));
                }
                self.pool.settings.store(Arc::new((*config).clone()));
                self.start_sources();
                Input::Reconfigured(config)
            }
            News::Told { key, command, who, done } => {
                self.done.push(Box::new(|| _ = done.send(())));
                Input::Told(key, command, who)
            }
            News::Shown { done } => {
                self.done.push(Box::new(|| _ = done.send(())));
                Input::Tick
            }
            News::Added { found, done } => match self.pool_state.addable(&found) {
                Ok(()) => {
                    self.done.push(Box::new(|| _ = done.send(Ok(()))));
                    Input::Added(found)
                }
                Err(why) => {
                    let _ = done.send(Err(why));
                    Input::Tick
                }
            },
            News::Withdrawn { key, who, done } => match self.pool_state.removable(key) {
                Ok(address) => {
                    self.done.push(Box::new(|| _ = done.send(Ok(()))));
                    Input::Withdrawn(address, who)
                }
                Err(why) => {
                    let _ = done.send(Err(why));
                    Input::Tick
                }
            },
            News::OwnAddresses { own, done } => {
                self.done.push(Box::new(|| _ = done.send(())));
                Input::OwnAddresses(own)
            }
            News::Removed => {
                self.sources.clear();
                Input::Removed
            }
        }
    }

    /// Records how long a check waited for a place, and reports when checks begin to run late and when they are on time
    /// again.
    fn note_delay(&mut self, check: usize, waited: Duration) {
        observe(&self.pool.counters.check_delay, waited);
        let settings = self.pool.settings();
        let Some(health) = settings.health.get(check) else { return };
        let late = late::is_late(waited, health.every);
        if late {
            self.pool.counters.check_late();
        }
        let change = self.lateness.on(late, health.every, Instant::now());
        self.tell_lateness(change, waited);
    }

    fn tell_lateness(&self, change: Option<late::LatenessChange>, waited: Duration) {
        let pool = Arc::clone(&self.pool.name);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match change {
            None => {}
            Some(late::LatenessChange::Late) => {
                self.journal.record(Event::ChecksLate { pool, waited_ms: ms(waited) });
            }
            Some(late::LatenessChange::OnTime { after, checks }) => {
                self.journal.record(Event::ChecksOnTime { pool, after_ms: ms(after), checks });
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

    /// Counts changes of state, and keeps the totals of gone backends while there is one of their name.
    fn bury(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::CountState(backend, state) = effect {
                self.pool.counters.changed(backend, *state);
                if *state == BackendState::Gone {
                    self.former.bury(backend);
                }
            }
        }
        let members = self.pool_state.members();
        self.former.keep(|name| members.iter().any(|member| *member.backend.name == *name));
    }

    /// A changed snapshot must be out before anything else is done: connections that come meanwhile must not be
    /// sent to a backend that was just excluded.
    fn publish(&self) {
        let members = self.pool_state.members();
        let snapshot =
            PoolSnapshot::new(&self.pool.settings.load(), members, Some(&self.pool.snapshot.load()));
        let up = snapshot.len();
        self.pool.snapshot.store(Arc::new(snapshot));
        self.pool.queue.look_again();
        self.pool.status.store(Arc::new(PoolStatus::new(members, self.former.clone())));
        self.pool.up.send_if_modified(|before| std::mem::replace(before, up) != up);
    }

    /// Reports which tier serves the pool's clients now, if that changed.
    fn report_serving_tier(&mut self) {
        if self.serving.is_none() && !self.pool_state.settled() {
            return; // at the start, the order in which checks end is no news
        }
        let snapshot = self.pool.snapshot.load();
        let tier = match () {
            () if snapshot.is_empty() => ServingTier::None,
            () if snapshot.panic => ServingTier::All,
            () if snapshot.backups => ServingTier::Backups,
            () => ServingTier::Primaries,
        };
        let before = self.serving.replace(tier);
        // At the start, other events report this.
        if before == Some(tier)
            || before.is_none() && matches!(tier, ServingTier::None | ServingTier::Primaries)
        {
            return;
        }
        let up = self.pool_state.members().iter().filter(|member| member.state == BackendState::Up).count();
        let (pool, panic) = (Arc::clone(&self.pool.name), self.pool.settings.load().panic.0);
        self.journal.record(Event::ServingTierChanged {
            pool,
            tier,
            before,
            up,
            used: snapshot.len(),
            panic,
        });
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Report(event) => self.journal.record(event),
            Effect::CountState(..) | Effect::Reshape => {} // `publish` has shown it
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
                if self.checkers.is_empty() {
                    let change = self.lateness.end();
                    self.tell_lateness(change, Duration::ZERO);
                }
            }
            Effect::CheckNow(key) => {
                self.checkers.get(&key).into_iter().flatten().for_each(Checker::check_now);
            }
            Effect::CheckSoon(key, check) => {
                self.checkers.get(&key).and_then(|checkers| checkers.get(check)).map(Checker::check_soon);
            }
            Effect::AskNow => self.sources.values().for_each(|(.., running)| running.ask_now()),
        }
    }
}

/// From now on, if other algorithms are to be counted at all.
fn since_now(config: &config::Pool) -> Option<Arc<SystemTime>> {
    (!config.shadow.is_empty()).then(|| Arc::new(SystemTime::now()))
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
