//! The growth of counters within a sliding window. What has left the window no longer counts, so that a failure from
//! last week is not a problem of today.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::CloseReason;

/// The maximum number of growths that are kept; the oldest are dropped. Each second adds one for each counter that has
/// grown: this suffices for three hundred growing counters over five minutes, in 6 MiB.
const MOST: usize = 100_000;

/// A counter that only grows while its subject exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counter {
    /// Connections that a pool routed to a backend, or that reached none.
    Served(Arc<str>),
    /// Client-visible failures of a pool, by the index of their reason.
    Failed(Arc<str>, CloseReasonIndex),
    /// Client-visible failures of connections of a listener whose pool was not known.
    FailedWithoutPool(Arc<str>, CloseReasonIndex),
    /// Connections of a pool that ended without an answer.
    WithoutAnswer(Arc<str>),
    /// Connections that a listener accepted.
    Accepted(Arc<str>),
    /// How often a backend of a pool, with this key and name, went down or was ejected.
    Fell(Arc<str>, u64, Arc<str>),
    /// Backends that have left a pool.
    Left(Arc<str>),
    /// Checks of a pool that began late.
    ChecksLate(Arc<str>),
    /// Client connections that could not be accepted for lack of local resources.
    AcceptsFailed,
    /// Connections to backends that could not be opened for lack of local resources.
    ConnectsFailed,
    /// Connections that the kernel dropped because an accept queue was full.
    AcceptQueueOverflows,
    /// Packets that conntrack dropped: its table was full, or entries collided.
    ConntrackDrops,
    /// Log lines that were lost.
    LogLinesDropped,
}

/// The index of a [`CloseReason`], which has no order of its own.
pub(crate) type CloseReasonIndex = usize;

/// The growth of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    /// By how much.
    pub(super) count: u64,
    /// How long ago it grew last.
    pub(super) ago: Duration,
}

/// The growth of each counter that has grown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grown(pub(super) BTreeMap<Counter, Growth>);

impl Grown {
    /// The growth of one counter.
    pub(super) fn of(&self, counter: &Counter) -> u64 {
        self.0.get(counter).map(|growth| growth.count).unwrap_or_default()
    }

    /// How long ago the last of these counters grew that has grown.
    pub(super) fn last_of(&self, counters: impl IntoIterator<Item = Counter>) -> Option<Duration> {
        counters.into_iter().filter_map(|counter| Some(self.0.get(&counter)?.ago)).min()
    }

    /// The growth of failures by reason, the most frequent first.
    pub(super) fn failures(&self, of: impl Fn(CloseReasonIndex) -> Counter) -> Vec<(CloseReason, u64)> {
        let reasons = CloseReason::ALL.into_iter().filter(|reason| reason.is_failure());
        let counted = reasons.map(|reason| (reason, self.of(&of(reason.index())))).filter(|(_, n)| *n > 0);
        let mut counted: Vec<_> = counted.collect();
        counted.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        counted
    }
}

/// The growths within the window.
#[derive(Debug, Default)]
pub(super) struct SlidingGrowth {
    /// The last values; `None`: nothing has been read yet.
    last: Option<BTreeMap<Counter, u64>>,
    kept: VecDeque<(Instant, Counter, u64)>,
}

impl SlidingGrowth {
    /// Adds the counters at that time, which may lack those that are 0, and forgets growth older than `window`.
    ///
    /// Values at the first reading are of unknown age and do not count. A counter that appears later began at 0, as did
    /// one that is lower than before: its subject is a new one with the same name.
    pub(super) fn take(&mut self, at: Instant, window: Duration, counters: BTreeMap<Counter, u64>) {
        if let Some(last) = &self.last {
            for (counter, now) in &counters {
                let before = last.get(counter).copied().unwrap_or_default();
                let grown = now.checked_sub(before).unwrap_or(*now);
                if grown > 0 {
                    self.kept.push_back((at, counter.clone(), grown));
                }
            }
        }
        self.last = Some(counters);
        let excess = self.kept.len().saturating_sub(MOST);
        self.kept.drain(..excess);
        while self.kept.front().is_some_and(|(then, ..)| at.saturating_duration_since(*then) >= window) {
            self.kept.pop_front();
        }
    }

