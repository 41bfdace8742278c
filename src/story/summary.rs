//! A summary of a client's connections: where they went, and how they ended.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Sentence;
use crate::domain::{ConnectionEnd, ConnectionRecord, Stage, Timestamp};
use crate::humanize::{count, duration, list};
use crate::names::natural_order;

/// The most backends that a sentence names.
const NAMED: usize = 8;

/// What is remembered of a client's connections, in numbers and in sentences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ClientSummary {
    /// The connections that are remembered.
    pub connections: u64,
    /// When the first of them was accepted, in seconds since the epoch.
    pub since: Timestamp,
    /// The backends that they went to, those with the most connections first.
    pub backends: Vec<BackendCount>,
    /// Those that ended without a backend.
    pub without_backend: u64,
    /// Those that are open and have no backend yet.
    pub waiting: u64,
    /// Those that are open, the waiting ones included.
    pub open: u64,
    /// Those that a peer closed cleanly (`client_closed`, `backend_closed`).
    pub closed_normally: u64,
    /// Those that a peer closed after the client had sent bytes, and before any came back.
    pub without_answer: u64,
    /// Those that failed visibly for the client.
    pub failed: u64,
    /// Those that their listener rejected.
    pub rejected: u64,
    /// Those that ended in another way, such as a reset by the client or a timeout.
    pub ended_otherwise: u64,
    /// Those that are no longer open and whose end is no longer kept.
    pub end_unknown: u64,
    /// Those of which an attempt failed and that were then connected to another backend.
    pub retried: u64,
    /// The reasons for which they ended, the most frequent first.
    pub ends: Vec<EndCount>,
    /// All of it in words. None for a single connection: its story says the same.
    pub sentences: Vec<Sentence>,
}

/// The connections that went to one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct BackendCount {
    /// Its pool.
    pub pool: Arc<str>,
    /// Its name.
    pub backend: Arc<str>,
    /// How many.
    pub connections: u64,
}

/// The connections that ended for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct EndCount {
    /// The reason.
    #[cfg_attr(test, schemars(with = "crate::domain::CloseReason"))]
    pub reason: Cow<'static, str>,
    /// How many.
    pub connections: u64,
}

/// How a connection ended, for a reader who looks for failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ConnectionOutcome {
    ClosedNormally,
    WithoutAnswer,
    Failed,
    Rejected,
    Other,
}

impl ConnectionOutcome {
    fn of(record: &ConnectionRecord, end: &ConnectionEnd) -> Self {
        match end.reason {
            _ if end.rejection.is_some() => Self::Rejected,
            reason if reason.is_without_answer(record.bytes_in, record.bytes_out) => Self::WithoutAnswer,
            reason if reason.is_orderly() => Self::ClosedNormally,
            reason if reason.is_failure() => Self::Failed,
            _ => Self::Other,
        }
    }
}

impl ClientSummary {
    /// The summary of the connections of `client`, one record each.
    pub(crate) fn of(client: &str, records: &[ConnectionRecord], now: SystemTime) -> Self {
        let mut summary = Self {
            connections: records.len() as u64,
            since: records
                .iter()
                .map(|record| record.accepted)
                .min()
                .map(Timestamp::from)
                .unwrap_or_default(),
            ..Self::default()
        };
        let (mut backends, mut ends) = (HashMap::new(), HashMap::new());
        for record in records {
            let is_open = record.stage == Stage::Open;
            summary.open += u64::from(is_open);
            match &record.backend {
                Some(backend) => add(&mut backends, (record.pool.clone().unwrap_or_default(), &backend.name)),
                None if is_open => summary.waiting += 1,
                None => summary.without_backend += 1,
            }
            summary.retried += u64::from(record.backend.is_some() && record.has_failed_attempts());
            match record.end() {
                Some(end) => add(&mut ends, (end.reason, ConnectionOutcome::of(record, end))),
                None => summary.end_unknown += u64::from(!is_open),
            }
        }
        let mut ends: Vec<_> = ends.into_iter().collect();
        ends.sort_by_key(|((reason, _), n)| (Reverse(*n), reason.index()));
        let with = |outcome| ends.iter().filter(move |((_, one), _)| *one == outcome);
        let total = |outcome| with(outcome).map(|(_, n)| n).sum();
        summary.closed_normally = total(ConnectionOutcome::ClosedNormally);
        summary.without_answer = total(ConnectionOutcome::WithoutAnswer);
        summary.failed = total(ConnectionOutcome::Failed);
        summary.rejected = total(ConnectionOutcome::Rejected);
        summary.ended_otherwise = total(ConnectionOutcome::Other);
        let count_of = |((pool, backend), connections): ((Arc<str>, &Arc<str>), u64)| BackendCount {
            pool,
            backend: Arc::clone(backend),
            connections,
        };
        summary.backends = backends.into_iter().map(count_of).collect();
        summary.backends.sort_by(|a, b| {
            let names =
                || natural_order(&a.pool, &b.pool).then_with(|| natural_order(&a.backend, &b.backend));
            b.connections.cmp(&a.connections).then_with(names)
        });
        if records.len() > 1 {
            let reasons = |outcome| {
                let all: Vec<_> = with(outcome).map(|((reason, _), n)| (reason.name(), *n)).collect();
                match &all[..] {
                    [(reason, _)] => (*reason).to_owned(),
                    all => list(
                        &all.iter().map(|(reason, n)| format!("{n} {reason}")).collect::<Vec<_>>(),
                        NAMED,
                    ),
                }
            };
            let went = summary.destinations(client, now);
            let ended = summary.outcomes(
                [ConnectionOutcome::Failed, ConnectionOutcome::Rejected, ConnectionOutcome::Other]
                    .map(reasons),
            );
            summary.sentences = vec![Sentence::now(went), Sentence::now(ended)];
        }
        for ((reason, _), connections) in ends {
            // A reason may have two outcomes: `limited` by the listener, or by all backends.
            match summary.ends.iter_mut().find(|end| end.reason == reason.name()) {
                Some(end) => end.connections += connections,
                None => summary.ends.push(EndCount { reason: reason.name().into(), connections }),
            }
        }
        summary.ends.sort_by_key(|end| Reverse(end.connections));
        summary
    }

