//! The sentences that [`fold`](super::fold) makes of its groups of facts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::samples::{Failures, Grown};
use super::words::{count, list, time};
use crate::telemetry::fact::{Fact, Service};
use crate::telemetry::journal::Entry;
use crate::telemetry::text::Cause;
use crate::telemetry::{CloseReason, ConnectError};

/// So many backends are named in a sentence.
const NAMED: usize = 6;

/// Less than this is no time to speak of.
const AT_ONCE: Duration = Duration::from_millis(5);

/// What connections met in some time.
#[derive(Clone, Debug, Default)]
pub(super) struct Met {
    failures: BTreeMap<Arc<str>, [u64; ConnectError::ALL.len()]>,
    retried: u64,
    seen: BTreeMap<usize, u64>,
}

impl Met {
    pub(super) fn failures(&mut self, more: &Failures) {
        let all = self.failures.entry(Arc::clone(&more.backend)).or_default();
        all.iter_mut().zip(more.kinds).for_each(|(sum, n)| *sum += n);
    }

    pub(super) fn grown(&mut self, more: &Grown) {
        self.retried += more.retried;
        for (reason, n) in &more.seen {
            *self.seen.entry(reason.index()).or_default() += n;
        }
    }

    /// What clients saw of it; nothing if there was nothing to see.
    fn clients(&self) -> Option<String> {
        let seen: u64 = self.seen.values().sum();
        let retried = match self.retried {
            0 => None,
            1 => Some("1 connection was retried elsewhere".to_owned()),
            n => Some(format!("{n} connections were retried elsewhere")),
        };
        if seen == 0 {
            return retried.map(|retried| format!("{retried}, no client saw an error"));
        }
        let reasons: Vec<_> =
            self.seen.iter().map(|(index, n)| format!("{n} {}", CloseReason::ALL[*index].name())).collect();
        let clients = format!("{} saw an error ({})", count(seen, "client"), list(&reasons, usize::MAX));
        Some(retried.map_or_else(|| clients.clone(), |retried| format!("{retried}, {clients}")))
    }
}

/// What a backend did to those who wanted to connect to it; nothing if it did nothing.
fn failed(kinds: &[u64; ConnectError::ALL.len()]) -> Option<String> {
    let words = ConnectError::ALL.into_iter().zip(kinds).filter(|(_, n)| **n > 0).map(|(kind, n)| {
        let connects = count(*n, "connect");
        match kind {
            ConnectError::Refused => format!("refused {connects}"),
            ConnectError::Timeout => format!("left {connects} unanswered"),
            ConnectError::Unreachable => format!("was out of reach for {connects}"),
            ConnectError::Reset => format!("reset {connects}"),
            ConnectError::Local => format!("was not asked for {connects} for want of resources of our own"),
            ConnectError::Other => format!("failed {connects}"),
        }
    });
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| list(&words, usize::MAX))
}

fn with_clients(text: String, met: &Met) -> String {
    match met.clients() {
        Some(clients) => format!("{text}; {clients}"),
        None => text,
    }
}

/// What was met while no state changed.
pub(super) fn met_alone(pool: &str, met: &Met) -> String {
    let failed: Vec<_> =
        met.failures.iter().filter_map(|(name, kinds)| Some(format!("{name} {}", failed(kinds)?))).collect();
    match (failed.is_empty(), met.clients()) {
        (false, clients) => {
            let text = format!("in {pool}, {}", list(&failed, NAMED));
            format!("{text}; {}", clients.unwrap_or_else(|| "no connection was lost by it".to_owned()))
        }
        (true, clients) => format!("in {pool}, {}", clients.unwrap_or_else(|| "nothing failed".to_owned())),
    }
}

/// A cause as it is for any backend, whatever its address is.
pub(super) fn of_any(cause: &str, address: SocketAddr) -> String {
    cause.replace(&address.to_string(), "its address")
}

/// A cause as it is told of one backend, or of several.
fn why(cause: &str, address: SocketAddr, several: bool) -> Cow<'_, str> {
    if several { of_any(cause, address).into() } else { cause.into() }
}

