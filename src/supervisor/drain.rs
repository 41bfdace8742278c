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
use crate::telemetry::filter::ConnectionFilter;

/// Time between two counts of the open connections.
const POLL: Duration = Duration::from_millis(50);
/// Time between two reports of progress: every second at first, later less often, as a drain of an hour needs no 3,600 lines.
const REPORT: Duration = Duration::from_secs(1);
/// The part of the time so far that passes until the next report.
const REPORT_SHARE: u32 = 20;
/// Time for connections to close once they are asked to. Each does so at its next turn; the limit is for a fault.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// A FIN would make a truncated stream look complete.
const CUT: CloseRequest = CloseRequest { reason: CloseReason::DrainTimeout, how: Ending::Reset };

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
        // A second signal may come before the listeners are closed.
        self.close_listeners();
        let report = self.report().await;
        let cut = report.open + report.cut;
        let done = if finished && cut == 0 { None } else { Some(cut) };
        self.overview.journal.record(Event::DrainDone { cut: done });
        if !finished {
            self.cut_off().await;
        }
        self.kernel_plane.end().await;
        if cut == 0 { Outcome::Finished } else { Outcome::Cut }
    }

    /// Whether all connections have ended within the time limit.
    async fn finish(&mut self, limits: Drain) -> bool {
        tokio::time::sleep(limits.grace).await;
        let start = Instant::now();
        let deadline = start + limits.timeout;
        self.overview.drains_until(deadline);
        self.close_listeners();
        let (mut next_report, mut cutting) = (REPORT, false);
        loop {
            let Report { open, .. } = self.report().await;
            if open == 0 && self.closing.is_empty() {
                return true;
            }
            let elapsed = start.elapsed();
            if elapsed >= limits.timeout {
                return false;
            }
            if !cutting && elapsed + limits.spread_time() >= limits.timeout {
                cutting = true;
                let over = limits.timeout - elapsed;
                self.overview.handles.iter().for_each(|worker| worker.close_over(CUT, over));
            }
            if elapsed >= next_report {
                next_report = elapsed + REPORT.max(elapsed / REPORT_SHARE);
                let left = Some(limits.timeout - elapsed);
                let forecast = self.overview.forecast_drain(ConnectionFilter::default(), left).await;
                self.overview.journal.record(Event::DrainProgress { forecast });
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
        let all_closed = async {
            loop {
                self.overview.handles.iter().for_each(|worker| worker.close_all(CUT));
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

    /// The sums of what the workers report, and the number of the next connection.
    pub(super) async fn report(&self) -> Report {
        let mut total = Report::default();
        for worker in &self.overview.handles {
            let one = worker.report().await;
            total.open += one.open;
            total.cut += one.cut;
            total.next_conn = total.next_conn.max(one.next_conn);
        }
        total
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
