//! Why a connection was routed to its backend, and how it ended.

use std::time::Duration;

use super::Sentence;
use crate::domain::{
    Algorithm, CandidateSet, Client, CloseReason, ConnectedBackend, ConnectionEnd, ConnectionRecord,
    FailedAttempt, PoolShare, Route, RouteCandidate, RouteTier, RoutingRule, Stage, TcpInfo,
};
use crate::humanize::{bytes, count, list, millis};
use crate::telemetry;

/// The most candidates that a sentence names.
const NAMED: usize = 6;

/// The story of a connection, from the accept to the end.
pub(crate) fn story(record: &ConnectionRecord) -> Vec<Sentence> {
    let proxy = record.route.as_ref().and_then(|route| route.proxy);
    let from = match (record.client, proxy) {
        (Client::Tcp(address), None) => format!("from {address}"),
        (Client::Tcp(address), Some(proxy)) => {
            format!("from {address}, as the PROXY header of {proxy} says,")
        }
        (Client::Unix, _) => "from a Unix socket".to_owned(),
    };
    let ConnectionRecord { conn, listener, accepted, .. } = record;
    let mut text = format!("connection {conn} {from} was accepted by the listener {listener}");
    text.push_str(&assigned(record));
    let mut story = vec![Sentence::then(*accepted, text)];
    match &record.route {
        Some(route) => story.extend(routed(record, route)),
        None => story.extend(without_route(record)),
    }
    match &record.stage {
        Stage::Open => story.push(Sentence::now(doing(record))),
        Stage::Ended(end) => story.extend(closed(record, end)),
        Stage::Routed => story.push(Sentence::now("it is closed; its record is no longer kept")),
    }
    story
}

/// To which pool it was assigned, and why.
fn assigned(record: &ConnectionRecord) -> String {
    let name = record.server_name().map_or(String::new(), |name| format!("; the client asked for {name}"));
    let assigned = match (&record.pool, record.rule()) {
        (Some(pool), None) => format!(", for the pool {pool}{name}"),
        (Some(pool), Some(RoutingRule::Default)) => {
            format!("{name}; no rule matched, so it was for the default pool, {pool}")
        }
        (Some(pool), Some(rule)) => format!("{name}; by the rule \"{rule}\" it was for the pool {pool}"),
        (None, _) => name,
    };
    match record.share() {
        Some(PoolShare { share, total }) => format!("{assigned}, whose share is {share} of {total}"),
        None => assigned,
    }
}

/// A sentence about a connection whose route is not kept.
fn without_route(record: &ConnectionRecord) -> Option<Sentence> {
    match (&record.backend, record.end()) {
        (Some(ConnectedBackend { name, .. }), _) => {
            Some(Sentence::now(format!("it went to {name}; the reason is no longer kept")))
        }
        (None, Some(end)) if end.rejection.is_some() => {
            Some(Sentence::now("its listener rejected it before a backend was chosen"))
        }
        (None, Some(_)) => Some(Sentence::now("no backend was chosen for it before it ended")),
        (None, None) => None, // it is open: `doing` describes what it waits for
    }
}

/// A duration as text.
fn took(time: Duration) -> String {
    millis(telemetry::millis(time))
}

