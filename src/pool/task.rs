//! A pool's task: feeds the pool state with what the sources, the checkers, live connections and operators report,
//! publishes its changes and carries out its effects.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use super::Pool;
use super::checkers::Checkers;
use super::input::{Effect, Input};
use super::message::Message;
use super::snapshot::{PoolSnapshot, PoolStatus};
use super::sources::Sources;
use super::state_machine::PoolState;
use super::totals::Former;
use crate::config;
use crate::domain::{BackendState, Event, Failure, ServingTier};
use crate::health::PoolPace;
use crate::state_directory::{Reply, SavedSettings};
use crate::telemetry::journal::Journal;

/// The maximum number of messages for one snapshot, so that other tasks get to run.
const AT_ONCE: u32 = 1024;

pub(super) struct Task {
    pool_state: PoolState,
    journal: Journal,
    pool: Arc<Pool>,
    sources: Sources,
    checkers: Checkers,
    /// The number of the current configuration.
    configuration: u64,
    /// The tier that was reported last.
    serving: Option<ServingTier>,
    /// Replies to operators, sent when their commands have taken effect.
    replies: Vec<Reply>,
    /// Where what operators set is saved.
    settings: SavedSettings,
    /// Replies that are sent when it is saved.
    replies_when_saved: Vec<Reply>,
    /// The counters of backends that are gone.
    former: Former,
}

impl Task {
    pub(super) fn new(
        pool: Arc<Pool>,
        pool_state: PoolState,
        journal: Journal,
        settings: SavedSettings,
        pace: PoolPace,
    ) -> Self {
        Self {
            pool_state,
            sources: Sources::new(pool.messages.clone()),
            checkers: Checkers::new(Arc::clone(&pool), journal.clone(), pool.messages.clone(), pace),
            journal,
            pool,
            configuration: 1,
            serving: None,
            replies: Vec::new(),
            settings,
            replies_when_saved: Vec::new(),
            former: Former::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut messages: mpsc::UnboundedReceiver<Message>,
        mut failures: mpsc::Receiver<(u64, Failure, u32)>,
    ) {
        self.run_sources();
        let mut removed = false;
        while !(removed && self.pool_state.members().is_empty()) {
            let deadline = self.pool_state.deadline(Instant::now());
            let mut event = tokio::select! {
                Some(message) = messages.recv() => self.event(message),
                Some((key, failure, in_a_row)) = failures.recv() => Input::Failed(key, failure, in_a_row),
                () = until(deadline), if deadline.is_some() => Input::Tick,
            };
            let (mut effects, mut reconfigured) = (Vec::new(), false);
            // All queued messages are handled before one snapshot is made: thousands of checks may end together.
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
            self.replies.drain(..).for_each(|reply| reply());
            let replies = std::mem::take(&mut self.replies_when_saved);
            if effects.iter().any(|effect| matches!(effect, Effect::SaveSettings)) {
                self.settings.save(self.pool_state.settings(), replies);
            } else {
                replies.into_iter().for_each(|reply| reply());
            }
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

    /// Handles what a message requires outside the pool state, and returns the input for the pool state.
    fn event(&mut self, message: Message) -> Input {
        match message {
            Message::Observed(source, number, observation) => {
                if !self.sources.is_current(&source, number) {
                    return Input::Tick;
                }
                self.pool.counters.resolved(observation.outcome.result());
                Input::Observed(source, observation)
            }
            Message::Checked(ended) => {
                // Its name may have become known since its checks began.
                let living = self.pool_state.living(ended.backend.key);
                if !self.checkers.record(&ended, living) {
                    return Input::Tick;
                }
                Input::Checked(ended.backend.key, ended.check, ended.checked.result)
            }
            Message::Reconfigured(number, config) => {
                self.configuration = number;
                self.reconfigure(&config);
                Input::Reconfigured(config)
            }
            Message::Command { key, command, by, done } => {
                self.replies_when_saved.push(Box::new(|| _ = done.send(())));
                Input::Command(key, command, by)
            }
            Message::HandOver { reply } => {
                let _ = reply.send(self.pool_state.hand_over(Instant::now()));
                Input::Tick
            }
            Message::Shown { done } => {
                self.reply_when_published(done, ());
                Input::Tick
            }
            Message::Added { found, done } => match self.pool_state.addable(&found) {
                Ok(()) => {
                    self.reply_when_published(done, Ok(()));
                    Input::Added(found)
                }
                Err(why) => {
                    let _ = done.send(Err(why));
                    Input::Tick
                }
            },
            Message::Withdrawn { key, operator, done } => match self.pool_state.removable(key) {
                Ok(address) => {
                    self.reply_when_published(done, Ok(()));
                    Input::Withdrawn(address, operator)
                }
                Err(why) => {
                    let _ = done.send(Err(why));
                    Input::Tick
                }
            },
            Message::OwnAddresses { own, done } => {
                self.reply_when_published(done, ());
                Input::OwnAddresses(own)
            }
            Message::Removed => {
                self.sources.run(&[], self.configuration);
                Input::Removed
            }
        }
    }

    /// Replies once the effects of the current message are visible.
    fn reply_when_published<T: Send + 'static>(&mut self, done: oneshot::Sender<T>, reply: T) {
        self.replies.push(Box::new(|| _ = done.send(reply)));
    }

    /// Applies a configuration to everything except the pool state.
    fn reconfigure(&mut self, config: &config::Pool) {
        let before = self.pool.settings();
        if before.health != config.health {
            self.checkers.change();
        }
        if (&before.shadow, before.balance) != (&config.shadow, config.balance) {
            // Counters are comparable only if they cover the same time.
            self.pool_state.members().iter().for_each(|member| member.backend.reset_pick_counters());
            self.pool.shadowed.store(shadowed_since_now(config));
        }
        self.pool.settings.store(Arc::new(config.clone()));
        self.run_sources();
    }

    /// Starts and stops sources according to the settings.
    fn run_sources(&mut self) {
        self.sources.run(&self.pool.settings.load().discover, self.configuration);
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
        self.former.keep(|name| members.iter().any(|member| **member.backend.series() == *name));
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
        let status = PoolStatus::new(members, self.pool_state.sources(), self.former.clone());
        self.pool.status.store(Arc::new(status));
        self.pool.up.send_if_modified(|before| std::mem::replace(before, up) != up);
        self.pool.published.send_replace(());
    }

    /// Reports which tier serves the pool's clients now, if that changed.
    fn report_serving_tier(&mut self) {
        if self.serving.is_none() && !self.pool_state.settled() {
            return; // at the start, the order in which checks end is irrelevant
        }
        let snapshot = self.pool.snapshot.load();
        let tier = snapshot.serving_tier();
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
            Effect::Check(backend) => self.checkers.start(&backend),
            Effect::Uncheck(key) => self.checkers.stop(key),
            Effect::CheckNow(key) => self.checkers.check_now(key),
            Effect::CheckSoon(key, check) => self.checkers.check_soon(key, check),
            Effect::QueryNow => self.sources.query_now(),
            Effect::SaveSettings => {} // done before
            Effect::DropSettings(saved, why) => saved.log_dropped(&self.pool.name, why),
        }
    }
}

/// The current time, if shadow algorithms are counted.
pub(super) fn shadowed_since_now(config: &config::Pool) -> Option<Arc<SystemTime>> {
    (!config.shadow.is_empty()).then(|| Arc::new(SystemTime::now()))
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
