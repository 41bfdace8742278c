//! `/api/v1/pools/{pool}/shadow`: what other algorithms would have done with the same connections.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::pools::pool_of;
use super::request::At;
use super::{ApiError, App};
use crate::api::{AlgorithmScore, BackendScore, ShadowReply};
use crate::balance::shadow::PickCounts;
use crate::config::Algorithm;
use crate::humanize::count;
use crate::story::Sentence;

/// `GET /api/v1/pools/{pool}/shadow`.
pub(super) async fn shadow(
    State(app): State<App>,
    At(pool): At<String>,
) -> Result<Json<ShadowReply>, ApiError> {
    let pool = pool_of(&app, &pool)?;
    let settings = pool.settings();
    let Some(since) = pool.shadowed_since() else {
        let message = format!("no other algorithm is counted in the pool {:?}", &*pool.name);
        let hint = "write `shadow: true`, or a list of algorithms, into the configuration of the pool";
        return Err(ApiError::new(StatusCode::CONFLICT, "shadow_off", message, hint));
    };
    let status = pool.status();
    let pick_counts: Vec<_> = status
        .members
        .iter()
        .map(|entry| (Arc::clone(&entry.backend.name), entry.backend.pick_counts()))
        .collect();
    let one = |algorithm: Algorithm| {
        let of = |(name, pick_counts): &(Arc<str>, Vec<(Algorithm, PickCounts)>)| {
            let score = pick_counts.iter().find(|(of, _)| *of == algorithm).map(|(_, score)| *score);
            BackendScore { backend: Arc::clone(name), score: score.unwrap_or_default() }
        };
        let backends: Vec<_> = pick_counts.iter().map(of).collect();
        let worst = backends.iter().filter(|share| share.score.peak > 0).max_by_key(|share| share.score.peak);
        AlgorithmScore {
            algorithm: algorithm.name(),
            is_actual: algorithm == settings.balance,
            worst_backend: worst.map(|share| Arc::clone(&share.backend)),
            worst_active_peak: worst.map_or(0, |share| share.score.peak),
            backends,
        }
    };
    let algorithms: Vec<_> =
        std::iter::once(settings.balance).chain(settings.shadow.iter().copied()).map(one).collect();
    let connections = algorithms[0].backends.iter().map(|share| share.score.connections).sum();
    let sentences = compared(&algorithms);
    Ok(Json(ShadowReply {
        pool: Arc::clone(&pool.name),
        since: since.into(),
        connections,
        algorithms,
        sentences,
    }))
}

/// Compares the algorithms by the most connections at once of the backend that really had the most.
fn compared(all: &[AlgorithmScore]) -> Vec<Sentence> {
    let Some((actual, others)) = all.split_first() else { return Vec::new() };
    let Some(worst) = &actual.worst_backend else {
        return vec![Sentence::now("no connection has come since they are counted")];
    };
    let had = count(actual.worst_active_peak.into(), "connection");
    let first = format!("{} has had {worst} at up to {had} at once, the most of all", actual.algorithm);
    let other = |other: &AlgorithmScore| {
        let there =
            other.backends.iter().find(|share| share.backend == *worst).map_or(0, |share| share.score.peak);
        let most = match &other.worst_backend {
            Some(backend) if backend != worst => {
                format!(", and {backend}, its own most, at {}", other.worst_active_peak)
            }
            _ => String::new(),
        };
        Sentence::now(format!("{} would have kept {worst} at up to {there}{most}", other.algorithm))
    };
    std::iter::once(Sentence::now(first)).chain(others.iter().map(other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(algorithm: &'static str, peaks: &[(&str, u32)]) -> AlgorithmScore {
        let share = |(name, peak): &(&str, u32)| BackendScore {
            backend: (*name).into(),
            score: PickCounts { connections: 50, active: 0, peak: *peak },
        };
        let worst = peaks.iter().max_by_key(|(_, peak)| *peak).filter(|(_, peak)| *peak > 0);
        AlgorithmScore {
            algorithm,
            is_actual: false,
            worst_backend: worst.map(|(name, _)| (*name).into()),
            worst_active_peak: worst.map_or(0, |(_, peak)| *peak),
            backends: peaks.iter().map(share).collect(),
        }
    }

    #[test]
    fn algorithms_are_compared_by_the_backend_that_had_the_most() {
        let all =
            [one("round-robin", &[("a", 4), ("c", 31)]), one("least-connections", &[("a", 13), ("c", 12)])];
        let texts: Vec<_> = compared(&all).into_iter().map(|sentence| sentence.text).collect();
        assert_eq!(
            texts,
            [
                "round-robin has had c at up to 31 connections at once, the most of all",
                "least-connections would have kept c at up to 12, and a, its own most, at 13"
            ]
        );
        assert_eq!(compared(&[one("maglev", &[("a", 0)])]).len(), 1);
    }
}
