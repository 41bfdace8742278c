//! Replicas over HTTP: `GET /rep`, `POST /add`, `DELETE /rm`, in a format that existing clients require, errors
//! included: `{"message": …, "status": "successful"}` or `"failure"`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::access::Operator;
use super::request::Object;
use super::{ApiError, App, with_scheme};
use crate::api::{
    AllReplicasReply, ReplicaChange, ReplicaFailure, ReplicaList, ReplicaNames, ReplicaPool, whole_number,
};
use crate::replicas::{Refusal, Replicas};

/// Time for a request's body to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Whether the errors of a path have the format of its other replies.
pub(super) fn has_own_shape(path: &str) -> bool {
    matches!(path, "/rep" | "/add" | "/rm")
}

/// Whether a path starts or stops containers, which may take longer than other requests.
pub(super) fn is_slow(path: &str) -> bool {
    matches!(path, "/add" | "/rm")
}

/// Selects the pool whose replicas are meant.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ReplicaQuery {
    /// The pool; it may be absent if only one has replicas.
    #[cfg_attr(test, schemars(with = "String"))]
    pool: Option<String>,
}

/// A change of the number of replicas, from an operator.
#[derive(Debug)]
pub(super) struct ReplicaOrder {
    operator: Arc<str>,
    n: usize,
    names: Vec<String>,
}

/// `GET /rep`: the number of replicas to run, and their names.
pub(super) async fn list(State(app): State<App>, which: Named) -> Result<Json<ReplicaList>, ReplicaError> {
    let replicas = find(&app, which)?;
    Ok(listed(replicas.names().await?))
}

/// `POST /add`: replies when all containers have started or, if one fails to, when the others are removed again.
pub(super) async fn add(
    State(app): State<App>,
    which: Named,
    change: ReplicaOrder,
) -> Result<Json<ReplicaList>, ReplicaError> {
    let replicas = find(&app, which)?;
    Ok(listed(replicas.add(change.n, change.names, change.operator).await?))
}

/// `DELETE /rm`: replies when they get no new connections. After that they drain and are removed.
pub(super) async fn remove(
    State(app): State<App>,
    which: Named,
    change: ReplicaOrder,
) -> Result<Json<ReplicaList>, ReplicaError> {
    let replicas = find(&app, which)?;
    Ok(listed(replicas.remove(change.n, change.names, change.operator).await?))
}

/// `GET /api/v1/replicas`.
pub(super) async fn overview(State(app): State<App>) -> Json<AllReplicasReply> {
    let pools = app.overview.replicas.load();
    let group = |(pool, replicas): (&Arc<str>, &Replicas)| {
        let status = replicas.status();
        let (group, decisions) = (Arc::clone(&status.group), Arc::clone(&status.decisions));
        (Arc::clone(pool), ReplicaPool { group, decisions })
    };
    Json(AllReplicasReply { pools: pools.iter().map(group).collect() })
}

fn listed(names: Vec<Arc<str>>) -> Json<ReplicaList> {
    let message = ReplicaNames { n: names.len(), replicas: names };
    Json(ReplicaList { message, status: "successful".into() })
}

/// The query, or why it is malformed.
type Named = Result<Query<ReplicaQuery>, QueryRejection>;

/// The replicas of the pool in the query or, without one, of the only pool that has any.
fn find(app: &App, which: Named) -> Result<Replicas, ReplicaError> {
    let Query(which) =
        which.map_err(|error| ReplicaError { status: error.status(), message: error.body_text() })?;
    let all = app.overview.replicas.load();
    let names = || all.keys().map(|name| &**name).collect::<Vec<_>>().join(", ");
    let refuse = |status, message: String| Err(ReplicaError { status, message });
    match (&which.pool, all.len()) {
        (_, 0) => refuse(
            StatusCode::NOT_FOUND,
            "no pool has replicas: give one `replicas: {image: NAME, port: 5000}` in the configuration"
                .to_owned(),
        ),
        (Some(pool), _) => match all.get(pool.as_str()) {
            Some(replicas) => Ok(replicas.clone()),
            None => refuse(
                StatusCode::NOT_FOUND,
                format!("there is no pool {pool:?} with replicas; there is {}", names()),
            ),
        },
        (None, 1) => all.values().next().cloned().ok_or(ReplicaError {
            status: StatusCode::NOT_FOUND,
            message: "no pool has replicas".to_owned(),
        }),
        (None, _) => refuse(
            StatusCode::BAD_REQUEST,
            format!("several pools have replicas: say which with ?pool=, one of {}", names()),
        ),
    }
}

impl FromRequest<App> for ReplicaOrder {
    type Rejection = ReplicaError;

    /// Reads the body only for an operator.
    async fn from_request(request: Request, app: &App) -> Result<Self, ReplicaError> {
        let (mut head, body) = request.into_parts();
        let Operator(operator) = Operator::from_request_parts(&mut head, app).await?;
        let read = Json::<Object<ReplicaChange>>::from_request(Request::from_parts(head, body), app);
        let example = r#"send a body such as {"n": 2, "hostnames": ["Server 4"]} as application/json"#;
        let refuse = |status, why: &str| Err(ReplicaError { status, message: format!("{why}; {example}") });
        let change = match tokio::time::timeout(BODY_TIME, read).await {
            Ok(Ok(Json(Object(change)))) => change,
            // The API of these paths has no 422: a body with the wrong content is a bad request, too.
            Ok(Err(error @ (JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_)))) => {
                return refuse(StatusCode::BAD_REQUEST, &error.body_text());
            }
            Ok(Err(error)) => return refuse(error.status(), &error.body_text()),
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
        };
        let n = whole_number(&change.n).and_then(|n| usize::try_from(n).ok());
        let Some(n) = n.filter(|n| *n > 0) else {
            return refuse(StatusCode::BAD_REQUEST, "n must be a whole number from 1");
        };
        Ok(Self { operator, n, names: change.hostnames })
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(super) struct ReplicaError {
    status: StatusCode,
    message: String,
}

impl From<Refusal> for ReplicaError {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::MoreNamesThanAdded | Refusal::MoreNamesThanRemovable | Refusal::Invalid(_) => {
                StatusCode::BAD_REQUEST
            }
            Refusal::Unknown { .. } | Refusal::NoImage(_) => StatusCode::NOT_FOUND,
            Refusal::Taken(_)
            | Refusal::StillLeaving(_)
            | Refusal::AboveMax { .. }
            | Refusal::BelowMin { .. } => StatusCode::CONFLICT,
            Refusal::Engine(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Failed(_) => StatusCode::BAD_GATEWAY,
        };
        Self { status, message: refusal.to_string() }
    }
}

impl From<ApiError> for ReplicaError {
    fn from(failure: ApiError) -> Self {
        let message = format!("{}; {}", failure.error.message, failure.error.hint);
        Self { status: failure.status, message }
    }
}

impl IntoResponse for ReplicaError {
    fn into_response(self) -> Response {
        let message = format!("<Error> {}", self.message);
        let reply = ReplicaFailure { message, status: "failure".into() };
        with_scheme((self.status, Json(reply)).into_response())
    }
}
