//! The data of the live view at one moment, gathered from the running balancer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::configuration::POOLS;
use super::stats::{TrafficStats, TrafficTotals, WINDOW};
use crate::domain::{BackendState, Cause, ConnectionRecord, StateReason};
use crate::names::natural_order;
use crate::overview::Overview;
use crate::telemetry::filter::ConnectionFilter;

/// The number of decisions and of changes to keep.
const KEPT: usize = 32;

/// The data of the view.
#[derive(Clone, Debug)]
pub(super) struct DemoSnapshot {
    /// Time since the start of the demo.
    pub(super) time: Duration,
    /// The address of the balancer.
    pub(super) address: String,
    /// The address of the admin server.
    pub(super) admin: String,
    /// The backends of the first pool.
    pub(super) backends: Vec<BackendRow>,
    /// The last decisions, newest first.
    pub(super) decisions: Vec<String>,
    /// The last changes of state, newest first.
    pub(super) changes: Vec<String>,
    /// The results of the clients.
    pub(super) totals: TrafficTotals,
    /// Failed attempts that were retried on another backend.
    pub(super) retried: u64,
}

/// One backend.
#[derive(Clone, Debug)]
pub(super) struct BackendRow {
    pub(super) name: Arc<str>,
    pub(super) address: String,
    pub(super) state: BackendState,
    /// Its share of the recently routed connections, from 0 to 1.
    pub(super) share: f64,
    pub(super) open: u32,
    /// The median of its recent response times.
    pub(super) latency: Option<Duration>,
    /// Connections routed to it since it was found.
    pub(super) connections: u64,
    pub(super) cause: Cause,
}

/// Takes snapshots, and keeps the history that they need.
#[derive(Debug)]
pub(super) struct Observer {
    overview: Arc<Overview>,
    stats: TrafficStats,
    began: Instant,
    address: String,
    admin: String,
    /// The state of each backend in the last snapshot.
    known: BTreeMap<(Arc<str>, u64), BackendState>,
    changes: VecDeque<String>,
    /// Each backend's connections in recent snapshots.
    counts: VecDeque<(Instant, BTreeMap<u64, u64>)>,
}

impl Observer {
    pub(super) fn new(overview: Arc<Overview>, stats: TrafficStats, address: String, admin: String) -> Self {
        Self {
            overview,
            stats,
            began: Instant::now(),
            address,
            admin,
            known: BTreeMap::new(),
            changes: VecDeque::new(),
            counts: VecDeque::new(),
        }
    }

    /// Takes a snapshot.
    pub(super) fn snapshot(&mut self) -> DemoSnapshot {
        let now = Instant::now();
        let recent = self.stats.recent(now).by_backend;
        let mut rows = Vec::new();
        let mut counts = BTreeMap::new();
        let mut retried = 0;
        let pools = self.overview.pools.load_full();
        if let Some(pool) = pools.get(POOLS[0]) {
            retried += pool.counters.failures_masked();
            for entry in &pool.status().members {
                let backend = &entry.backend;
                let connections = backend.flows.read().iter().map(|(_, flow)| flow.total()).sum();
                counts.insert(backend.key, connections);
                self.note_change(&backend.name, backend.key, entry.state, &entry.reason);
                rows.push((
                    backend.key,
                    BackendRow {
                        name: Arc::clone(&backend.name),
                        address: backend.address.to_string(),
                        state: entry.state,
                        share: 0.0,
                        open: backend.load.open(),
                        latency: recent.get(&*backend.name).map(|(_, median)| *median),
                        connections,
                        cause: entry.reason.text(),
                    },
                ));
            }
        }
        self.note_gone(&counts);
        self.set_shares(now, &counts, &mut rows);
        let mut backends: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        backends.sort_by(|a, b| natural_order(&a.name, &b.name));
        let first = ConnectionFilter { pool: Some(POOLS[0].to_owned()), ..ConnectionFilter::default() };
        let decisions = self.overview.matching_decisions(&first, KEPT);
        DemoSnapshot {
            time: self.began.elapsed(),
            address: self.address.clone(),
            admin: self.admin.clone(),
            backends,
            decisions: decisions.iter().filter_map(|record| self.line(record)).collect(),
            changes: self.changes.iter().rev().cloned().collect(),
            totals: self.stats.totals(),
            retried,
        }
    }

    fn note_change(&mut self, name: &Arc<str>, key: u64, state: BackendState, reason: &StateReason) {
        if self.known.insert((Arc::clone(name), key), state) != Some(state) {
            let line = format!("{} {} is {}: {reason}", clock(self.began.elapsed()), name, state.name());
            self.add_change(line);
        }
    }

    fn note_gone(&mut self, present: &BTreeMap<u64, u64>) {
        let gone: Vec<_> = self.known.keys().filter(|(_, key)| !present.contains_key(key)).cloned().collect();
        for id in gone {
            self.known.remove(&id);
            self.add_change(format!("{} {} is gone", clock(self.began.elapsed()), id.0));
        }
    }

    fn add_change(&mut self, line: String) {
        if self.changes.len() == KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(line);
    }

    /// Sets the share of each row in the connections routed within the window.
    fn set_shares(&mut self, now: Instant, counts: &BTreeMap<u64, u64>, rows: &mut [(u64, BackendRow)]) {
        self.counts.push_back((now, counts.clone()));
        while self.counts.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.counts.pop_front();
        }
        let Some((_, before)) = self.counts.front() else { return };
        let new = |key: u64, row: &BackendRow| {
            row.connections.saturating_sub(before.get(&key).copied().unwrap_or(0))
        };
        let total: u64 = rows.iter().map(|(key, row)| new(*key, row)).sum();
        for (key, row) in rows {
            row.share = if total == 0 { 0.0 } else { new(*key, row) as f64 / total as f64 };
        }
    }

    /// How a connection was routed, as a line.
    fn line(&self, record: &ConnectionRecord) -> Option<String> {
        let age = SystemTime::now().duration_since(record.at()).unwrap_or_default();
        let time = clock(self.began.elapsed().saturating_sub(age));
        Some(format!("{time} {}", record.sentence()?))
    }
}

/// Minutes and seconds since the start.
pub(super) fn clock(time: Duration) -> String {
    format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}
