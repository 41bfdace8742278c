//! The sentences that [`fold`](super::fold) writes about its groups of events.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use litemap::LiteMap;

use super::samples::{Failures, Grown};
use crate::domain::{BackendState, Cause, CloseReason, Event, ServingTier, StateReason};
use crate::humanize::{count, duration, list};
use crate::telemetry::ConnectError;
use crate::telemetry::journal::Entry;

/// The most backends that a sentence names.
const NAMED: usize = 6;

/// A shorter time is written as "at once".
const AT_ONCE: Duration = Duration::from_millis(5);

/// The failures and retries of connections in a period.
#[derive(Clone, Debug, Default)]
pub(super) struct FailureCounts {
    failures: LiteMap<Arc<str>, [u64; ConnectError::ALL.len()]>,
    retried: u64,
    unanswered: u64,
    seen: LiteMap<usize, u64>,
}

impl FailureCounts {
    pub(super) fn add_failures(&mut self, more: &Failures) {
        let all = self.failures.entry(Arc::clone(&more.backend)).or_default();
        all.iter_mut().zip(more.kinds).for_each(|(sum, n)| *sum += n);
    }

    pub(super) fn add_growth(&mut self, more: &Grown) {
        self.retried += more.retried;
        self.unanswered += more.unanswered;
        for (reason, n) in &more.seen {
            *self.seen.entry(reason.index()).or_default() += n;
        }
    }

    /// The client-visible failures and the retries as text; `None` if there were none.
    fn clients(&self) -> Option<String> {
        let seen: u64 = self.seen.values().sum();
        let retried = match self.retried {
            0 => None,
            1 => Some("1 connection was retried elsewhere".to_owned()),
            n => Some(format!("{n} connections were retried elsewhere")),
        };
        let unanswered = (self.unanswered > 0)
            .then(|| format!("{} ended without an answer", count(self.unanswered, "connection")));
        if seen == 0 && unanswered.is_none() {
            return retried.map(|retried| format!("{retried}, no client saw an error"));
        }
        if seen == 0 {
            let parts: Vec<_> = retried.into_iter().chain(unanswered).collect();
            return Some(parts.join(", "));
        }
        let reasons: Vec<_> =
            self.seen.iter().map(|(index, n)| format!("{n} {}", CloseReason::ALL[*index].name())).collect();
        let clients = format!("{} saw an error ({})", count(seen, "client"), list(&reasons, usize::MAX));
        let parts: Vec<_> = retried.into_iter().chain(unanswered).chain([clients]).collect();
        Some(parts.join(", "))
    }
}

/// How attempts to connect to a backend failed; `None` if none did.
fn failed(kinds: &[u64; ConnectError::ALL.len()]) -> Option<String> {
    let words = ConnectError::ALL.into_iter().zip(kinds).filter(|(_, n)| **n > 0).map(|(kind, n)| {
        let connects = count(*n, "connect");
        match kind {
            ConnectError::Refused => format!("refused {connects}"),
            ConnectError::Timeout => format!("left {connects} unanswered"),
            ConnectError::Unreachable => format!("was out of reach for {connects}"),
            ConnectError::Reset => format!("reset {connects}"),
            ConnectError::Local => format!("got no connection for {connects} because of a local error"),
            ConnectError::Other => format!("failed {connects}"),
        }
    });
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| list(&words, usize::MAX))
}

fn with_clients(text: String, counts: &FailureCounts) -> String {
    match counts.clients() {
        Some(clients) => format!("{text}; {clients}"),
        None => text,
    }
}

/// Failures while no backend changed its state.
pub(super) fn without_state_change(pool: &str, counts: &FailureCounts) -> String {
    let failed: Vec<_> = counts
        .failures
        .iter()
        .filter_map(|(name, kinds)| Some(format!("{name} {}", failed(kinds)?)))
        .collect();
    match (failed.is_empty(), counts.clients()) {
        (false, clients) => {
            let text = format!("in {pool}, {}", list(&failed, NAMED));
            format!("{text}; {}", clients.unwrap_or_else(|| "no connection was lost by it".to_owned()))
        }
        (true, clients) => format!("in {pool}, {}", clients.unwrap_or_else(|| "nothing failed".to_owned())),
    }
}

