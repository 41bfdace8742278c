//! `/demo/state` and `/demo/actions`, which only the demo's admin server has.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::{mpsc, oneshot};

use super::action::DemoAction;
use super::scene::Refused;
use super::state::DemoState;
use crate::admin::ApiError;
use crate::admin::request::Body;
use crate::api::ErrorDetail;

/// How many actions may wait; more are refused.
const WAITING: usize = 16;
/// The hint of errors: where the current state is.
const HINT: &str = "GET /demo/state shows the current state";

/// A requested action.
#[derive(Debug)]
pub(super) struct ActionRequest {
    pub(super) action: DemoAction,
    /// The channel for the state after it.
    pub(super) answer: oneshot::Sender<Result<Arc<DemoState>, Refused>>,
}

/// The paths' connection to the loop of the demo, which publishes its state and receives actions.
#[derive(Clone, Debug)]
pub(super) struct DemoLink {
    pub(super) state: Arc<ArcSwap<DemoState>>,
    requests: mpsc::Sender<ActionRequest>,
}

impl DemoLink {
    pub(super) fn new(state: DemoState) -> (Self, mpsc::Receiver<ActionRequest>) {
        let (requests, received) = mpsc::channel(WAITING);
        (Self { state: Arc::new(ArcSwap::from_pointee(state)), requests }, received)
    }
}

/// The paths.
pub(super) fn routes(link: DemoLink) -> Router {
    Router::new().route("/demo/state", get(state)).route("/demo/actions", post(act)).with_state(link)
}

/// `GET /demo/state`.
async fn state(State(link): State<DemoLink>) -> Json<Arc<DemoState>> {
    Json(link.state.load_full())
}

/// `POST /demo/actions`: does something, and returns the new state.
async fn act(
    State(link): State<DemoLink>,
    body: Result<Body<DemoAction>, ApiError>,
) -> Result<Json<Arc<DemoState>>, ApiError> {
    let Body(action) = body.map_err(|error| error.with_hint(HINT))?;
    let (answer, answered) = oneshot::channel();
    let ending = || {
        let hint = "start it again";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "the demo is ending", hint)
    };
    link.requests.try_send(ActionRequest { action, answer }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            let message = "too many actions are waiting";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, "try again soon")
        }
        mpsc::error::TrySendError::Closed(_) => ending(),
    })?;
    answered.await.map_err(|_| ending())?.map(Json).map_err(|refused| ApiError::from(&refused))
}

impl From<&Refused> for ApiError {
    fn from(refused: &Refused) -> Self {
        let (status, code) = match refused {
            Refused::Absent(_) => (StatusCode::NOT_FOUND, ErrorDetail::NO_SUCH_BACKEND),
            Refused::Already(..) | Refused::NotSo(..) | Refused::NoTwo | Refused::NoScript => {
                (StatusCode::CONFLICT, "not_now")
            }
            Refused::Full => (StatusCode::CONFLICT, "too_many"),
            Refused::Rate => (StatusCode::BAD_REQUEST, "bad_request"),
            Refused::NotDone(_) => (StatusCode::INTERNAL_SERVER_ERROR, "not_done"),
        };
        Self::new(status, code, refused.to_string(), HINT)
    }
}
