//! The process as a whole: liveness, readiness, metrics, events, configuration, reload and drain.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::access::Operator;
use super::control::{Order, Refusal, ReloadFrom};
use super::history;
use super::metrics;
use super::request::{Body, QueryParams, bad_request};
use super::{ApiError, App};
use crate::api::{
    Acknowledgement, DrainReply, HandOverReply, HandOverRequest, JournalEntry, JournalReply, ReloadPlanReply,
    ReloadReply, StatusReply,
};
use crate::config;
use crate::overview::Phase;

/// The description of the API (OpenAPI 3.1), which `openapi` generates from the handlers.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// The number of events in a reply by default, and at most.
const SOME: usize = 100;
const MOST: usize = 10_000;

/// `GET /heartbeat`: 200 while the process runs, whatever the states of the backends.
pub(super) async fn heartbeat() -> Json<Acknowledgement> {
    Json(Acknowledgement { status: "alive".into() })
}

/// `GET /ready`: 200 when traffic should be sent here, 503 when not.
pub(super) async fn ready(State(app): State<App>) -> Response {
    if app.overview.ready() {
        return Json(Acknowledgement { status: "ready".into() }).into_response();
    }
    let (code, message) = match app.overview.phase() {
        Phase::Draining => ("draining", "the process is draining"),
        Phase::Starting | Phase::Serving => ("starting", "the pools are still looking for their backends"),
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message, "retry in a second").into_response()
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = metrics::Format::accepted_by(accept);
    match app.metrics.render(format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(_) => {
            let message = "the metrics cannot be written";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, "please report it")
                .into_response()
        }
    }
}

/// `GET /api/v1/openapi.json`.
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// `GET /api/v1/status`.
pub(super) async fn status(State(app): State<App>) -> Json<StatusReply> {
    Json(StatusReply::of(&app.overview, &app.problems))
}

/// `GET /api/v1/config`: the configuration in effect, in the format of the file.
pub(super) async fn config(State(app): State<App>) -> Response {
    Json(config::to_json_without_secrets(&app.overview.config.load())).into_response()
}

/// Which events are requested.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct JournalQuery {
    /// Only those after the event of this number.
    #[cfg_attr(test, schemars(range(max = 18446744073709551615_u64)))]
    #[serde(default)]
    after: u64,
    /// At most so many.
    #[cfg_attr(test, schemars(with = "usize", range(max = 10_000), extend("default" = 100)))]
    limit: Option<usize>,
}

/// `GET /api/v1/journal`: the events after that number, oldest first, so that a client that passes the last number
/// that it has received misses none.
pub(super) async fn journal(
    State(app): State<App>,
    QueryParams(JournalQuery { after, limit }): QueryParams<JournalQuery>,
) -> Result<Json<JournalReply>, ApiError> {
    let limit = limit.unwrap_or(SOME);
    if limit > MOST {
        return Err(bad_request(format!("limit is a whole number from 0 to {MOST}")));
    }
    let latest = *app.overview.journal.latest().borrow();
    let (events, dropped) = app.overview.journal.after_limited(after, limit);
    let events = events.into_iter().map(JournalEntry::from).collect();
    Ok(Json(JournalReply { events, dropped, latest }))
}

/// Which history is requested.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// From one value to the next, in seconds: 1 for the last five minutes, 10 for the last hour, 60 for the last day.
    #[cfg_attr(test, schemars(with = "u64", extend("enum" = history::STEPS, "default" = 1)))]
    step: Option<u64>,
}

/// `GET /api/v1/history`.
pub(super) async fn history(
    State(app): State<App>,
    QueryParams(HistoryQuery { step }): QueryParams<HistoryQuery>,
) -> Result<Response, ApiError> {
    let [second, ..] = history::STEPS;
    let json = app.history.json(step.unwrap_or(second)).ok_or_else(|| {
        let [shortest, middle, longest] = history::STEPS;
        bad_request(format!("step is {shortest}, {middle} or {longest} (seconds)"))
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// `POST /api/v1/reload`: as SIGHUP.
pub(super) async fn reload(
    Operator(operator): Operator,
    State(app): State<App>,
) -> Result<Json<ReloadReply>, ApiError> {
    reload_from(&app, ReloadFrom::File, operator).await
}

/// `POST /api/v1/reload/undo`: applies the configuration before the last reload again.
pub(super) async fn undo_reload(
    Operator(operator): Operator,
    State(app): State<App>,
) -> Result<Json<ReloadReply>, ApiError> {
    reload_from(&app, ReloadFrom::Previous, operator).await
}

async fn reload_from(app: &App, from: ReloadFrom, operator: Arc<str>) -> Result<Json<ReloadReply>, ApiError> {
    let reload = app.control.order(|answer| Order::Reload { from, operator, answer });
    reload.await.map(Json).map_err(|refusal| refused(&refusal))
}

/// `POST /api/v1/reload/plan`: what a reload would change. An operator's request, as errors show lines of the file.
pub(super) async fn plan_reload(
    Operator(_): Operator,
    State(app): State<App>,
) -> Result<Json<ReloadPlanReply>, ApiError> {
    let plan = app.control.order(|answer| Order::PlanReload { answer });
    plan.await.map(Json).map_err(|refusal| refused(&refusal))
}

/// `POST /api/v1/drain`: as SIGTERM.
pub(super) async fn drain(
    Operator(operator): Operator,
    State(app): State<App>,
) -> Result<(StatusCode, Json<DrainReply>), ApiError> {
    let drain = app.control.order(|answer| Order::Drain { operator, answer });
    let draining = drain.await.map_err(|refusal| refused(&refusal))?;
    Ok((StatusCode::ACCEPTED, Json(draining)))
}

/// `POST /api/v1/hand-over`: as SIGUSR2, to a process that waits.
pub(super) async fn hand_over(
    Operator(operator): Operator,
    State(app): State<App>,
    Body(HandOverRequest { socket }): Body<HandOverRequest>,
) -> Result<(StatusCode, Json<HandOverReply>), ApiError> {
    let hand_over = app.control.order(|answer| Order::HandOver { operator, socket, answer });
    let begins = hand_over.await.map_err(|refusal| refused(&refusal))?;
    Ok((StatusCode::ACCEPTED, Json(begins)))
}

pub(super) fn refused(refusal: &Refusal) -> ApiError {
    let conflict = |code, message: &str, hint| ApiError::new(StatusCode::CONFLICT, code, message, hint);
    match refusal {
        Refusal::NoFile => conflict(
            "no_file",
            "this instance has no configuration file",
            "start it with `pointsman run -c FILE`",
        ),
        Refusal::Invalid(problems) => ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_configuration",
            &**problems,
            "nothing has changed; `pointsman check` reports the same problems",
        ),
        Refusal::NothingToUndo => conflict(
            "nothing_to_undo",
            "no reload has changed the configuration since the start",
            "`pointsman reload` applies the file",
        ),
        Refusal::NoListener => ApiError::new(
            StatusCode::NOT_FOUND,
            "no_such_listener",
            "a reload has removed the listener",
            "see /api/v1/status",
        ),
        Refusal::NotPossible(why) => conflict("not_possible", why, "nothing has changed"),
        Refusal::Ending => conflict("draining", "the process is ending", "SIGTERM ends it at once"),
        Refusal::Busy => conflict("busy", "too many orders wait already", "retry in a second"),
        Refusal::Demo => conflict("demo", "a demo cannot be reloaded or drained", "end it with q or Ctrl-C"),
    }
}