/// A reason as text for one backend or for several.
fn why(reason: &StateReason, several: bool) -> Cause {
    if several { reason.without_address().text() } else { reason.text() }
}

/// What happened to backends, from the events of the first one.
pub(super) fn backends(names: &[Arc<str>], events: &[&Entry], counts: &FailureCounts) -> Option<String> {
    let mut clauses: Vec<String> = Vec::new();
    let sum = counts.failures.values().fold([0; ConnectError::ALL.len()], |mut sum, kinds| {
        sum.iter_mut().zip(kinds).for_each(|(sum, n)| *sum += n);
        sum
    });
    clauses.extend(failed(&sum));
    match flaps(events, names.len() > 1) {
        Some(flapped) => {
            clauses.push(flapped);
            // The clause about flapping covers only state changes.
            let is_other = |entry: &&&Entry| {
                matches!(
                    *entry.event,
                    Event::WeightChanged { .. }
                        | Event::EjectionSuppressed { .. }
                        | Event::CheckInconclusive { .. }
                )
            };
            let others: Vec<_> = events.iter().filter(is_other).copied().collect();
            clauses.extend(changes(&others, names.len() > 1));
        }
        None => clauses.extend(changes(events, names.len() > 1)),
    }
    if clauses.is_empty() {
        return None;
    }
    let text = format!("{} {}", list(names, NAMED), list(&clauses, usize::MAX));
    Some(with_clients(text, counts))
}

/// Repeated changes between up and down or ejected; `None` if there were fewer than two.
fn flaps(events: &[&Entry], several: bool) -> Option<String> {
    let states = events.iter().filter_map(|entry| match &*entry.event {
        Event::StateChanged { from, to, reason, .. } => Some((entry.at, *from, *to, reason)),
        _ => None,
    });
    let states: Vec<_> = states.collect();
    let out: Vec<_> = states
        .iter()
        .filter(|(_, from, to, _)| {
            *from == BackendState::Up && matches!(*to, BackendState::Down | BackendState::Ejected)
        })
        .collect();
    let (first, last, now) = (out.first()?, out.last()?, states.last()?);
    if out.len() < 2 {
        return None;
    }
    let (n, period) = (out.len(), duration(now.0.duration_since(first.0).unwrap_or_default()));
    Some(format!(
        "flapped {n} times in {period}, the last time because of {}; then {} {}",
        why(last.3, several),
        if now.2 == BackendState::Up { "it stayed" } else { "it was" },
        now.2.name()
    ))
}

