//! A pool's task: runs the sources and checkers, feeds the pool state, publishes its changes and carries out its
//! effects.

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

/// The limit of queued failures of live connections; more would not change the result.
const FAILURES_WAITING: usize = 256;
/// The limit of messages for one snapshot, so that other tasks get to run.
const AT_ONCE: u32 = 1024;

/// A message to a pool's task.
#[derive(Debug)]
pub(super) enum Message {
    /// An observation of a source, with the number of the source: a replaced one may still have messages in the queue.
    Observed(SourceKey, u64, Observation),
    Checked {
        backend: Arc<Backend>,
        round: u64,
        check: usize,
        checked: Checked,
    },
    Command {
        key: u64,
        command: Command,
        operator: Arc<str>,
        done: oneshot::Sender<()>,
    },
    /// Replied to when the effects of all earlier messages are visible.
    Shown {
        done: oneshot::Sender<()>,
    },
    Added {
        found: Found,
        done: oneshot::Sender<Result<(), NotAdded>>,
    },
    Withdrawn {
        key: u64,
        operator: Arc<str>,
        done: oneshot::Sender<Result<(), NotRemoved>>,
    },
    Reconfigured(u64, Box<config::Pool>),
    OwnAddresses {
        own: Arc<OwnAddresses>,
        done: oneshot::Sender<()>,
    },
    Removed,
}

/// A running pool, held by the supervisor. Its task ends when the pool is removed and its last backend is gone, or with
/// the runtime.
#[derive(Debug)]
pub struct Handle {
    /// The pool as the proxy uses it.
    pub pool: Arc<Pool>,
    messages: mpsc::UnboundedSender<Message>,
    /// The configuration that was sent last.
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
        let (messages, received) = mpsc::unbounded_channel();
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
            messages: messages.clone(),
        });
        let task = Task {
            pool_state,
            journal: journal.clone(),
            pool: Arc::clone(&pool),
            messages: messages.clone(),
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
        Self { pool, messages, sent: config.clone() }
    }

    /// Applies another configuration; unchanged parts continue without interruption.
    pub fn reconfigure(&mut self, config: &config::Pool) {
        if self.sent != *config {
            self.sent.clone_from(config);
            let number = self.pool.wanted.fetch_add(1, Ordering::AcqRel) + 1;
            let _ = self.messages.send(Message::Reconfigured(number, Box::new(config.clone())));
        }
    }

    /// The process now listens on these addresses: backends at one of them are refused. The returned receiver resolves
    /// when connections are no longer routed to them.
    pub fn refuse(&self, own: &Arc<OwnAddresses>) -> oneshot::Receiver<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.messages.send(Message::OwnAddresses { own: Arc::clone(own), done });
        when_done
    }

    /// Removes the pool; open connections follow `on_leave`.
    pub fn remove(self) {
        let _ = self.messages.send(Message::Removed);
    }
}

struct Task {
    pool_state: PoolState,
    journal: Journal,
    pool: Arc<Pool>,
    messages: mpsc::UnboundedSender<Message>,
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
    /// The number of changes of the pool's checks.
    round: u64,
    /// The counters of backends that are gone.
    former: Former,
}