    /// Where they went.
    fn destinations(&self, client: &str, now: SystemTime) -> String {
        let one_pool = self.backends.windows(2).all(|pair| pair[0].pool == pair[1].pool);
        let name = |one: &BackendCount| match one_pool {
            true => one.backend.to_string(),
            false => format!("{}/{}", one.pool, one.backend),
        };
        let made = format!("{client} made {}", count(self.connections, "connection"));
        let age = duration(now.duration_since(self.since.into()).unwrap_or_default());
        let mut parts: Vec<_> = self
            .backends
            .iter()
            .take(NAMED)
            .map(|one| format!("{} to {}", one.connections, name(one)))
            .collect();
        if let [one] = &self.backends[..]
            && one.connections == self.connections
        {
            parts = vec![format!("all to {}", name(one))];
        }
        if let Some(more @ 1..) = self.backends.len().checked_sub(NAMED) {
            let rest: u64 = self.backends[NAMED..].iter().map(|one| one.connections).sum();
            parts.push(format!("{rest} to {}", count(more as u64, "other backend")));
        }
        parts.extend((self.waiting > 0).then(|| format!("{} waiting for a backend", self.waiting)));
        parts.extend(
            (self.without_backend > 0).then(|| format!("{} without a backend", self.without_backend)),
        );
        format!("{made} that are remembered, the first {age} ago: {}", list(&parts, usize::MAX))
    }

    /// How they ended; `reasons`: of those that failed, were rejected, and ended otherwise.
    fn outcomes(&self, [failed, rejected, other]: [String; 3]) -> String {
        let verb = |n: u64, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        let parts = [
            (self.open, verb(self.open, "is open", "are open")),
            (self.closed_normally, format!("{} closed normally", self.closed_normally)),
            (self.without_answer, format!("{} ended without an answer", self.without_answer)),
            (self.failed, format!("{} failed visibly for the client ({failed})", self.failed)),
            (
                self.rejected,
                format!("{} rejected by the listener ({rejected})", verb(self.rejected, "was", "were")),
            ),
            (self.ended_otherwise, format!("{} ended otherwise ({other})", self.ended_otherwise)),
            (self.end_unknown, format!("of {} the end is no longer kept", self.end_unknown)),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|(n, _)| *n > 0).map(|(_, text)| text).collect();
        let mut text = list(&parts, usize::MAX);
        if self.retried > 0 {
            let were = verb(self.retried, "was", "were");
            text.push_str(&format!("; {were} retried on another backend"));
        }
        text
    }
}

