//! The listeners, and an operator's changes to them at run time.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::access::Operator;
use super::control::Order;
use super::process::refused;
use super::request::{At, Body};
use super::{ApiError, App};
use crate::api::{ListenerChange, ListenerInfo, ListenersReply};

/// `GET /api/v1/listeners`.
pub(super) async fn all(State(app): State<App>) -> Json<ListenersReply> {
    Json(ListenersReply { listeners: ListenerInfo::all(&app.overview) })
}

/// `GET /api/v1/listeners/{listener}`.
pub(super) async fn one(
    State(app): State<App>,
    At(listener): At<String>,
) -> Result<Json<ListenerInfo>, ApiError> {
    find(&app, &listener).map(Json)
}

/// `PATCH /api/v1/listeners/{listener}`: drains a listener, or takes that back.
///
/// The change holds through reloads and hand-overs, until the listener is removed or Pointsman stops.
pub(super) async fn change(
    Operator(operator): Operator, // first: without permission, nothing else is read
    State(app): State<App>,
    At(listener): At<String>,
    Body(ListenerChange { state }): Body<ListenerChange>,
) -> Result<Json<ListenerInfo>, ApiError> {
    let name = Arc::clone(&find(&app, &listener)?.name);
    let changed =
        app.control.order(|answer| Order::SetListenerState { listener: name, state, operator, answer });
    changed.await.map_err(|refusal| refused(&refusal))?;
    find(&app, &listener).map(Json)
}

/// The listener of that name.
pub(super) fn find(app: &App, name: &str) -> Result<ListenerInfo, ApiError> {
    let mut all = ListenerInfo::all(&app.overview);
    match all.iter().position(|listener| *listener.name == *name) {
        Some(index) => Ok(all.swap_remove(index)),
        None => {
            let known: Vec<_> = all.iter().map(|listener| &*listener.name).collect();
            let message = format!("there is no listener {name:?}; there is {}", known.join(", "));
            Err(ApiError::new(StatusCode::NOT_FOUND, "no_such_listener", message, "see /api/v1/status"))
        }
    }
}
