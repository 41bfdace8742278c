//! The admin server: what an operator sees.

pub(crate) mod access;
mod admission;
mod backends;
mod checks;
mod connections;
pub(crate) mod control;
mod dashboard;
mod events;
mod framing;
mod history;
mod host;
mod logs;
mod message;
pub(crate) mod metrics;
#[cfg(test)]
mod openapi;
mod origin;
mod patience;
mod pending;
mod places;
mod pools;
mod process;
mod replicas;
mod request;
pub(crate) mod server;
mod shadow;
mod sse;
pub(crate) mod status;
mod story;
mod token;
mod why;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router, middleware};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::overview::Overview;
use access::{Access, PerOrigin};
use control::Control;
use events::Snapshots;
use history::History;
use metrics::Metrics;
use pending::Pending;
use replicas::ReplicaError;
use sse::Streams;

use crate::api::{ErrorDetail, ErrorReply, path};

/// The description of the API (OpenAPI 3.1), which `openapi` makes from the handlers.
const OPENAPI: &str = include_str!("openapi.json");

/// No request of this API is longer.
const LONGEST_BODY: usize = 64 * 1024;

#[derive(Clone)]
struct App {
    overview: Arc<Overview>,
    metrics: Arc<Metrics>,
    streams: PerOrigin<Streams>,
    snapshots: Arc<Snapshots>,
    pending: PerOrigin<Pending>,
    /// Held while the workers list their connections for a request, one per origin: a request from this machine waits
    /// for at most one remote request.
    listing: PerOrigin<Arc<Mutex<()>>>,
    access: Access,
    control: Control,
    history: History,
    /// Writes the history while the server runs.
    _historian: Arc<AbortOnDropHandle<()>>,
}

/// The paths of the admin server: they show `overview`, pass orders for the process to `control`, and allow changes by
/// `access`. Needs a tokio runtime, which writes the history.
pub(crate) fn router(overview: &Arc<Overview>, control: &Control, access: &Access) -> Router {
    let history = History::default();
    let historian = tokio::spawn(history.clone().keep(Arc::clone(overview)));
    let app = App {
        overview: Arc::clone(overview),
        metrics: Arc::new(Metrics::new(Arc::clone(overview))),
        streams: PerOrigin::default(),
        snapshots: Arc::default(),
        pending: PerOrigin::default(),
        listing: PerOrigin::default(),
        access: access.clone(),
        control: control.clone(),
        history,
        _historian: Arc::new(AbortOnDropHandle::new(historian)),
    };
    routes()
        .router
        .merge(dashboard::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), host::known))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::from_fn_with_state(app.pending.clone(), pending::count))
        .layer(middleware::map_response(not_stored))
        .with_state(app)
}

/// All paths except those of the page. `openapi.json` describes each of them.
fn routes() -> Routes {
    Routes::default()
        .route("/heartbeat", get(process::heartbeat))
        .route("/ready", get(process::ready))
        .route("/metrics", get(process::metrics))
        .route("/api/v1/openapi.json", get(openapi_json))
        .route(path::STATUS, get(process::status))
        .route("/api/v1/pools", get(pools::all))
        .route("/api/v1/pools/{pool}", get(pools::one))
        .route("/api/v1/pools/{pool}/backends", get(backends::all).post(backends::add))
        .route(
            "/api/v1/pools/{pool}/backends/{backend}",
            get(backends::one).patch(backends::change).delete(backends::remove),
        )
        .route(path::CONNECTIONS, get(connections::all))
        .route("/api/v1/connections/{id}", delete(connections::end))
        .route(path::DECISIONS, get(connections::decisions))
        .route(path::JOURNAL, get(process::journal))
        .route(path::HISTORY, get(process::history))
        .route("/api/v1/config", get(process::config))
        .route(path::EVENTS, get(events::events))
        .route(path::CHECK, post(checks::check))
        .route(path::RELOAD, post(process::reload))
        .route(path::DRAIN, post(process::drain))
        .route(path::LOGS, get(logs::logs))
        .route("/api/v1/replicas", get(replicas::overview))
        .route("/rep", get(replicas::list))
        .route("/add", post(replicas::add))
        .route("/rm", delete(replicas::remove))
        .route(path::WHY, get(why::why))
        .route(path::STORY, get(story::story))
        .route("/api/v1/pools/{pool}/shadow", get(shadow::shadow))
}

/// A router that knows its paths.
#[derive(Default)]
struct Routes {
    router: Router<App>,
    paths: Vec<&'static str>,
}

impl Routes {
    fn route(mut self, path: &'static str, methods: MethodRouter<App>) -> Self {
        self.paths.push(path);
        Self { router: self.router.route(path, methods), paths: self.paths }
    }
}

/// `GET /api/v1/openapi.json`.
async fn openapi_json() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn not_found(uri: Uri) -> ApiError {
    let message = format!("there is nothing at {}", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message, "try /api/v1/status")
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{method} is not allowed on {}", uri.path());
    let hint = "see the Allow header";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message, hint).at(uri.path())
}

async fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// An error with its status.
#[derive(Debug)]
struct ApiError {
    status: StatusCode,
    error: ErrorDetail,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        let error = ErrorDetail { code: code.into(), message: message.into(), hint: hint.into() };
        Self { status, error }
    }

    /// The answer to a request for that path: a few have a shape of their own.
    fn at(self, path: &str) -> Response {
        if replicas::has_own_shape(path) {
            ReplicaError::from(self).into_response()
        } else {
            self.into_response()
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        with_scheme((self.status, Json(ErrorReply { error: self.error })).into_response())
    }
}

/// Names the authentication scheme in a reply that asks for one (RFC 9110, 11.6.1).
fn with_scheme(mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED {
        let scheme = header::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_path_is_described_and_there_are_no_others() {
        let document: serde_json::Value = serde_json::from_str(super::OPENAPI).unwrap();
        let described: BTreeSet<_> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let paths = super::routes().paths;
        assert_eq!(paths.iter().copied().collect::<BTreeSet<_>>(), described);
        assert_eq!(paths.len(), described.len());
    }
}
