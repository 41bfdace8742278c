//! What a test has found, as figures.

use std::time::Duration;

use serde::Serialize;

use super::tally::{LATE, Tally, Times};
use super::who::Accounts;
use super::{By, Failure, Plan, Target, Until};

/// What a test has found. Its names in JSON stay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked.
    pub target: String,
    /// `closed`, or `open` if there was a rate.
    pub r#loop: &'static str,
    /// Clients.
    pub concurrent: usize,
    /// Requests a second that were due; null: as fast as the answers came.
    pub rate: Option<f64>,
    /// Whether connections were used again.
    pub keep_alive: bool,
    /// How long a request could take, in seconds.
    pub timeout_s: f64,
    /// How long the test was to be, in seconds; null: until all requests were done.
    pub duration_s: Option<f64>,
    /// Requests that there were to be; null: as many as came in the time.
    pub requests: Option<u64>,
    /// How long it was, in seconds.
    pub elapsed_s: f64,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// Requests that ended: those that succeeded and those that failed.
    pub done: u64,
    /// Requests that were answered, HTTP ones with a status below 400.
    pub succeeded: u64,
    /// The others.
    pub failed: u64,
    /// Those by kind, the most frequent first.
    pub failures: Vec<FailureCount>,
    /// Requests that were due, and for which no client was free before the end.
    pub not_sent: u64,
    /// Requests that were under way when it was ended early.
    pub given_up: u64,
    /// Requests that began late; null in a closed loop, where none is due.
    pub late: Option<Late>,
    /// Connections that were opened.
    pub connections: u64,
    /// Bytes of answers, heads of HTTP not counted.
    pub bytes: u64,
    /// Requests that ended, by seconds.
    pub requests_per_second: f64,
    /// How long those that succeeded took, in milliseconds: from when they were due in an open loop, from when they
    /// were sent in a closed one. Null: none succeeded.
    pub latency_ms: Option<Percentiles>,
    /// How long they took from when they were sent; null in a closed loop, where that is the latency.
    pub service_ms: Option<Percentiles>,
    /// CPU time that the test itself took, in seconds.
    pub cpu_s: f64,
    /// Cores that it could use.
    pub cores: usize,
    /// Who answered; null: nobody knows.
    pub backends: Option<Backends>,
    /// Why nobody knows, if something went wrong.
    pub backends_error: Option<String>,
}

/// Failures of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureCount {
    /// The kind: `refused`, `timeout`, `reset`, `closed_early`, `status_503` …
    pub kind: String,
    /// How many.
    pub count: u64,
    /// It in words.
    pub what: String,
}

/// Requests that began late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Late {
    /// How many began more than `after_ms` after they were due.
    pub count: u64,
    /// From this on it is late, in milliseconds.
    pub after_ms: f64,
    /// The greatest delay, in milliseconds.
    pub most_ms: f64,
}

/// Many lengths of time at a glance, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Half of them took at most so long.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// Who answered how often.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backends {
    /// By what they were told apart.
    pub by: String,
    /// All that are known, by name.
    pub all: Vec<Share>,
    /// Answers that named nobody.
    pub unknown: u64,
}

/// What one backend answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Requests that it answered, in whatever way; connections that it was sent, if its balancer tells.
    pub requests: u64,
    /// Of all that named somebody.
    pub share: f64,
    /// Those that failed, by their status; null: its balancer does not tell.
    pub failed: Option<u64>,
    /// The mean latency of those that succeeded, in milliseconds.
    pub mean_ms: Option<f64>,
}

/// A test that has ended.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) elapsed: Duration,
    pub(super) cpu: Duration,
    pub(super) total: Option<u64>,
    pub(super) taken: u64,
    pub(super) not_sent: u64,
    pub(super) interrupted: bool,
    /// What the balancer tells, if it was asked.
    pub(super) counts: Option<Result<Accounts, String>>,
    pub(super) tally: Tally,
}

