//! The result of a test.

use std::time::Duration;

use serde::Serialize;

use super::attribution::{CountsByName, ResponseCounts};
use super::stats::{LATE, LatencyHistogram, ThreadStats};
use super::{BenchPlan, By, RequestError, Until};
use crate::names::natural_order;

/// The result of a test. Its JSON field names are a stable interface.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The URL of the target.
    pub target: String,
    /// `closed`, or `open` if there was a rate.
    pub r#loop: &'static str,
    /// The number of clients.
    pub concurrent: usize,
    /// Requests a second that were due; null: a closed loop.
    pub rate: Option<f64>,
    /// Whether connections were reused.
    pub keep_alive: bool,
    /// The time limit of a request, in seconds.
    pub timeout_s: f64,
    /// The planned duration in seconds; null: until all requests were done.
    pub duration_s: Option<f64>,
    /// The planned number of requests; null: as many as fit the duration.
    pub requests: Option<u64>,
    /// The actual duration in seconds.
    pub elapsed_s: f64,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// Requests that ended: those that succeeded and those that failed.
    pub done: u64,
    /// Requests with a response, of HTTP with a status below 400.
    pub succeeded: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The failures by kind, the most frequent first.
    pub failures: Vec<FailureCount>,
    /// Requests that were due, but no client was free before the end.
    pub not_sent: u64,
    /// Requests in flight when the test was interrupted.
    pub given_up: u64,
    /// Requests that started late; null in a closed loop.
    pub late: Option<LateRequests>,
    /// Connections opened.
    pub connections: u64,
    /// Bytes of responses, without HTTP heads.
    pub bytes: u64,
    /// Requests that ended, per second.
    pub requests_per_second: f64,
    /// The latency of successes in milliseconds: from when they were due in an open loop, from when they were sent in a
    /// closed one. Null: none succeeded.
    pub latency_ms: Option<Percentiles>,
    /// Their latency from when they were sent; null in a closed loop.
    pub service_ms: Option<Percentiles>,
    /// The CPU time of the test itself, in seconds.
    pub cpu_s: f64,
    /// The cores that it could use.
    pub cores: usize,
    /// The responses of each backend; null: unknown.
    pub backends: Option<BackendShares>,
    /// Why they are unknown, if there was an error.
    pub backends_error: Option<String>,
}

/// Failures of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureCount {
    /// The kind: `refused`, `timeout`, `reset`, `closed_early`, `status_503` …
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The failure as a sentence.
    pub what: String,
}

/// Requests that started late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LateRequests {
    /// How many started more than `after_ms` after they were due.
    pub count: u64,
    /// The delay from which a request is late, in milliseconds.
    pub after_ms: f64,
    /// The greatest delay, in milliseconds.
    pub most_ms: f64,
}

/// A distribution of durations, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// The responses of each backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendShares {
    /// How responses were attributed to backends.
    pub by: String,
    /// The backends, in the natural order of their names.
    pub all: Vec<BackendShare>,
    /// Responses without a known backend.
    pub unknown: u64,
}

/// The responses of one backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendShare {
    /// Its name.
    pub name: String,
    /// Its responses, failed ones included; with `admin`, its connections.
    pub requests: u64,
    /// Its part of all attributed responses.
    pub share: f64,
    /// Responses of a status of 400 or above; null with `admin`.
    pub failed: Option<u64>,
    /// The mean latency of its successes in milliseconds; null with `admin`.
    pub mean_ms: Option<f64>,
}

/// A finished test.
#[derive(Debug)]
pub(super) struct FinishedRun<'a> {
    pub(super) plan: &'a BenchPlan,
    pub(super) elapsed: Duration,
    pub(super) cpu: Duration,
    pub(super) total: Option<u64>,
    pub(super) taken: u64,
    pub(super) not_sent: u64,
    pub(super) interrupted: bool,
    /// The balancer's counters, if they were used.
    pub(super) counts: Option<Result<CountsByName, String>>,
    pub(super) stats: ThreadStats,
}

/// Rounded to a microsecond.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Percentiles {
    fn of(times: &LatencyHistogram) -> Option<Self> {
        let percentile = |percent| millis(times.percentile(percent));
        (times.len() > 0).then(|| Self {
            min: millis(times.least()),
            mean: millis(times.mean()),
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p999: percentile(99.9),
            max: millis(times.greatest()),
        })
    }
}

