//! The growth of the counters in each second, for as long as a story may reach back. A second without growth takes no
//! memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use litemap::LiteMap;

use crate::domain::CloseReason;
use crate::telemetry::ConnectError;

/// The time between samples.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// How long a sample is kept.
pub(crate) const REACH: Duration = Duration::from_secs(3600);
/// The most samples that are kept.
const MOST: usize = (REACH.as_secs() / EVERY.as_secs()) as usize;
/// The most backends with failures in a sample; those with the fewest are left out.
const BACKENDS: usize = 64;

/// Failed attempts to connect, in the order of [`ConnectError::ALL`].
pub(crate) type Kinds = [u64; ConnectError::ALL.len()];

/// The growth of the counters in one second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// By pool.
    pub pools: Vec<(Arc<str>, Grown)>,
    /// Failed attempts to connect.
    pub failures: Vec<Failures>,
}

/// The growth of a pool's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grown {
    /// Connections that were routed to a backend.
    pub routed: u64,
    /// Those of them that were routed after another backend had failed.
    pub retried: u64,
    /// Client-visible failures by reason, without reasons that did not occur.
    pub seen: Vec<(CloseReason, u64)>,
    /// Connections that ended without an answer.
    pub unanswered: u64,
}

/// Attempts to connect to a backend that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failures {
    /// The pool.
    pub pool: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// The number of each kind.
    pub kinds: Kinds,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// By pool.
    pub pools: LiteMap<Arc<str>, PoolCounts>,
    /// By pool and backend key: the backend's name and its failed attempts.
    pub failures: LiteMap<(Arc<str>, u64), (Arc<str>, Kinds)>,
}

/// The counters of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PoolCounts {
    /// Connections that were routed.
    pub routed: u64,
    /// Those of them that were routed after another backend had failed.
    pub retried: u64,
    /// Client-visible failures by [`CloseReason::index`].
    pub seen: [u64; CloseReason::ALL.len()],
    /// Connections that ended without an answer.
    pub unanswered: u64,
}

/// The samples of the last hour. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Arc<Mutex<SampleStore>>);

#[derive(Debug, Default)]
struct SampleStore {
    kept: VecDeque<(SystemTime, Arc<Sample>)>,
    last: Counts,
}

impl Samples {
    /// Records the counters of that time.
    pub(crate) fn take(&self, at: SystemTime, counts: Counts) {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = counts.since(&store.last);
        store.last = counts;
        if sample != Sample::default() {
            store.kept.push_back((at, Arc::new(sample)));
        }
        let old = |then: SystemTime| at.duration_since(then).is_ok_and(|age| age > REACH);
        // If the clock was set back, older samples lie in the future and do not expire.
        while store.kept.front().is_some_and(|(then, _)| old(*then)) || store.kept.len() > MOST {
            store.kept.pop_front();
        }
    }

    /// The samples between two times, oldest first.
    pub(crate) fn between(&self, since: SystemTime, until: SystemTime) -> Vec<(SystemTime, Sample)> {
        let shared: Vec<_> = {
            let store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            store.kept.iter().filter(|(at, _)| (since..=until).contains(at)).cloned().collect()
        };
        shared.into_iter().map(|(at, sample)| (at, Arc::unwrap_or_clone(sample))).collect()
    }
}

impl Counts {
    /// The growth since `before`. A counter that is lower than before started again at 0.
    fn since(&self, before: &Self) -> Sample {
        let grown = |now: u64, before: u64| if now < before { now } else { now - before };
        let pools = self.pools.iter().filter_map(|(name, now)| {
            let before = before.pools.get(name).copied().unwrap_or_default();
            let seen = CloseReason::ALL.into_iter().map(|reason| {
                let index = reason.index();
                (reason, grown(now.seen[index], before.seen[index]))
            });
            let all = Grown {
                routed: grown(now.routed, before.routed),
                retried: grown(now.retried, before.retried),
                seen: seen.filter(|(_, n)| *n > 0).collect(),
                unanswered: grown(now.unanswered, before.unanswered),
            };
            (all != Grown::default()).then(|| (Arc::clone(name), all))
        });
        let failures = self.failures.iter().filter_map(|(key, (backend, now))| {
            let before = before.failures.get(key).map_or([0; ConnectError::ALL.len()], |(_, kinds)| *kinds);
            let mut kinds = *now;
            kinds.iter_mut().zip(before).for_each(|(kind, before)| *kind = grown(*kind, before));
            let failed = kinds.iter().any(|n| *n > 0);
            failed.then(|| Failures { pool: Arc::clone(&key.0), backend: Arc::clone(backend), kinds })
        });
        let mut failures: Vec<_> = failures.collect();
        if failures.len() > BACKENDS {
            failures.sort_by_key(|one| std::cmp::Reverse(one.kinds.iter().sum::<u64>()));
            failures.truncate(BACKENDS);
        }
        Sample { pools: pools.collect(), failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn counts(routed: u64, refused: u64) -> Counts {
        let mut counts = Counts::default();
        counts.pools.insert("web".into(), PoolCounts { routed, ..PoolCounts::default() });
        counts.failures.insert(("web".into(), 1), ("a".into(), [refused, 0, 0, 0, 0, 0]));
        counts
    }

    #[test]
    fn only_what_has_grown_is_kept_and_only_for_an_hour() {
        let samples = Samples::default();
        samples.take(at(1), counts(5, 0));
        samples.take(at(2), counts(5, 0));
        samples.take(at(3), counts(7, 2));
        samples.take(at(4), counts(1, 2));
        let all = samples.between(at(0), at(9));
        let routed: Vec<u64> =
            all.iter().map(|(_, sample)| sample.pools.iter().map(|(_, one)| one.routed).sum()).collect();
        assert_eq!(routed, [5, 2, 1], "a pool that was removed and added again starts at zero");
        assert_eq!(all[1].1.failures[0].kinds[0], 2);
        assert_eq!(samples.between(at(3), at(3)).len(), 1);
        samples.take(at(3) + REACH + EVERY, counts(1, 2));
        assert_eq!(samples.between(at(0), at(9)).len(), 1);
    }

    #[test]
    fn samples_stay_bounded_when_the_clock_is_set_back() {
        let samples = Samples::default();
        samples.take(at(1_000_000), counts(1, 0));
        (0..2 * MOST as u64).for_each(|n| samples.take(at(n), counts(n + 2, 0)));
        let kept = samples.between(at(0), at(2_000_000));
        assert_eq!((kept.len(), kept[0].0), (MOST, at(MOST as u64)));
    }
}
