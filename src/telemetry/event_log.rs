//! The log line of each event. Messages and field names are stable: tools match them.

use std::time::Duration;

use humantime::format_duration;
use tracing::field::display;
use tracing::{debug, error, info, warn};

use crate::domain::{
    AdminState, BackendState, ConfigProblem, DrainForecast, Endpoint, Event, ListenerState, ServingTier,
    SocketAddress, Trouble,
};

impl Event {
    /// Writes its line to the log.
    pub(super) fn log(&self) {
        match self {
            Self::StateChanged { pool, backend, address, from, to, reason } => {
                state_changed(pool, backend, address, *from, *to, &reason.text());
            }
            Self::BackendNamed { pool, backend, address } => {
                info!(%pool, %backend, %address, "backend named");
            }
            Self::WeightChanged { pool, backend, weight } => info!(%pool, %backend, weight, "backend weight"),
            Self::EjectionSuppressed { pool, backend, reason } => {
                warn!(%pool, %backend, cause = &*reason.text(), "not ejected: the limit eject.at_most is reached");
            }
            Self::ServingTierChanged { pool, tier, before, up, used, panic } => {
                serving_tier(pool, *tier, *before, [*up, *used], *panic);
            }
            Self::ResolverStatusChanged { pool, source, trouble: None } => {
                info!(%pool, source = &**source, "resolved again");
            }
            Self::ResolverStatusChanged { pool, source, trouble: Some(Trouble { result, reason }) } => {
                warn!(%pool, source = &**source, %result, reason = &**reason, "resolve failed");
            }
            Self::EndpointsChanged { pool, source, result, backends, new, missing } => {
                let [new, missing] = [new, missing]
                    .map(|all| all.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(", "));
                debug!(%pool, source = &**source, %result, backends, new, missing, "discovered");
            }
            Self::CheckResultChanged { pool, backend, address, check, passed, error, took_ms } => {
                let error = error.as_deref();
                debug!(%pool, %backend, %address, %check, passed, error, took_ms, "check changed");
            }
            Self::CheckInconclusive { pool, backend, error } => {
                warn!(%pool, %backend, error = &**error, "check without result: local error");
            }
            Self::ChecksLate { pool, waited_ms } => {
                warn!(%pool, waited_ms, "checks run late: too many are running; raise runtime.max_checks");
            }
            Self::ChecksOnTime { pool, after_ms, checks } => {
                info!(%pool, after_ms, checks, "checks are on time again");
            }
            Self::OperatorChange { by, pool, backend, address, state, weight } => {
                info!(%pool, %backend, %address, by = &**by, state = state.map(AdminState::name), weight, "operator");
            }
            Self::BackendAdded { by, pool, backend, address, weight, backup } => {
                info!(%pool, %backend, %address, by = &**by, weight, backup, "operator adds a backend");
            }
            Self::BackendRemoved { by, pool, backend, address } => {
                info!(%pool, %backend, %address, by = &**by, "operator removes a backend");
            }
            Self::ConnectionClosed { by, conn, client, pool, backend, how } => {
                let (pool, backend) = (pool.as_ref().map(display), backend.as_ref().map(display));
                info!(conn, %client, pool, backend, by = &**by, how = how.name(), "operator closes a connection");
            }
            Self::CheckRequested { by, pool, backend } => {
                let (pool, backend) = (pool.as_ref().map(display), backend.as_ref().map(display));
                info!(pool, backend, by = &**by, "operator requested checks");
            }
            Self::ReloadApplied { by, config, listeners, pools, restart } => {
                for part in restart {
                    warn!(part = &**part, "changed: takes effect after a restart");
                }
                info!(%config, listeners, pools, by = &**by, "reload applied");
            }
            Self::ReloadRefused { by, config, problems } => reload_refused(by, config, problems),
            Self::Started { version, events, skipped } => {
                info!(%version, events, skipped, "started: the journal continues");
            }
            Self::HandOverStarted { by } => info!(by = &**by, "hand-over started"),
            Self::HandOverDone { process } => info!(process, "hand-over done: the other process accepts"),
            Self::HandOverFailed { error } => {
                warn!(error = &**error, "hand-over failed: this process continues");
            }
            Self::TookOver { process, addresses } => info!(process, addresses, "took over"),
            Self::ListenerChange { by, listener, state, open } => match state {
                ListenerState::Up => info!(%listener, by = &**by, "listener up"),
                ListenerState::Draining => info!(%listener, open, by = &**by, "listener draining"),
            },
            Self::RebalanceStarted { pool, surplus, idle, seconds, dry_run } => {
                info!(%pool, surplus, idle, seconds, dry_run, "rebalance started");
            }
            Self::RebalanceDone { pool, closed } => info!(%pool, closed, "rebalance done"),
            Self::DrainStarted { .. } | Self::DrainProgress { .. } | Self::DrainDone { .. } => self.drain(),
        }
    }

