//! How long the connections of a pool last, and from that, how long its open connections are expected to last.
//!
//! The estimate is the life table of actuaries (Kaplan and Meier, "Nonparametric Estimation from Incomplete Observations",
//! 1958): for each age, which share of the connections that reached it finished before the next. Connections that are still
//! open, or were cut, count only for the ages that they have reached.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Ages from 0 to 49 days, at which the last bucket begins; two buckets for each doubling.
const BUCKETS: usize = 64;
/// The longest time that is forecast.
pub const HORIZON: Duration = Duration::from_millis(lower_bound(BUCKETS - 1));
/// The share of connections for whose end a time is told: the few after them may take any time.
const MOST: f64 = 0.95;

/// The bucket of an age: 0 below 2 ms, then from 2, 3, 4, 6, 8, 12 … ms.
fn bucket(age: Duration) -> usize {
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let Some(doublings @ 1..) = millis.checked_ilog2() else { return 0 };
    let upper_half = (millis >> (doublings - 1)) & 1;
    (2 * doublings as usize - 1 + upper_half as usize).min(BUCKETS - 1)
}

/// The least age in a bucket, in milliseconds.
const fn lower_bound(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        _ => (2 + (bucket as u64 - 1) % 2) << ((bucket - 1) / 2),
    }
}

/// How many connections have which age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages([u64; BUCKETS]);

impl Default for Ages {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Ages {
    /// Adds a connection of that age.
    pub fn add(&mut self, age: Duration) {
        self.0[bucket(age)] += 1;
    }

    /// Adds other connections.
    pub fn add_all(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, n)| *sum += n);
    }

    /// How many connections.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// For each bucket with connections, the age in its middle and their number.
    fn groups(&self) -> impl Iterator<Item = (Duration, f64)> {
        let middle = |bucket: usize| match bucket {
            0 => 1.0,
            _ => lower_bound(bucket) as f64 * 1.2,
        };
        let some = self.0.iter().enumerate().filter(|(_, n)| **n > 0);
        some.map(move |(bucket, n)| (Duration::from_secs_f64(middle(bucket) / 1e3), *n as f64))
    }
}

/// The lifetimes of the connections that a pool has relayed to their end. All workers write it, without a lock.
#[derive(Debug)]
pub struct Lifetimes {
    finished: [AtomicU64; BUCKETS],
    cut: [AtomicU64; BUCKETS],
}

impl Default for Lifetimes {
    fn default() -> Self {
        let [finished, cut] = [const { [const { AtomicU64::new(0) }; BUCKETS] }; 2];
        Self { finished, cut }
    }
}

impl Lifetimes {
    /// Counts a connection that ended at that age: by its client or its backend, or it was cut from here.
    pub fn ended(&self, age: Duration, cut: bool) {
        let counts = if cut { &self.cut } else { &self.finished };
        counts[bucket(age)].fetch_add(1, Relaxed);
    }

    /// What they tell of connections; `open` are all open connections of the pool.
    pub fn life_table(&self, open: &Ages) -> LifeTable {
        let read = |counts: &[AtomicU64; BUCKETS]| Ages(std::array::from_fn(|n| counts[n].load(Relaxed)));
        LifeTable::new(&read(&self.finished), &read(&self.cut), open)
    }
}

/// How likely a connection is to last.
#[derive(Clone, Debug)]
pub struct LifeTable {
    /// The cumulative hazard at the least age of each bucket: the chance to reach an age `b` from an age `a` is
    /// `exp(hazard(a) - hazard(b))`.
    hazard: [f64; BUCKETS],
    /// On how many finished connections it is based.
    finished: u64,
}

