//! The forecast of a drain, of the whole process, a pool or a backend.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Overview;
use crate::domain::DrainForecast;
use crate::pool::lifetimes::{self, LifeTable};
use crate::proxy::table::{OpenAges, PoolAges};
use crate::proxy::worker::WorkerHandle;
use crate::telemetry::filter::ConnectionFilter;

/// The maximum number of connections that a forecast names.
const NAMED: usize = 3;

impl Overview {
    /// Sets until when the process drains.
    pub(crate) fn drains_until(&self, deadline: Instant) {
        let _ = self.drain_deadline.set(deadline); // a process drains once
    }

    /// How long the connections of the process have, or would have, to finish in a drain.
    pub(crate) fn drain_time_left(&self) -> Duration {
        match self.drain_deadline.get() {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => self.config.load().runtime.drain.timeout,
        }
    }

    /// How a drain of the connections that `selected` matches is expected to go on, with `left` until their time limit;
    /// `None`: they have none.
    pub(crate) async fn forecast_drain(
        &self,
        selected: ConnectionFilter,
        left: Option<Duration>,
    ) -> DrainForecast {
        forecast(&open_ages(&self.handles, selected).await, left)
    }

    /// The same for a request of an operator: at most one at a time runs.
    pub(crate) async fn forecast_drain_in_turn(
        &self,
        selected: ConnectionFilter,
        left: Option<Duration>,
    ) -> DrainForecast {
        let ages =
            self.one_at_a_time(async move |handles: Vec<WorkerHandle>| open_ages(&handles, selected).await);
        forecast(&ages.await, left)
    }
}

/// The ages of the open connections of all workers.
async fn open_ages(workers: &[WorkerHandle], selected: ConnectionFilter) -> OpenAges {
    let mut all = OpenAges::default();
    for worker in workers {
        let one = worker.ages(selected.clone()).await;
        all.without_pool += one.without_pool;
        all.oldest = all.oldest.max(one.oldest);
        all.longest_idle.extend(one.longest_idle);
        for ages in one.pools {
            match all.pools.iter_mut().find(|known| Arc::ptr_eq(&known.pool, &ages.pool)) {
                Some(known) => {
                    known.all.add_all(&ages.all);
                    known.selected.add_all(&ages.selected);
                }
                None => all.pools.push(ages),
            }
        }
    }
    all.longest_idle.sort_by_key(|(_, idle)| Reverse(idle.idle_ms));
    all
}

fn forecast(open: &OpenAges, left: Option<Duration>) -> DrainForecast {
    let table = |ages: &PoolAges| (ages.pool.lifetimes.life_table(&ages.all), ages.selected);
    let pools: Vec<_> = open.pools.iter().filter(|ages| ages.selected.total() > 0).map(table).collect();
    let expected = lifetimes::expect(&pools, left);
    let table_of = |name: &Option<Arc<str>>| -> Option<LifeTable> {
        let ages = open.pools.iter().find(|ages| Some(&ages.pool.name) == name.as_ref())?;
        Some(table(ages).0)
    };
    let lasts = |name: &Option<Arc<str>>, age_ms: u64| {
        let (age, limit) = (Duration::from_millis(age_ms), left.unwrap_or(lifetimes::HORIZON));
        table_of(name).is_none_or(|table| table.probably_lasts(age, limit))
    };
    let longest_idle = open.longest_idle.iter().filter(|(pool, idle)| lasts(pool, idle.age_ms));
    DrainForecast {
        open: pools.iter().map(|(_, ages)| ages.total()).sum::<u64>() + open.without_pool,
        oldest_ms: open.oldest.map(millis),
        time_left_ms: left.map(millis),
        most_finished_ms: expected.most_after.map(millis),
        at_limit: expected.at_limit,
        longest_idle: longest_idle.take(NAMED).map(|(_, idle)| idle.clone()).collect(),
        observed: expected.observed,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
