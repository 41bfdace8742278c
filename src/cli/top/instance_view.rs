//! The state of the instance, gathered from its updates: the last status, and rates, which need several statuses.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use crate::api::{BackendInfo, JournalEntry, PoolInfo, RenderedDecision, StatusReply, Timestamp};
use crate::cli::terminal;
use crate::names::natural_order;

/// Seconds of rates that are kept for the sparkline.
const HISTORY: usize = 120;
/// Statuses, one a second, over which shares are counted.
const WINDOW: usize = 6;
/// Lines of each kind that are kept.
const LINES: usize = 50;

/// An update from the instance.
#[derive(Clone, Debug)]
pub(super) enum InstanceUpdate {
    /// The instance can be reached.
    Connected,
    /// The instance cannot be reached, and why.
    Lost(String),
    /// The status of this second.
    Status(Box<StatusReply>),
    /// Decisions, the newest first.
    Decisions(Vec<RenderedDecision>),
    /// An entry of the journal.
    Event(JournalEntry),
    /// The rates of the last minutes: pool by pool, the oldest first.
    History(Vec<(String, Vec<f64>)>),
}

/// Identifies a backend until it leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct BackendKey {
    pub(super) pool: String,
    pub(super) name: String,
    pub(super) address: String,
}

impl BackendKey {
    fn of(pool: &str, backend: &BackendInfo) -> Self {
        Self { pool: pool.to_owned(), name: backend.name.to_string(), address: backend.address.clone() }
    }

    /// As operators write it.
    pub(super) fn text(&self) -> String {
        format!("{}/{}", self.pool, self.name)
    }

    /// The order of rows: by pool, by name, by address.
    pub(super) fn in_order(&self, other: &Self) -> Ordering {
        natural_order(&self.pool, &other.pool)
            .then_with(|| natural_order(&self.name, &other.name))
            .then_with(|| natural_order(&self.address, &other.address))
    }
}

/// A backend at this moment.
#[derive(Clone, Debug)]
pub(super) struct BackendRow {
    pub(super) key: BackendKey,
    pub(super) backend: BackendInfo,
    /// New connections in a second.
    pub(super) rate: f64,
    /// Bytes in a second, both ways.
    pub(super) bytes: f64,
    /// Its share of the pool's new connections in the last [`WINDOW`] statuses, from 0 to 1.
    pub(super) share: f64,
}

/// A pool at this moment.
#[derive(Clone, Debug)]
pub(super) struct PoolGroup {
    /// The pool; its backends are in `rows`.
    pub(super) pool: PoolInfo,
    pub(super) rate: f64,
    pub(super) bytes: f64,
    pub(super) rows: Vec<BackendRow>,
}

/// A backend's counts: connections and bytes.
type BackendTotals = HashMap<BackendKey, (u64, u64)>;

/// The state of the instance, as far as it has been received.
#[derive(Debug, Default)]
pub(super) struct InstanceView {
    /// The address of the admin server.
    pub(super) address: String,
    /// Why the instance cannot be reached; `None`: it can.
    pub(super) lost: Option<String>,
    /// The last status; its pools are in `groups`.
    pub(super) status: Option<StatusReply>,
    pub(super) groups: Vec<PoolGroup>,
    /// Journal entries with their times, the newest first.
    pub(super) events: VecDeque<String>,
    /// The last decisions, the newest first.
    pub(super) decisions: VecDeque<String>,
    /// Each pool's rates, the oldest first.
    history: HashMap<String, VecDeque<f64>>,
    /// The uptimes and counts of the last statuses.
    counts: VecDeque<(f64, BackendTotals)>,
}

impl InstanceView {
    /// An empty view of the instance at `address`.
    pub(super) fn new(address: String) -> Self {
        Self { address, ..Self::default() }
    }

