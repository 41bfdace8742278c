//! `/api/v1/problems`: what is wrong now, and the capacity.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::request::{QueryParams, bad_request};
use super::{ApiError, App};
use crate::api::ProblemsReply;
use crate::problems::WINDOW;

/// Over which time failures are counted.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ProblemsQuery {
    /// The time over which failures are counted, such as `30s`: after a change, whether they go on. At most `5m`.
    #[cfg_attr(
        test,
        schemars(
            with = "String",
            regex(pattern = "^(0|[0-9]{1,6} ?(ms|s|sec|m|min|h|d)( ?[0-9]{1,6} ?(ms|s|sec|m|min|h|d))*)$"),
            extend("default" = "5m")
        )
    )]
    window: Option<String>,
}

/// `GET /api/v1/problems`.
pub(super) async fn problems(
    State(app): State<App>,
    QueryParams(ProblemsQuery { window }): QueryParams<ProblemsQuery>,
) -> Result<Json<ProblemsReply>, ApiError> {
    let parsed = |text: &str| -> Result<Duration, ApiError> {
        humantime::parse_duration(text)
            .map_err(|error| bad_request(format!("{text:?} is no duration such as 30s or 5m: {error}")))
    };
    let window = window.as_deref().map_or(Ok(WINDOW), parsed)?;
    Ok(Json(app.problems.reply(window)))
}