/// What happened to backends, told by the facts of the first of them.
pub(super) fn backends(names: &[Arc<str>], facts: &[&Entry], met: &Met) -> Option<String> {
    let mut clauses: Vec<String> = Vec::new();
    let sum = met.failures.values().fold([0; ConnectError::ALL.len()], |mut sum, kinds| {
        sum.iter_mut().zip(kinds).for_each(|(sum, n)| *sum += n);
        sum
    });
    clauses.extend(failed(&sum));
    match flaps(facts, names.len() > 1) {
        Some(flapped) => {
            clauses.push(flapped);
            // What else there was in between is not lost in it.
            let besides = |entry: &&&Entry| {
                matches!(*entry.fact, Fact::Weight { .. } | Fact::Spared { .. } | Fact::NoResult { .. })
            };
            let besides: Vec<_> = facts.iter().filter(besides).copied().collect();
            clauses.extend(changes(&besides, names.len() > 1));
        }
        None => clauses.extend(changes(facts, names.len() > 1)),
    }
    if clauses.is_empty() {
        return None;
    }
    let text = format!("{} {}", list(names, NAMED), list(&clauses, usize::MAX));
    Some(with_clients(text, met))
}

/// Going out and in again and again.
fn flaps(facts: &[&Entry], several: bool) -> Option<String> {
    let states = facts.iter().filter_map(|entry| match &*entry.fact {
        Fact::State { from, to, cause, address, .. } => {
            Some((entry.at, *from, *to, why(cause, *address, several)))
        }
        _ => None,
    });
    let states: Vec<_> = states.collect();
    let out: Vec<_> =
        states.iter().filter(|(_, from, to, _)| *from == "up" && matches!(*to, "down" | "ejected")).collect();
    let (first, last, now) = (out.first()?, out.last()?, states.last()?);
    if out.len() < 2 {
        return None;
    }
    let (n, while_) = (out.len(), time(now.0.duration_since(first.0).unwrap_or_default()));
    Some(format!(
        "flapped {n} times in {while_}, the last time because of {}; then {} {}",
        last.3,
        was_or(now.2),
        now.2
    ))
}

fn was_or(state: &str) -> &'static str {
    if state == "up" { "it stayed" } else { "it was" }
}

/// Each change in its words.
fn changes(facts: &[&Entry], several: bool) -> Vec<String> {
    let was = if several { "were" } else { "was" };
    let mut clauses = Vec::new();
    let mut before: Option<(SystemTime, &str, &Cause)> = None;
    let tells_state = facts.iter().any(|entry| matches!(*entry.fact, Fact::State { .. }));
    let weighed = facts.iter().any(|entry| matches!(*entry.fact, Fact::Weight { .. }));
    let arrived = matches!(facts.first().map(|entry| &*entry.fact), Some(Fact::State { from: "gone", .. }));
    let mut was_up = false;
    let mut no_result = 0;
    for entry in facts {
        match &*entry.fact {
            Fact::State { from, to, cause, address, .. } => {
                let after = match before.map(|(at, ..)| entry.at.duration_since(at).unwrap_or_default()) {
                    None => String::new(),
                    Some(after) if after < AT_ONCE => " at once".to_owned(),
                    Some(after) => format!(" {} later", time(after)),
                };
                let news = before.is_none_or(|(.., said)| said != cause);
                let why = why(cause, *address, several);
                let why = if news && !why.is_empty() { format!(" ({why})") } else { String::new() };
                // Who arrived and was never up is so for the first time, whatever came in between.
                let first = arrived && !was_up || matches!(*from, "joining" | "gone");
                let again = if first { "" } else { " again" };
                was_up |= *to == "up";
                clauses.push(match *to {
                    "joining" if *from == "gone" => format!("joined{after}{why}"),
                    "joining" => format!("{was} to be checked anew{after}{why}"),
                    "up" if before.is_none() => format!("came up{again}{why}"),
                    "up" => format!("{was} up{again}{after}{why}"),
                    "down" => format!("went down{after}{why}"),
                    "ejected" => format!("{was} ejected{after}{why}"),
                    "draining" => format!("got nothing new{after}{why}"),
                    "maintenance" => format!("went into maintenance{after}{why}"),
                    other => format!("{was} {other}{after}{why}"),
                });
                before = Some((entry.at, to, cause));
            }
            Fact::Weight { weight, .. } => clauses.push(format!("got the weight {weight}")),
            Fact::Spared { cause, .. } => {
                clauses
                    .push(format!("{was} not ejected ({cause}), as many were out as eject.at_most allows"));
            }
            Fact::NoResult { error, .. } => {
                no_result += 1;
                if no_result == 1 {
                    clauses.push(format!("could not be checked, for a reason of our own ({error})"));
                }
            }
            // What follows from it tells it, if anything does.
            Fact::Operator { who, state: Some(state), .. } if !tells_state => {
                clauses.push(format!("{was} told by {who} to be {state}, as before"));
            }
            Fact::Operator { who, weight: Some(weight), .. } if !weighed => {
                clauses.push(format!("{was} given the weight {weight} by {who}, as before"));
            }
            _ => {}
        }
    }
    clauses
}

