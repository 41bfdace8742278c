//! Reports to the service manager with sd_notify(3): that the process is ready, reloads or stops, a status line, and, with
//! `WatchdogSec=`, that it is alive. Outside systemd (without `$NOTIFY_SOCKET`) nothing is sent.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sd_notify::NotifyState::{
    self, ExtendTimeoutUsec, MainPid, Ready, Reloading, Status, Stopping, Watchdog,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use crate::admin::server::AdminSocket;
use crate::hand_over::service_manager as passed_sockets;
use crate::humanize::count;
use crate::overview::{Overview, Phase};
use crate::supervisor::Supervisor;

/// The interval at which the status line is updated.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// The time that stopping takes besides the drain: the last connections are reset, and the log is written.
const BESIDE_DRAIN: Duration = Duration::from_secs(10);

/// Reports that the process listens.
pub(super) fn ready(overview: &Overview) {
    send(&[Ready, Status(&status(overview))]);
}

/// Reports that a reload begins. `ready` reports its end, whether or not it was applied.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[Reloading, now, Status("reloading")]),
        Err(error) => warn!(%error, "the reload cannot be reported to the service manager"),
    }
}

/// Reports that the process stops, and that the drain may take `drain`.
pub(super) fn stopping(drain: Duration) {
    // Connects are refused once the process has closed its sockets, which it could not do if they were kept.
    if passed_sockets::is_present()
        && let Err(error) = passed_sockets::keep(&[])
    {
        warn!(%error, "the service manager still keeps the listening sockets");
    }
    // With less time, systemd would kill the process while connections may still finish.
    let micros = u32::try_from((drain + BESIDE_DRAIN).as_micros()).unwrap_or(u32::MAX);
    send(&[Stopping, ExtendTimeoutUsec(micros), Status("draining")]);
}

/// Lets the service manager keep the listening sockets, so that none is lost if the process crashes
/// (`FileDescriptorStoreMax=`).
pub(super) async fn keep_sockets(supervisor: &Supervisor, admin: Option<&AdminSocket>) {
    if !passed_sockets::is_present() {
        return;
    }
    let kept = async {
        let mut sockets = supervisor.listening_sockets().await?;
        sockets.extend(admin.map(AdminSocket::share).transpose()?);
        passed_sockets::keep(&sockets)
    };
    if let Err(error) = kept.await {
        warn!(%error, "the service manager cannot keep the listening sockets: a crash would lose them");
    }
}

/// Reports that another process is the service's main process now.
pub(super) fn main_process(pid: u32) {
    send(&[MainPid(pid)]);
}

/// Keeps the status line current, and feeds the watchdog if there is one, until the process ends.
pub(super) async fn follow(overview: Weak<Overview>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tokio::join!(keep_status(&overview), feed_watchdog(&overview));
}

async fn keep_status(overview: &Weak<Overview>) {
    let mut sent = String::new();
    let mut ticks = interval(STATUS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Some(overview) = overview.upgrade() else { return };
        let now = status(&overview);
        if now != sent {
            send(&[Status(&now)]);
            sent = now;
        }
    }
}

/// Reports twice in each interval of the watchdog that the process is alive: this runtime runs, and so does each worker.
async fn feed_watchdog(overview: &Weak<Overview>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval(limit / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Some(overview) = overview.upgrade() else { return };
        if alive(&overview, limit / 4).await {
            send(&[Watchdog]);
        } else {
            warn!("a worker does not answer: the service manager's watchdog gets no keepalive");
        }
    }
}

/// Whether every worker answers in time.
async fn alive(overview: &Arc<Overview>, within: Duration) -> bool {
    for worker in &overview.handles {
        if !timeout(within, worker.is_alive()).await.unwrap_or(false) {
            return false;
        }
    }
    true
}

/// One line for `systemctl status`.
fn status(overview: &Overview) -> String {
    let pools = overview.pools.load();
    let (mut up, mut all) = (0, 0);
    for pool in pools.values() {
        up += pool.snapshot().len();
        all += pool.status().members.len();
    }
    let open = count(overview.limit.open() as u64, "open connection");
    let phase = match overview.phase() {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Draining => "draining",
    };
    format!("{phase}: {open}, {up} of {} up", count(all as u64, "backend"))
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the process's state cannot be reported to the service manager ($NOTIFY_SOCKET)");
    }
}
