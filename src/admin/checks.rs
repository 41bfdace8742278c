//! Checks on demand.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tokio::time::Instant;

use super::access::Operator;
use super::backends::find;
use super::pools::pool_of;
use super::request::{Body, bad_request};
use super::{ApiError, App};
use crate::api::{BackendInfo, CheckReply, CheckRequest};
use crate::domain::{BackendState, Event};
use crate::pool::{Backend, Command, Entry, Pool};

/// The time between polls for the end of the checks.
const POLL: Duration = Duration::from_millis(10);
/// The longest wait for an answer, whatever the checks' time limits are.
const MAX_WAIT: Duration = Duration::from_secs(8);

/// `POST /api/v1/check`: runs the checks at once, and replies when they have ended: 200, or 202 if some have not in
/// time.
pub(super) async fn check(
    Operator(operator): Operator,
    State(app): State<App>,
    body: Option<Body<CheckRequest>>,
) -> Result<(StatusCode, Json<CheckReply>), ApiError> {
    let CheckRequest { pool, backend } = body.map(|Body(request)| request).unwrap_or_default();
    if backend.is_some() && pool.is_none() {
        return Err(bad_request("a backend is named, and no pool"));
    }
    let pools = match &pool {
        Some(pool) => vec![pool_of(&app, pool)?],
        None => app.overview.pools.load().values().cloned().collect(),
    };
    let mut targets: Vec<(Arc<Pool>, Arc<Backend>)> = Vec::new();
    for pool in &pools {
        match &backend {
            Some(name) => targets.push((Arc::clone(pool), find(pool, name)?)),
            None => {
                let status = pool.status();
                let remaining = status.members.iter().filter(|entry| !entry.leaving);
                targets.extend(remaining.map(|entry| (Arc::clone(pool), Arc::clone(&entry.backend))));
            }
        }
    }
    let named = |name: Option<&String>| name.map(|name| Arc::from(name.as_str()));
    app.overview.journal.record(Event::CheckRequested {
        by: Arc::clone(&operator),
        pool: named(pool.as_ref()),
        backend: named(backend.as_ref()),
    });
    // The requested check of a backend starts after one that is already running.
    let timeouts =
        pools.iter().flat_map(|pool| pool.settings().health.iter().map(|h| h.timeout).collect::<Vec<_>>());
    let time_limit = (timeouts.max().unwrap_or_default() * 2 + Duration::from_millis(500)).min(MAX_WAIT);
    let (began, until) = (SystemTime::now(), Instant::now() + time_limit);
    for (pool, backend) in &targets {
        pool.send_command(backend, Command::Check, Arc::clone(&operator)).await;
    }
    let mut waiting = targets.clone();
    loop {
        let checkable: HashSet<(usize, u64)> = pools.iter().flat_map(checkable).collect();
        waiting.retain(|(pool, backend)| {
            checkable.contains(&(Arc::as_ptr(pool).addr(), backend.key)) && !was_checked(pool, backend, began)
        });
        if waiting.is_empty() || Instant::now() >= until {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    // The pool receives a result before it publishes the state that follows from it.
    for pool in &pools {
        pool.when_published().await;
    }
    let now: HashMap<_, _> = pools.iter().flat_map(statuses).collect();
    let key = |(pool, backend): &(Arc<Pool>, Arc<Backend>)| (Arc::as_ptr(pool).addr(), backend.key);
    let backends = targets.iter().filter_map(|target| now.get(&key(target)).cloned()).collect();
    let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(CheckReply { backends, pending: waiting.len() as u64 })))
}

/// The keys of a pool's backends that are checked.
fn checkable(pool: &Arc<Pool>) -> Vec<(usize, u64)> {
    let status = pool.status();
    let checked =
        status.members.iter().filter(|m| !m.leaving && !m.refused && m.state != BackendState::Maintenance);
    checked.map(|entry| (Arc::as_ptr(pool).addr(), entry.backend.key)).collect()
}

fn statuses(pool: &Arc<Pool>) -> Vec<((usize, u64), BackendInfo)> {
    let key = |entry: &Entry| (Arc::as_ptr(pool).addr(), entry.backend.key);
    pool.status().members.iter().map(|entry| (key(entry), BackendInfo::of(entry))).collect()
}

/// Whether each of the backend's checks has begun and ended since then.
fn was_checked(pool: &Pool, backend: &Backend, since: SystemTime) -> bool {
    let checked = |(at, checked): &(SystemTime, crate::health::Checked)| {
        at.checked_sub(checked.took).is_some_and(|began| began >= since)
    };
    let last = backend.checks().last;
    (0..pool.settings().health.len()).all(|index| last.get(&index).is_some_and(checked))
}
