//! `/api/v1/why`: why a client's connections were routed to their backends, and why a backend is in its state.

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;

use super::access::Peer;
use super::{ApiError, App};
use crate::api::{BackendInfo, ConnectionStory, ErrorDetail, JournalEntry, WhyReply};
use crate::domain::{BackendState, ConnectionRecord, Event};
use crate::humanize::{count, duration, list};
use crate::story::Sentence;
use crate::story::backend::{concerns, history, standing};
use crate::story::summary::ClientSummary;
use crate::telemetry::filter::ConnectionSubject;
use crate::telemetry::journal;
use crate::telemetry::records::{Extent, Records, joined};

/// The number of a client's connections in a reply by default, and at most.
const CONNECTIONS: usize = 10;
const MOST: usize = 1000;
/// The most open connections that each worker lists.
const OPEN: usize = 1000;

const EXAMPLE: &str =
    "request /api/v1/why?client=192.0.2.1, ?client=192.0.2.1:40000, ?conn=17, or ?pool=web&backend=a";

/// The query of `/api/v1/why`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct WhyQuery {
    /// The client at this IP address, with or without a port; `unix`: those over Unix sockets.
    #[cfg_attr(test, schemars(schema_with = "super::openapi::client"))]
    client: Option<String>,
    /// The connection of this number.
    #[cfg_attr(test, schemars(with = "u64"))]
    conn: Option<u64>,
    /// The pool of the backend.
    #[cfg_attr(test, schemars(with = "String"))]
    pool: Option<String>,
    /// The backend, by name or address.
    #[cfg_attr(test, schemars(with = "String"))]
    backend: Option<String>,
    /// At most so many connections.
    #[cfg_attr(test, schemars(with = "usize", range(min = 1, max = 1000), extend("default" = 10)))]
    limit: Option<usize>,
}

/// The connections of a client.
fn clients(client: &str) -> Result<ConnectionSubject, ApiError> {
    let bare = client.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')).unwrap_or(client);
    bare.parse().or_else(|_| client.parse()).map(ConnectionSubject::Clients).map_err(bad)
}

/// `GET /api/v1/why`.
pub(super) async fn why(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
    question: Result<Query<WhyQuery>, QueryRejection>,
) -> Result<Json<WhyReply>, ApiError> {
    let Query(question) = question.map_err(|error| bad(error.body_text()))?;
    let limit = question.limit.unwrap_or(CONNECTIONS);
    if !(1..=MOST).contains(&limit) {
        return Err(bad(format!("limit is a whole number from 1 to {MOST}")));
    }
    let subject = match (&question.client, question.conn, &question.pool, &question.backend) {
        (Some(client), None, None, None) => clients(client)?,
        (None, Some(conn), None, None) => ConnectionSubject::Conn(conn),
        (None, None, Some(pool), Some(backend)) => return why_backend(&app, pool, backend).map(Json),
        (None, None, None, None) => {
            return Err(bad("a client, a connection, or a pool and a backend must be given"));
        }
        (None, None, _, _) => return Err(bad("a pool and a backend must be given together")),
        _ => return Err(bad("only one of client, connection and backend can be given")),
    };
    let _turn = app.listing.of(peer.map(|Extension(peer)| peer)).lock().await;
    Ok(Json(why_client(&app, subject, limit).await))
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message, EXAMPLE)
}

async fn why_client(app: &App, subject: ConnectionSubject, limit: usize) -> WhyReply {
    let overview = &app.overview;
    let matches = |record: &ConnectionRecord| subject.matches(record.conn, record.client);
    // In this order, no connection looks as if it had ended without a record: one that is open and then ends is found
    // among those that ended, and one that begins after this moment is left out.
    let began = SystemTime::now();
    let open = overview.find_connections(subject, OPEN).await;
    let closed = Records::gather(overview.ended(), usize::MAX, matches);
    let later: HashSet<_> = open.iter().chain(&closed).map(|record| record.conn).collect();
    let decided = Records::gather(overview.routed(), usize::MAX, |record| {
        matches(record) && (record.at() <= began || later.contains(&record.conn))
    });
    let known = joined(decided.into_iter().chain(open).chain(closed));
    let mut sentences = Vec::new();
    let (about, total) = (subject.to_string(), known.len());
    if known.is_empty() {
        let extent = Extent::of(overview.workers.iter().map(|worker| &worker.records));
        let since = extent.since.and_then(|at| SystemTime::now().duration_since(at).ok());
        let since = since.map(|age| format!(" (since {} ago)", duration(age))).unwrap_or_default();
        sentences.push(Sentence::now(format!("nothing is known of {about}")));
        sentences.push(Sentence::now(format!(
            "known are the open connections, the last {}{since}, the last {}, and the last {} of connections that failed \
             or were retried; runtime.records sets these numbers",
            count(extent.routed as u64, "decision"),
            count(extent.ended as u64, "end"),
            count(extent.failures as u64, "end"),
        )));
    }
    let summary = match subject {
        ConnectionSubject::Clients(_) if total > 0 => {
            Some(ClientSummary::of(&about, &known, SystemTime::now()))
        }
        _ => None,
    };
    sentences.extend(summary.iter().flat_map(|summary| summary.sentences.clone()));
    if total > limit {
        sentences.push(Sentence::now(format!("the newest {limit} of them follow")));
    }
    let connections: Vec<_> = known.iter().take(limit).map(ConnectionStory::from).collect();
    sentences.extend(connections.iter().flat_map(|one| one.sentences.iter().cloned()));
    WhyReply { about, sentences, summary, connections: Some(connections), backend: None, events: None }
}

