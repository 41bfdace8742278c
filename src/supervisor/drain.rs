//! Draining: no new connections, and the open ones finish within a time limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::{Supervisor, listener_task};
use crate::config::Drain;
use crate::domain::{CloseReason, Ending, Event};
use crate::overview::Phase;
use crate::proxy::progress::CloseRequest;
use crate::proxy::worker::Report;

/// Time between two counts of the open connections.
const POLL: Duration = Duration::from_millis(50);
/// Time between two reports of progress.
const REPORT: Duration = Duration::from_secs(1);
/// Time for connections to close once they are asked to. Each does so at its next turn; the limit is for a fault.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every connection finished by itself.
    Finished,
    /// The time was up, and connections were cut off.
    Cut,
}

impl Supervisor {
    /// Stops accepting, lets the open connections finish, and resets those that remain after the time limit, or at once
    /// when `hurry` resolves. `by` names the operator or the signal, for the log.
    pub(crate) async fn drain(mut self, by: Arc<str>, hurry: impl Future) -> Outcome {
        let limits = self.config.runtime.drain;
        self.overview.enter(Phase::Draining);
        // The replicas outlive this process, and are no longer managed.
        self.replicas.clear();
        self.overview.replicas.store(Arc::default());
        let open = self.report().await.open;
        // After a hand-over, another process accepts.
        let grace = if self.listeners.is_empty() { Duration::ZERO } else { limits.grace };
        let limits = Drain { grace, ..limits };
        let (grace_ms, timeout_ms) = (millis(limits.grace), millis(limits.timeout));
        self.overview.journal.record(Event::DrainStarted { by, open, grace_ms, timeout_ms });
        let finished = tokio::select! {
            finished = self.finish(limits) => finished,
            _ = hurry => {
                warn!("second stop signal: closing all connections");
                false
            }
        };
        if finished {
            self.overview.journal.record(Event::DrainDone { cut: None });
            return Outcome::Finished;
        }
        // A second signal may come before the listeners are closed.
        self.close_listeners();
        let cut = self.report().await.open;
        self.overview.journal.record(Event::DrainDone { cut: Some(cut) });
        self.cut_off().await;
        if cut == 0 { Outcome::Finished } else { Outcome::Cut }
    }

    /// Whether all connections finish within the time limit.
    async fn finish(&mut self, limits: Drain) -> bool {
        tokio::time::sleep(limits.grace).await;
        let start = Instant::now();
        self.close_listeners();
        let mut reported = Instant::now();
        loop {
            let report = self.report().await;
            if report.open == 0 && self.closing.is_empty() {
                return true;
            }
            if start.elapsed() >= limits.timeout {
                return false;
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                self.report_progress(report, limits.timeout.saturating_sub(start.elapsed()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops accepting, in the background: accepting the completed connections may have to wait for a permit of the
    /// process's limit.
    fn close_listeners(&mut self) {
        let listeners = std::mem::take(&mut self.listeners);
        self.closing
            .spawn(listener_task::close_all(listeners.into_iter().map(|(_, l)| l.listener_task).collect()));
        self.closing.close();
    }

    /// Resets the open connections, and those that are accepted meanwhile.
    async fn cut_off(&self) {
        // A FIN would make a truncated stream look complete.
        let request = CloseRequest { reason: CloseReason::DrainTimeout, how: Ending::Reset };
        let all_closed = async {
            loop {
                self.workers.iter().for_each(|worker| worker.handle().close_all(request));
                if self.report().await.open == 0 {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(CLOSE_TIME, all_closed).await.is_err() {
            warn!("some connections did not close in time; the process ends without their records");
        }
    }

    async fn report(&self) -> Report {
        let mut total = Report::default();
        for worker in self.workers.iter() {
            let one = worker.handle().report().await;
            total.open += one.open;
            total.oldest = total.oldest.max(one.oldest);
        }
        total
    }

    fn report_progress(&self, report: Report, left: Duration) {
        let oldest_ms = report.oldest.map(millis);
        let time_left_ms = millis(left);
        self.overview.journal.record(Event::DrainProgress { open: report.open, oldest_ms, time_left_ms });
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
