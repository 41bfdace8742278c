//! The sentence of each event: made here once, for the API, the page, `top` and the demo.

use std::time::Duration;

use crate::domain::{
    ConfigProblem, DrainForecast, Endpoint, Event, IdleConnection, ListenerState, ServingTier,
};
use crate::humanize::{count, duration, list, millis};

/// The maximum number of endpoints that a sentence names.
const NAMED: usize = 8;

impl Event {
    /// The event as a sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::StateChanged { pool, backend, from, to, reason, .. } => {
                format!("{pool}/{backend} is {} (was {}): {reason}", to.name(), from.name())
            }
            Self::BackendNamed { pool, backend, address } => {
                format!("{pool}: the backend at {address} has the name {backend}")
            }
            Self::WeightChanged { pool, backend, weight } => format!("{pool}/{backend} has weight {weight}"),
            Self::EjectionSuppressed { pool, backend, reason } => {
                format!("{pool}/{backend} is not ejected, as the limit eject.at_most is reached: {reason}")
            }
            Self::ServingTierChanged { pool, tier, up, used, .. } => serving_tier(pool, *tier, *up, *used),
            Self::ResolverStatusChanged { pool, source, trouble } => match trouble {
                Some(trouble) => format!("{pool}: {source}: {}", trouble.reason),
                None => format!("{pool}: {source} finds backends again"),
            },
            Self::EndpointsChanged { pool, source, backends, new, missing, .. } => {
                let named = |label: &str, endpoints: &[Endpoint]| {
                    let names: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
                    if names.is_empty() {
                        String::new()
                    } else {
                        format!("; {label}: {}", list(&names, NAMED))
                    }
                };
                let total = count(*backends as u64, "endpoint");
                format!("{pool}: {source} reports {total}{}{}", named("new", new), named("missing", missing))
            }
            Self::CheckResultChanged { pool, backend, check, passed, error, .. } => match (passed, error) {
                (true, _) => format!("{pool}/{backend}: its {check} check passes"),
                (false, Some(error)) => format!("{pool}/{backend}: its {check} check fails: {error}"),
                (false, None) => format!("{pool}/{backend}: its {check} check fails"),
            },
            Self::CheckInconclusive { pool, backend, error } => {
                format!("{pool}/{backend} was not checked because of a local error: {error}")
            }
            Self::ChecksLate { pool, waited_ms } => {
                let waited = duration(Duration::from_millis(*waited_ms));
                format!(
                    "{pool}: checks run late: the first waited {waited} to start (limited by runtime.max_checks)"
                )
            }
            Self::ChecksOnTime { pool, after_ms, checks } => {
                let (late, time) = (count(*checks, "check"), duration(Duration::from_millis(*after_ms)));
                format!("{pool}: checks are on time again; {late} ran late within {time}")
            }
            Self::OperatorChange { by, pool, backend, state, weight, .. } => {
                let state = state.map(|state| format!("to {}", state.name()));
                let weight = weight.map(|weight| format!("to weight {weight}"));
                let changes: Vec<_> = [state, weight].into_iter().flatten().collect();
                format!("{by} set {pool}/{backend} {}", list(&changes, 2))
            }
            Self::BackendAdded { by, pool, backend, address, weight, backup } => {
                let backup = if *backup { ", as a backup" } else { "" };
                format!("{by} added {pool}/{backend} at {address}, weight {weight}{backup}")
            }
            Self::BackendRemoved { by, pool, backend, .. } => format!("{by} removed {pool}/{backend}"),
            Self::ConnectionClosed { by, conn, client, how, .. } => {
                format!("{by} closed #{conn} of {client} ({})", how.name())
            }
            Self::CheckRequested { by, pool, backend } => match (pool, backend) {
                (Some(pool), Some(backend)) => format!("{by} requested a check of {pool}/{backend}"),
                (Some(pool), None) => format!("{by} requested a check of all backends in {pool}"),
                (None, _) => format!("{by} requested a check of all backends"),
            },
            Self::ReloadApplied { by, config, listeners, pools, restart } => {
                let (listeners, pools) = (count(*listeners as u64, "listener"), count(*pools as u64, "pool"));
                let restart = match restart.is_empty() {
                    true => String::new(),
                    false => format!("; a restart is needed for {}", list(restart, usize::MAX)),
                };
                format!("{by} reloaded {config}, now in effect: {listeners}, {pools}{restart}")
            }
            Self::ReloadRefused { by, config, problems } => {
                let problems: Vec<_> = problems.iter().map(problem).collect();
                format!("{by} reloaded {config}, which was refused: {}", problems.join("; "))
            }
            Self::Started { version, events, .. } => {
                format!("Pointsman {version} started, with {} from before", count(*events as u64, "event"))
            }
            Self::HandOverStarted { by } => format!("{by} started a hand-over to another process"),
            Self::HandOverDone { process } => format!("handed over to process {process}, which accepts now"),
            Self::HandOverFailed { error } => {
                format!("the hand-over failed, and this process continues: {error}")
            }
            Self::TookOver { process, addresses } => {
                format!("took over {} from process {process}", count(*addresses as u64, "address"))
            }
            Self::RebalanceStarted { pool, surplus, idle, seconds, dry_run } => {
                let (surplus, time) =
                    (count(*surplus, "connection"), duration(Duration::from_secs(*seconds)));
                let what = if *dry_run {
                    "none is closed, as this is a dry run; it would take"
                } else {
                    "closing idle ones takes"
                };
                format!(
                    "{pool}: {surplus} above the shares of their backends, {idle} idle; {what} {time} or more"
                )
            }
            Self::RebalanceDone { pool, closed } => {
                format!(
                    "{pool}: the connections are distributed evenly; {} closed for that",
                    count(*closed, "connection")
                )
            }
            Self::ListenerChange { by, listener, state: ListenerState::Draining, open } => {
                let open = count(*open, "open connection");
                format!("{by} drains the listener {listener}: it accepts no new connections, and has {open}")
            }
            Self::ListenerChange { by, listener, state: ListenerState::Up, .. } => {
                format!("{by} took back the drain of the listener {listener}: it accepts connections")
            }
            Self::DrainStarted { by, open, timeout_ms, .. } => {
                let (open, limit) = (count(*open as u64, "open connection"), millis(*timeout_ms as f64));
                format!("{by} started the drain, with {open} and a time limit of {limit}")
            }
            Self::DrainProgress { forecast } => format!("draining: {}", forecast.sentence()),
            Self::DrainDone { cut: None } => "drained: all connections finished".to_owned(),
            Self::DrainDone { cut: Some(cut) } => {
                format!("drain timed out: {} reset", count(*cut as u64, "connection"))
            }
        }
    }
}