fn why_backend(app: &App, pool: &str, backend: &str) -> Result<WhyReply, ApiError> {
    let (events, dropped) = app.overview.journal.after(0);
    let mut past = history(&events, pool, backend);
    let mut sentences = Vec::new();
    let about = format!("{pool}/{backend}");
    let concerned = |entry: &journal::Entry| {
        entry.event.pool().is_some_and(|of| **of == *pool) && concerns(&entry.event, backend)
    };
    let pools = app.overview.pools.load();
    let running = pools.get(pool);
    let (mut now, mut others) = (None, Vec::new());
    if let Some(pool) = running {
        let (status, snapshot, settings) = (pool.status(), pool.snapshot(), pool.settings());
        let is = |(entry, _): &(&crate::pool::Entry, BackendInfo)| {
            *entry.backend.name == *backend || entry.backend.address.to_string() == backend
        };
        let infos = BackendInfo::all(&status.members, &settings);
        // Several backends may have that name: all are described, the leaving ones last.
        let mut found: Vec<_> = status.members.iter().zip(infos).filter(is).collect();
        found.sort_by_key(|(entry, _)| entry.leaving);
        for (entry, info) in &found {
            if found.len() > 1 {
                sentences.push(Sentence::now(format!("of the one at {}:", entry.backend.address)));
            }
            sentences.extend(standing(entry, &snapshot, &settings, info.times_slower, Instant::now()));
        }
        now = found.into_iter().next().map(|(_, info)| info);
        others = status.members.iter().map(|entry| entry.backend.name.to_string()).collect();
    }
    let events: Vec<_> = events.into_iter().filter(concerned).collect();
    if now.is_none() {
        if past.is_empty() {
            return Err(unknown(
                pool,
                backend,
                running.is_some(),
                &others,
                &pools.keys().map(ToString::to_string).collect::<Vec<_>>(),
            ));
        }
        let last = events.iter().rev().find_map(|entry| match &*entry.event {
            Event::StateChanged { to: BackendState::Gone, .. } => Some(entry.at),
            _ => None,
        });
        let ago = last.and_then(|at| SystemTime::now().duration_since(at).ok());
        let ago = ago.map(|age| format!(", for {}", duration(age))).unwrap_or_default();
        sentences.push(Sentence::now(format!("it is not in the pool {pool} any longer{ago}")));
    } else if dropped > 0 {
        let earlier = count(dropped, "earlier event");
        past.insert(0, Sentence::now(format!("{earlier} of the process were dropped from the journal")));
    }
    // The answer, and then how it came to that.
    sentences.extend(past);
    let events = events.into_iter().map(JournalEntry::from).collect();
    Ok(WhyReply { about, sentences, summary: None, connections: None, backend: now, events: Some(events) })
}

fn unknown(pool: &str, backend: &str, running: bool, others: &[String], pools: &[String]) -> ApiError {
    let hint = "see /api/v1/status";
    if !running {
        let message = format!("there is no pool {pool:?}; there is {}", list(pools, 8));
        return ApiError::new(StatusCode::NOT_FOUND, ErrorDetail::NO_SUCH_POOL, message, hint);
    }
    let message = format!(
        "the pool {pool:?} has no backend {backend:?}, and none is remembered; it has {}",
        if others.is_empty() { "none".to_owned() } else { list(others, 8) }
    );
    ApiError::new(StatusCode::NOT_FOUND, ErrorDetail::NO_SUCH_BACKEND, message, hint)
}
