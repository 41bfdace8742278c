//! Why a connection went where it went, and how it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Sentence;
use super::words::{bytes, count, ending, list, millis};
use crate::domain::{Client, CloseReason};
use crate::proxy::open::Open;
use crate::telemetry::decisions::{Attempt, Candidate, CandidateSet, Decision, Tier};
use crate::telemetry::ends::{Ended, Path};

/// So many candidates are named in a sentence.
const NAMED: usize = 6;

/// All that is kept of one connection.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Traces {
    /// Its number, unique within the process.
    pub conn: u64,
    /// Its choice of a backend, if that is still kept.
    pub decision: Option<Decision>,
    /// What it is now, if it is open.
    pub open: Option<Open>,
    /// How it ended, if it has and that is still kept.
    pub ended: Option<Ended>,
}

/// Puts together what is kept of each connection, newest first.
pub fn gather(decisions: Vec<Decision>, open: Vec<Open>, ended: Vec<Ended>) -> Vec<Traces> {
    let mut all = BTreeMap::<u64, Traces>::new();
    fn of(all: &mut BTreeMap<u64, Traces>, conn: u64) -> &mut Traces {
        all.entry(conn).or_insert(Traces { conn, decision: None, open: None, ended: None })
    }
    for decision in decisions {
        let traces = of(&mut all, decision.conn);
        traces.decision = Some(decision);
    }
    for open in open {
        let traces = of(&mut all, open.conn);
        traces.open = Some(open);
    }
    for ended in ended {
        // What was open a moment ago has ended since.
        let traces = of(&mut all, ended.conn);
        (traces.open, traces.ended) = (None, Some(ended));
    }
    let mut all: Vec<_> = all.into_values().collect();
    all.sort_by_key(|traces| std::cmp::Reverse((traces.accepted(), traces.conn)));
    all
}

impl Traces {
    /// Who connected.
    pub fn client(&self) -> Option<Client> {
        let decided = self.decision.as_ref().map(|decision| decision.client);
        decided
            .or(self.ended.as_ref().map(|ended| ended.client))
            .or(self.open.as_ref().map(|open| open.client))
    }

    /// When it was accepted.
    pub fn accepted(&self) -> Option<SystemTime> {
        let before = |at: SystemTime, ms: f64| at.checked_sub(Duration::from_secs_f64(ms.max(0.0) / 1e3));
        let decided = self.decision.as_ref().and_then(|decision| before(decision.at, decision.age_ms));
        let ended = || self.ended.as_ref().and_then(|ended| before(ended.at, ended.duration_ms));
        decided.or_else(ended).or_else(|| self.open.as_ref().map(|open| open.since))
    }

    fn listener_and_pool(&self) -> Option<(&Arc<str>, &Arc<str>)> {
        let decided = self.decision.as_ref().map(|decision| (&decision.listener, &decision.pool));
        let ended = || self.ended.as_ref().map(|ended| (&ended.listener, &ended.pool));
        decided.or_else(ended).or_else(|| self.open.as_ref().map(|open| (&open.listener, &open.pool)))
    }

    /// Its story, from the accept to the end.
    pub fn story(&self) -> Vec<Sentence> {
        let mut story = Vec::new();
        if let (Some(client), Some((listener, pool))) = (self.client(), self.listener_and_pool()) {
            let from = match client {
                Client::Tcp(address) => format!("from {address}"),
                Client::Unix => "from a process on this machine".to_owned(),
            };
            let text = format!(
                "connection {} {from} was accepted by the listener {listener}, for the pool {pool}",
                self.conn
            );
            story.push(Sentence { at: self.accepted(), text });
        }
        match &self.decision {
            Some(decision) => story.extend(decided(decision)),
            None => story.extend(self.undecided()),
        }
        if let Some(open) = &self.open {
            story.push(Sentence::now(doing(open)));
        }
        if let Some(ended) = &self.ended {
            story.extend(closed(ended));
        } else if self.open.is_none() {
            story.push(Sentence::now("it has ended, and how is no longer kept"));
        }
        story
    }

