//! `/api/v1/connections` and `/api/v1/decisions`: what is known of connections. Each of these types shows a part of one
//! [`ConnectionRecord`].

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Timestamp, Word};
use crate::domain::{
    Cause, ConnectionRecord, Exclusion, FailedAttempt, Route, SocketAddress, Stage, TcpSides,
};
use crate::telemetry::millis;

/// The open connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ConnectionsReply {
    /// The oldest of them first.
    pub connections: Vec<ConnectionInfo>,
    /// How many match.
    pub total: usize,
}

/// What each view of a connection begins with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ConnectionSummary {
    /// The connection's number, unique within the process.
    pub conn: u64,
    /// The client.
    #[cfg_attr(test, schemars(with = "crate::domain::Client"))]
    pub client: String,
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// The pool that it is for; null: that is not known yet, or it ended before.
    pub pool: Option<Arc<str>>,
    /// The rule of the listener that matched; null: none did, or it has none.
    pub rule: Option<Word>,
    /// The server name that the client asked for (SNI), if the listener reads it.
    pub server_name: Option<Arc<str>>,
    /// The name of its backend; null: it has none.
    pub backend: Option<Arc<str>>,
    /// Its backend's address.
    pub address: Option<SocketAddress>,
    /// How long connecting to the backend took, in milliseconds.
    pub connect_ms: Option<f64>,
}

/// An open connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ConnectionInfo {
    /// Its number, its client, its backend.
    #[serde(flatten)]
    pub summary: ConnectionSummary,
    /// When it was accepted, in seconds since the epoch.
    pub since: Timestamp,
    /// Time from the routing decision to the backend's first byte, in milliseconds; null: none has come.
    pub first_byte_ms: Option<f64>,
    /// How old it is, in milliseconds.
    pub age_ms: f64,
    /// Bytes from the client that were written to the backend.
    pub bytes_in: u64,
    /// Bytes from the backend that were written to the client.
    pub bytes_out: u64,
    /// Whether a bandwidth limit of the listener has delayed some of them.
    #[serde(default)]
    pub throttled: bool,
}

/// The last routing decisions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct DecisionsReply {
    /// The newest of them first.
    pub decisions: Vec<RenderedDecision>,
}

/// A routing decision and its sentence.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct RenderedDecision {
    /// The decision as a sentence.
    pub sentence: String,
    /// The excluded backends as text, as in the log.
    pub skipped: String,
    /// The decision.
    #[serde(flatten)]
    pub decision: DecisionInfo,
}

/// How a connection was routed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct DecisionInfo {
    /// Its number, its client, its backend.
    #[serde(flatten)]
    pub summary: ConnectionSummary,
    /// When it was routed, in seconds since the epoch.
    pub at: Timestamp,
    /// How it was chosen.
    #[cfg_attr(test, schemars(with = "crate::config::Algorithm"))]
    pub algorithm: Word,
    /// The excluded backends, those that were tried included; of many, the first.
    pub excluded: Vec<ExclusionInfo>,
    /// Backends that were tried, the one that was reached included.
    pub attempts: u32,
    /// The attempts that failed, in their order.
    pub failed: Vec<AttemptInfo>,
    /// The eligible backends.
    pub candidates: CandidatesInfo,
    /// The client's home, if that had more than its share (`load_factor`).
    pub home: Option<Arc<str>>,
    /// Which of the pool's backends were eligible.
    #[cfg_attr(test, schemars(with = "crate::domain::RouteTier"))]
    pub tier: Word,
    /// Time from the accept to this decision, in milliseconds.
    pub age_ms: f64,
    /// How long the client waited for a place, in milliseconds, if it had to.
    pub queued_ms: Option<f64>,
    /// The address that the connection to the backend comes from, if it is configured.
    pub source: Option<IpAddr>,
    /// The proxy that sent the client's address in a PROXY header; null: the client is the peer.
    #[cfg_attr(test, schemars(with = "Option<crate::domain::Client>"))]
    pub proxy: Option<String>,
    /// Whether the backend got a PROXY header.
    pub proxy_header: bool,
    /// Whether it is a request to cancel a query of PostgreSQL, which the other backends get too.
    pub cancel_request: bool,
}

/// A backend that was excluded from a choice, and why.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct ExclusionInfo {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its state, or another reason: `weight_0`, `backup`, `other_zone`, `full`, `overloaded`,
    /// `connect_failed`.
    pub reason: Word,
    /// Why it was in that state, in which zone it was, or why the attempt failed.
    pub cause: Option<Cause>,
}

/// An attempt to connect to a backend that failed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct AttemptInfo {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its address.
    pub address: String,
    /// Why it failed.
    pub error: Cause,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// The eligible backends of a decision.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct CandidatesInfo {
    /// The first of them, at most 16.
    #[cfg_attr(test, schemars(length(max = 16)))]
    pub shown: Vec<CandidateInfo>,
    /// How many there were.
    pub total: u32,
    /// All backends that the pool knew.
    pub known: u32,
    /// The connections of the chosen one; null: none was chosen.
    pub chosen_load: Option<u32>,
}

/// A backend that could be chosen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct CandidateInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its share, relative to the others'.
    pub share: u32,
    /// Its open and opening connections.
    pub load: u32,
}