impl DrainForecast {
    /// The forecast as a sentence, without a subject.
    pub fn sentence(&self) -> String {
        let open = count(self.open, "open connection");
        let left = self.time_left_ms.map(|left| format!(", {} left", millis(left as f64)));
        let left = left.unwrap_or_default();
        if self.open == 0 {
            return open;
        }
        if self.observed == 0 {
            return format!("{open}{left}; no connection has finished yet, so there is no forecast");
        }
        let mut parts = vec![format!("{open}{left}")];
        match self.most_finished_ms {
            Some(time) if self.open == 1 => {
                parts.push(format!("expected to finish within {}", millis(time as f64)));
            }
            Some(time) => parts.push(format!("95 % expected to finish within {}", millis(time as f64))),
            None if self.time_left_ms.is_none() => {
                parts.push(
                    "no end can be predicted: hardly a connection has lasted as long as they have".to_owned(),
                );
            }
            None => {}
        }
        if self.at_limit > 0 && self.time_left_ms.is_some() {
            let idle =
                |one: &IdleConnection| format!("{} idle for {}", one.client, millis(one.idle_ms as f64));
            let named: Vec<_> = self.longest_idle.iter().map(idle).collect();
            let more = usize::try_from(self.at_limit).unwrap_or(usize::MAX).saturating_sub(named.len());
            let names = match (named.is_empty(), more) {
                (true, _) => String::new(),
                (false, 0) => format!(": {}", list(&named, usize::MAX)),
                (false, _) => format!(", among them {}", list(&named, usize::MAX)),
            };
            parts.push(format!("{} expected to reach the time limit{names}", self.at_limit));
        }
        parts.join("; ")
    }
}

fn serving_tier(pool: &str, tier: ServingTier, up: usize, used: usize) -> String {
    match tier {
        ServingTier::None => format!("{pool}: no backend is up, so new connections are rejected"),
        ServingTier::All => format!("{pool}: panic: only {up} up, so all {used} backends are used"),
        ServingTier::AllZones => {
            format!("{pool}: too few backends of the local zone are up, so those of all zones serve ({used})")
        }
        ServingTier::Backups => format!("{pool}: no primary is up, so the backups serve ({used})"),
        ServingTier::Primaries => format!("{pool}: the primaries serve ({used})"),
    }
}