    /// What can be said without its decision.
    fn undecided(&self) -> Option<Sentence> {
        let backend = |name: &Option<Arc<str>>| name.as_ref().map(ToString::to_string);
        let at = self.open.as_ref().and_then(|open| backend(&open.backend));
        let at = at.or(self.ended.as_ref().and_then(|ended| backend(&ended.backend)));
        match (at, &self.ended) {
            (Some(name), _) => {
                Some(Sentence::now(format!("it went to {name}; why to that one is no longer kept")))
            }
            (None, Some(ended)) if ended.reason == CloseReason::Limited => Some(Sentence::now(
                "its listener had as many connections as max_connections allows: no backend was looked for",
            )),
            (None, Some(_)) => Some(Sentence::now("no backend was chosen for it before it ended")),
            (None, None) => None, // it is open, and what it waits for is told there
        }
    }
}

/// How a backend was found, or was not.
fn decided(decision: &Decision) -> Vec<Sentence> {
    let Decision { at, pool, candidates, .. } = decision;
    let mut text = match (candidates.known, candidates.total) {
        (0, _) => format!("the pool {pool} had no backend"),
        (known, 0) => {
            format!("the pool {pool} had {}, and none could be chosen", count(known.into(), "backend"))
        }
        (known, total) => {
            let known = count(known.into(), "backend");
            format!("the pool {pool} had {known}, of which {total} could be chosen: {}", loads(candidates))
        }
    };
    let why = match decision.tier {
        Tier::Primaries => "",
        Tier::Backups => "; they are backups, as no primary was up",
        Tier::Standby => "; they stand in, as all before them had been tried in vain",
        Tier::All => "; too few were up, so all were used, up or not (panic)",
    };
    text.push_str(why);
    let (skipped, waiting) = without_queue(without_failed(decision));
    if !skipped.is_empty() {
        text.push_str("; passed over: ");
        text.push_str(skipped);
    }
    if let Some(waiting) = waiting {
        text.push_str(&format!("; the queue was full, as {} waited already", count(waiting, "client")));
    }
    let mut story = vec![Sentence::then(*at, text)];
    if let Some(waited) = decision.queued_ms {
        let text = format!("all were full, and it waited {} for a place", millis(waited));
        story.push(Sentence::then(*at, text));
    }
    for attempt in &decision.failed {
        let (name, error, took) = (&attempt.backend, &attempt.error, millis(attempt.took_ms));
        let text = format!("{name} was tried, and failed after {took}: {error}");
        story.push(Sentence::then(*at, text));
    }
    if let Some(backend) = &decision.backend {
        let mut text = format!("{}: {}", decision.algorithm, meaning(decision, backend));
        if let Some(took) = decision.connect_ms {
            text = format!("{text}; it was connected to in {}", millis(took));
        }
        story.push(Sentence::then(*at, text));
    }
    story
}

/// Who was passed over, without those that were tried in vain: they are told each.
fn without_failed(decision: &Decision) -> &str {
    let one = |attempt: &Attempt| format!("{}: {}", attempt.backend, attempt.error);
    let failed = decision.failed.iter().map(one).collect::<Vec<_>>().join("; ");
    let rest = decision.skipped.strip_suffix(&*failed).unwrap_or(&decision.skipped);
    rest.strip_suffix("; ").unwrap_or(rest)
}

/// Who was passed over, and how many waited where the queue had no room for one more, which is the last that is noted.
fn without_queue(skipped: &str) -> (&str, Option<u64>) {
    let (rest, last) = skipped.rsplit_once("; ").unwrap_or(("", skipped));
    match last.strip_suffix(" clients wait already").and_then(|n| n.parse().ok()) {
        Some(waiting) => (rest, Some(waiting)),
        None => (skipped, None),
    }
}

/// Who could be chosen, and what connections they had.
fn loads(candidates: &CandidateSet) -> String {
    let one = |(index, (one, load)): (usize, (&Candidate, u32))| match index {
        0 => format!("{} with {}", one.name, count(load.into(), "connection")),
        _ => format!("{} with {load}", one.name),
    };
    let mut words: Vec<String> = candidates.shown().enumerate().map(one).collect();
    let named = if words.len() > NAMED + 1 { NAMED } else { words.len() };
    words.truncate(named);
    let more = candidates.total as usize - named.min(candidates.total as usize);
    words.extend((more > 0).then(|| format!("{more} more")));
    list(&words, usize::MAX)
}

