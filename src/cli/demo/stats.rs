//! What the clients of the demo experience: the results of their requests, for each pool.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The period of the figures.
pub(super) const WINDOW: Duration = Duration::from_secs(5);

/// The results of all requests to one pool. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct TrafficStats(Arc<Mutex<StatsData>>);

#[derive(Debug, Default)]
struct StatsData {
    totals: TrafficTotals,
    recent: VecDeque<RecentResult>,
    clients: BTreeMap<IpAddr, ClientTrack>,
}

#[derive(Debug)]
struct RecentResult {
    at: Instant,
    /// The backend that responded.
    backend: Option<String>,
    time: Duration,
}

/// The totals since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TrafficTotals {
    /// Requests with a response.
    pub(super) answered: u64,
    /// Those whose response was an error of the backend.
    pub(super) errors: u64,
    /// Requests that broke because their backend was killed. A balancer that does not parse the protocol cannot retry them.
    pub(super) broken: u64,
    /// Requests without a response: no backend, or one that never answered.
    pub(super) failed: u64,
    /// Responses by backend.
    pub(super) by_backend: BTreeMap<String, u64>,
}

/// Where a client's requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientTrack {
    /// The backend that answered it last.
    pub(super) backend: Option<String>,
    /// The backend that it had at the last call of `mark`.
    pub(super) before: Option<String>,
}

/// A response of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) backend: String,
    /// Whether it is an error.
    pub(super) error: bool,
}

/// Why a request got no response.
#[derive(Debug)]
pub(super) enum RequestFailure {
    Broken,
    Failed,
}

/// The figures of the last seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RecentFigures {
    /// Each backend's number of responses, and the median of their times.
    pub(super) by_backend: BTreeMap<String, (usize, Duration)>,
    /// The time within which half of all requests ended, 90 of 100, and 99 of 100; absent without a request.
    pub(super) percentiles: Option<[Duration; 3]>,
}

impl TrafficStats {
    /// The totals since the start.
    pub(super) fn totals(&self) -> TrafficTotals {
        self.data().totals.clone()
    }

    /// The figures of the last seconds.
    pub(super) fn recent(&self, now: Instant) -> RecentFigures {
        let mut data = self.data();
        while data.recent.front().is_some_and(|result| now.duration_since(result.at) > WINDOW) {
            data.recent.pop_front();
        }
        let mut all: Vec<_> = data.recent.iter().map(|result| result.time).collect();
        let mut times = BTreeMap::<String, Vec<Duration>>::new();
        for result in &data.recent {
            if let Some(backend) = &result.backend {
                times.entry(backend.clone()).or_default().push(result.time);
            }
        }
        drop(data);
        all.sort_unstable();
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            (times.len(), times[times.len() / 2])
        };
        RecentFigures {
            by_backend: times.into_iter().map(|(backend, times)| (backend, median(times))).collect(),
            percentiles: (!all.is_empty()).then(|| [50, 90, 99].map(|part| percentile(&all, part))),
        }
    }

    /// The clients that connect again and again, in the order of their addresses.
    pub(super) fn clients(&self) -> BTreeMap<IpAddr, ClientTrack> {
        self.data().clients.clone()
    }

    /// From now on, a client's backend is compared with its current one.
    pub(super) fn mark(&self) {
        for track in self.data().clients.values_mut() {
            track.before.clone_from(&track.backend);
        }
    }

    /// Forgets the clients, as different ones follow.
    pub(super) fn forget_clients(&self) {
        self.data().clients.clear();
    }

    /// Adds a result. `client`: the client's address, if it connects again.
    pub(super) fn add(&self, client: Option<IpAddr>, result: Result<Answer, RequestFailure>, time: Duration) {
        let mut data = self.data();
        let backend = match result {
            Ok(Answer { backend, error }) => {
                data.totals.answered += 1;
                data.totals.errors += u64::from(error);
                *data.totals.by_backend.entry(backend.clone()).or_default() += 1;
                if let Some(client) = client {
                    let track = data.clients.entry(client).or_default();
                    track.before.get_or_insert_with(|| backend.clone());
                    track.backend = Some(backend.clone());
                }
                Some(backend)
            }
            Err(RequestFailure::Broken) => {
                data.totals.broken += 1;
                return; // it has no response time
            }
            Err(RequestFailure::Failed) => {
                data.totals.failed += 1;
                None
            }
        };
        data.recent.push_back(RecentResult { at: Instant::now(), backend, time });
    }

    fn data(&self) -> MutexGuard<'_, StatsData> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrafficTotals {
    /// What was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let by_backend = self.by_backend.iter().map(|(backend, count)| {
            let earlier = before.by_backend.get(backend).copied().unwrap_or_default();
            (backend.clone(), count.saturating_sub(earlier))
        });
        Self {
            answered: self.answered.saturating_sub(before.answered),
            errors: self.errors.saturating_sub(before.errors),
            broken: self.broken.saturating_sub(before.broken),
            failed: self.failed.saturating_sub(before.failed),
            by_backend: by_backend.collect(),
        }
    }
}

/// The value below which `part` of 100 sorted values are (nearest rank). There is at least one value.
fn percentile(sorted: &[Duration], part: usize) -> Duration {
    let rank = (sorted.len() * part).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(backend: &str) -> Result<Answer, RequestFailure> {
        Ok(Answer { backend: backend.to_owned(), error: false })
    }

    #[test]
    fn results_are_counted_and_recent_ones_expire() {
        let stats = TrafficStats::default();
        for millis in [1, 2, 9] {
            stats.add(None, answer("a"), Duration::from_millis(millis));
        }
        stats.add(None, Ok(Answer { backend: "b".to_owned(), error: true }), Duration::from_millis(4));
        stats.add(None, Err(RequestFailure::Broken), Duration::ZERO);
        stats.add(None, Err(RequestFailure::Failed), Duration::from_millis(50));
        let now = Instant::now();
        let recent = stats.recent(now);
        assert_eq!(recent.by_backend["a"], (3, Duration::from_millis(2)));
        assert_eq!(recent.percentiles, Some([4, 50, 50].map(Duration::from_millis)));
        assert_eq!(stats.recent(now + WINDOW * 2), RecentFigures::default());
        let totals = stats.totals();
        assert_eq!((totals.answered, totals.errors, totals.broken, totals.failed), (4, 1, 1, 1));
        assert_eq!(totals.by_backend["a"], 3);
        stats.add(None, answer("a"), Duration::ZERO);
        let since = stats.totals().since(&totals);
        assert_eq!((since.answered, since.failed, since.by_backend["a"]), (1, 0, 1));
    }

    #[test]
    fn a_percentile_is_a_value_that_occurred() {
        let values: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Duration::from_millis(100));
        assert_eq!(percentile(&values, 99), Duration::from_millis(198));
        assert_eq!(percentile(&values[..1], 99), Duration::from_millis(1));
    }

    #[test]
    fn a_client_that_moved_is_known_by_the_backend_that_it_had() {
        let stats = TrafficStats::default();
        let client = IpAddr::from([127, 0, 1, 1]);
        let track = || stats.clients()[&client].clone();
        for backend in ["a", "b"] {
            stats.add(Some(client), answer(backend), Duration::ZERO);
        }
        assert_eq!(track(), ClientTrack { backend: Some("b".to_owned()), before: Some("a".to_owned()) });
        stats.mark();
        assert_eq!(track().before.as_deref(), Some("b"));
        stats.forget_clients();
        assert!(stats.clients().is_empty());
    }
}
