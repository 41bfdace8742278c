//! `GET /api/v1/drain`: the forecast of a drain.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::listeners;
use super::pools::pool_of;
use super::request::{QueryParams, bad_request};
use super::{ApiError, App};
use crate::api::DrainForecastReply;
use crate::config::Policy;
use crate::telemetry::filter::ConnectionFilter;

/// Of which connections the drain is forecast.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct DrainQuery {
    /// Only those of this listener.
    #[cfg_attr(test, schemars(with = "String"))]
    listener: Option<String>,
    /// Only those of this pool.
    #[cfg_attr(test, schemars(with = "String"))]
    pool: Option<String>,
    /// Only those of the backend of this name or address; needs `pool`.
    #[cfg_attr(test, schemars(with = "String"))]
    backend: Option<String>,
}

/// `GET /api/v1/drain`: nothing is drained.
pub(super) async fn forecast(
    State(app): State<App>,
    QueryParams(DrainQuery { listener, pool, backend }): QueryParams<DrainQuery>,
) -> Result<Json<DrainForecastReply>, ApiError> {
    if let Some(listener) = &listener {
        listeners::find(&app, listener)?;
    }
    let left = match &pool {
        Some(pool) => time_limit(pool_of(&app, pool)?.settings().on_drain),
        None if backend.is_some() => return Err(bad_request("backend needs pool")),
        // The drain of a listener has no time limit.
        None if listener.is_some() => None,
        None => Some(app.overview.drain_time_left()),
    };
    let selected = ConnectionFilter { listener, pool, backend: backend.map(Into::into), client: None };
    let forecast = app.overview.forecast_drain_in_turn(selected, left).await;
    Ok(Json(DrainForecastReply { sentence: forecast.sentence(), forecast }))
}

/// How long the connections of a backend have to finish when an operator drains it; `None`: as long as they take.
fn time_limit(on_drain: Policy) -> Option<Duration> {
    match on_drain {
        Policy::Keep => None,
        Policy::End { after, over, .. } => Some(after + over),
    }
}
