//! The checkers of a pool's backends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::counters::observe;
use super::message::{CheckEnded, Message};
use super::{Backend, Pool};
use crate::domain::Event;
use crate::health::late::{self, Lateness, LatenessChange};
use crate::health::{CheckError, Checker, PoolPace};
use crate::telemetry::journal::Journal;

/// Starts and stops the checkers of a pool, and reports changed results. All results are sent to the pool's task.
pub(super) struct Checkers {
    pool: Arc<Pool>,
    journal: Journal,
    messages: mpsc::UnboundedSender<Message>,
    pace: PoolPace,
    /// By the key of the backend, in the order of the pool's checks.
    running: HashMap<u64, Vec<Checker>>,
    lateness: Lateness,
    /// How often the pool's checks have changed.
    round: u64,
}

impl Checkers {
    pub(super) fn new(
        pool: Arc<Pool>,
        journal: Journal,
        messages: mpsc::UnboundedSender<Message>,
        pace: PoolPace,
    ) -> Self {
        Self {
            pool,
            journal,
            messages,
            pace,
            running: HashMap::new(),
            lateness: Lateness::default(),
            round: 0,
        }
    }

    /// Replaces the pool's checks: results of the current ones no longer count.
    pub(super) fn change(&mut self) {
        self.round += 1;
    }

    /// Starts the checks of a backend, or restarts them with the settings in force.
    pub(super) fn start(&mut self, backend: &Arc<Backend>) {
        backend.discard_results();
        let settings = self.pool.settings();
        let checkers = settings.health.iter().enumerate().map(|(check, health)| {
            let (messages, checked_backend, round) = (self.messages.clone(), Arc::clone(backend), self.round);
            let sink = move |checked| {
                let backend = Arc::clone(&checked_backend);
                let _ = messages.send(Message::Checked(CheckEnded { backend, check, round, checked }));
            };
            Checker::start(&backend.address, health.clone(), &self.pace, Box::new(sink))
        });
        let checkers = checkers.collect();
        self.running.insert(backend.key, checkers);
    }

    /// Stops the checks of a backend.
    pub(super) fn stop(&mut self, key: u64) {
        self.running.remove(&key);
        if self.running.is_empty() {
            let change = self.lateness.end();
            self.report_lateness(change, Duration::ZERO);
        }
    }

    /// Checks a backend now.
    pub(super) fn check_now(&self, key: u64) {
        self.running.get(&key).into_iter().flatten().for_each(Checker::check_now);
    }

    /// Runs one check of a backend again after the fast interval.
    pub(super) fn check_soon(&self, key: u64, check: usize) {
        self.running.get(&key).and_then(|checkers| checkers.get(check)).map(Checker::check_soon);
    }

    /// Records the result of a check, and reports it if it differs from the last one. `living` is the backend with its
    /// current name, unless it has left. Returns whether the result counts: the pool may no longer have this check.
    pub(super) fn record(&mut self, ended: &CheckEnded, living: Option<&Arc<Backend>>) -> bool {
        let CheckEnded { backend, check, round, checked } = ended;
        observe(&self.pool.counters.check, checked.took);
        self.note_delay(*check, checked.waited);
        if *round != self.round {
            return false;
        }
        let noted = backend.checked(*check, checked.clone(), Instant::now());
        let pool = Arc::clone(&self.pool.name);
        if let Err(CheckError::Local(error)) = &checked.result {
            if noted.report {
                let backend = Arc::clone(&living.unwrap_or(backend).name);
                self.journal.record(Event::CheckInconclusive { pool, backend, error: error.clone() });
            }
        } else if noted.changed
            && let Some(backend) = living
        {
            self.journal.record(Event::CheckResultChanged {
                pool,
                backend: Arc::clone(&backend.name),
                address: backend.address.clone(),
                check: checked.kind,
                passed: checked.result.is_ok(),
                error: checked.result.as_ref().err().map(|error| error.to_string().into()),
                took_ms: (checked.took.as_secs_f64() * 1e6).round() / 1e3,
            });
        }
        true
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

    fn report_lateness(&self, change: Option<LatenessChange>, waited: Duration) {
        let pool = Arc::clone(&self.pool.name);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match change {
            None => {}
            Some(LatenessChange::Late) => {
                self.journal.record(Event::ChecksLate { pool, waited_ms: ms(waited) });
            }
            Some(LatenessChange::OnTime { after, checks }) => {
                self.journal.record(Event::ChecksOnTime { pool, after_ms: ms(after), checks });
            }
        }
    }
}