fn add<K: Eq + Hash>(counts: &mut HashMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Client, CloseReason, ConnectedBackend, ConnectionEnd, Rejection, Route};
    use std::time::Duration;

    fn record(second: u64, backend: Option<(&str, &str)>, stage: Stage) -> ConnectionRecord {
        ConnectionRecord {
            conn: second,
            client: Client::Unix,
            listener: "front".into(),
            pool: backend.map(|(pool, _)| pool.into()),
            pool_match: None,
            accepted: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            backend: backend.map(|(_, name)| ConnectedBackend {
                name: name.into(),
                address: "10.0.0.1:80".parse().unwrap(),
                connect: Some(Duration::ZERO),
            }),
            route: None,
            age: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            throttled: false,
            first_byte: None,
            stage,
        }
    }

    fn ended(reason: CloseReason) -> Stage {
        Stage::Ended(ConnectionEnd { reason, first_closed: None, rejection: None, kernel: None })
    }

    fn retried(record: ConnectionRecord) -> ConnectionRecord {
        ConnectionRecord { route: Some(Route::after_failed_attempt()), ..record }
    }

    fn summary(records: &[ConnectionRecord]) -> ClientSummary {
        ClientSummary::of("192.0.2.7", records, SystemTime::UNIX_EPOCH + Duration::from_secs(600))
    }

    fn text(summary: &ClientSummary) -> Vec<&str> {
        summary.sentences.iter().map(|sentence| &*sentence.text).collect()
    }

    #[test]
    fn connections_are_counted_by_backend_and_by_outcome() {
        use CloseReason as R;
        let (a, b) = (Some(("web", "a")), Some(("web", "b")));
        let mut records = vec![
            record(10, a, ended(R::ClientClosed)),
            record(11, a, ended(R::BackendClosed)),
            record(12, a, ended(R::BackendReset)),
            retried(record(13, b, ended(R::ClientClosed))),
            record(14, b, Stage::Open),
            record(15, None, Stage::Open),
            record(16, b, Stage::Routed),
            retried(record(17, None, ended(R::ConnectFailed))),
            record(18, None, ended(R::NoBackend)),
            record(19, None, ended(R::NoBackend)),
            record(20, a, ended(R::ClientReset)),
        ];
        let rejection = Some(Rejection::Address);
        let end = ConnectionEnd { reason: R::Denied, first_closed: None, rejection, kernel: None };
        records.push(record(21, None, Stage::Ended(end)));
        let summary = summary(&records);
        assert_eq!(
            text(&summary),
            [
                "192.0.2.7 made 12 connections that are remembered, the first 9m 50s ago: 4 to a, 3 to b, 1 waiting for a \
                 backend and 4 without a backend",
                "2 are open, 3 closed normally, 4 failed visibly for the client (2 no_backend, 1 backend_reset and \
                 1 connect_failed), 1 was rejected by the listener (denied), 1 ended otherwise (client_reset) and of 1 the \
                 end is no longer kept; 1 was retried on another backend"
            ]
        );
        assert_eq!((summary.connections, summary.since), (12, Timestamp(10.0)));
        assert_eq!((summary.open, summary.waiting, summary.without_backend), (2, 1, 4));
        assert_eq!((summary.closed_normally, summary.failed, summary.retried), (3, 4, 1));
        assert_eq!((summary.rejected, summary.ended_otherwise, summary.end_unknown), (1, 1, 1));
        let most = EndCount { reason: "client_closed".into(), connections: 2 };
        assert_eq!((&summary.ends[0], summary.ends.len()), (&most, 7));
        let all =
            summary.open + summary.end_unknown + summary.ends.iter().map(|end| end.connections).sum::<u64>();
        assert_eq!(all, summary.connections);
    }

    #[test]
    fn many_backends_are_counted_and_those_of_several_pools_have_its_name() {
        let closed = ended(CloseReason::ClientClosed);
        let to = |second, pool, backend: &str| record(second, Some((pool, backend)), closed);
        let all: Vec<_> = (1..=5).map(|second| to(second, "web", "a")).collect();
        assert_eq!(
            text(&summary(&all)),
            [
                "192.0.2.7 made 5 connections that are remembered, the first 9m 59s ago: all to a",
                "5 closed normally"
            ]
        );
        let names: Vec<_> = (1..=11).rev().map(|n| format!("b-{n}")).collect();
        let all: Vec<_> = names.iter().zip(100..).map(|(name, second)| to(second, "web", name)).collect();
        let words = "1 to b-1, 1 to b-2, 1 to b-3, 1 to b-4, 1 to b-5, 1 to b-6, 1 to b-7, 1 to b-8 and 3 to 3 other backends";
        let of_many = summary(&all);
        assert!(of_many.sentences[0].text.ends_with(words), "{of_many:?}");
        let of_two = summary(&[to(1, "web", "a"), to(2, "api", "a"), to(3, "web", "a")]);
        assert!(of_two.sentences[0].text.ends_with("2 to web/a and 1 to api/a"), "{of_two:?}");
    }

    #[test]
    fn one_connection_needs_no_sentence() {
        let one = summary(&[record(1, Some(("web", "a")), Stage::Open)]);
        assert_eq!((one.connections, one.open, one.sentences.len()), (1, 1, 0));
        assert_eq!(summary(&[]), ClientSummary::default());
    }

    #[test]
    fn a_reason_with_two_outcomes_is_one_end() {
        let limit = Some(Rejection::Address);
        let reason = CloseReason::Limited;
        let rejected = ConnectionEnd { reason, first_closed: None, rejection: limit, kernel: None };
        let both = summary(&[record(1, None, ended(reason)), record(2, None, Stage::Ended(rejected))]);
        assert_eq!((both.failed, both.rejected), (1, 1));
        assert_eq!(both.ends, [EndCount { reason: "limited".into(), connections: 2 }]);
    }
}
