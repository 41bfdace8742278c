//! The orderly end: nobody new is let in, running connections finish, within a time limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::{Supervisor, listener_task};
use crate::config::Drain;
use crate::domain::{CloseReason, Ending, Event};
use crate::overview::Phase;
use crate::proxy::progress::End;
use crate::proxy::worker::Report;

/// How often it is looked whether connections remain, and how often that is logged.
const LOOK: Duration = Duration::from_millis(50);
const TELL: Duration = Duration::from_secs(1);
/// How long connections that were told to end may take for it.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every connection finished by itself.
    Finished,
    /// The time was up, and connections were cut off.
    Cut,
}

impl Supervisor {
    /// Stops accepting, lets the running connections finish, and ends those that do not in time, or at once when
    /// `hurry` is done. `who` wants it, for the log.
    pub async fn drain(mut self, who: Arc<str>, hurry: impl Future) -> Outcome {
        let limits = self.config.runtime.drain;
        self.overview.enter(Phase::Draining);
        // They outlive this process, and their number is not its business any longer.
        self.replicas.clear();
        self.overview.replicas.store(Arc::default());
        let open = self.report().await.open;
        let (grace_ms, timeout_ms) = (millis(limits.grace), millis(limits.timeout));
        self.overview.journal.record(Event::DrainStarted { by: who, open, grace_ms, timeout_ms });
        let finished = tokio::select! {
            finished = self.finish(limits) => finished,
            _ = hurry => {
                warn!("told a second time: ending at once");
                false
            }
        };
        if finished {
            self.overview.journal.record(Event::DrainDone { cut: None });
            return Outcome::Finished;
        }
        let cut = self.report().await.open;
        self.overview.journal.record(Event::DrainDone { cut: Some(cut) });
        self.cut_off().await;
        if cut == 0 { Outcome::Finished } else { Outcome::Cut }
    }

    /// Returns when everything has finished, or the time is up; says which.
    async fn finish(&mut self, limits: Drain) -> bool {
        tokio::time::sleep(limits.grace).await;
        let began = Instant::now();
        // Taking in what the kernel has let in already may itself have to wait for connections to end.
        let listeners = std::mem::take(&mut self.listeners);
        self.going
            .spawn(listener_task::close_all(listeners.into_values().map(|l| l.listener_task).collect()));
        self.going.close();
        let mut told = Instant::now();
        loop {
            let report = self.report().await;
            if report.open == 0 && self.going.is_empty() {
                return true;
            }
            if began.elapsed() >= limits.timeout {
                return false;
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                self.tell_progress(report, limits.timeout.saturating_sub(began.elapsed()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn cut_off(&self) {
        // A FIN would make a truncated stream look complete.
        let end = End { reason: CloseReason::DrainTimeout, how: Ending::Reset };
        let until = Instant::now() + LAST_WORDS;
        loop {
            self.workers.iter().for_each(|worker| worker.handle().end_all(end));
            if self.report().await.open == 0 || Instant::now() >= until {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn report(&self) -> Report {
        let mut total = Report::default();
        for worker in self.workers.iter() {
            let one = worker.handle().report().await;
            total.open += one.open;
            total.oldest = total.oldest.into_iter().chain(one.oldest).min();
        }
        total
    }

    fn tell_progress(&self, report: Report, left: Duration) {
        let oldest_ms = report.oldest.map(|at| millis(at.elapsed()));
        let time_left_ms = millis(left);
        self.overview.journal.record(Event::DrainProgress { open: report.open, oldest_ms, time_left_ms });
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
