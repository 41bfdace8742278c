//! `/api/v1/story`: what happened lately, in sentences.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{ApiError, App};
use crate::api::{ErrorDetail, StoryReply};
use crate::domain::Event;
use crate::humanize::{count, duration};
use crate::story::Sentence;
use crate::story::fold::{self, StorySentence};
use crate::story::samples::{EVERY, REACH};

/// How far back a story reaches by default.
const SINCE: Duration = Duration::from_secs(600);

/// The query of `/api/v1/story`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct StoryQuery {
    /// How far back, such as `90s`, `10m` or `1h 30m`; at most to the start of the process or, with
    /// `runtime.state`, to the oldest event.
    #[cfg_attr(
        test,
        schemars(
            with = "String",
            regex(pattern = "^(0|[0-9]{1,6} ?(ms|s|sec|m|min|h|d)( ?[0-9]{1,6} ?(ms|s|sec|m|min|h|d))*)$"),
            extend("default" = "10m")
        )
    )]
    since: Option<String>,
    /// Only what concerns this pool, or all of them.
    #[cfg_attr(test, schemars(with = "String"))]
    pool: Option<String>,
}

/// `GET /api/v1/story`.
pub(super) async fn story(
    State(app): State<App>,
    question: Result<Query<StoryQuery>, QueryRejection>,
) -> Result<Json<StoryReply>, ApiError> {
    let bad = |message: String| {
        let hint = "request /api/v1/story?since=10m, with &pool=NAME for one pool only";
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message, hint)
    };
    let Query(question) = question.map_err(|error| bad(error.body_text()))?;
    let reach = match &question.since {
        None => SINCE,
        Some(since) => humantime::parse_duration(since)
            .map_err(|error| bad(format!("{since:?} is no duration such as 90s or 10m: {error}")))?,
    };
    let until = SystemTime::now();
    let overview = &app.overview;
    let uptime = overview.started.elapsed();
    let wanted = |pool: &str| question.pool.as_deref().is_none_or(|wanted| wanted == pool);
    let (mut events, dropped) = overview.journal.after(0);
    let is_present = |pool: &str| overview.pools.load().contains_key(pool);
    if let Some(pool) = &question.pool
        && !is_present(pool)
        // A pool that a reload has removed still has a story.
        && !events.iter().any(|entry| entry.event.pool().is_some_and(|known| **known == **pool))
    {
        let message = format!("there is no pool {pool:?}, and none of that name has a story");
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            ErrorDetail::NO_SUCH_POOL,
            message,
            "see /api/v1/status",
        ));
    }
    let oldest = events.first().map(|entry| entry.at);
    // With a state directory, the events reach back beyond the start.
    let restored = events.iter().any(|entry| matches!(*entry.event, Event::Started { .. }));
    let known = oldest.filter(|_| restored).and_then(|oldest| until.duration_since(oldest).ok());
    let known = known.unwrap_or_default().max(uptime);
    let since = until.checked_sub(reach.min(known)).unwrap_or(SystemTime::UNIX_EPOCH);
    events.retain(|entry| entry.at >= since && entry.event.pool().is_none_or(|pool| wanted(pool)));
    let mut samples = overview.samples.between(since, until);
    for (_, sample) in &mut samples {
        sample.pools.retain(|(pool, _)| wanted(pool));
        sample.failures.retain(|failures| wanted(&failures.pool));
    }
    let story = fold::story(&events, &samples, is_present);
    let summary = fold::summary(&story);
    let mut sentences = story.sentences;
    let mut begin = |at: SystemTime, text: String| {
        sentences.insert(0, StorySentence { sentence: Sentence::then(at, text), events: Vec::new() });
    };
    if reach >= uptime && !restored {
        begin(since, format!("Pointsman {} started", env!("CARGO_PKG_VERSION")));
    }
    let counted = uptime.min(REACH);
    // The start and its event are not at exactly the same time.
    if reach.min(known) > counted + EVERY {
        begin(since, format!("counters cover the last {} only", duration(counted)));
    }
    if let Some(oldest) = oldest.filter(|oldest| dropped > 0 && *oldest > since) {
        let ago = duration(until.duration_since(oldest).unwrap_or_default());
        begin(since, format!("{} from more than {ago} ago are no longer kept", count(dropped, "event")));
    }
    let (since, until) = (since.into(), until.into());
    Ok(Json(StoryReply { since, until, sentences, summary, totals: story.totals }))
}
