//! The pools.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::request::At;
use super::{ApiError, App};
use crate::api::{ErrorDetail, PoolInfo, PoolsReply};
use crate::pool::Pool;

/// `GET /api/v1/pools`.
pub(super) async fn all(State(app): State<App>) -> Json<PoolsReply> {
    let pools = app.overview.pools.load();
    Json(PoolsReply { pools: pools.values().map(|pool| PoolInfo::of(pool, &app.overview)).collect() })
}

/// `GET /api/v1/pools/{pool}`.
pub(super) async fn one(State(app): State<App>, At(pool): At<String>) -> Result<Json<PoolInfo>, ApiError> {
    Ok(Json(PoolInfo::of(&*pool_of(&app, &pool)?, &app.overview)))
}

/// The pool of that name.
pub(super) fn pool_of(app: &App, name: &str) -> Result<Arc<Pool>, ApiError> {
    let pools = app.overview.pools.load();
    pools.get(name).cloned().ok_or_else(|| {
        let known: Vec<_> = pools.keys().map(|name| &**name).collect();
        let message = format!("there is no pool {name:?}; there is {}", known.join(", "));
        ApiError::new(StatusCode::NOT_FOUND, ErrorDetail::NO_SUCH_POOL, message, "see /api/v1/status")
    })
}
