//! The open connections, and the last routing decisions.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;

use super::access::{Operator, Peer};
use super::listeners;
use super::pools::pool_of;
use super::request::{At, QueryParams, bad_request};
use super::{ApiError, App};
use crate::api::{ConnectionInfo, ConnectionsReply, DecisionsReply, RenderedDecision};
use crate::domain::{CloseReason, ConnectionRecord, Ending, Event};
use crate::proxy::progress::CloseRequest;
use crate::telemetry::filter::ConnectionFilter;

/// The number of connections or decisions in a reply by default, and at most.
const SOME: usize = 100;
const MOST: usize = 10_000;

/// The wanted connections.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionQuery {
    /// At most so many.
    #[cfg_attr(test, schemars(with = "usize", range(max = 10_000), extend("default" = 100)))]
    limit: Option<usize>,
    /// Only those of this listener.
    #[cfg_attr(test, schemars(with = "String"))]
    listener: Option<String>,
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
    /// The limit and the filter.
    fn read(self, app: &App) -> Result<(usize, ConnectionFilter), ApiError> {
        let limit = self.limit.unwrap_or(SOME);
        if limit > MOST {
            return Err(bad_request(format!("limit is a whole number from 0 to {MOST}")));
        }
        if let Some(listener) = &self.listener {
            listeners::find(app, listener)?;
        }
        if let Some(pool) = &self.pool {
            pool_of(app, pool)?;
        }
        let client = self.client.map(|client| client.parse()).transpose().map_err(bad_request)?;
        Ok((
            limit,
            ConnectionFilter {
                listener: self.listener,
                pool: self.pool,
                backend: self.backend.map(Into::into),
                client,
            },
        ))
    }
}

/// `GET /api/v1/connections`.
pub(super) async fn all(
    State(app): State<App>,
    peer: Option<Extension<Peer>>,
    QueryParams(query): QueryParams<ConnectionQuery>,
) -> Result<Json<ConnectionsReply>, ApiError> {
    let (limit, filter) = query.read(&app)?;
    let _guard = app.listing.of(peer.map(|Extension(peer)| peer)).lock().await;
    let (open, total) = app.overview.connections(&filter, limit).await;
    Ok(Json(ConnectionsReply { connections: open.iter().map(ConnectionInfo::from).collect(), total }))
}

/// The decisions of those records.
pub(super) fn rendered(records: &[ConnectionRecord]) -> DecisionsReply {
    DecisionsReply { decisions: records.iter().filter_map(RenderedDecision::of).collect() }
}

/// `GET /api/v1/decisions`.
pub(super) async fn decisions(
    State(app): State<App>,
    QueryParams(query): QueryParams<ConnectionQuery>,
) -> Result<Json<DecisionsReply>, ApiError> {
    let (limit, filter) = query.read(&app)?;
    Ok(Json(rendered(&app.overview.matching_decisions(&filter, limit))))
}

/// How a connection is closed.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct CloseQuery {
    /// `reset`: both peers get a TCP reset. `close`: they get a FIN, as at a normal end.
    #[serde(default)]
    how: Ending,
}

/// `DELETE /api/v1/connections/{id}`: closes a connection, also one that waits in a queue. Replies with its state
/// before.
pub(super) async fn end(
    Operator(operator): Operator,
    State(app): State<App>,
    At(conn): At<u64>,
    QueryParams(CloseQuery { how }): QueryParams<CloseQuery>,
) -> Result<Json<ConnectionInfo>, ApiError> {
    let request = CloseRequest { reason: CloseReason::Operator, how };
    let was = app.overview.close_connection(conn, request).await.ok_or_else(|| {
        let message = format!("there is no open connection {conn}");
        ApiError::new(StatusCode::NOT_FOUND, "no_such_connection", message, "see /api/v1/connections")
    })?;
    app.overview.journal.record(Event::ConnectionClosed {
        by: operator,
        conn,
        client: was.client,
        pool: was.pool.clone(),
        backend: was.backend.as_ref().map(|backend| Arc::clone(&backend.name)),
        how,
    });
    Ok(Json(ConnectionInfo::from(&was)))
}
