//! What has happened so far: one book for each thread, put together at the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::client::Answer;
use super::failure::Failure;
use super::tickets::Ticket;
use super::who::{Account, By, Names};

/// Times from this on are told apart to a thousandth of themselves …
const SHORTEST: Duration = Duration::from_nanos(100);
/// … up to this one.
const LONGEST: Duration = Duration::from_secs(3600);
/// A request that begins so long after it was due is late.
pub(super) const LATE: Duration = Duration::from_millis(10);

/// Many lengths of time.
#[derive(Clone, Debug)]
pub(super) struct Times {
    histogram: Histogram<u64>,
    sum: u128,
    least: Duration,
    greatest: Duration,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Times {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(nanos(SHORTEST), nanos(LONGEST), 3);
        // The bounds above are apart by more than two, and three digits are fewer than five: all that is asked of them.
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

    /// The time that so many percent took at most.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let time = Duration::from_nanos(self.histogram.value_at_percentile(percent));
        // The histogram answers with the upper end of a bucket.
        time.clamp(self.least(), self.greatest)
    }
}

/// The book.
#[derive(Debug)]
pub(super) struct Tally {
    /// How long successes took: from when they were due, or from when they were sent if they were due at no moment.
    pub(super) latency: Times,
    /// How long they took from when they were sent.
    pub(super) service: Times,
    /// Failures by kind.
    pub(super) failures: HashMap<Failure, u64>,
    /// Requests that began more than [`LATE`] after they were due.
    pub(super) late: u64,
    /// The greatest such delay.
    pub(super) latest: Duration,
    /// Connections that were opened.
    pub(super) connections: u64,
    /// Bytes of answers, without their heads.
    pub(super) bytes: u64,
    /// Answers that named nobody.
    pub(super) nameless: u64,
    /// Who answered.
    pub(super) names: Names,
    /// When the last request ended.
    pub(super) last: Option<Instant>,
}

impl Tally {
    pub(super) fn new(by: &By) -> Self {
        Self {
            latency: Times::new(),
            service: Times::new(),
            failures: HashMap::new(),
            late: 0,
            latest: Duration::ZERO,
            connections: 0,
            bytes: 0,
            nameless: 0,
            names: Names::new(by),
            last: None,
        }
    }

    /// Writes down a request that was sent at `sent` and has ended.
    pub(super) fn note(&mut self, ticket: Ticket, sent: Instant, result: Result<Answer, Failure>) {
        let began = ticket.due.unwrap_or(sent);
        let delay = sent.saturating_duration_since(began);
        if delay > LATE {
            self.late += 1;
            self.latest = self.latest.max(delay);
        }
        match result {
            Ok(answer) => {
                let took = answer.ended.saturating_duration_since(began);
                self.bytes += answer.bytes;
                let failure = answer.status.filter(|status| *status >= 400).map(Failure::Status);
                let account = match failure {
                    None => Account { succeeded: 1, failed: 0, time: took },
                    Some(_) => Account { succeeded: 0, failed: 1, time: Duration::ZERO },
                };
                match answer.who {
                    Some(name) => self.names.note(name, account),
                    None => self.nameless += 1,
                }
                match failure {
                    None => {
                        self.latency.record(took);
                        self.service.record(answer.ended.saturating_duration_since(sent));
                    }
                    Some(failure) => self.failed(failure),
                }
                self.last = self.last.max(Some(answer.ended));
            }
            Err(failure) => {
                self.failed(failure);
                self.last = self.last.max(Some(Instant::now()));
            }
        }
    }

    fn failed(&mut self, failure: Failure) {
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

    /// Requests that ended well.
    pub(super) fn succeeded(&self) -> u64 {
        self.latency.len()
    }

    /// Requests that failed.
    pub(super) fn failed_in_all(&self) -> u64 {
        self.failures.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_times_to_a_thousandth(
            nanos in proptest::collection::vec(1_000u64..100_000_000_000, 1..300), percent in 0.0f64..=100.0, cut in 0usize..300,
        ) {
            let (mut one, mut other) = (Times::new(), Times::new());
            for (nth, nanos) in nanos.iter().enumerate() {
                if nth < cut { &mut one } else { &mut other }.record(Duration::from_nanos(*nanos));
            }
            one.merge(&other);
            let mut sorted = nanos;
            sorted.sort_unstable();
            let rank = ((percent / 100.0 * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            // Where the rank is whole but for rounding, its neighbour is as right.
            let neighbour = ((percent / 100.0 * sorted.len() as f64).round() as usize).clamp(1, sorted.len());
            let (told, near) = (one.percentile(percent).as_nanos() as f64, |exact: u64| {
                let exact = exact as f64;
                move |told: f64| (told - exact).abs() <= exact * 2e-3 + 100.0
            });
            prop_assert!(near(sorted[rank - 1])(told) || near(sorted[neighbour - 1])(told), "{told} {sorted:?}");
            prop_assert_eq!(one.least().as_nanos(), u128::from(sorted[0]));
            prop_assert_eq!(one.greatest().as_nanos(), u128::from(sorted[sorted.len() - 1]));
            let mean = sorted.iter().map(|n| u128::from(*n)).sum::<u128>() / sorted.len() as u128;
            prop_assert_eq!(one.mean().as_nanos(), mean);
        }

        #[test]
        fn every_request_is_a_success_or_a_failure_and_every_answer_has_a_name_or_none(
            results in proptest::collection::vec((0u8..5, 0u16..3, 0u64..50), 0..60), cut in 0usize..60,
        ) {
            let by = By::Header(hyper::header::HeaderName::from_static("x"));
            let now = Instant::now();
            let (mut one, mut other) = (Tally::new(&by), Tally::new(&by));
            let mut answers = 0;
            for (nth, (kind, who, delay)) in results.iter().enumerate() {
                let answer = |status| Answer {
                    status: Some(status),
                    ended: now + Duration::from_millis(100),
                    bytes: 1,
                    who: (*who > 0).then(|| (0, who.to_string())),
                };
                let result = match kind {
                    0 => Err(Failure::Timeout),
                    1 => Err(Failure::Refused),
                    2 => Ok(answer(503)),
                    _ => Ok(answer(200)),
                };
                answers += u64::from(result.is_ok());
                let tally = if nth < cut { &mut one } else { &mut other };
                tally.note(Ticket { due: Some(now) }, now + Duration::from_millis(*delay), result);
            }
            one.merge(other);
            prop_assert_eq!(one.succeeded() + one.failed_in_all(), results.len() as u64);
            let named: u64 = one.names.best(&by).map_or(0, |(_, of)| of.values().map(Account::requests).sum());
            prop_assert_eq!(named + one.nameless, answers);
            prop_assert_eq!(one.late, results.iter().filter(|(_, _, delay)| *delay > 10).count() as u64);
            // From when it was due, however late it was sent.
            prop_assert!(one.succeeded() == 0 || one.latency.least() == Duration::from_millis(100));
        }
    }
}