    /// Applies an update.
    pub(super) fn apply(&mut self, update: InstanceUpdate) {
        match update {
            InstanceUpdate::Connected => self.lost = None,
            InstanceUpdate::Lost(why) => self.lost = Some(why),
            InstanceUpdate::Status(status) => self.apply_status(*status),
            InstanceUpdate::Decisions(decisions) => {
                for RenderedDecision { sentence, decision, .. } in decisions.into_iter().rev() {
                    push(&mut self.decisions, decision.at, &sentence);
                }
            }
            InstanceUpdate::Event(event) => {
                push(&mut self.events, event.at, &event.sentence);
            }
            InstanceUpdate::History(rates) => {
                for (pool, rates) in rates {
                    let skip = rates.len().saturating_sub(HISTORY);
                    self.history.insert(pool, rates.into_iter().skip(skip).collect());
                }
            }
        }
    }

    /// A pool's rates, the oldest first.
    pub(super) fn history(&self, pool: &str) -> impl DoubleEndedIterator<Item = f64> + ExactSizeIterator {
        let rates = self.history.get(pool).cloned().unwrap_or_default();
        rates.into_iter()
    }

    /// The backend with this key, if the pool still has it.
    pub(super) fn row(&self, key: &BackendKey) -> Option<&BackendRow> {
        self.groups.iter().flat_map(|group| &group.rows).find(|row| row.key == *key)
    }

    fn apply_status(&mut self, mut status: StatusReply) {
        self.lost = None;
        let uptime = status.uptime_seconds;
        if self.counts.back().is_some_and(|(before, _)| uptime <= *before) {
            // A new process: its counts start from zero.
            self.counts.clear();
        }
        let mut pools = std::mem::take(&mut status.pools);
        pools.sort_by(|a, b| natural_order(&a.name, &b.name));
        let mut counts = BackendTotals::new();
        for pool in &pools {
            for backend in &pool.backends {
                let bytes = backend.bytes_in + backend.bytes_out;
                counts.insert(BackendKey::of(&pool.name, backend), (backend.connections, bytes));
            }
        }
        let last = self.counts.back();
        let seconds = last.map_or(0.0, |(before, _)| uptime - before);
        self.groups = pools
            .into_iter()
            .map(|mut pool| {
                let backends = std::mem::take(&mut pool.backends);
                let row = |backend: BackendInfo| {
                    let key = BackendKey::of(&pool.name, &backend);
                    let (new, bytes) = grown(&counts, last.map(|(_, counts)| counts), &key);
                    let rate = |number: u64| if seconds > 0.0 { number as f64 / seconds } else { 0.0 };
                    BackendRow { key, backend, rate: rate(new), bytes: rate(bytes), share: 0.0 }
                };
                let mut rows: Vec<_> = backends.into_iter().map(row).collect();
                let first = self.counts.front().map(|(_, counts)| counts);
                let recent: Vec<_> = rows.iter().map(|row| grown(&counts, first, &row.key).0).collect();
                let total: u64 = recent.iter().sum();
                for (row, new) in rows.iter_mut().zip(recent) {
                    row.share = if total == 0 { 0.0 } else { new as f64 / total as f64 };
                }
                let rate = rows.iter().map(|row| row.rate).sum();
                let bytes = rows.iter().map(|row| row.bytes).sum();
                PoolGroup { pool, rate, bytes, rows }
            })
            .collect();
        if seconds > 0.0 {
            for group in &self.groups {
                let history = self.history.entry(group.pool.name.to_string()).or_default();
                if history.len() == HISTORY {
                    history.pop_front();
                }
                history.push_back(group.rate);
            }
        }
        self.history.retain(|pool, _| self.groups.iter().any(|group| *group.pool.name == **pool));
        if self.counts.len() == WINDOW {
            self.counts.pop_front();
        }
        self.counts.push_back((uptime, counts));
        self.status = Some(status);
    }
}

/// How much a backend's counts have grown since `before`; a new backend's counts start from zero.
fn grown(now: &BackendTotals, before: Option<&BackendTotals>, key: &BackendKey) -> (u64, u64) {
    let Some(before) = before else { return (0, 0) };
    let (connections, bytes) = now.get(key).copied().unwrap_or_default();
    let (old_connections, old_bytes) = before.get(key).copied().unwrap_or_default();
    (connections.saturating_sub(old_connections), bytes.saturating_sub(old_bytes))
}