fn problem(problem: &ConfigProblem) -> String {
    match (problem.line, problem.column) {
        (Some(line), Some(column)) => format!("{line}:{column}: {}", problem.message),
        _ => problem.message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AdminState, BackendState, CheckFailure, CheckKind, HealthFailure, Resolution};
    use crate::domain::{StateReason, Trouble};

    #[test]
    fn events_are_rendered_as_sentences() {
        let (pool, backend) = (|| "web".into(), || "a".into());
        let address = || "10.0.0.1:80".parse().unwrap();
        let trouble = Trouble { result: Resolution::NoSuchName, reason: "127.0.0.11: NXDOMAIN for x".into() };
        let resolver =
            |trouble| Event::ResolverStatusChanged { pool: pool(), source: "dns:x".into(), trouble };
        let check = |passed, error: Option<&str>| Event::CheckResultChanged {
            pool: pool(),
            backend: backend(),
            address: address(),
            check: CheckKind::Http,
            passed,
            error: error.map(Into::into),
            took_ms: 0.3,
        };
        let requested = |pool: Option<&str>, backend: Option<&str>| Event::CheckRequested {
            by: "root".into(),
            pool: pool.map(Into::into),
            backend: backend.map(Into::into),
        };
        for (event, sentence) in [
            (
                Event::StateChanged {
                    pool: pool(),
                    backend: backend(),
                    address: address(),
                    from: BackendState::Up,
                    to: BackendState::Down,
                    reason: StateReason::Failures {
                        count: 3,
                        failure: HealthFailure::Check(CheckFailure::new("refused")),
                    },
                },
                "web/a is down (was up): 3 failures in a row: refused",
            ),
            (Event::WeightChanged { pool: pool(), backend: backend(), weight: 3 }, "web/a has weight 3"),
            (resolver(Some(trouble)), "web: dns:x: 127.0.0.11: NXDOMAIN for x"),
            (resolver(None), "web: dns:x finds backends again"),
            (check(true, None), "web/a: its http check passes"),
            (check(false, Some("status 503")), "web/a: its http check fails: status 503"),
            (
                Event::EndpointsChanged {
                    pool: pool(),
                    source: "dns:x".into(),
                    result: Resolution::Found,
                    backends: 2,
                    new: vec![Endpoint { name: backend(), address: address() }],
                    missing: Vec::new(),
                },
                "web: dns:x reports 2 endpoints; new: a (10.0.0.1:80)",
            ),
            (
                Event::OperatorChange {
                    by: "root".into(),
                    pool: pool(),
                    backend: backend(),
                    address: address(),
                    state: Some(AdminState::Draining),
                    weight: Some(2),
                },
                "root set web/a to draining and to weight 2",
            ),
            (requested(None, None), "root requested a check of all backends"),
            (requested(Some("web"), Some("a")), "root requested a check of web/a"),
            (
                Event::Started { version: "0.1.0".into(), events: 1, skipped: 0 },
                "Pointsman 0.1.0 started, with 1 event from before",
            ),
            (
                Event::HandOverStarted { by: "SIGUSR2".into() },
                "SIGUSR2 started a hand-over to another process",
            ),
            (Event::HandOverDone { process: 77 }, "handed over to process 77, which accepts now"),
            (
                Event::HandOverFailed { error: "no memory".into() },
                "the hand-over failed, and this process continues: no memory",
            ),
            (Event::TookOver { process: 12, addresses: 1 }, "took over 1 address from process 12"),
            (Event::DrainProgress { forecast: DrainForecast::default() }, "draining: 0 open connections"),
            (Event::DrainDone { cut: None }, "drained: all connections finished"),
            (Event::DrainDone { cut: Some(1) }, "drain timed out: 1 connection reset"),
        ] {
            assert_eq!(event.sentence(), sentence);
        }
    }

    #[test]
    fn a_forecast_is_a_sentence() {
        let idle = |client: &str, idle_ms| IdleConnection {
            conn: 1,
            client: crate::domain::Client::Tcp(client.parse().unwrap()),
            backend: None,
            age_ms: idle_ms,
            idle_ms,
        };
        let forecast = DrainForecast {
            open: 22,
            oldest_ms: Some(9_000_000),
            time_left_ms: Some(1_800_000),
            most_finished_ms: Some(240_000),
            at_limit: 1,
            longest_idle: vec![idle("10.0.0.9:4711", 7_200_000)],
            observed: 100,
        };
        let unknown = DrainForecast { observed: 0, ..forecast.clone() };
        let one = DrainForecast { open: 1, at_limit: 0, longest_idle: Vec::new(), ..forecast.clone() };
        let many = DrainForecast { at_limit: 9, most_finished_ms: None, ..forecast.clone() };
        let unlimited = DrainForecast { time_left_ms: None, most_finished_ms: None, ..forecast.clone() };
        for (forecast, sentence) in [
            (
                forecast,
                "22 open connections, 30m left; 95 % expected to finish within 4m; 1 expected to reach the time limit: \
                 10.0.0.9:4711 idle for 2h",
            ),
            (
                unknown,
                "22 open connections, 30m left; no connection has finished yet, so there is no forecast",
            ),
            (one, "1 open connection, 30m left; expected to finish within 4m"),
            (
                many,
                "22 open connections, 30m left; 9 expected to reach the time limit, among them 10.0.0.9:4711 idle for 2h",
            ),
            (
                unlimited,
                "22 open connections; no end can be predicted: hardly a connection has lasted as long as they have",
            ),
        ] {
            assert_eq!(forecast.sentence(), sentence);
        }
    }
}