/// How a backend was chosen, or that none was.
fn routed(record: &ConnectionRecord, route: &Route) -> Vec<Sentence> {
    let (at, candidates) = (record.accepted + route.after, &route.candidates);
    let pool = record.pool.as_deref().unwrap_or_default();
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
    let why = match route.tier {
        RouteTier::Primaries => "",
        RouteTier::AllZones => "; too few of the local zone were up, so those of other zones were used too",
        RouteTier::OtherZones => {
            "; they are of other zones, as those of the local zone had failed or were full"
        }
        RouteTier::Backups => "; they are backups, as no primary was up",
        RouteTier::Standby => "; they stand in, as all attempts in the lower tiers failed",
        RouteTier::Overflow => "; they are backups, as no other backend had room",
        RouteTier::All => "; too few were up, so all were used, up or not (panic)",
    };
    text.push_str(why);
    let excluded = route.excluded.backends();
    if !excluded.is_empty() {
        text.push_str(&format!("; excluded: {excluded}"));
    }
    if let Some(waiting) = route.excluded.queue_full {
        text.push_str(&format!("; the queue was full, with {} waiting", count(waiting as u64, "client")));
    }
    let mut story = vec![Sentence::then(at, text)];
    if let Some(waited) = route.queued {
        let text = format!("all were full, and it waited {} in the queue", took(waited));
        story.push(Sentence::then(at, text));
    }
    for FailedAttempt { backend, error, took: time, .. } in &route.failed {
        let text = format!("the attempt at {backend} failed after {}: {error}", took(*time));
        story.push(Sentence::then(at, text));
    }
    if let Some(ConnectedBackend { name, connect, .. }) = &record.backend {
        let choice = choice(route, name);
        let from = match route.source {
            None => String::new(),
            Some(source) if matches!(record.client, Client::Tcp(client) if client.ip() == source) => {
                " from the client's address (connect.transparent)".to_owned()
            }
            Some(source) => format!(" from {source}"),
        };
        let header =
            if route.proxy_header { "; a PROXY header with the client's address was sent" } else { "" };
        let connected = connect.map_or("connected".to_owned(), |time| format!("connected in {}", took(time)));
        let text = format!("{}: {choice}; {connected}{from}{header}", route.algorithm.name());
        story.push(Sentence::then(at, text));
        if route.cancel_request {
            let text = "it is a request to cancel a query, which the other backends got too (PostgreSQL)";
            story.push(Sentence::then(at, text.to_owned()));
        }
    }
    story
}

