//! Why a backend is in its state: what its sources reported, the results of its checks, the changes by operators, its
//! present state, and what would change it.

use std::time::{Duration, Instant, SystemTime};

use super::Sentence;
use crate::config::{self, BackupWhen};
use crate::domain::{BackendState, CloseReason, Ending, Endpoint, Event};
use crate::humanize::{count, duration, list, millis};
use crate::pool::{Entry, PoolSnapshot};
use crate::telemetry::histogram::DurationCounts;
use crate::telemetry::journal;

/// The most events in a history; older ones are counted.
const SHOWN: usize = 40;

/// What happened to the backend of that name or address, from the events that are kept.
pub(crate) fn history(events: &[journal::Entry], pool: &str, backend: &str) -> Vec<Sentence> {
    let mut sentences: Vec<Sentence> = Vec::new();
    let mut restart = None;
    for entry in events {
        if let Event::Started { version, .. } = &*entry.event {
            // Only between other sentences: the backend joins anew.
            let text = format!("Pointsman {version} started");
            restart = (!sentences.is_empty()).then(|| Sentence::then(entry.at, text));
        } else if entry.event.pool().is_some_and(|of| **of == *pool)
            && let Some(text) = happened(&entry.event, backend)
        {
            sentences.extend(restart.take());
            sentences.push(Sentence::then(entry.at, text));
        }
    }
    let left_out = sentences.len().saturating_sub(SHOWN);
    if left_out > 0 {
        let first = sentences[left_out].at;
        sentences.drain(..left_out);
        let text = format!("not shown: {}", count(left_out as u64, "earlier event"));
        sentences.insert(0, Sentence { at: first, text });
    }
    sentences
}

/// Whether an event is about the backend of that name or address.
pub(crate) fn concerns(event: &Event, backend: &str) -> bool {
    event.backend().is_some_and(|name| **name == *backend)
        || event.address().is_some_and(|address| address.to_string() == backend)
}

/// What an event means for the backend of that name or address; `None`: nothing.
fn happened(event: &Event, backend: &str) -> Option<String> {
    if let Event::EndpointsChanged { source, backends, new, missing, .. } = event {
        let is = |one: &Endpoint| *one.name == *backend || one.address.to_string() == backend;
        let all = count(*backends as u64, "endpoint");
        return if new.iter().any(is) {
            Some(format!("{source} reported {all}, and it was new among them"))
        } else if missing.iter().any(is) {
            Some(format!("{source} reported {all}, and it was no longer among them"))
        } else {
            None
        };
    }
    if !concerns(event, backend) {
        return None;
    }
    Some(match event {
        Event::StateChanged { to, from, reason, .. } => match to {
            BackendState::Joining if *from == BackendState::Gone => format!("it joined: {reason}"),
            BackendState::Joining => format!("it was {} and awaited its first check: {reason}", from.name()),
            BackendState::Up => format!("it came up (it was {}): {reason}", from.name()),
            BackendState::Down => format!("it went down (it was {}): {reason}", from.name()),
            BackendState::Ejected => format!("it was ejected: {reason}"),
            BackendState::Draining => format!("it stopped receiving new connections: {reason}"),
            BackendState::Maintenance => format!("it went into maintenance: {reason}"),
            BackendState::Gone => format!("it was gone: {reason}"),
        },
        Event::BackendNamed { backend: name, address, .. } => format!("{address} got the name {name}"),
        Event::WeightChanged { weight, .. } => format!("its weight became {weight}"),
        Event::EjectionSuppressed { reason, .. } => {
            format!("it was not ejected ({reason}), as many were out as eject.at_most allows")
        }
        Event::CheckResultChanged { check, passed: true, took_ms, .. } => {
            format!("its {check} check passed in {}", millis(*took_ms))
        }
        Event::CheckResultChanged { check, error, took_ms, .. } => {
            let error = error.as_deref().unwrap_or("no reason given");
            format!("its {check} check failed after {}: {error}", millis(*took_ms))
        }
        Event::CheckInconclusive { error, .. } => {
            format!("a check had no result because of a local error: {error}")
        }
        Event::OperatorChange { by, state, weight, .. } => {
            let state = state.map(|state| format!("to {}", state.name()));
            let weight = weight.map(|weight| format!("to the weight {weight}"));
            let set: Vec<_> = [state, weight].into_iter().flatten().collect();
            format!("{by} set it {}", list(&set, 2))
        }
        Event::BackendAdded { by, weight, backup, .. } => {
            let backup = if *backup { ", as a backup" } else { "" };
            format!("{by} added it, with the weight {weight}{backup}")
        }
        Event::BackendRemoved { by, .. } => format!("{by} removed it"),
        Event::ConnectionClosed { by, conn, client, how, .. } => {
            format!("{by} closed its connection {conn}, of {client} ({})", how.name())
        }
        Event::CheckRequested { by, .. } => format!("{by} requested a check"),
        _ => return None, // about other backends
    })
}

