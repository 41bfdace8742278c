//! Why a connection went where it went, and how it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Sentence;
use crate::config::Algorithm;
use crate::domain::{Client, CloseReason};
use crate::humanize::{bytes, count, list, millis};
use crate::proxy::open::Open;
use crate::telemetry::decisions::{Candidate, CandidateSet, Decision, Tier};
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
    /// The client.
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
                Client::Unix => "from a Unix socket".to_owned(),
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
            story.push(Sentence::now("it is closed; its record is no longer kept"));
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
        Tier::Standby => "; they stand in, as every attempt at the lower tiers failed",
        Tier::All => "; too few were up, so all were used, up or not (panic)",
    };
    text.push_str(why);
    let excluded = decision.excluded.untried();
    if !excluded.is_empty() {
        text.push_str(&format!("; excluded: {excluded}"));
    }
    if let Some(waiting) = decision.excluded.queue_full {
        text.push_str(&format!("; the queue was full, with {} waiting", count(waiting as u64, "client")));
    }
    let mut story = vec![Sentence::then(*at, text)];
    if let Some(waited) = decision.queued_ms {
        let text = format!("all were full, and it waited {} in the queue", millis(waited));
        story.push(Sentence::then(*at, text));
    }
    for attempt in &decision.failed {
        let (name, error, took) = (&attempt.backend, &attempt.error, millis(attempt.took_ms));
        let text = format!("the attempt at {name} failed after {took}: {error}");
        story.push(Sentence::then(*at, text));
    }
    if let Some(backend) = &decision.backend {
        let mut text = format!("{}: {}", decision.algorithm.name(), meaning(decision, backend));
        if let Some(took) = decision.connect_ms {
            text = format!("{text}; connected in {}", millis(took));
        }
        story.push(Sentence::then(*at, text));
    }
    story
}

/// The eligible backends and their connections.
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
        Algorithm::RoundRobin => format!("{backend} was next in rotation"),
        Algorithm::Weighted => format!("{backend} was next in rotation by weight"),
        Algorithm::LeastConnections if weighed => format!("{backend} had {load}, the fewest for its weight"),
        Algorithm::LeastConnections if fewer => {
            format!("{backend} had {load}, the fewest with the penalty for recent failures")
        }
        Algorithm::LeastConnections => format!("{backend} had {load}, and none had fewer"),
        Algorithm::RandomTwo => {
            format!("of two drawn at random, {backend} had fewer for its weight, {load}")
        }
        Algorithm::Ewma => format!("of two drawn at random, {backend} had less latency for its load, {load}"),
        Algorithm::SourceHash | Algorithm::RingHash | Algorithm::Maglev if !decision.failed.is_empty() => {
            format!("{backend} is next after those that failed")
        }
        Algorithm::SourceHash | Algorithm::RingHash | Algorithm::Maglev => format!("its home is {backend}"),
    }
}

/// What an open connection is doing now.
fn doing(open: &Open) -> String {
    let age = millis(open.age_ms);
    let Some(backend) = &open.backend else {
        return format!("it is {age} old, and is being connected, queued or rejected");
    };
    let (up, down) = (bytes(open.bytes_in), bytes(open.bytes_out));
    let first = match open.first_byte_ms {
        Some(ms) => format!("the first byte came after {}", millis(ms)),
        None => format!("no byte from {backend} yet"),
    };
    format!("it is open, {age} old: {first}; {up} have gone to {backend} and {down} to the client")
}

/// How it ended.
fn closed(ended: &Ended) -> Vec<Sentence> {
    let mut text = format!(
        "closed after {}: {} ({})",
        millis(ended.duration_ms),
        ending(ended.reason, ended.first),
        ended.reason.name()
    );
    if let Some(backend) = &ended.backend {
        let first = match ended.first_byte_ms {
            Some(ms) => format!("the first byte came {} after the choice", millis(ms)),
            None => format!("no byte came from {backend}"),
        };
        let (up, down) = (bytes(ended.bytes_in), bytes(ended.bytes_out));
        text = format!("{text}; {first}; {up} went to {backend} and {down} to the client");
    }
    let mut story = vec![Sentence::then(ended.at, text)];
    let side =
        |which: &str, path: Option<Path>| path.map(|path| format!("{which} TCP statistics: {}", way(&path)));
    match ended.kernel {
        Some(sides) => {
            let sides = [side("client-side", sides.client), side("backend-side", sides.backend)];
            let sides: Vec<_> = sides.into_iter().flatten().collect();
            if !sides.is_empty() {
                story.push(Sentence::then(ended.at, sides.join("; ")));
            }
        }
        None if ended.backend.is_some() => story.push(Sentence::then(
            ended.at,
            "no TCP statistics: for cleanly closed connections they are limited to a few hundred a second",
        )),
        None => {}
    }
    story
}

/// What the kernel knew of one side.
fn way(path: &Path) -> String {
    let ms = |micros: u32| millis(f64::from(micros) / 1e3);
    let mut words = format!(
        "a round trip of {} (± {}), {}",
        ms(path.rtt_us),
        ms(path.rttvar_us),
        count(path.retransmitted.into(), "retransmit")
    );
    if path.unacknowledged > 0 {
        let silent = millis(path.silent_ms.into());
        let pending = count(path.unacknowledged.into(), "segment");
        words.push_str(&format!(", {pending} unacknowledged, no packet received for {silent}"));
    }
    words
}

/// The close reason as text; `first` is the side that finished before, if one did.
fn ending(reason: CloseReason, first: Option<CloseReason>) -> &'static str {
    use CloseReason as R;
    match (reason, first) {
        (R::ClientClosed, _) => "the client closed first, cleanly",
        (R::BackendClosed, _) => "the backend closed first, cleanly",
        (R::ClientReset, Some(R::BackendClosed)) => {
            "the backend had finished, and then the client reset the connection or vanished"
        }
        (R::ClientReset, _) => "the client reset the connection or vanished",
        (R::BackendReset, Some(R::ClientClosed)) => {
            "the client had finished, and then the backend reset the connection or vanished"
        }
        (R::BackendReset, _) => "the backend reset the connection or vanished",
        (R::ConnectFailed, _) => "every attempt to connect to a backend failed, so the client was rejected",
        (R::NoBackend, _) => "no backend was up, so the client was rejected",
        (R::Limited, _) => "a limit was reached, so the client was rejected",
        (R::IdleTimeout, _) => "idle timeout: no byte moved for timeouts.idle",
        (R::HalfClosedTimeout, _) => {
            "half-closed timeout: one side had finished, and no byte moved for timeouts.half_closed"
        }
        (R::Lifetime, _) => "it reached timeouts.lifetime",
        (R::BackendDown, _) => "closed by on_down: its backend went down",
        (R::BackendLeft, _) => "closed by on_leave: its backend left",
        (R::Operator, _) => "closed by an operator",
        (R::DrainTimeout, _) => "closed at the end of the drain: Pointsman was stopping",
        (R::Internal, _) => "cut off when Pointsman ended, or by an internal error",
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
