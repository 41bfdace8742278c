//! What was counted in each second, for as long as a story may reach back: only what has grown, so that quiet seconds cost
//! nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::domain::CloseReason;
use crate::telemetry::ConnectError;

/// From one sample to the next.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// How far back they reach.
pub(crate) const REACH: Duration = Duration::from_secs(3600);
/// So many of them there are in that time.
const MOST: usize = (REACH.as_secs() / EVERY.as_secs()) as usize;
/// So many backends with failures are told apart in a sample.
const BACKENDS: usize = 64;

/// Failed attempts to connect, in the order of [`ConnectError::ALL`].
pub(crate) type Kinds = [u64; ConnectError::ALL.len()];

/// What grew in one second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// By pool.
    pub pools: Vec<(Arc<str>, Grown)>,
    /// Failed attempts to connect.
    pub failures: Vec<Failures>,
}

/// What grew of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grown {
    /// Connections that were routed to a backend.
    pub routed: u64,
    /// Those of them that another backend had failed before.
    pub retried: u64,
    /// Failures that clients met, by reason; those that there were none of are left out.
    pub seen: Vec<(CloseReason, u64)>,
}

/// Attempts to connect to a backend that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failures {
    /// The pool.
    pub pool: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// How many.
    pub kinds: Kinds,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// By pool.
    pub pools: BTreeMap<Arc<str>, PoolCounts>,
    /// By pool, and by the number of the backend's stay in it: its name and its failed attempts.
    pub failures: BTreeMap<(Arc<str>, u64), (Arc<str>, Kinds)>,
}

/// The counters of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PoolCounts {
    /// Connections that were routed.
    pub routed: u64,
    /// Those of them that another backend had failed before.
    pub retried: u64,
    /// Failures that clients met, by [`CloseReason::index`].
    pub seen: [u64; CloseReason::ALL.len()],
}

/// The samples of the last hour. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    kept: VecDeque<(SystemTime, Arc<Sample>)>,
    last: Counts,
}

impl Samples {
    /// Takes in the counters as they are at that time.
    pub(crate) fn take(&self, at: SystemTime, counts: Counts) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = counts.since(&book.last);
        book.last = counts;
        if sample != Sample::default() {
            book.kept.push_back((at, Arc::new(sample)));
        }
        let old = |then: SystemTime| at.duration_since(then).is_ok_and(|age| age > REACH);
        // Where the clock was set back, what came before it lies in the future, and would do so for long.
        while book.kept.front().is_some_and(|(then, _)| old(*then)) || book.kept.len() > MOST {
            book.kept.pop_front();
        }
    }

    /// The samples between two times, oldest first.
    pub(crate) fn between(&self, since: SystemTime, until: SystemTime) -> Vec<(SystemTime, Sample)> {
        let shared: Vec<_> = {
            let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            book.kept.iter().filter(|(at, _)| (since..=until).contains(at)).cloned().collect()
        };
        shared.into_iter().map(|(at, sample)| (at, Arc::unwrap_or_clone(sample))).collect()
    }
}

impl Counts {
    /// What has grown since. What went back began anew.
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
        assert_eq!(routed, [5, 2, 1], "a pool that went and came again begins anew");
        assert_eq!(all[1].1.failures[0].kinds[0], 2);
        assert_eq!(samples.between(at(3), at(3)).len(), 1);
        samples.take(at(3) + REACH + EVERY, counts(1, 2));
        assert_eq!(samples.between(at(0), at(9)).len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_make_them_more() {
        let samples = Samples::default();
        samples.take(at(1_000_000), counts(1, 0));
        (0..2 * MOST as u64).for_each(|n| samples.take(at(n), counts(n + 2, 0)));
        let kept = samples.between(at(0), at(2_000_000));
        assert_eq!((kept.len(), kept[0].0), (MOST, at(MOST as u64)));
    }
}