/// The backend's state, whether it is eligible, its checks, connections and latency, and what would make it eligible again.
/// `times_slower`: how many times as long as that of the other backends its median is, if that is out of line.
pub(crate) fn standing(
    entry: &Entry,
    snapshot: &PoolSnapshot,
    settings: &config::Pool,
    times_slower: Option<f64>,
    now: Instant,
) -> Vec<Sentence> {
    let state = entry.state.name();
    let since = duration(now.saturating_duration_since(entry.since));
    let mut story = vec![Sentence::now(format!("it has been {state} for {since}: {}", entry.reason))];
    story.push(Sentence::now(eligibility(entry, snapshot, settings)));
    story.extend(checks(entry, settings).into_iter().map(Sentence::now));
    story.push(Sentence::now(traffic(entry)));
    story.extend(latency(&entry.backend.latency.first_byte.recent(), times_slower).map(Sentence::now));
    story.extend(close_directive(entry, now).map(Sentence::now));
    story.extend(recovery(entry, settings, now).map(Sentence::now));
    story
}

/// How long its first byte took lately, and whether that is out of line. `None`: no connection got one.
fn latency(first_byte: &DurationCounts, times_slower: Option<f64>) -> Option<String> {
    let [median, most] = [first_byte.quantile(0.5)?, first_byte.quantile(0.99)?].map(duration);
    let of = count(first_byte.total(), "connection");
    let slow = times_slower.map(|times| format!("; the median is {times} times that of the other backends"));
    let slow = slow.unwrap_or_default();
    Some(format!("its first byte lately took {median} in the median, at most {most} for 99 % of {of}{slow}"))
}

fn eligibility(entry: &Entry, snapshot: &PoolSnapshot, settings: &config::Pool) -> String {
    let backend = &entry.backend;
    if snapshot.backends().any(|one| one.key == backend.key) {
        let among = match snapshot.len() {
            1 => "it is the only one that can be chosen".to_owned(),
            n => format!("it is one of {n} that can be chosen, by {}", snapshot.algorithm.name()),
        };
        let panic = if snapshot.panic { ", as too few are up and all are used (panic)" } else { "" };
        let zone = match &snapshot.local_zone {
            Some(local) if local.short && !snapshot.panic && is_of_other_zone(entry, settings) => {
                let supply = local.supply();
                format!(", although in zone {}: {supply}, so other zones are used too", zone_of(entry))
            }
            _ => String::new(),
        };
        let full = match entry.connections.filter(|_| backend.is_full()) {
            Some(limit) => format!("; it is full now, at its limit of {limit} connections"),
            None => String::new(),
        };
        let ramp = match entry.ramp {
            100 => String::new(),
            percent => format!("; it gets {percent} % of its share so far (slow_start)"),
        };
        return format!("{among}{panic}{zone}, with the weight {}{ramp}{full}", entry.weight);
    }
    match entry.state {
        BackendState::Up if entry.weight == 0 => "not eligible: weight 0".to_owned(),
        BackendState::Up if entry.tier == snapshot.tier_used() && is_of_other_zone(entry, settings) => {
            let local = snapshot.local_zone.as_ref();
            let [up, all, name] = local.map_or_else(Default::default, |local| {
                [local.up.to_string(), local.backends.to_string(), local.name.to_string()]
            });
            format!(
                "not eligible: it is in zone {}, and enough are up in zone {name} ({up} of {all}); it gets connections \
                 that fail there or find all of them full",
                zone_of(entry)
            )
        }
        BackendState::Up => {
            let overflow = match settings.backup.when {
                BackupWhen::Full => "; it gets connections that find the lower tiers full",
                BackupWhen::Down => "",
            };
            format!("not eligible: backup (tier {}), and a lower tier is up{overflow}", entry.tier)
        }
        BackendState::Joining => "not eligible yet: it has not passed its checks".to_owned(),
        state => format!("not eligible: {}", state.name()),
    }
}

/// Whether it runs in another zone than the one that the pool prefers.
fn is_of_other_zone(entry: &Entry, settings: &config::Pool) -> bool {
    settings.zone.as_ref().is_some_and(|zone| !zone.is_local(entry.zone.as_ref()))
}

fn zone_of(entry: &Entry) -> &str {
    entry.zone.as_deref().unwrap_or_default()
}

