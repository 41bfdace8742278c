//! The open connections, as lists, `why` and forecasts of a drain tell of them.

use std::sync::Arc;
use std::time::Instant;

use super::super::conntrack::Tuple;
use super::super::forwarded::Open;
use super::Connections;
use crate::domain::{ConnectionRecord, IdleConnection, Stage};
use crate::pool::lifetimes::Ages;
use crate::proxy::table::{OpenAges, PoolAges};
use crate::telemetry::filter::{ConnectionFilter, ConnectionSubject};

/// How many connections are listed in a forecast.
const LISTED: usize = 16;

impl Connections {
    /// The open connections that match `filter`, at most `limit`, oldest first, and how many match.
    pub(in crate::kernel_plane) fn list(
        &self,
        filter: &ConnectionFilter,
        limit: usize,
        now: Instant,
    ) -> (Vec<ConnectionRecord>, usize) {
        let all = self.oldest(filter);
        let total = all.len();
        (all.into_iter().take(limit).map(|open| open.record(now, Stage::Open)).collect(), total)
    }

    /// The same, as entries of the kernel's table.
    pub(in crate::kernel_plane) fn listed(&self, filter: &ConnectionFilter, limit: usize) -> Vec<Tuple> {
        self.oldest(filter).into_iter().take(limit).map(|open| open.directions[0]).collect()
    }

    fn oldest(&self, filter: &ConnectionFilter) -> Vec<&Open> {
        let mut all: Vec<_> = self.open.values().filter(|open| open.matches(filter)).collect();
        all.sort_unstable_by_key(|open| open.conn);
        all
    }

    /// The open connections of `subject`, at most `limit`.
    pub(in crate::kernel_plane) fn find(
        &self,
        subject: ConnectionSubject,
        limit: usize,
        now: Instant,
    ) -> Vec<ConnectionRecord> {
        let matching = self.open.values().filter(|open| subject.matches(open.conn, open.client()));
        matching.take(limit).map(|open| open.record(now, Stage::Open)).collect()
    }

    /// The ages of the open connections; `selected`: which of them are forecast. How long they have been idle is not known.
    pub(in crate::kernel_plane) fn ages(&self, selected: &ConnectionFilter, now: Instant) -> OpenAges {
        let mut ages = OpenAges::default();
        for open in self.open.values() {
            let (age, is_selected) = (now.duration_since(open.began), open.matches(selected));
            let pool = &open.target.pool;
            let index = ages.pools.iter().position(|of| Arc::ptr_eq(&of.pool, pool)).unwrap_or_else(|| {
                let (pool, none) = (Arc::clone(pool), Ages::default());
                ages.pools.push(PoolAges { pool, all: none, selected: none });
                ages.pools.len() - 1
            });
            ages.pools[index].all.add(age);
            if !is_selected {
                continue;
            }
            ages.pools[index].selected.add(age);
            ages.oldest = ages.oldest.max(Some(age));
            if ages.longest_idle.len() < LISTED {
                let idle = IdleConnection {
                    conn: open.conn,
                    client: open.client(),
                    backend: Some(Arc::clone(&open.target.backend.name)),
                    age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                    idle_ms: 0,
                };
                ages.longest_idle.push((Some(Arc::clone(&pool.name)), idle));
            }
        }
        ages
    }

    /// The record of an open connection.
    pub(in crate::kernel_plane) fn record(&self, conn: u64, now: Instant) -> Option<ConnectionRecord> {
        self.open.values().find(|open| open.conn == conn).map(|open| open.record(now, Stage::Open))
    }
}
