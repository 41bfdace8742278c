//! The last records of connections of a worker, kept in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::domain::ConnectionRecord;

/// How many are kept of each kind (routed, ended) for each worker.
pub(crate) const KEPT: usize = 1024;

/// One worker's last records. The worker writes; a reader holds the lock only for a copy. A clone is the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records(Arc<Mutex<VecDeque<ConnectionRecord>>>);

impl Records {
    /// Adds a record and drops the oldest.
    pub(crate) fn add(&self, record: ConnectionRecord) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(record);
    }

    /// The last matching records of several workers, newest first, at most `limit`.
    pub(crate) fn gather(
        of: &[Self],
        limit: usize,
        wanted: impl Fn(&ConnectionRecord) -> bool,
    ) -> Vec<ConnectionRecord> {
        let copy = |one: &Self| -> Vec<ConnectionRecord> {
            let kept = one.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().rev().filter(|record| wanted(record)).take(limit).cloned().collect()
        };
        newest(of.iter().flat_map(copy).collect(), limit)
    }

    /// How many records several workers keep, and when the oldest of them was made.
    pub(crate) fn extent(of: &[Self]) -> (usize, Option<SystemTime>) {
        let mut extent = (0, None);
        for one in of {
            let kept = one.0.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = kept.front().map(ConnectionRecord::at);
            extent = (extent.0 + kept.len(), [extent.1, oldest].into_iter().flatten().min());
        }
        extent
    }
}

/// The newest records, at most `limit`. Apart from `gather`, which is compiled for each condition.
fn newest(mut records: Vec<ConnectionRecord>, limit: usize) -> Vec<ConnectionRecord> {
    records.sort_by_key(|record| std::cmp::Reverse(record.at()));
    records.truncate(limit);
    records
}

/// One record for each connection, made of its records in the order in which they are given; the newest connection
/// first.
pub(crate) fn joined(records: impl IntoIterator<Item = ConnectionRecord>) -> Vec<ConnectionRecord> {
    let mut all = HashMap::<u64, ConnectionRecord>::new();
    for record in records {
        match all.get_mut(&record.conn) {
            Some(known) => known.update(record),
            None => drop(all.insert(record.conn, record)),
        }
    }
    let mut all: Vec<_> = all.into_values().collect();
    all.sort_by_key(|record| std::cmp::Reverse((record.accepted, record.conn)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Client, CloseReason, ConnectionEnd, Stage};
    use std::time::Duration;

    fn record(conn: u64, stage: Stage) -> ConnectionRecord {
        ConnectionRecord {
            conn,
            client: Client::Unix,
            listener: "front".into(),
            pool: Some("web".into()),
            pool_match: None,
            accepted: SystemTime::UNIX_EPOCH + Duration::from_secs(conn),
            backend: None,
            route: None,
            age: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            throttled: false,
            first_byte: None,
            stage,
        }
    }

    fn conns(records: Vec<ConnectionRecord>) -> Vec<u64> {
        records.into_iter().map(|record| record.conn).collect()
    }

    #[test]
    fn the_newest_of_all_workers_come_first_and_the_oldest_are_forgotten() {
        let all_of = [Records::default(), Records::default()];
        assert!(Records::gather(&all_of, 9, |_| true).is_empty());
        assert_eq!(Records::extent(&all_of), (0, None));
        let all = KEPT as u64 * 2 + 10;
        (0..all).for_each(|n| all_of[(n % 2) as usize].add(record(n, Stage::Routed)));
        assert_eq!(conns(Records::gather(&all_of, 2, |_| true)), [all - 1, all - 2]);
        assert_eq!(conns(Records::gather(&all_of, 2, |record| record.conn < 13)), [12, 11]);
        let oldest = record(10, Stage::Routed).accepted;
        assert_eq!(Records::extent(&all_of), (2 * KEPT, Some(oldest)));
    }

    #[test]
    fn the_records_of_a_connection_become_one_and_the_last_one_counts() {
        let end = ConnectionEnd {
            reason: CloseReason::Operator,
            first_closed: None,
            rejection: None,
            kernel: None,
        };
        let ended = ConnectionRecord { bytes_in: 7, ..record(2, Stage::Ended(end)) };
        let all = joined([
            record(1, Stage::Routed),
            record(3, Stage::Routed),
            record(2, Stage::Routed),
            record(3, Stage::Open),
            record(2, Stage::Open),
            ended,
        ]);
        let seen: Vec<_> = all.iter().map(|record| (record.conn, record.bytes_in, record.stage)).collect();
        assert_eq!(seen, [(3, 0, Stage::Open), (2, 7, Stage::Ended(end)), (1, 0, Stage::Routed)]);
    }
}
