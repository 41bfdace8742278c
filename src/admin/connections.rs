//! The open connections, and the last routing decisions.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::access::{Operator, Peer};
use super::pools::pool_of;
use super::request::{Asked, At, bad_request};
use super::{ApiError, App};
use crate::domain::{CloseReason, Ending, Event};
use crate::proxy::open::Open;
use crate::proxy::progress::CloseRequest;
use crate::telemetry::decisions::{Decision, Which};

/// The number of connections or decisions in a reply by default, and at most.
const SOME: usize = 100;
const MOST: usize = 10_000;

/// Which connections are asked for.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionQuery {
    /// At most so many.
    #[cfg_attr(test, schemars(with = "usize", range(max = 10_000), extend("default" = 100)))]
    limit: Option<usize>,
    /// Only those of this pool.
    #[cfg_attr(test, schemars(with = "String"))]
    pool: Option<String>,
    /// Only those of the backend of this name or address.
    #[cfg_attr(test, schemars(with = "String"))]
    backend: Option<String>,
    /// Only those of the client at this IP address, with or without a port; `unix`: those over Unix sockets.
    #[cfg_attr(test, schemars(schema_with = "super::openapi::client"))]
    client: Option<String>,
}

impl ConnectionQuery {
    /// CloseMode many, and which.
    fn read(self, app: &App) -> Result<(usize, Which), ApiError> {
        let limit = self.limit.unwrap_or(SOME);
        if limit > MOST {
            return Err(bad_request(format!("limit is a whole number from 0 to {MOST}")));
        }
        if let Some(pool) = &self.pool {
            pool_of(app, pool)?;
        }
        let client = self.client.map(|client| client.parse()).transpose().map_err(bad_request)?;
        Ok((limit, Which { pool: self.pool, backend: self.backend.map(Into::into), client }))
    }
}

/// The open connections.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ConnectionsReply {
    /// The oldest of them first.
    connections: Vec<Open>,
    /// CloseMode many there are.
    total: usize,
}

/// `GET /api/v1/connections`.
pub(super) async fn all(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
    Asked(question): Asked<ConnectionQuery>,
) -> Result<Json<ConnectionsReply>, ApiError> {
    let (limit, which) = question.read(&app)?;
    let _turn = app.listing.of(peer.map(|Extension(peer)| peer)).lock().await;
    let (connections, total) = app.overview.connections(&which, limit).await;
    Ok(Json(ConnectionsReply { connections, total }))
}

/// The last routing decisions.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct DecisionsReply {
    /// The newest of them first.
    decisions: Vec<RenderedDecision>,
}

/// A routing decision and its sentence.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct RenderedDecision {
    /// The decision as a sentence.
    sentence: String,
    /// The excluded backends as text, as in the log.
    skipped: String,
    #[serde(flatten)]
    decision: Decision,
}

pub(super) fn rendered(decisions: Vec<Decision>) -> Vec<RenderedDecision> {
    let one = |decision: Decision| RenderedDecision {
        sentence: decision.sentence(),
        skipped: decision.excluded.to_string(),
        decision,
    };
    decisions.into_iter().map(one).collect()
}

/// `GET /api/v1/decisions`.
pub(super) async fn decisions(
    State(app): State<App>,
    Asked(question): Asked<ConnectionQuery>,
) -> Result<Json<DecisionsReply>, ApiError> {
    let (limit, which) = question.read(&app)?;
    Ok(Json(DecisionsReply { decisions: rendered(app.overview.decisions_of(&which, limit)) }))
}

/// CloseMode a connection is to be ended.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct CloseQuery {
    /// `reset`: both peers get a TCP reset. `close`: they get a FIN, as at a normal end.
    #[serde(default)]
    how: Ending,
}

/// `DELETE /api/v1/connections/{id}`: ends a connection, also one that waits in a queue. What it was then.
pub(super) async fn end(
    Operator(who): Operator,
    State(app): State<App>,
    At(conn): At<u64>,
    Asked(CloseQuery { how }): Asked<CloseQuery>,
) -> Result<Json<Open>, ApiError> {
    let request = CloseRequest { reason: CloseReason::Operator, how };
    let was = app.overview.close_connection(conn, request).await.ok_or_else(|| {
        let message = format!("there is no open connection {conn}");
        ApiError::new(StatusCode::NOT_FOUND, "no_such_connection", message, "see /api/v1/connections")
    })?;
    app.overview.journal.record(Event::ConnectionClosed {
        by: who,
        conn,
        client: was.client,
        pool: Arc::clone(&was.pool),
        backend: was.backend.clone(),
        how,
    });
    Ok(Json(was))
}