/// The eligible backends and their connections.
fn loads(candidates: &CandidateSet) -> String {
    let one = |(index, (one, load)): (usize, (&RouteCandidate, u32))| match index {
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

/// Why the algorithm chose this backend.
fn choice(route: &Route, backend: &str) -> String {
    let candidates = &route.candidates;
    let load = count(candidates.chosen.unwrap_or(0).into(), "connection");
    if candidates.total == 1 {
        return format!("{backend} was the only one");
    }
    if let Some(home) = &route.home {
        return format!(
            "its home is {home}, which had more than its share (load_factor), so it went to {backend}"
        );
    }
    let chosen = candidates.chosen.unwrap_or(0);
    let fewer = candidates.shown().any(|(_, load)| load < chosen);
    let has_weights = candidates.shown.iter().any(|one| one.share != candidates.shown[0].share);
    match route.algorithm {
        Algorithm::RoundRobin => format!("{backend} was next in rotation"),
        Algorithm::Weighted => format!("{backend} was next in rotation by weight"),
        Algorithm::LeastConnections if has_weights => {
            format!("{backend} had {load}, the fewest for its weight")
        }
        Algorithm::LeastConnections if fewer => {
            format!("{backend} had {load}, the fewest with the penalty for recent failures")
        }
        Algorithm::LeastConnections => format!("{backend} had {load}, and none had fewer"),
        Algorithm::Random => format!("{backend} was drawn at random"),
        Algorithm::RandomTwo => {
            format!("of two drawn at random, {backend} had fewer for its weight, {load}")
        }
        Algorithm::Ewma => format!("of two drawn at random, {backend} had less latency for its load, {load}"),
        Algorithm::SourceHash | Algorithm::RingHash | Algorithm::Maglev if !route.failed.is_empty() => {
            format!("{backend} is next after those that failed")
        }
        Algorithm::SourceHash | Algorithm::RingHash | Algorithm::Maglev => format!("its home is {backend}"),
    }
}

/// What an open connection is doing now.
fn doing(record: &ConnectionRecord) -> String {
    let age = took(record.age);
    let Some(ConnectedBackend { name, .. }) = &record.backend else {
        return format!(
            "it is {age} old and has no backend yet: it is being admitted, connected, queued or rejected"
        );
    };
    let (up, down) = (bytes(record.bytes_in), bytes(record.bytes_out));
    let first = match record.first_byte {
        Some(time) => format!("the first byte came after {}", took(time)),
        None => format!("no byte from {name} yet"),
    };
    let throttled = throttled(record);
    format!("it is open, {age} old: {first}; {up} have gone to {name} and {down} to the client{throttled}")
}

/// What the listener's bandwidth limits did to it.
fn throttled(record: &ConnectionRecord) -> &'static str {
    if record.throttled { "; a bandwidth limit of the listener delayed some of that" } else { "" }
}

/// How it ended.
fn closed(record: &ConnectionRecord, end: &ConnectionEnd) -> Vec<Sentence> {
    let (age, reason) = (took(record.age), end.reason.name());
    let mut text = format!("closed after {age}: {} ({reason})", ending(end.reason, end.first_closed));
    if let Some(rejection) = end.rejection {
        text = format!("{text}: {rejection}");
    }
    if let Some(ConnectedBackend { name, .. }) = &record.backend {
        let first = match record.first_byte {
            Some(time) => format!("the first byte came {} after the choice", took(time)),
            None => format!("no byte came from {name}"),
        };
        let (up, down) = (bytes(record.bytes_in), bytes(record.bytes_out));
        let throttled = throttled(record);
        text = format!("{text}; {first}; {up} went to {name} and {down} to the client{throttled}");
    }
    let mut story = vec![Sentence::then(record.at(), text)];
    let side = |which: &str, info: Option<TcpInfo>| {
        info.map(|info| format!("{which} TCP statistics: {}", tcp_statistics(&info)))
    };
    match end.kernel {
        Some(sides) => {
            let sides = [side("client-side", sides.client), side("backend-side", sides.backend)];
            let sides: Vec<_> = sides.into_iter().flatten().collect();
            if !sides.is_empty() {
                story.push(Sentence::then(record.at(), sides.join("; ")));
            }
        }
        None if record.backend.is_some() => story.push(Sentence::then(
            record.at(),
            "no TCP statistics: for cleanly closed connections they are limited to a few hundred a second",
        )),
        None => {}
    }
    story
}

/// The kernel's statistics of one side.
fn tcp_statistics(info: &TcpInfo) -> String {
    let ms = |micros: u32| millis(f64::from(micros) / 1e3);
    let mut words = format!(
        "a round trip of {} (± {}), {}",
        ms(info.rtt_us),
        ms(info.rttvar_us),
        count(info.retransmitted.into(), "retransmit")
    );
    if info.unacknowledged > 0 {
        let silent = millis(info.silent_ms.into());
        let pending = count(info.unacknowledged.into(), "segment");
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
        (R::Denied, _) => "the listener rejected the client",
        (R::PrefaceInvalid, _) => "its first bytes were not what the listener expects, so it was reset",
        (R::PrefaceTimeout, _) => "its first bytes did not come in time, so it was reset",
        (R::Limited, _) => "a limit was reached, so the client was rejected",
        (R::IdleTimeout, _) => "idle timeout: no byte moved for timeouts.idle",
        (R::HalfClosedTimeout, _) => {
            "half-closed timeout: one side had finished, and no byte moved for timeouts.half_closed"
        }
        (R::Lifetime, _) => "it reached timeouts.lifetime",
        (R::BackendDown, _) => "closed by on_down: its backend went down",
        (R::BackendLeft, _) => "closed by on_leave: its backend left",
        (R::Operator, _) => "closed by an operator",
        (R::Rebalanced, _) => {
            "closed while it was idle: its backend had more than its share of the connections"
        }
        (R::DrainTimeout, _) => "closed at the end of the drain: Pointsman was stopping",
        (R::Internal, _) => "cut off when Pointsman ended, or by an internal error",
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
