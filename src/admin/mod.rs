//! The admin server: what an operator sees.

mod change;
pub mod metrics;
pub mod overview;
pub mod server;
pub mod status;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use axum::{Json, Router, middleware};
use serde::Serialize;

use metrics::Metrics;
use overview::{Overview, Phase};
use status::Status;

/// No request of this API is longer.
const LONGEST_BODY: usize = 64 * 1024;

#[derive(Clone)]
struct App {
    overview: Arc<Overview>,
    metrics: Arc<Metrics>,
}

/// The admin server's paths, for what `overview` shows.
pub fn router(overview: &Arc<Overview>) -> Router {
    let app = App { overview: Arc::clone(overview), metrics: Arc::new(Metrics::new(Arc::clone(overview))) };
    Router::new()
        .route("/heartbeat", get(heartbeat))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/status", get(status_json))
        .route("/api/v1/pools/{pool}/backends/{backend}", patch(change::backend))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::map_response(not_stored))
        .with_state(app)
}

/// Alive, whatever the backends do.
async fn heartbeat() -> Json<serde_json::Value> {
    Json(serde_json::json!({"status": "alive"}))
}

/// 200 when traffic should be sent here, 503 when not.
async fn ready(State(app): State<App>) -> Response {
    if app.overview.ready() {
        return Json(serde_json::json!({"status": "ready"})).into_response();
    }
    let (code, message) = match app.overview.phase() {
        Phase::Draining => ("draining", "the process was told to stop and finishes its connections"),
        Phase::Starting | Phase::Serving => ("starting", "the pools are still looking for their backends"),
    };
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, code, message, "ask again in a second").into_response()
}

async fn metrics_text(State(app): State<App>) -> Response {
    match app.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => {
            let message = "the metrics cannot be written";
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, "please report it")
                .into_response()
        }
    }
}

async fn status_json(State(app): State<App>) -> Json<Status> {
    Json(Status::of(&app.overview))
}

async fn not_found(uri: Uri) -> Failure {
    let message = format!("there is nothing at {}", uri.path());
    Failure::new(StatusCode::NOT_FOUND, "not_found", message, "try /api/v1/status")
}

async fn not_allowed(method: Method, uri: Uri) -> Failure {
    let message = format!("{method} is not allowed on {}", uri.path());
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
        "the Allow header says what is",
    )
}

async fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// An error, in the shape that all of them have.
#[derive(Debug, Serialize)]
struct Failure {
    #[serde(skip)]
    status: StatusCode,
    error: Detail,
}

#[derive(Debug, Serialize)]
struct Detail {
    code: &'static str,
    message: String,
    hint: &'static str,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self { status, error: Detail { code, message: message.into(), hint } }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