fn push(lines: &mut VecDeque<String>, at: Timestamp, sentence: &str) {
    lines.truncate(LINES - 1);
    lines.push_front(terminal::clean(&format!("{} {sentence}", terminal::time_of_day(at.0))));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A backend: name, state, connections, bytes.
    type Written<'a> = (&'a str, &'a str, u64, u64);

    /// A status `uptime` seconds after the start.
    pub(in super::super) fn status(uptime: u64, pools: &[(&str, &[Written<'_>])]) -> InstanceUpdate {
        let backend = |(name, state, connections, bytes): &Written<'_>| {
            json!({"name": name, "address": format!("10.0.0.1:{}", 5000 + name.len()), "state": state, "since": 900.0,
                   "cause": format!("{name} has its reasons"), "weight": 1, "active": connections / 10, "connections": connections,
                   "bytes_in": bytes, "first_byte": {"count": 9, "p50_ms": 0.25, "p90_ms": 1.0, "p99_ms": 2.5},
                   "last_check": {"kind": "http", "at": 999.0, "passed": *state == "up", "error": "refused", "took_ms": 2.0}})
        };
        let pool = |(name, backends): &(&str, &[Written<'_>])| {
            let up = backends.iter().filter(|backend| backend.1 == "up").count();
            json!({"name": name, "algorithm": "round-robin", "settled": true, "up": up, "failures_masked": 3, "failures_seen": 1, "unserved": 1,
                   "backends": backends.iter().map(backend).collect::<Vec<_>>()})
        };
        let status = json!({"version": "0.1.0", "phase": "serving", "ready": true, "now": 1000.0, "uptime_seconds": uptime,
            "open": 12, "max_connections": 100, "pools": pools.iter().map(pool).collect::<Vec<_>>()});
        InstanceUpdate::Status(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn rates_and_shares_come_from_several_statuses() {
        let mut instance = InstanceView::new("here".into());
        instance.apply(status(10, &[("web", &[("a", "up", 100, 0), ("b", "up", 100, 0)])]));
        assert_eq!((instance.groups[0].rate, instance.groups[0].rows[0].share), (0.0, 0.0));
        instance
            .apply(status(12, &[("web", &[("a", "up", 160, 2048), ("b", "up", 120, 0), ("c", "up", 0, 0)])]));
        let group = &instance.groups[0];
        assert_eq!((group.rate, group.bytes), (40.0, 1024.0));
        assert_eq!(group.rows.iter().map(|row| row.rate).collect::<Vec<_>>(), [30.0, 10.0, 0.0]);
        assert_eq!(group.rows.iter().map(|row| row.share).collect::<Vec<_>>(), [0.75, 0.25, 0.0]);
        assert_eq!(instance.history("web").collect::<Vec<_>>(), [40.0]);
        // After a restart its counts start from zero.
        instance.apply(status(1, &[("web", &[("a", "up", 5, 0)])]));
        assert_eq!((instance.groups[0].rate, instance.groups[0].rows.len()), (0.0, 1));
        instance.apply(status(2, &[("web", &[("a", "up", 8, 0)])]));
        assert_eq!((instance.groups[0].rate, instance.groups[0].rows[0].share), (3.0, 1.0));
    }

    #[test]
    fn histories_and_lists_have_a_limited_length() {
        let mut instance = InstanceView::new("here".into());
        for second in 0..1000 {
            instance.apply(status(second, &[("web", &[("a", "up", second, 0)])]));
            let event = json!({"at": second, "sentence": "web/a has weight 1"});
            instance.apply(InstanceUpdate::Event(serde_json::from_value(event).unwrap()));
            instance.apply(InstanceUpdate::Decisions(vec![RenderedDecision {
                sentence: format!("#{second} "),
                ..RenderedDecision::default()
            }]));
        }
        assert_eq!((instance.history("web").len(), instance.counts.len()), (HISTORY, WINDOW));
        assert_eq!((instance.events.len(), instance.decisions.len()), (LINES, LINES));
        assert_eq!(instance.events[0], "00:16:39 web/a has weight 1");
        assert!(instance.decisions[0].contains("#999 "));
        instance.apply(status(1001, &[]));
        assert_eq!(instance.history.len(), 0);
    }
}
