//! The admin server: the HTTP API, the metrics and the dashboard.

pub(crate) mod access;
mod admission;
mod backends;
mod checks;
mod connection_slots;
mod connections;
pub(crate) mod control;
mod dashboard;
mod drain;
mod events;
mod framing;
mod history;
mod host;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod listeners;
mod logs;
mod message;
pub(crate) mod metrics;
#[cfg(test)]
mod openapi;
mod origin;
mod pending;
mod pools;
mod problems;
mod process;
mod replicas;
pub(crate) mod request;
mod routes;
pub(crate) mod server;
mod shadow;
mod sse;
pub(crate) mod status;
mod story;
mod token;
mod why;
mod write_timeout;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::overview::Overview;
use crate::problems::Problems;
use crate::task::spawn;
use access::{Access, PerOrigin};
use control::Control;
use events::Snapshots;
use history::History;
use metrics::Metrics;
use pending::Pending;
use replicas::ReplicaError;
use sse::Streams;

use crate::api::{ErrorDetail, ErrorReply};

/// The longest body of a request, in bytes.
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
    /// Held while a backend is changed: two changes at once cannot take out the last two eligible backends, each because
    /// the other one is left.
    changing: Arc<Mutex<()>>,
    access: Access,
    control: Control,
    /// Whether this is `pointsman demo`, whose own paths are there too.
    demo: bool,
    history: History,
    problems: Problems,
    /// The tasks that record the history and the problems, aborted with the server.
    _tasks: Arc<[AbortOnDropHandle<()>; 2]>,
}

/// The router of the admin server. It shows `overview`, passes orders for the process to `control`, and allows changes
/// by `access`. The caller runs in a tokio runtime, as tasks record the history and the problems.
pub(crate) fn router(overview: &Arc<Overview>, control: &Control, access: &Access) -> Router {
    build(overview, control, access, None)
}

/// The router of the demo's admin server: with paths of its own, whose changes obey the same rules, and without orders
/// for the process.
pub(crate) fn demo_router(overview: &Arc<Overview>, access: &Access, demo: Router) -> Router {
    build(overview, &Control::none(), access, Some(demo))
}

fn build(overview: &Arc<Overview>, control: &Control, access: &Access, demo: Option<Router>) -> Router {
    let history = History::restore(&overview.state);
    let problems = Problems::default();
    let tasks = [
        spawn(history.clone().keep(Arc::clone(overview))),
        spawn(problems.clone().watch(Arc::downgrade(overview))),
    ];
    let app = App {
        overview: Arc::clone(overview),
        metrics: Arc::new(Metrics::new(Arc::clone(overview), problems.clone())),
        streams: PerOrigin::default(),
        snapshots: Arc::default(),
        pending: PerOrigin::default(),
        listing: PerOrigin::default(),
        changing: Arc::default(),
        access: access.clone(),
        control: control.clone(),
        demo: demo.is_some(),
        history,
        problems,
        _tasks: Arc::new(tasks.map(AbortOnDropHandle::new)),
    };
    let guard = middleware::from_fn_with_state(app.clone(), access::guard);
    let demo = demo.map_or_else(Router::new, |demo| demo.route_layer(guard).with_state(()));
    routes::routes()
        .merge(dashboard::routes())
        .merge(demo)
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), host::known))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::from_fn_with_state(app.pending.clone(), pending::count))
        .layer(middleware::map_response(not_stored))
        .with_state(app)
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
pub(crate) struct ApiError {
    status: StatusCode,
    error: ErrorDetail,
}

impl ApiError {
    /// An error with its code for programs, its message, and what to do next.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: &'static str,
    ) -> Self {
        let error = ErrorDetail { code: code.into(), message: message.into(), hint: hint.into() };
        Self { status, error }
    }

    /// The same error with another hint.
    pub(crate) fn with_hint(self, hint: &'static str) -> Self {
        Self { error: ErrorDetail { hint: hint.into(), ..self.error }, ..self }
    }

    /// The response to a request for that path: `/rep`, `/add` and `/rm` have another format.
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

/// Names the authentication scheme in a reply that requires it (RFC 9110, 11.6.1).
fn with_scheme(mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED {
        let scheme = header::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}