fn checks(entry: &Entry, settings: &config::Pool) -> Vec<String> {
    let known = entry.backend.checks();
    if settings.health.is_empty() {
        return vec!["it is not checked: the pool has no health checks".to_owned()];
    }
    let ago = |at: SystemTime| duration(SystemTime::now().duration_since(at).unwrap_or_default());
    let one = |(index, health): (usize, &config::Health)| {
        let kind = health.check.kind();
        let every = match health.fast_every {
            Some(fast) if fast < health.every => format!(
                "{} ({} while its state may change)",
                humantime::format_duration(health.every),
                humantime::format_duration(fast)
            ),
            _ => humantime::format_duration(health.every).to_string(),
        };
        let Some((at, checked)) = known.last.get(&index) else {
            return format!("its {kind} check, every {every}, has had no result yet");
        };
        let run = known.runs.get(&index).copied().unwrap_or_default();
        let row = match run.length {
            2.. if run.passed == checked.result.is_ok() => format!(", the {} in a row", nth(run.length)),
            _ => String::new(),
        };
        let (ago, took) = (ago(*at), millis(checked.took.as_secs_f64() * 1e3));
        match &checked.result {
            Ok(()) => format!("its last {kind} check, every {every}, passed {ago} ago in {took}{row}"),
            Err(error) => {
                format!("its last {kind} check, every {every}, failed {ago} ago after {took}{row}: {error}")
            }
        }
    };
    settings.health.iter().enumerate().map(one).collect()
}

/// `2nd`, `11th`, `21st`.
fn nth(n: u32) -> String {
    let end = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{end}")
}

fn traffic(entry: &Entry) -> String {
    let backend = &entry.backend;
    let (mut total, mut failed) = (0, Vec::new());
    backend.flows.read().iter().for_each(|(_, reading)| total += reading.total());
    for (kind, n) in backend.connect_failures().filter(|(_, n)| *n > 0) {
        failed.push(format!("{n} {}", kind.name()));
    }
    let open = count(backend.load.open().into(), "connection");
    let failed = match failed.is_empty() {
        true => "no attempt to connect to it failed".to_owned(),
        false => format!("attempts to connect to it that failed: {}", list(&failed, usize::MAX)),
    };
    format!("it has {open} open and was sent {total} so far; {failed}")
}

/// What happens to its open connections.
fn close_directive(entry: &Entry, now: Instant) -> Option<String> {
    let Some(directive) = entry.backend.directive() else {
        let out =
            matches!(entry.state, BackendState::Down | BackendState::Draining | BackendState::Maintenance);
        let kept = out && entry.backend.load.open() > 0;
        return kept.then(|| "its open connections are kept".to_owned());
    };
    let key = match directive.reason {
        CloseReason::BackendDown => "on_down",
        CloseReason::BackendLeft => "on_leave",
        _ => "on_drain",
    };
    let how = match directive.how {
        Ending::Close => "closed",
        Ending::Reset => "reset",
    };
    let left = (directive.at + directive.over).saturating_duration_since(now);
    let by = if left > Duration::ZERO {
        format!(", the last of them in {}", duration(left))
    } else {
        String::new()
    };
    Some(format!("its open connections are {how}{by}, by {key}"))
}

/// What would make it eligible again.
fn recovery(entry: &Entry, settings: &config::Pool, now: Instant) -> Option<String> {
    if entry.leaving {
        return Some("it has left for good: an endpoint found there again is another backend".to_owned());
    }
    match entry.state {
        BackendState::Draining | BackendState::Maintenance => {
            Some("it comes back when an operator enables it: PATCH it with {\"state\": \"up\"}".to_owned())
        }
        BackendState::Ejected => {
            let left = entry.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            Some(format!("it comes back in {}, on probation: one failure ejects it again", duration(left)))
        }
        BackendState::Down | BackendState::Joining => {
            let known = entry.backend.checks();
            let missing = |(index, health): (usize, &config::Health)| {
                let kind = health.check.kind();
                let run = known.runs.get(&index).copied().unwrap_or_default();
                let needed = if entry.state == BackendState::Joining { 1 } else { health.rise };
                let more = needed.saturating_sub(if run.passed { run.length } else { 0 });
                (more > 0)
                    .then(|| format!("{more} more passed {kind} check{}", if more == 1 { "" } else { "s" }))
            };
            let missing: Vec<_> = settings.health.iter().enumerate().filter_map(missing).collect();
            Some(match missing.is_empty() {
                true => "it comes back when its source reports it healthy".to_owned(),
                false => format!("it comes back after {} in a row", list(&missing, usize::MAX)),
            })
        }
        BackendState::Up => {
            let failing = |(index, health): (usize, &config::Health)| {
                let run = entry.backend.checks().runs.get(&index).copied().filter(|run| !run.passed)?;
                let kind = health.check.kind();
                let (failures, fall) = (count(run.length.into(), "failure"), health.fall);
                Some(format!("{failures} in a row, counted with its {kind} check; {fall} take it down"))
            };
            settings.health.iter().enumerate().find_map(failing)
        }
        BackendState::Gone => None,
    }
}

#[cfg(test)]
#[path = "backend_tests.rs"]
mod tests;
