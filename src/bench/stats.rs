//! The statistics of a test: one set per thread, merged at the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::attribution::{By, NameCounts, ResponseCounts};
use super::client::Response;
use super::pacing::SendPermit;
use super::request_error::RequestError;

/// Latencies from here on have three significant digits …
const SHORTEST: Duration = Duration::from_nanos(100);
/// … up to this one.
const LONGEST: Duration = Duration::from_secs(3600);
/// A request that starts more than this after it was due is late.
pub(super) const LATE: Duration = Duration::from_millis(10);

/// A histogram of durations with exact mean, least and greatest.
#[derive(Clone, Debug)]
pub(super) struct LatencyHistogram {
    histogram: Histogram<u64>,
    sum: u128,
    least: Duration,
    greatest: Duration,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl LatencyHistogram {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(nanos(SHORTEST), nanos(LONGEST), 3);
        // It fails only if the bounds differ by less than a factor of two, or with more than five digits.
        let histogram = histogram.unwrap_or_else(|error| unreachable!("{error}"));
        Self { histogram, sum: 0, least: Duration::MAX, greatest: Duration::ZERO }
    }

    pub(super) fn record(&mut self, time: Duration) {
        self.histogram.saturating_record(nanos(time));
        self.sum += time.as_nanos();
        self.least = self.least.min(time);
        self.greatest = self.greatest.max(time);
    }

    fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.histogram.add(&other.histogram);
        self.sum += other.sum;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    pub(super) fn len(&self) -> u64 {
        self.histogram.len()
    }

    pub(super) fn least(&self) -> Duration {
        self.least.min(self.greatest)
    }

    pub(super) fn greatest(&self) -> Duration {
        self.greatest
    }

    pub(super) fn mean(&self) -> Duration {
        let mean = self.sum.checked_div(u128::from(self.len())).unwrap_or_default();
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// The time that this percentage did not exceed.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let time = Duration::from_nanos(self.histogram.value_at_percentile(percent));
        // The histogram returns the upper end of a bucket.
        time.clamp(self.least(), self.greatest)
    }
}

/// The statistics of a thread, or of the test.
#[derive(Debug)]
pub(super) struct ThreadStats {
    /// Latency of successes: from when they were due in an open loop, from when they were sent in a closed one.
    pub(super) latency: LatencyHistogram,
    /// Latency of successes from when they were sent.
    pub(super) service: LatencyHistogram,
    /// Failures by kind.
    pub(super) failures: HashMap<RequestError, u64>,
    /// Requests that started more than [`LATE`] after they were due.
    pub(super) late: u64,
    /// The greatest such delay.
    pub(super) latest: Duration,
    /// Connections opened.
    pub(super) connections: u64,
    /// Bytes of bodies.
    pub(super) bytes: u64,
    /// Responses that name no backend.
    pub(super) nameless: u64,
    /// Responses by backend.
    pub(super) names: NameCounts,
    /// When the last request ended.
    pub(super) last: Option<Instant>,
}

impl ThreadStats {
    pub(super) fn new(by: &By) -> Self {
        Self {
            latency: LatencyHistogram::new(),
            service: LatencyHistogram::new(),
            failures: HashMap::new(),
            late: 0,
            latest: Duration::ZERO,
            connections: 0,
            bytes: 0,
            nameless: 0,
            names: NameCounts::new(by),
            last: None,
        }
    }

    /// Records a request that was sent at `sent` and has ended.
    pub(super) fn record(
        &mut self,
        permit: SendPermit,
        sent: Instant,
        result: Result<Response, RequestError>,
    ) {
        let began = permit.due.unwrap_or(sent);
        let delay = sent.saturating_duration_since(began);
        if delay > LATE {
            self.late += 1;
            self.latest = self.latest.max(delay);
        }
        match result {
            Ok(response) => {
                let took = response.ended.saturating_duration_since(began);
                self.bytes += response.bytes;
                let failure = response.status.filter(|status| *status >= 400).map(RequestError::Status);
                let counts = match failure {
                    None => ResponseCounts { succeeded: 1, failed: 0, time: took },
                    Some(_) => ResponseCounts { succeeded: 0, failed: 1, time: Duration::ZERO },
                };
                match response.backend {
                    Some(name) => self.names.add(name, counts),
                    None => self.nameless += 1,
                }
                match failure {
                    None => {
                        self.latency.record(took);
                        self.service.record(response.ended.saturating_duration_since(sent));
                    }
                    Some(failure) => self.failed(failure),
                }
                self.last = self.last.max(Some(response.ended));
            }
            Err(failure) => {
                self.failed(failure);
                self.last = self.last.max(Some(Instant::now()));
            }
        }
    }