impl BenchReport {
    pub(super) fn new(run: FinishedRun<'_>) -> Self {
        let FinishedRun { plan, stats, .. } = run;
        let open = plan.rate.is_some();
        let (succeeded, failed) = (stats.succeeded(), stats.total_failed());
        let done = succeeded + failed;
        let elapsed_s = run.elapsed.as_secs_f64();
        let (backends, backends_error) = backends(&plan.by, &stats, run.counts);
        Self {
            target: plan.target.to_string(),
            r#loop: if open { "open" } else { "closed" },
            concurrent: plan.concurrent.get(),
            rate: plan.rate,
            keep_alive: plan.keep_alive,
            timeout_s: plan.timeout.as_secs_f64(),
            duration_s: match plan.until {
                Until::Time(time) => Some(time.as_secs_f64()),
                Until::Number(_) => None,
            },
            requests: run.total,
            elapsed_s,
            interrupted: run.interrupted,
            done,
            succeeded,
            failed,
            failures: failures(&stats, plan.timeout),
            not_sent: run.not_sent,
            given_up: run.taken.saturating_sub(done),
            late: open.then(|| LateRequests {
                count: stats.late,
                after_ms: millis(LATE),
                most_ms: millis(stats.latest),
            }),
            connections: stats.connections,
            bytes: stats.bytes,
            requests_per_second: if elapsed_s > 0.0 { done as f64 / elapsed_s } else { 0.0 },
            latency_ms: Percentiles::of(&stats.latency),
            service_ms: if open { Percentiles::of(&stats.service) } else { None },
            cpu_s: run.cpu.as_secs_f64(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            backends,
            backends_error,
        }
    }

    /// Why the test has no result for the target, if no request got a response.
    pub fn unanswered(&self) -> Option<String> {
        let answers = self.failures.iter().filter(|failure| failure.kind.starts_with("status_")).count();
        let reason = self.failures.first().filter(|_| self.succeeded == 0 && answers == 0)?;
        Some(format!("no request was answered at {}: {}", self.target, reason.what))
    }

    /// As JSON, with a line break at the end.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }

    /// The part of the machine's CPU time that the test used.
    pub(super) fn cpu_share(&self) -> f64 {
        if self.elapsed_s > 0.0 { self.cpu_s / (self.elapsed_s * self.cores as f64) } else { 0.0 }
    }

    /// Whether requests are HTTP; others are called connections.
    pub(super) fn is_http(&self) -> bool {
        self.target.starts_with("http:")
    }
}

fn failures(stats: &ThreadStats, timeout: Duration) -> Vec<FailureCount> {
    let mut failures: Vec<(&RequestError, &u64)> = stats.failures.iter().collect();
    failures.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let count = |(failure, count): (&RequestError, &u64)| FailureCount {
        kind: failure.kind(),
        count: *count,
        what: failure.explain(timeout),
    };
    failures.into_iter().map(count).collect()
}

fn backends(
    by: &By,
    stats: &ThreadStats,
    counts: Option<Result<CountsByName, String>>,
) -> (Option<BackendShares>, Option<String>) {
    let from_admin = counts.is_some();
    let (label, counts_by_name) = match counts {
        Some(Err(error)) => return (None, Some(error)),
        Some(Ok(counts_by_name)) if counts_by_name.is_empty() => {
            let nothing = "the balancer has routed no connection: is it in front of the target?";
            return (None, Some(nothing.to_owned()));
        }
        Some(Ok(counts_by_name)) => (by.to_string(), counts_by_name),
        None => match stats.names.best(by) {
            Some(best) => best,
            None => return (None, nothing_named(by, stats)),
        },
    };
    let named: u64 = counts_by_name.values().map(ResponseCounts::requests).sum();
    let share = |(name, counts): (String, ResponseCounts)| BackendShare {
        name,
        requests: counts.requests(),
        share: counts.requests() as f64 / named.max(1) as f64,
        failed: (!from_admin).then_some(counts.failed),
        mean_ms: (!from_admin && counts.succeeded > 0).then(|| {
            let nanos = counts.time.as_nanos() / u128::from(counts.succeeded);
            millis(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
        }),
    };
    // Responses attributed by other methods cannot be compared and count as unknown.
    let responses = stats.names.total() + stats.nameless;
    let unknown =
        if from_admin { stats.connections.saturating_sub(named) } else { responses.saturating_sub(named) };
    let mut all: Vec<_> = counts_by_name.into_iter().map(share).collect();
    all.sort_by(|a, b| natural_order(&a.name, &b.name));
    (Some(BackendShares { by: label, all, unknown }), None)
}

/// The error of a given method that attributes no response.
fn nothing_named(by: &By, stats: &ThreadStats) -> Option<String> {
    match by {
        By::Auto | By::Admin(_) => None,
        _ if stats.nameless == 0 => None,
        By::Header(name) => Some(format!("no response has a header {name}")),
        By::Body(expression) => Some(format!("{expression} matches no response")),
    }
}