impl LifeTable {
    fn new(finished: &Ages, cut: &Ages, open: &Ages) -> Self {
        let mut at_risk = finished.total() + cut.total() + open.total();
        let mut hazard = [0.0; BUCKETS];
        for bucket in 0..BUCKETS - 1 {
            let (ended, left) = (finished.0[bucket], cut.0[bucket] + open.0[bucket]);
            // Those that leave observation within the bucket were at risk for half of it. The half connection keeps the
            // hazard finite where all have ended.
            let exposed = at_risk as f64 - left as f64 / 2.0 + 0.5;
            hazard[bucket + 1] = hazard[bucket] - (1.0 - ended as f64 / exposed).ln();
            at_risk -= ended + left;
        }
        Self { hazard, finished: finished.total() }
    }

    /// The chance that a connection of the age `age` lasts longer than `time` from now. Ages that none has ended at are
    /// taken for safe: the forecast is rather too long.
    fn lasts(&self, age: Duration, time: Duration) -> f64 {
        (self.hazard_at(age) - self.hazard_at(age.saturating_add(time))).exp()
    }

    fn hazard_at(&self, age: Duration) -> f64 {
        let bucket = bucket(age);
        let Some(next) = self.hazard.get(bucket + 1) else { return self.hazard[bucket] };
        let bounds = [bucket, bucket + 1].map(|bucket| lower_bound(bucket) as f64 / 1e3);
        let part = (age.as_secs_f64() - bounds[0]) / (bounds[1] - bounds[0]);
        self.hazard[bucket] + (next - self.hazard[bucket]) * part
    }

    /// Whether a connection of that age is more likely than not still open after `time`.
    pub fn probably_lasts(&self, age: Duration, time: Duration) -> bool {
        self.lasts(age, time) >= 0.5
    }
}

/// What is expected of open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The number of finished connections that the forecast is based on.
    pub observed: u64,
    /// The time until 95 % of the open connections have finished; `None`: longer than the limit.
    pub most_after: Option<Duration>,
    /// How many are probably still open at the limit.
    pub at_limit: u64,
}

/// What is expected of the open connections of some pools, each with its life table, within `limit`; `None`: they have no
/// limit.
pub fn expect(pools: &[(LifeTable, Ages)], limit: Option<Duration>) -> Expected {
    let limit = limit.unwrap_or(HORIZON).min(HORIZON);
    let open: u64 = pools.iter().map(|(_, ages)| ages.total()).sum();
    let left = |time: Duration| -> f64 {
        let of = |(table, ages): &(LifeTable, Ages)| -> f64 {
            ages.groups().map(|(age, n)| n * table.lasts(age, time)).sum()
        };
        pools.iter().map(of).sum()
    };
    // Of a few connections, all: half of one is the last one, more likely than not.
    let wanted = (open as f64 * (1.0 - MOST)).max(0.5);
    let at_limit = pools.iter().flat_map(|(table, ages)| {
        ages.groups().filter(|(age, _)| table.probably_lasts(*age, limit)).map(|(_, n)| n as u64)
    });
    Expected {
        observed: pools.iter().map(|(table, _)| table.finished).sum(),
        most_after: (open > 0 && left(limit) <= wanted)
            .then(|| first_time(limit, |time| left(time) <= wanted)),
        at_limit: at_limit.sum(),
    }
}