    fn drain(&self) {
        match self {
            Self::DrainStarted { by, open, grace_ms, timeout_ms } => {
                let [grace, timeout] =
                    [grace_ms, timeout_ms].map(|ms| format_duration(Duration::from_millis(*ms)));
                info!(open, %grace, %timeout, by = &**by, "drain started");
            }
            Self::DrainProgress { forecast } => {
                let DrainForecast { open, oldest_ms, time_left_ms, most_finished_ms, at_limit, .. } =
                    forecast;
                let idle = forecast.longest_idle.first();
                let (client, idle_ms) =
                    (idle.map(|idle| display(idle.client)), idle.map(|idle| idle.idle_ms));
                info!(
                    open,
                    oldest_ms, time_left_ms, most_finished_ms, at_limit, client, idle_ms, "drain progress"
                );
            }
            Self::DrainDone { cut: None } => info!("drain done"),
            Self::DrainDone { cut: Some(cut) } => {
                warn!(cut, "drain timed out: resetting the remaining connections");
            }
            _ => {}
        }
    }
}

fn reload_refused(by: &str, config: &str, problems: &[ConfigProblem]) {
    for ConfigProblem { line, column, message } in problems {
        let at = line.zip(*column).map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
        error!(config = %format_args!("{config}{at}"), error = &**message, by, "reload refused");
    }
}

fn state_changed(
    pool: &str,
    backend: &str,
    address: &SocketAddress,
    from: BackendState,
    to: BackendState,
    cause: &str,
) {
    macro_rules! line {
        ($level:ident, $message:literal) => {
            $level!(%pool, %backend, %address, from = %from.name(), to = %to.name(), cause, $message)
        };
    }
    // Tools match the messages, so each is written out.
    match to {
        BackendState::Joining => line!(info, "backend joining"),
        BackendState::Up => line!(info, "backend up"),
        BackendState::Down => line!(warn, "backend down"),
        BackendState::Ejected => line!(warn, "backend ejected"),
        BackendState::Draining => line!(info, "backend draining"),
        BackendState::Maintenance => line!(info, "backend maintenance"),
        BackendState::Gone => line!(info, "backend gone"),
    }
}

fn serving_tier(
    pool: &str,
    tier: ServingTier,
    before: Option<ServingTier>,
    [up, used]: [usize; 2],
    panic: u8,
) {
    match tier {
        ServingTier::None => {
            warn!(%pool, "no backend is up: new connections of this pool are rejected");
        }
        ServingTier::All => warn!(%pool, up, used, panic, "panic: too few backends are up, so all are used"),
        ServingTier::AllZones => {
            warn!(%pool, up, used, "too few backends of the local zone are up: those of other zones are used too");
        }
        ServingTier::Backups => warn!(%pool, used, "no primary is up: backups are used"),
        ServingTier::Primaries if before == Some(ServingTier::All) => {
            info!(%pool, up, "panic is over: enough backends are up");
        }
        ServingTier::Primaries if before == Some(ServingTier::AllZones) => {
            info!(%pool, used, "enough backends of the local zone are up: those of other zones are not used any longer");
        }
        ServingTier::Primaries => info!(%pool, used, "primaries are used again"),
    }
}