/// One clause for each change.
fn changes(events: &[&Entry], several: bool) -> Vec<String> {
    let (was, its) = if several { ("were", "their") } else { ("was", "its") };
    let mut clauses = Vec::new();
    let mut before: Option<(SystemTime, &StateReason)> = None;
    let has_state_change = events.iter().any(|entry| matches!(*entry.event, Event::StateChanged { .. }));
    let has_weight_change = events.iter().any(|entry| matches!(*entry.event, Event::WeightChanged { .. }));
    let arrived = matches!(
        events.first().map(|entry| &*entry.event),
        Some(Event::StateChanged { from: BackendState::Gone, .. })
    );
    let mut was_up = false;
    let mut no_result = 0;
    for entry in events {
        match &*entry.event {
            Event::StateChanged { from, to, reason, .. } => {
                let after = match before.map(|(at, ..)| entry.at.duration_since(at).unwrap_or_default()) {
                    None => String::new(),
                    Some(after) if after < AT_ONCE => " at once".to_owned(),
                    Some(after) => format!(" {} later", duration(after)),
                };
                let is_new = before.is_none_or(|(.., previous)| previous != reason);
                let why = if is_new { format!(" ({})", why(reason, several)) } else { String::new() };
                // A new backend that was never up comes up for the first time, whatever its states in between.
                let first = arrived && !was_up || matches!(*from, BackendState::Joining | BackendState::Gone);
                let again = if first { "" } else { " again" };
                was_up |= *to == BackendState::Up;
                clauses.push(match to {
                    BackendState::Joining if *from == BackendState::Gone => format!("joined{after}{why}"),
                    BackendState::Joining => format!("awaited {its} first check{after}{why}"),
                    BackendState::Up if before.is_none() => format!("came up{again}{why}"),
                    BackendState::Up => format!("{was} up{again}{after}{why}"),
                    BackendState::Down => format!("went down{after}{why}"),
                    BackendState::Ejected => format!("{was} ejected{after}{why}"),
                    BackendState::Draining => format!("stopped receiving new connections{after}{why}"),
                    BackendState::Maintenance => format!("went into maintenance{after}{why}"),
                    BackendState::Gone => format!("{was} gone{after}{why}"),
                });
                before = Some((entry.at, reason));
            }
            Event::WeightChanged { weight, .. } => clauses.push(format!("got the weight {weight}")),
            Event::EjectionSuppressed { reason, .. } => {
                clauses
                    .push(format!("{was} not ejected ({reason}), as many were out as eject.at_most allows"));
            }
            Event::CheckInconclusive { error, .. } => {
                no_result += 1;
                if no_result == 1 {
                    clauses.push(format!("could not be checked because of a local error ({error})"));
                }
            }
            // A change of state or weight that follows from it has its own clause.
            Event::OperatorChange { by, state: Some(state), .. } if !has_state_change => {
                clauses.push(format!("{was} set to {} by {by}, as before", state.name()));
            }
            Event::OperatorChange { by, weight: Some(weight), .. } if !has_weight_change => {
                clauses.push(format!("{was} given the weight {weight} by {by}, as before"));
            }
            _ => {}
        }
    }
    clauses
}

/// Why a group of events has no event that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoEnd {
    /// It lasts.
    Ongoing,
    /// The process was restarted.
    Restarted,
    /// A reload removed the pool.
    PoolRemoved,
}

impl NoEnd {
    fn clause(self) -> &'static str {
        match self {
            Self::Ongoing => " (ongoing)",
            Self::Restarted => " (until the restart)",
            Self::PoolRemoved => " (until the pool was removed)",
        }
    }
}

/// Which tier served a pool's clients.
pub(super) fn serving_tier(
    pool: &str,
    events: &[&Entry],
    no_end: NoEnd,
    counts: &FailureCounts,
) -> Option<String> {
    let mut clauses = Vec::new();
    let mut before: Option<SystemTime> = None;
    let mut ongoing = false;
    for entry in events {
        let Event::ServingTierChanged { tier, used, up, .. } = &*entry.event else { continue };
        let after = before.map(|at| duration(entry.at.duration_since(at).unwrap_or_default()));
        let after = after.map(|after| format!("after {after} ")).unwrap_or_default();
        clauses.push(match tier {
            ServingTier::None => format!("{after}no backend was up"),
            ServingTier::All => format!("{after}too few were up ({up}), so all {used} were used (panic)"),
            ServingTier::AllZones => {
                let all = count(*used as u64, "backend");
                format!("{after}too few of the local zone were up, and {all} of all zones served")
            }
            ServingTier::Backups => {
                format!("{after}no primary was up, and {} served", count(*used as u64, "backup"))
            }
            ServingTier::Primaries => {
                let again = if before.is_some() { " again" } else { "" };
                format!("{after}{} served{again}", count(*used as u64, "backend"))
            }
        });
        before = Some(entry.at);
        ongoing = *tier != ServingTier::Primaries;
    }
    if clauses.is_empty() {
        return None;
    }
    let ongoing = if ongoing { no_end.clause() } else { "" };
    Some(with_clients(format!("in {pool}, {}{ongoing}", clauses.join("; ")), counts))
}