/// The first time at which `reached` holds, by bisection: it holds at `limit`, and from its first time on.
fn first_time(limit: Duration, reached: impl Fn(Duration) -> bool) -> Duration {
    let (mut before, mut after) = (Duration::ZERO, limit);
    while after - before > Duration::from_millis(1) + after / 100 {
        let middle = before + (after - before) / 2;
        if reached(middle) { after = middle } else { before = middle }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ages(all: impl IntoIterator<Item = Duration>) -> Ages {
        let mut ages = Ages::default();
        all.into_iter().for_each(|age| ages.add(age));
        ages
    }

    fn lifetimes(finished: impl IntoIterator<Item = Duration>) -> Lifetimes {
        let lifetimes = Lifetimes::default();
        finished.into_iter().for_each(|age| lifetimes.ended(age, false));
        lifetimes
    }

    fn expected(lifetimes: &Lifetimes, open: Ages, limit: Option<Duration>) -> Expected {
        expect(&[(lifetimes.life_table(&open), open)], limit)
    }

    #[test]
    fn buckets_ascend_and_contain_their_least_age() {
        assert!((1..BUCKETS).all(|n| lower_bound(n - 1) < lower_bound(n)));
        for n in 0..BUCKETS {
            assert_eq!(bucket(Duration::from_millis(lower_bound(n))), n);
            assert!(n == 0 || bucket(Duration::from_millis(lower_bound(n) - 1)) == n - 1, "{n}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn without_a_finished_connection_all_are_expected_to_last() {
        let open = ages([SECOND; 3]);
        let at_limit = expected(&Lifetimes::default(), open, Some(30 * SECOND));
        assert_eq!(at_limit, Expected { observed: 0, most_after: None, at_limit: 3 });
        assert_eq!(expected(&Lifetimes::default(), Ages::default(), None), Expected::default());
    }

    #[test]
    fn an_old_connection_outlasts_what_young_ones_do() {
        // 990 requests of about 100 ms, and ten streams of an hour.
        let finished = (0..990).map(|_| SECOND / 10).chain((0..10).map(|_| 3600 * SECOND));
        let lifetimes = lifetimes(finished);
        let young = expected(&lifetimes, ages([Duration::from_millis(50); 100]), Some(30 * SECOND));
        assert!(young.most_after.is_some_and(|time| time < SECOND), "{young:?}");
        let old = expected(&lifetimes, ages([600 * SECOND; 10]), Some(30 * SECOND));
        assert_eq!((old.most_after, old.at_limit), (None, 10));
        let old = expected(&lifetimes, ages([600 * SECOND; 10]), None);
        assert!(old.most_after.is_some_and(|time| time > 1800 * SECOND && time < 7200 * SECOND), "{old:?}");
    }

    #[test]
    fn a_cut_connection_does_not_count_as_finished() {
        let lifetimes = lifetimes([SECOND; 10]);
        (0..1000).for_each(|_| lifetimes.ended(60 * SECOND, true));
        // Of 1,010 connections, ten finished; the others lasted until they were cut.
        let cut = expected(&lifetimes, ages([SECOND / 2; 10]), Some(30 * SECOND));
        assert_eq!((cut.observed, cut.most_after, cut.at_limit), (10, None, 10));
    }

    proptest! {
        #[test]
        fn exponential_lifetimes_are_forecast_whatever_the_ages(
            mean in 0.5..5000.0_f64, age in 0.0..2.0_f64, seed in 1..1_000_000_u64,
        ) {
            // A lifetime without memory: from any age, 95 % are gone after three times the mean.
            let draw = |n: u64| {
                let uniform = (n as f64 * 0.618_033_988_75 + seed as f64 * 1e-6).fract();
                Duration::from_secs_f64(-mean * (1.0 - uniform).ln())
            };
            let lifetimes = lifetimes((1..5000).map(draw));
            let open = ages((0..100).map(|_| Duration::from_secs_f64(mean * age)));
            let most = expected(&lifetimes, open, None).most_after.map(|time| time.as_secs_f64() / mean);
            prop_assert!(most.is_some_and(|most| (2.4..3.9).contains(&most)), "{most:?}");
        }

        #[test]
        fn the_chance_to_last_falls_with_time_and_never_leaves_its_range(
            finished in proptest::collection::vec(0_u64..10_000_000, 0..100),
            age in 0_u64..10_000_000, times in proptest::collection::vec(0_u64..u64::MAX / 4, 2..20),
        ) {
            let table = lifetimes(finished.into_iter().map(Duration::from_millis)).life_table(&Ages::default());
            let mut times = times;
            times.sort_unstable();
            let chances: Vec<_> = times
                .into_iter()
                .map(|time| table.lasts(Duration::from_millis(age), Duration::from_millis(time)))
                .collect();
            prop_assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)), "{chances:?}");
            prop_assert!(chances.is_sorted_by(|a, b| a >= b), "{chances:?}");
        }
    }
}