/// What the algorithm means for this choice.
fn meaning(decision: &Decision, backend: &str) -> String {
    let candidates = &decision.candidates;
    let load = count(candidates.chosen.unwrap_or(0).into(), "connection");
    if candidates.total == 1 {
        return format!("{backend} was the only one");
    }
    if let Some(home) = &decision.home {
        return format!(
            "its home is {home}, which had more than its share (load_factor), so it went to {backend}"
        );
    }
    let chosen = candidates.chosen.unwrap_or(0);
    let fewer = candidates.shown().any(|(_, load)| load < chosen);
    let weighed = candidates.shown.iter().any(|one| one.share != candidates.shown[0].share);
    match decision.algorithm {
        "round-robin" => format!("it was the turn of {backend}"),
        "weighted" => format!("by the weights it was the turn of {backend}"),
        "least-connections" if weighed => format!("{backend} had {load}, the fewest for its weight"),
        "least-connections" if fewer => {
            format!("{backend} had {load}, the fewest with those that have failed a moment ago")
        }
        "least-connections" => format!("{backend} had {load}, and none had fewer"),
        "random-two" => format!("of two drawn at random {backend} had the fewer for its weight, {load}"),
        "ewma" => format!("of two drawn at random {backend} answered sooner for its load, {load}"),
        _ if !decision.failed.is_empty() => format!("{backend} is next after those that failed"),
        _ => format!("its home is {backend}"),
    }
}

/// What an open connection is doing now.
fn doing(open: &Open) -> String {
    let age = millis(open.age_ms);
    let Some(backend) = &open.backend else {
        return format!("it is {age} old, and is being connected, waits for a place or is being turned away");
    };
    let (up, down) = (bytes(open.bytes_in), bytes(open.bytes_out));
    let first = match open.first_byte_ms {
        Some(ms) => format!("the first byte came after {}", millis(ms)),
        None => format!("{backend} has said nothing yet"),
    };
    format!("it is open, {age} old: {first}; {up} have gone to {backend} and {down} to the client")
}

/// How it ended.
fn closed(ended: &Ended) -> Vec<Sentence> {
    let mut text = format!(
        "after {} it ended: {} ({})",
        millis(ended.duration_ms),
        ending(ended.reason, ended.first),
        ended.reason.name()
    );
    if let Some(backend) = &ended.backend {
        let first = match ended.first_byte_ms {
            Some(ms) => format!("the first byte came {} after the choice", millis(ms)),
            None => format!("{backend} had said nothing"),
        };
        let (up, down) = (bytes(ended.bytes_in), bytes(ended.bytes_out));
        text = format!("{text}; {first}; {up} went to {backend} and {down} to the client");
    }
    let mut story = vec![Sentence::then(ended.at, text)];
    let side = |who: &str, path: Option<Path>| path.map(|path| format!("{who}: {}", way(&path)));
    match ended.kernel {
        Some(sides) => {
            let sides = [side("the client's side", sides.client), side("the backend's side", sides.backend)];
            let sides: Vec<_> = sides.into_iter().flatten().collect();
            if !sides.is_empty() {
                story.push(Sentence::then(ended.at, format!("the kernel says of {}", sides.join("; of "))));
            }
        }
        None if ended.backend.is_some() => story.push(Sentence::then(
            ended.at,
            "the kernel was not asked: of orderly ends it is for a few hundred a second only",
        )),
        None => {}
    }
    story
}

/// What the kernel knew of one side.
fn way(path: &Path) -> String {
    let ms = |micros: u32| millis(f64::from(micros) / 1e3);
    let mut words = format!(
        "a round trip of {} (± {}), {} sent again",
        ms(path.rtt_us),
        ms(path.rttvar_us),
        count(path.retransmitted.into(), "segment")
    );
    if path.unacknowledged > 0 {
        let silent = millis(path.silent_ms.into());
        let pending = count(path.unacknowledged.into(), "segment");
        words.push_str(&format!(", {pending} unacknowledged, nothing heard for {silent}"));
    }
    words
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