/// What a source returned.
pub(super) fn source(pool: &str, source: &str, events: &[&Entry], no_end: NoEnd) -> Option<String> {
    let mut reasons: Vec<&str> = Vec::new();
    let mut over = None;
    for entry in events {
        match &*entry.event {
            Event::ResolverStatusChanged { trouble: Some(trouble), .. } => {
                reasons.push(&trouble.reason);
                over = None;
            }
            Event::ResolverStatusChanged { trouble: None, .. } => over = Some(entry.at),
            _ => {}
        }
    }
    let since = events.first()?.at;
    Some(match (reasons.is_empty(), over) {
        (true, _) => format!("{source} found backends for {pool} again"),
        (false, Some(at)) => {
            let lasted = duration(at.duration_since(since).unwrap_or_default());
            format!(
                "{source} found nothing for {pool} ({}), and found backends again after {lasted}",
                list(&reasons, NAMED)
            )
        }
        (false, None) => {
            let end = match no_end {
                NoEnd::Ongoing => "and still finds nothing",
                NoEnd::Restarted => "until the restart",
                NoEnd::PoolRemoved => "until the pool was removed",
            };
            format!("{source} found nothing for {pool} ({}), {end}", list(&reasons, NAMED))
        }
    })
}

/// Reports that a pool's checks ran late.
pub(super) fn checks(pool: &str, events: &[&Entry], no_end: NoEnd) -> Option<String> {
    let mut waited = None;
    let mut over = None;
    for entry in events {
        match &*entry.event {
            Event::ChecksLate { waited_ms, .. } => {
                waited = waited.or(Some(Duration::from_millis(*waited_ms)));
            }
            Event::ChecksOnTime { after_ms, checks, .. } => over = Some((*after_ms, *checks)),
            _ => {}
        }
    }
    let late = waited.map_or_else(
        || format!("the checks of {pool} ran late"),
        |waited| {
            let waited = duration(waited);
            format!("the checks of {pool} ran late (the first waited {waited} to start; runtime.max_checks limits them)")
        },
    );
    Some(match over {
        Some((after_ms, checks)) => {
            let (after, checks) = (duration(Duration::from_millis(after_ms)), count(checks, "check"));
            format!("{late} for {after}, {checks} in all, and were on time again")
        }
        None => late + no_end.clause(),
    })
}

/// What happened to the process.
pub(super) fn process(events: &[&Entry]) -> Option<String> {
    events.iter().find_map(|entry| match &*entry.event {
        Event::ReloadApplied { by, config, listeners, pools, .. } => {
            let (listeners, pools) = (count(*listeners as u64, "listener"), count(*pools as u64, "pool"));
            Some(format!("{config} was reloaded ({by}) and is in effect: {listeners}, {pools}"))
        }
        Event::ReloadRefused { by, config, problems } => {
            let first = problems.first().map_or("see the log", |problem| &problem.message);
            Some(format!("{config} was reloaded ({by}) and refused, so nothing changed: {first}"))
        }
        Event::Started { version, .. } => Some(format!("Pointsman {version} started")),
        Event::HandOverDone { .. } | Event::HandOverFailed { .. } | Event::TookOver { .. } => {
            Some(entry.event.sentence())
        }
        Event::RebalanceStarted { .. } | Event::RebalanceDone { .. } | Event::ListenerChange { .. } => {
            Some(entry.event.sentence())
        }
        Event::DrainStarted { by, open, .. } => {
            let open = count(*open as u64, "open connection");
            Some(format!("Pointsman began to drain ({by}), with {open}"))
        }
        Event::DrainDone { cut: None } => Some("all connections had finished".to_owned()),
        Event::DrainDone { cut: Some(cut) } => {
            Some(format!("the drain timed out, and {} reset", count(*cut as u64, "connection")))
        }
        Event::ConnectionClosed { by, conn, client, how, .. } => {
            Some(format!("{by} closed connection {conn} of {client} ({})", how.name()))
        }
        _ => None,
    })
}