    /// The growth within `window` before `at`.
    pub(super) fn within(&self, window: Duration, at: Instant) -> Grown {
        let mut grown = BTreeMap::<_, Growth>::new();
        for (then, counter, n) in self.kept.iter().rev() {
            let ago = at.saturating_duration_since(*then);
            if ago >= window {
                break;
            }
            // The newest is first.
            grown.entry(counter.clone()).or_insert(Growth { count: 0, ago }).count += n;
        }
        Grown(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn counters(values: &[(&str, u64)]) -> BTreeMap<Counter, u64> {
        values.iter().map(|(pool, value)| (Counter::Left((*pool).into()), *value)).collect()
    }

    proptest! {
        /// One counter, read at random times: only the growth between readings within the window counts.
        #[test]
        fn the_growth_is_exactly_that_of_the_window(
            first in 0u64..1_000_000,
            steps in proptest::collection::vec((1u64..200, 0u64..50, prop::bool::weighted(0.1)), 1..40),
            window in 1u64..300,
        ) {
            let began = Instant::now();
            let mut growth = SlidingGrowth::default();
            growth.take(began, WINDOW, counters(&[("web", first)]));
            let (mut seconds, mut value, mut looks) = (0, first, Vec::new());
            for (pause, grown, restarted) in steps {
                seconds += pause;
                value = if restarted { grown } else { value + grown };
                // A restart that is not below the value before looks like a growth.
                let before = looks.last().map_or(first, |(_, _, value): &(u64, u64, u64)| *value);
                looks.push((seconds, if value < before { value } else { value - before }, value));
                growth.take(began + Duration::from_secs(seconds), WINDOW, counters(&[("web", value)]));
            }
            let expected: u64 = looks.iter().filter(|(at, ..)| seconds - at < window).map(|(_, n, _)| n).sum();
            let grown = growth.within(Duration::from_secs(window), began + Duration::from_secs(seconds));
            prop_assert_eq!(grown.of(&Counter::Left("web".into())), expected);
            let last = looks.iter().filter(|(at, n, _)| seconds - at < window && *n > 0).map(|(at, ..)| seconds - at).min();
            prop_assert_eq!(grown.last_of([Counter::Left("web".into())]), last.map(Duration::from_secs));
            // Nothing is left when the window has passed.
            let later = began + Duration::from_secs(seconds) + WINDOW;
            prop_assert!(growth.within(WINDOW, later).0.is_empty());
            growth.take(later, WINDOW, counters(&[("web", value)]));
            prop_assert!(growth.kept.is_empty());
        }
    }

    #[test]
    fn what_was_counted_before_the_first_look_does_not_count_and_a_new_subject_begins_at_zero() {
        let began = Instant::now();
        let mut growth = SlidingGrowth::default();
        growth.take(began, WINDOW, counters(&[("old", 1000)]));
        growth.take(began + Duration::from_secs(1), WINDOW, counters(&[("old", 1000), ("new", 7)]));
        let grown = growth.within(WINDOW, began + Duration::from_secs(1));
        assert_eq!(grown.of(&Counter::Left("old".into())), 0);
        assert_eq!(grown.of(&Counter::Left("new".into())), 7);
    }

    #[test]
    fn the_reasons_of_failures_are_sorted_by_their_number() {
        let mut grown = Grown::default();
        for (reason, n) in [(CloseReason::NoBackend, 2), (CloseReason::BackendReset, 5)] {
            grown.0.insert(
                Counter::Failed("web".into(), reason.index()),
                Growth { count: n, ago: Duration::ZERO },
            );
        }
        let failures = grown.failures(|reason| Counter::Failed("web".into(), reason));
        assert_eq!(failures, [(CloseReason::BackendReset, 5), (CloseReason::NoBackend, 2)]);
        assert!(grown.failures(|reason| Counter::Failed("api".into(), reason)).is_empty());
    }

    #[test]
    fn the_growths_stay_bounded() {
        let began = Instant::now();
        let mut growth = SlidingGrowth::default();
        growth.take(began, WINDOW, BTreeMap::new());
        let many =
            |value| (0..MOST as u64).map(move |key| (Counter::Fell("web".into(), key, "a".into()), value));
        for value in 1..3 {
            growth.take(began + Duration::from_secs(value), WINDOW, many(value).collect());
        }
        assert_eq!(growth.kept.len(), MOST);
    }
}