/// Who served a pool's clients.
pub(super) fn service(pool: &str, facts: &[&Entry], met: &Met) -> Option<String> {
    let mut clauses = Vec::new();
    let mut before: Option<SystemTime> = None;
    for entry in facts {
        let Fact::Service { by, used, up, .. } = &*entry.fact else { continue };
        let after = before.map(|at| time(entry.at.duration_since(at).unwrap_or_default()));
        let after = after.map(|after| format!("after {after} ")).unwrap_or_default();
        clauses.push(match by {
            Service::Nobody => format!("{after}nobody was up"),
            Service::All => format!("{after}too few were up ({up}), so all {used} were used (panic)"),
            Service::Backups => {
                format!("{after}no primary was up, and {} served", count(*used as u64, "backup"))
            }
            Service::Primaries => {
                let again = if before.is_some() { " again" } else { "" };
                format!("{after}{} served{again}", count(*used as u64, "backend"))
            }
        });
        before = Some(entry.at);
    }
    if clauses.is_empty() {
        return None;
    }
    let over =
        matches!(facts.last().map(|entry| &*entry.fact), Some(Fact::Service { by: Service::Primaries, .. }));
    let text =
        format!("in {pool}, {}{}", clauses.join("; "), if over { "" } else { ", and that is so still" });
    Some(with_clients(text, met))
}

/// What a source answered.
pub(super) fn source(pool: &str, source: &str, facts: &[&Entry]) -> Option<String> {
    let mut reasons: Vec<&str> = Vec::new();
    let mut over = None;
    for entry in facts {
        match &*entry.fact {
            Fact::Answers { trouble: Some(trouble), .. } => {
                reasons.push(&trouble.reason);
                over = None;
            }
            Fact::Answers { trouble: None, .. } => over = Some(entry.at),
            _ => {}
        }
    }
    let since = facts.first()?.at;
    Some(match (reasons.is_empty(), over) {
        (true, _) => format!("{source} found backends for {pool} again"),
        (false, Some(at)) => {
            let lasted = time(at.duration_since(since).unwrap_or_default());
            format!(
                "{source} found nothing for {pool} ({}), and did again after {lasted}",
                list(&reasons, NAMED)
            )
        }
        (false, None) => {
            format!("{source} found nothing for {pool} ({}), and does not still", list(&reasons, NAMED))
        }
    })
}

/// Reports that a pool's checks ran late.
pub(super) fn checks(pool: &str, facts: &[&Entry]) -> Option<String> {
    let mut waited = None;
    let mut over = None;
    for entry in facts {
        match &*entry.fact {
            Fact::ChecksLate { waited_ms, .. } => waited = waited.or(Some(Duration::from_millis(*waited_ms))),
            Fact::ChecksOnTime { after_ms, checks, .. } => over = Some((*after_ms, *checks)),
            _ => {}
        }
    }
    let late = waited.map_or_else(
        || format!("the checks of {pool} ran late"),
        |waited| {
            let waited = time(waited);
            format!("the checks of {pool} ran late (the first waited {waited} for its turn; runtime.max_checks limits them)")
        },
    );
    Some(match over {
        Some((after_ms, checks)) => {
            let (after, checks) = (time(Duration::from_millis(after_ms)), count(checks, "check"));
            format!("{late} for {after}, {checks} in all, and were on time again")
        }
        None => format!("{late}, and still do"),
    })
}

/// What happened to the process.
pub(super) fn process(facts: &[&Entry]) -> Option<String> {
    facts.iter().find_map(|entry| match &*entry.fact {
        Fact::Reloaded { who, config, listeners, pools, .. } => {
            let (listeners, pools) = (count(*listeners as u64, "listener"), count(*pools as u64, "pool"));
            Some(format!("{config} was read again ({who}) and put to work: {listeners}, {pools}"))
        }
        Fact::NotReloaded { who, config, problems } => {
            let first = problems.first().map_or("the log says why", |wrong| &wrong.message);
            Some(format!("{config} was read again ({who}) and refused, and nothing changed: {first}"))
        }
        Fact::DrainStarted { who, open, .. } => Some(format!(
            "Pointsman was told to end ({who}), with {} open",
            count(*open as u64, "connection")
        )),
        Fact::DrainDone { cut: None } => Some("all connections had finished".to_owned()),
        Fact::DrainDone { cut: Some(cut) } => {
            Some(format!("time was up, and {} cut off", count(*cut as u64, "connection")))
        }
        Fact::Ended { who, conn, client, how, .. } => {
            Some(format!("{who} ended connection {conn} of {client} ({how})"))
        }
        _ => None,
    })
}