    fn failed(&mut self, failure: RequestError) {
        *self.failures.entry(failure).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self.late += other.late;
        self.latest = self.latest.max(other.latest);
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.nameless += other.nameless;
        self.names.merge(other.names);
        self.last = self.last.max(other.last);
    }

    /// Requests that succeeded.
    pub(super) fn succeeded(&self) -> u64 {
        self.latency.len()
    }

    /// Requests that failed.
    pub(super) fn total_failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn percentiles_match_the_sorted_times_to_three_digits(
            nanos in proptest::collection::vec(1_000u64..100_000_000_000, 1..300), percent in 0.0f64..=100.0, cut in 0usize..300,
        ) {
            let (mut one, mut other) = (LatencyHistogram::new(), LatencyHistogram::new());
            for (nth, nanos) in nanos.iter().enumerate() {
                if nth < cut { &mut one } else { &mut other }.record(Duration::from_nanos(*nanos));
            }
            one.merge(&other);
            let mut sorted = nanos;
            sorted.sort_unstable();
            let rank = ((percent / 100.0 * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            // If the rank is an integer except for rounding, its neighbor is correct as well.
            let neighbor = ((percent / 100.0 * sorted.len() as f64).round() as usize).clamp(1, sorted.len());
            let (got, near) = (one.percentile(percent).as_nanos() as f64, |exact: u64| {
                let exact = exact as f64;
                move |got: f64| (got - exact).abs() <= exact * 2e-3 + 100.0
            });
            prop_assert!(near(sorted[rank - 1])(got) || near(sorted[neighbor - 1])(got), "{got} {sorted:?}");
            prop_assert_eq!(one.least().as_nanos(), u128::from(sorted[0]));
            prop_assert_eq!(one.greatest().as_nanos(), u128::from(sorted[sorted.len() - 1]));
            let mean = sorted.iter().map(|n| u128::from(*n)).sum::<u128>() / sorted.len() as u128;
            prop_assert_eq!(one.mean().as_nanos(), mean);
        }

        #[test]
        fn every_request_is_a_success_or_a_failure_and_every_response_is_attributed_or_nameless(
            results in proptest::collection::vec((0u8..5, 0u16..3, 0u64..50), 0..60), cut in 0usize..60,
        ) {
            let by = By::Header(hyper::header::HeaderName::from_static("x"));
            let now = Instant::now();
            let (mut one, mut other) = (ThreadStats::new(&by), ThreadStats::new(&by));
            let mut responses = 0;
            for (nth, (kind, backend, delay)) in results.iter().enumerate() {
                let response = |status| Response {
                    status: Some(status),
                    ended: now + Duration::from_millis(100),
                    bytes: 1,
                    backend: (*backend > 0).then(|| (0, backend.to_string())),
                };
                let result = match kind {
                    0 => Err(RequestError::Timeout),
                    1 => Err(RequestError::Refused),
                    2 => Ok(response(503)),
                    _ => Ok(response(200)),
                };
                responses += u64::from(result.is_ok());
                let stats = if nth < cut { &mut one } else { &mut other };
                stats.record(SendPermit { due: Some(now) }, now + Duration::from_millis(*delay), result);
            }
            one.merge(other);
            prop_assert_eq!(one.succeeded() + one.total_failed(), results.len() as u64);
            let named: u64 = one.names.best(&by).map_or(0, |(_, of)| of.values().map(ResponseCounts::requests).sum());
            prop_assert_eq!(named + one.nameless, responses);
            prop_assert_eq!(one.late, results.iter().filter(|(_, _, delay)| *delay > 10).count() as u64);
            // Latency counts from when it was due.
            prop_assert!(one.succeeded() == 0 || one.latency.least() == Duration::from_millis(100));
        }
    }
}