/// To a microsecond, which is as exact as such times are.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Percentiles {
    fn of(times: &Times) -> Option<Self> {
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

impl Report {
    pub(super) fn new(run: Run<'_>) -> Self {
        let Run { plan, tally, .. } = run;
        let open = plan.rate.is_some();
        let (succeeded, failed) = (tally.succeeded(), tally.failed_in_all());
        let done = succeeded + failed;
        let elapsed_s = run.elapsed.as_secs_f64();
        let (backends, backends_error) = backends(&plan.by, &tally, run.counts);
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
            failures: failures(&tally, plan.timeout),
            not_sent: run.not_sent,
            given_up: run.taken.saturating_sub(done),
            late: open.then(|| Late {
                count: tally.late,
                after_ms: millis(LATE),
                most_ms: millis(tally.latest),
            }),
            connections: tally.connections,
            bytes: tally.bytes,
            requests_per_second: if elapsed_s > 0.0 { done as f64 / elapsed_s } else { 0.0 },
            latency_ms: Percentiles::of(&tally.latency),
            service_ms: if open { Percentiles::of(&tally.service) } else { None },
            cpu_s: run.cpu.as_secs_f64(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            backends,
            backends_error,
        }
    }

    /// Why the test says nothing about the target, if not one request of it was answered.
    pub fn unanswered(&self) -> Option<String> {
        let answers = self.failures.iter().filter(|failure| failure.kind.starts_with("status_")).count();
        let reason = self.failures.first().filter(|_| self.succeeded == 0 && answers == 0)?;
        Some(format!("nothing was answered at {}: {}", self.target, reason.what))
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }

    /// The part of the machine's CPU time that the test itself took.
    pub(super) fn cpu_share(&self) -> f64 {
        if self.elapsed_s > 0.0 { self.cpu_s / (self.elapsed_s * self.cores as f64) } else { 0.0 }
    }

    /// What a request is called: to a server that speaks no HTTP it is a connection.
    pub(super) fn is_http(&self) -> bool {
        self.target.starts_with("http:")
    }
}

fn failures(tally: &Tally, timeout: Duration) -> Vec<FailureCount> {
    let mut failures: Vec<(&Failure, &u64)> = tally.failures.iter().collect();
    failures.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let count = |(failure, count): (&Failure, &u64)| FailureCount {
        kind: failure.kind(),
        count: *count,
        what: failure.explain(timeout),
    };
    failures.into_iter().map(count).collect()
}

fn backends(
    by: &By,
    tally: &Tally,
    counts: Option<Result<Accounts, String>>,
) -> (Option<Backends>, Option<String>) {
    let told = counts.is_some();
    let (label, accounts) = match counts {
        Some(Err(error)) => return (None, Some(error)),
        Some(Ok(accounts)) if accounts.is_empty() => {
            let nothing = "the balancer has sent no connection anywhere: is it in front of the target?";
            return (None, Some(nothing.to_owned()));
        }
        Some(Ok(accounts)) => (by.to_string(), accounts),
        None => match tally.names.best(by) {
            Some(best) => best,
            None => return (None, nothing_named(by, tally)),
        },
    };
    let named: u64 = accounts.values().map(super::who::Account::requests).sum();
    let share = |(name, account): (String, super::who::Account)| Share {
        name,
        requests: account.requests(),
        share: account.requests() as f64 / named.max(1) as f64,
        failed: (!told).then_some(account.failed),
        mean_ms: (!told && account.succeeded > 0).then(|| {
            let nanos = account.time.as_nanos() / u128::from(account.succeeded);
            millis(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
        }),
    };
    // Answers under the other ways named somebody too, but not so that it could be compared.
    let answers = tally.names.answers() + tally.nameless;
    let unknown = if told { tally.connections.saturating_sub(named) } else { answers.saturating_sub(named) };
    (Some(Backends { by: label, all: accounts.into_iter().map(share).collect(), unknown }), None)
}

/// Who asked for names in one way, and got none, is told.
fn nothing_named(by: &By, tally: &Tally) -> Option<String> {
    match by {
        By::Auto | By::Admin(_) => None,
        _ if tally.nameless == 0 => None,
        By::Header(name) => Some(format!("no answer has a header {name}")),
        By::Body(expression) => Some(format!("{expression} is found in no answer")),
    }
}

impl Target {
    /// What one request of it is, for people.
    pub fn explain(&self) -> &'static str {
        use super::TcpUntil;
        match self {
            Self::Http(_) => "a request and its whole answer",
            Self::Tcp(exchange) => match exchange.until {
                TcpUntil::Connected => "a connection that opens",
                TcpUntil::Byte => "a connection until its first byte comes back",
                TcpUntil::Closed => "a connection until the server ends it",
            },
        }
    }
}