/// A connection that has ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct EndedInfo {
    /// Its number, its client, its backend.
    #[serde(flatten)]
    pub summary: ConnectionSummary,
    /// When it ended, in seconds since the epoch.
    pub at: Timestamp,
    /// Why it ended.
    #[cfg_attr(test, schemars(with = "crate::domain::CloseReason"))]
    pub reason: Word,
    /// The side that closed first, cleanly, if one did: `client_closed` or `backend_closed`.
    #[cfg_attr(test, schemars(with = "Option<crate::domain::CloseReason>"))]
    pub first: Option<Word>,
    /// Why its listener rejected it: the details of `denied`, `preface_invalid`, `preface_timeout`, and of `limited` before
    /// a backend was chosen.
    pub cause: Option<Cause>,
    /// Bytes from the client that were written to the backend.
    pub bytes_in: u64,
    /// Bytes from the backend that were written to the client.
    pub bytes_out: u64,
    /// Whether a bandwidth limit of the listener has delayed some of them.
    #[serde(default)]
    pub throttled: bool,
    /// How old it was, in milliseconds.
    pub duration_ms: f64,
    /// Time from the routing decision to the backend's first byte, in milliseconds; null: none came.
    pub first_byte_ms: Option<f64>,
    /// The kernel's statistics of its two sides; null: the kernel was not queried.
    pub kernel: Option<TcpSides>,
}

impl From<&ConnectionRecord> for ConnectionSummary {
    fn from(record: &ConnectionRecord) -> Self {
        let backend = record.backend.as_ref();
        Self {
            conn: record.conn,
            client: record.client.to_string(),
            listener: Arc::clone(&record.listener),
            pool: record.pool.clone(),
            rule: record.rule().map(|rule| rule.to_string().into()),
            server_name: record.server_name().cloned(),
            backend: backend.map(|backend| Arc::clone(&backend.name)),
            address: backend.map(|backend| backend.address.clone()),
            connect_ms: record.connect().map(millis),
        }
    }
}

impl From<&ConnectionRecord> for ConnectionInfo {
    fn from(record: &ConnectionRecord) -> Self {
        Self {
            summary: record.into(),
            since: record.accepted.into(),
            first_byte_ms: record.first_byte.map(millis),
            age_ms: millis(record.age),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            throttled: record.throttled,
        }
    }
}

impl ConnectionInfo {
    /// The connection, if it is open.
    pub(crate) fn of_open(record: &ConnectionRecord) -> Option<Self> {
        (record.stage == Stage::Open).then(|| record.into())
    }
}

impl RenderedDecision {
    /// How the connection was routed; `None`: that is not kept.
    pub(crate) fn of(record: &ConnectionRecord) -> Option<Self> {
        let skipped = record.route.as_ref()?.skipped().to_string();
        Some(Self { sentence: record.sentence()?, skipped, decision: DecisionInfo::of(record)? })
    }
}

impl DecisionInfo {
    /// How the connection was routed; `None`: that is not kept.
    pub(crate) fn of(record: &ConnectionRecord) -> Option<Self> {
        let route = record.route.as_ref()?;
        Some(Self {
            summary: record.into(),
            at: (record.accepted + route.after).into(),
            algorithm: route.algorithm.name().into(),
            excluded: ExclusionInfo::all_of(route),
            attempts: route.attempts,
            failed: route.failed.iter().map(AttemptInfo::from).collect(),
            candidates: CandidatesInfo::of(route),
            home: route.home.clone(),
            tier: route.tier.name().into(),
            age_ms: millis(route.after),
            queued_ms: route.queued.map(millis),
            source: route.source,
            proxy: route.proxy.map(|proxy| proxy.to_string()),
            proxy_header: route.proxy_header,
            cancel_request: route.cancel_request,
        })
    }
}

impl ExclusionInfo {
    fn all_of(route: &Route) -> Vec<Self> {
        let untried = route.excluded.listed().map(|Exclusion { backend, reason }| Self {
            backend: Arc::clone(backend),
            reason: reason.name().into(),
            cause: reason.cause(),
        });
        let failed = route.failed.iter().map(|FailedAttempt { backend, error, .. }| Self {
            backend: Arc::clone(backend),
            reason: "connect_failed".into(),
            cause: Some(error.clone()),
        });
        untried.chain(failed).collect()
    }
}

impl From<&FailedAttempt> for AttemptInfo {
    fn from(attempt: &FailedAttempt) -> Self {
        Self {
            backend: Arc::clone(&attempt.backend),
            address: attempt.address.to_string(),
            error: attempt.error.clone(),
            took_ms: millis(attempt.took),
        }
    }
}

impl CandidatesInfo {
    fn of(Route { candidates, .. }: &Route) -> Self {
        let shown = candidates.shown().map(|(one, load)| CandidateInfo {
            name: Arc::clone(&one.name),
            share: one.share,
            load,
        });
        Self {
            shown: shown.collect(),
            total: candidates.total,
            known: candidates.known,
            chosen_load: candidates.chosen,
        }
    }
}

impl EndedInfo {
    /// How the connection ended, if it has.
    pub(crate) fn of(record: &ConnectionRecord) -> Option<Self> {
        let end = record.end()?;
        Some(Self {
            summary: record.into(),
            at: record.at().into(),
            reason: end.reason.name().into(),
            first: end.first_closed.map(|reason| reason.name().into()),
            cause: end.rejection.map(|rejection| rejection.to_string().into()),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            throttled: record.throttled,
            duration_ms: millis(record.age),
            first_byte_ms: record.first_byte.map(millis),
            kernel: end.kernel,
        })
    }
}