impl Task {
    async fn run(
        mut self,
        mut messages: mpsc::UnboundedReceiver<Message>,
        mut failures: mpsc::Receiver<(u64, Failure, u32)>,
    ) {
        self.start_sources();
        let mut removed = false;
        while !(removed && self.pool_state.members().is_empty()) {
            let deadline = self.pool_state.deadline(Instant::now());
            let mut event = tokio::select! {
                Some(message) = messages.recv() => self.event(message),
                Some((key, failure, in_a_row)) = failures.recv() => Input::Failed(key, failure, in_a_row),
                () = until(deadline), if deadline.is_some() => Input::Tick,
            };
            let (mut effects, mut reconfigured) = (Vec::new(), false);
            // All queued messages make one snapshot: thousands of checks may end together.
            for handled in 1.. {
                removed |= matches!(event, Input::Removed);
                reconfigured |= matches!(event, Input::Reconfigured(_));
                self.pool_state.take_in(event, Instant::now(), &mut effects);
                if handled == AT_ONCE {
                    break;
                }
                event = match messages.try_recv() {
                    Ok(message) => self.event(message),
                    Err(_) => match failures.try_recv() {
                        Ok((key, failure, in_a_row)) => Input::Failed(key, failure, in_a_row),
                        Err(_) => break,
                    },
                };
            }
            self.pool_state.follow(Instant::now(), &mut effects);
            self.pool.counters.failing(self.pool_state.sources_failing());
            if reconfigured || effects.iter().any(Effect::shows) {
                self.count_states(&effects);
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

    /// Does what a message requires outside the pool state, and returns the input for the pool state.
    fn event(&mut self, message: Message) -> Input {
        match message {
            Message::Observed(source, number, _)
                if self.sources.get(&source).is_none_or(|s| s.1 != number) =>
            {
                Input::Tick // from a source that was replaced
            }
            Message::Observed(source, _, observation) => {
                self.pool.counters.resolved(observation.outcome.result());
                Input::Observed(source, observation)
            }
            Message::Checked { backend, round, check, checked } => {
                observe(&self.pool.counters.check, checked.took);
                self.note_delay(check, checked.waited);
                if round != self.round {
                    return Input::Tick; // the pool no longer has this check
                }
                let (result, kind, took) = (checked.result.clone(), checked.kind, checked.took);
                let noted = backend.checked(check, checked, Instant::now());
                // Its name may have become known since its checks began; `None`: it has left.
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
                    && noted.report
                {
                    let name = &now.unwrap_or(&backend).name;
                    let (pool, backend) = (Arc::clone(&self.pool.name), Arc::clone(name));
                    self.journal.record(Event::CheckInconclusive { pool, backend, error: error.clone() });
                }
                Input::Checked(backend.key, check, result)
            }
            Message::Reconfigured(number, config) => {
                self.configuration = number;
                self.round += u64::from(self.pool.settings.load().health != config.health);
                let before = self.pool.settings();
                if (&before.shadow, before.balance) != (&config.shadow, config.balance) {
                    // Counters are comparable only if they cover the same time.
                    self.pool_state.members().iter().for_each(|member| member.backend.reset_pick_counters());
                    self.pool.shadowed.store(since_now(&config));
                }
                self.pool.settings.store(Arc::new((*config).clone()));
                self.start_sources();
                Input::Reconfigured(config)
            }
            Message::Command { key, command, operator, done } => {
                self.done.push(Box::new(|| _ = done.send(())));
                Input::Command(key, command, operator)
            }
            Message::Shown { done } => {
                self.done.push(Box::new(|| _ = done.send(())));
                Input::Tick
            }
            Message::Added { found, done } => match self.pool_state.addable(&found) {
                Ok(()) => {
                    self.done.push(Box::new(|| _ = done.send(Ok(()))));
                    Input::Added(found)
                }
                Err(why) => {
                    let _ = done.send(Err(why));
                    Input::Tick
                }
            },
            Message::Withdrawn { key, operator, done } => match self.pool_state.removable(key) {
                Ok(address) => {
                    self.done.push(Box::new(|| _ = done.send(Ok(()))));
                    Input::Withdrawn(address, operator)
                }
                Err(why) => {
                    let _ = done.send(Err(why));
                    Input::Tick
                }
            },
            Message::OwnAddresses { own, done } => {
                self.done.push(Box::new(|| _ = done.send(())));
                Input::OwnAddresses(own)
            }
            Message::Removed => {
                self.sources.clear();
                Input::Removed
            }
        }
    }

    /// Records how long a check waited for a slot, and reports when checks begin to run late and when they are on time
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
        self.report_lateness(change, waited);
    }

    fn report_lateness(&self, change: Option<late::LatenessChange>, waited: Duration) {
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

    /// Starts and stops sources according to the settings; unchanged ones continue.
    fn start_sources(&mut self) {
        let settings = self.pool.settings();
        self.sources.retain(|_, (source, ..)| settings.discover.contains(source));
        for source in &settings.discover {
            let key = SourceKey::from(source);
            if self.sources.contains_key(&key) {
                continue;
            }
            let (messages, from, number) = (self.messages.clone(), key.clone(), self.configuration);
            let sink = move |observation| {
                let _ = messages.send(Message::Observed(from.clone(), number, observation));
            };
            let running = discovery::start(source, Box::new(sink));
            self.sources.insert(key, (source.clone(), number, running));
        }
    }

    /// Counts changes of state, and keeps the totals of gone backends while another backend has their name.
    fn count_states(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::CountState(backend, state) = effect {
                self.pool.counters.changed(backend, *state);
                if *state == BackendState::Gone {
                    self.former.add(backend);
                }
            }
        }
        let members = self.pool_state.members();
        self.former.keep(|name| members.iter().any(|member| *member.backend.name == *name));
    }

    /// Publishes a changed snapshot. This comes before all other effects: new connections must not be sent to a backend
    /// that was just excluded.
    fn publish(&self) {
        let members = self.pool_state.members();
        let snapshot =
            PoolSnapshot::new(&self.pool.settings.load(), members, Some(&self.pool.snapshot.load()));
        let up = snapshot.len();
        self.pool.snapshot.store(Arc::new(snapshot));
        self.pool.queue.notify_first();
        self.pool.status.store(Arc::new(PoolStatus::new(members, self.former.clone())));
        self.pool.up.send_if_modified(|before| std::mem::replace(before, up) != up);
    }

    /// Reports which tier serves the pool's clients now, if that changed.
    fn report_serving_tier(&mut self) {
        if self.serving.is_none() && !self.pool_state.settled() {
            return; // at the start, the order in which checks end is irrelevant
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
            Effect::CountState(..) | Effect::Reshape => {} // `publish` has applied it
            Effect::Check(backend) => {
                backend.discard_results();
                let settings = self.pool.settings();
                let start = |(index, health): (usize, &config::Health)| {
                    let (messages, backend, address) =
                        (self.messages.clone(), Arc::clone(&backend), backend.address);
                    let (round, check) = (self.round, index);
                    let sink = move |checked| {
                        let backend = Arc::clone(&backend);
                        let _ = messages.send(Message::Checked { backend, round, check, checked });
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
                    self.report_lateness(change, Duration::ZERO);
                }
            }
            Effect::CheckNow(key) => {
                self.checkers.get(&key).into_iter().flatten().for_each(Checker::check_now);
            }
            Effect::CheckSoon(key, check) => {
                self.checkers.get(&key).and_then(|checkers| checkers.get(check)).map(Checker::check_soon);
            }
            Effect::QueryNow => self.sources.values().for_each(|(.., running)| running.query_now()),
        }
    }
}

/// The present time, if other algorithms are counted.
fn since_now(config: &config::Pool) -> Option<Arc<SystemTime>> {
    (!config.shadow.is_empty()).then(|| Arc::new(SystemTime::now()))
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
