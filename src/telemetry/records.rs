//! The last records of connections of a worker, kept in memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::Runtime;
use crate::domain::ConnectionRecord;

/// Records that a reader visits before it releases the lock: a fraction of a millisecond.
const SLICE: u64 = 128;
/// How often a reader yields at most before each slice. A worker that was preempted must not stop it.
const YIELDS: usize = 100;

/// The records that one worker keeps. Failures and retries have rings of their own, from which successful connections,
/// however many, push nothing out.
#[derive(Debug)]
pub struct ConnectionRecords {
    /// Of all connections.
    all: RecordRings,
    /// Of those that were retried, got no backend, failed visibly or were cut off.
    failures: RecordRings,
}

/// Records of decisions and of ends.
#[derive(Debug)]
struct RecordRings {
    routed: Records,
    ended: Records,
}

/// Where the decision of a connection is kept, in four bytes, as each open connection has one: its number among the
/// decisions, modulo 2³¹, and in the lowest bit whether it is among the failures, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptDecision(u32);

impl KeptDecision {
    fn new(number: u64, failed: bool) -> Self {
        Self((number as u32) << 1 | u32::from(failed))
    }

    fn is_among_failures(self) -> bool {
        self.0 & 1 == 1
    }

    /// How many decisions were made from the one with the number `first` up to it.
    fn after(self, first: u64) -> usize {
        ((self.0 >> 1).wrapping_sub(first as u32) & (u32::MAX >> 1)) as usize
    }
}

impl Default for ConnectionRecords {
    fn default() -> Self {
        let rings =
            || RecordRings { routed: Records::new(Runtime::RECORDS), ended: Records::new(Runtime::RECORDS) };
        Self { all: rings(), failures: rings() }
    }
}

impl ConnectionRecords {
    /// Adds the record of a decision; returns where it is kept.
    pub fn add_routed(&self, record: ConnectionRecord) -> KeptDecision {
        let failed = record.backend.is_none() || record.has_failed_attempts();
        if failed {
            self.failures.routed.add(record.clone());
        }
        KeptDecision::new(self.all.routed.add(record), failed)
    }

    /// Adds the record of an end. `failed`: the connection failed visibly or was cut off. `decision`: of one that had a
    /// backend; the decision of one that had none is among the failures.
    pub fn add_ended(&self, record: ConnectionRecord, failed: bool, decision: Option<KeptDecision>) {
        let known = decision.is_some_and(KeptDecision::is_among_failures);
        if failed || known {
            let decision = decision.filter(|_| !known);
            if let Some(decision) = decision.and_then(|kept| self.all.routed.get(kept, record.conn)) {
                self.failures.routed.add(decision);
            }
            self.failures.ended.add(record.clone());
        }
        self.all.ended.add(record);
    }

    /// Changes how many are kept in each ring.
    pub fn resize(&self, most: usize) {
        for rings in [&self.all, &self.failures] {
            rings.routed.resize(most);
            rings.ended.resize(most);
        }
    }

    /// The rings with decisions.
    pub fn routed(&self) -> [&Records; 2] {
        [&self.all.routed, &self.failures.routed]
    }

    /// The rings with ends.
    pub fn ended(&self) -> [&Records; 2] {
        [&self.all.ended, &self.failures.ended]
    }
}

/// A ring of records. The worker adds; readers hold the lock for a slice at a time.
#[derive(Debug)]
pub struct Records {
    ring: Mutex<Ring>,
    /// The worker waits for the lock.
    adding: AtomicBool,
    /// Held by the only reader. The worker never takes it.
    reader: Mutex<()>,
}

#[derive(Debug)]
struct Ring {
    most: usize,
    /// The number of the oldest; the next one's is one more.
    first: u64,
    kept: VecDeque<ConnectionRecord>,
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }
}

impl Records {
    /// Keeps the last `most`. The memory is reserved, so that adding never moves the others; the kernel provides it when
    /// it is used.
    fn new(most: usize) -> Self {
        let kept = VecDeque::with_capacity(most);
        let ring = Mutex::new(Ring { most, first: 0, kept });
        Self { ring, adding: AtomicBool::new(false), reader: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, drops the oldest, and returns the number of the new one.
    fn add(&self, record: ConnectionRecord) -> u64 {
        self.adding.store(true, Ordering::Relaxed);
        let mut ring = self.lock();
        self.adding.store(false, Ordering::Relaxed);
        let oldest = if ring.kept.len() >= ring.most { ring.kept.pop_front() } else { None };
        ring.first += u64::from(oldest.is_some());
        let number = ring.end();
        ring.kept.push_back(record);
        drop(ring);
        drop(oldest); // without the lock
        number
    }

    /// The decision of the connection `conn`, if it is still kept. After two billion more its place belongs to the decision
    /// of another connection.
    fn get(&self, kept: KeptDecision, conn: u64) -> Option<ConnectionRecord> {
        let ring = self.lock();
        ring.kept.get(kept.after(ring.first)).filter(|record| record.conn == conn).cloned()
    }

    /// The lock for a reader: the worker, which may wait for it, comes first. The mutex alone would not be fair.
    fn lock_as_reader(&self) -> MutexGuard<'_, Ring> {
        for _ in 0..YIELDS {
            if !self.adding.load(Ordering::Relaxed) {
                break;
            }
            std::thread::yield_now();
        }
        self.lock()
    }

    /// Copies of the matching records, newest first, at most `limit`.
    fn newest(&self, limit: usize, wanted: &dyn Fn(&ConnectionRecord) -> bool) -> Vec<ConnectionRecord> {
        let _only = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut found, mut end) = (Vec::new(), u64::MAX);
        while found.len() < limit {
            let ring = self.lock_as_reader();
            end = end.min(ring.end());
            let begin = end.saturating_sub(SLICE).max(ring.first);
            if begin >= end {
                break; // the older ones were dropped meanwhile
            }
            let slice = ring.kept.range((begin - ring.first) as usize..(end - ring.first) as usize);
            let matching = slice.rev().filter(|record| wanted(record));
            found.extend(matching.take(limit - found.len()).cloned());
            end = begin;
        }
        found
    }

    /// Changes how many are kept. Meanwhile the worker adds records.
    fn resize(&self, most: usize) {
        let _only = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lock().most == most {
            return;
        }
        let mut kept = VecDeque::with_capacity(most);
        let mut take = |record| {
            if kept.len() == most {
                kept.pop_front();
            }
            kept.push_back(record);
        };
        loop {
            let mut ring = self.lock_as_reader();
            if ring.kept.len() as u64 <= SLICE {
                let end = ring.end();
                ring.kept.drain(..).for_each(&mut take);
                *ring = Ring { most, first: end - kept.len() as u64, kept };
                return;
            }
            let slice: Vec<_> = ring.kept.drain(..SLICE as usize).collect();
            ring.first += SLICE;
            drop(ring);
            slice.into_iter().for_each(&mut take);
        }
    }

    /// The last matching records of several rings, newest first, at most `limit`, one for each connection.
    pub fn gather<'r>(
        of: impl IntoIterator<Item = &'r Self>,
        limit: usize,
        wanted: impl Fn(&ConnectionRecord) -> bool,
    ) -> Vec<ConnectionRecord> {
        newest(of.into_iter().flat_map(|one| one.newest(limit, &wanted)).collect(), limit)
    }

    /// How many records the ring has, and when the oldest of them was made.
    fn extent(&self) -> (usize, Option<SystemTime>) {
        let ring = self.lock();
        (ring.kept.len(), ring.kept.front().map(ConnectionRecord::at))
    }
}

/// How much several workers keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Decisions.
    pub routed: usize,
    /// When the oldest of them was made.
    pub since: Option<SystemTime>,
    /// Ends.
    pub ended: usize,
    /// Ends of failures and retries, which are kept beside those.
    pub failures: usize,
}

impl Extent {
    /// What these workers keep.
    pub fn of<'r>(workers: impl IntoIterator<Item = &'r ConnectionRecords>) -> Self {
        let mut extent = Self::default();
        for ConnectionRecords { all, failures } in workers {
            let (routed, since) = all.routed.extent();
            extent.routed += routed;
            extent.since = [extent.since, since].into_iter().flatten().min();
            extent.ended += all.ended.extent().0;
            extent.failures += failures.ended.extent().0;
        }
        extent
    }
}

/// The newest records, at most `limit`, one for each connection. Apart from `gather`, which is compiled for each
/// condition.
fn newest(mut records: Vec<ConnectionRecord>, limit: usize) -> Vec<ConnectionRecord> {
    records.sort_by_key(|record| std::cmp::Reverse(record.at()));
    let mut seen = HashSet::new();
    records.retain(|record| seen.insert(record.conn));
    records.truncate(limit);
    records
}

/// One record for each connection, made of its records in the order in which they are given; the newest connection
/// first.
pub fn joined(records: impl IntoIterator<Item = ConnectionRecord>) -> Vec<ConnectionRecord> {
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
    use crate::domain::{Client, CloseReason, ConnectedBackend, ConnectionEnd, Route, Stage};
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

    /// A decision that went to a backend at once.
    fn routed(conn: u64) -> ConnectionRecord {
        let address = "10.0.0.1:80".parse().unwrap();
        let backend = ConnectedBackend { name: "a".into(), address, connect: Some(Duration::ZERO) };
        ConnectionRecord { backend: Some(backend), ..record(conn, Stage::Routed) }
    }

    fn ended(conn: u64, reason: CloseReason) -> ConnectionRecord {
        let end = ConnectionEnd { reason, first_closed: None, rejection: None, kernel: None };
        ConnectionRecord { age: Duration::from_millis(1), ..record(conn, Stage::Ended(end)) }
    }

    fn all(_: &ConnectionRecord) -> bool {
        true
    }

    #[test]
    fn the_newest_of_all_workers_come_first_and_the_oldest_are_forgotten() {
        let workers = [ConnectionRecords::default(), ConnectionRecords::default()];
        let rings = || workers.iter().flat_map(ConnectionRecords::routed);
        assert!(Records::gather(rings(), 9, all).is_empty());
        assert_eq!(Extent::of(&workers), Extent::default());
        let kept = Runtime::RECORDS;
        let total = kept as u64 * 2 + 10;
        for n in 0..total {
            assert_eq!(workers[(n % 2) as usize].add_routed(routed(n)), KeptDecision::new(n / 2, false));
        }
        assert_eq!(conns(Records::gather(rings(), 2, all)), [total - 1, total - 2]);
        assert_eq!(conns(Records::gather(rings(), 2, |record| record.conn < 13)), [12, 11]);
        assert_eq!(Records::gather(rings(), usize::MAX, all).len(), 2 * kept);
        let since = Some(record(10, Stage::Routed).accepted);
        assert_eq!(Extent::of(&workers), Extent { routed: 2 * kept, since, ended: 0, failures: 0 });
    }

    #[test]
    fn successes_push_out_no_failure() {
        let records = ConnectionRecords::default();
        records.resize(4);
        // No backend; a retry that then ends normally; a reset by the backend; one that an operator closes.
        let rejected = records.add_routed(record(1, Stage::Routed));
        assert!(rejected.is_among_failures());
        records.add_ended(ended(1, CloseReason::NoBackend), true, None);
        let retried = ConnectionRecord { route: Some(Route::after_failed_attempt()), ..routed(2) };
        let retried = records.add_routed(retried);
        records.add_ended(ended(2, CloseReason::ClientClosed), false, Some(retried));
        for (conn, reason) in [(3, CloseReason::BackendReset), (4, CloseReason::Operator)] {
            let decision = records.add_routed(routed(conn));
            assert_eq!(decision, KeptDecision::new(conn - 1, false));
            records.add_ended(ended(conn, reason), true, Some(decision));
        }
        for conn in 5..500 {
            let decision = records.add_routed(routed(conn));
            records.add_ended(ended(conn, CloseReason::ClientClosed), false, Some(decision));
        }
        for rings in [records.routed(), records.ended()] {
            assert_eq!(conns(Records::gather(rings, usize::MAX, all)), [499, 498, 497, 496, 4, 3, 2, 1]);
            assert_eq!(conns(Records::gather(rings, 5, all)), [499, 498, 497, 496, 4]);
            assert_eq!(conns(Records::gather(rings, 1, |record| record.conn < 4)), [3]);
        }
        // Only failures push out failures.
        for conn in 500..504 {
            records.add_ended(ended(conn, CloseReason::NoBackend), true, None);
        }
        assert_eq!(conns(Records::gather(records.ended(), usize::MAX, all)), [503, 502, 501, 500]);
        assert_eq!(Extent::of([&records]).failures, 4);
    }

    #[test]
    fn a_decision_that_is_no_longer_kept_or_whose_number_is_another_ones_is_not_copied() {
        let records = ConnectionRecords::default();
        records.resize(1);
        let first = records.add_routed(routed(1));
        records.add_routed(routed(2));
        records.add_ended(ended(1, CloseReason::BackendReset), true, Some(first));
        records.add_ended(ended(1, CloseReason::BackendReset), true, Some(KeptDecision::new(1, false)));
        assert_eq!(conns(Records::gather(records.routed(), usize::MAX, all)), [2]);
    }

    #[test]
    fn a_changed_size_keeps_the_newest_and_their_numbers() {
        for before in [1, 100, 300, 1000] {
            for after in [1, 100, 300, 1000] {
                let ring = Records::new(before);
                for conn in 0..500 {
                    ring.add(routed(conn));
                }
                ring.resize(after);
                let kept = before.min(after).min(500) as u64;
                let expected: Vec<_> = (500 - kept..500).rev().collect();
                assert_eq!(conns(ring.newest(usize::MAX, &all)), expected, "{before} to {after}");
                let number = ring.add(routed(500));
                let place = KeptDecision::new(number, false);
                assert_eq!((number, ring.get(place, 500).is_some()), (500, true));
                let len = ring.newest(usize::MAX, &all).len();
                assert_eq!(len, (kept as usize + 1).min(after));
            }
        }
    }

    #[test]
    fn records_are_added_while_others_are_read_and_the_size_changes() {
        let ring = Records::new(700);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                for conn in 0..20_000 {
                    ring.add(routed(conn));
                }
            });
            let mut size = 300;
            while !worker.is_finished() {
                let read = conns(ring.newest(usize::MAX, &all));
                assert!(read.is_sorted_by(|a, b| a > b), "{read:?}");
                ring.resize(size);
                size = 1000 - size;
            }
        });
        ring.resize(300);
        assert_eq!(conns(ring.newest(usize::MAX, &all)), (19_700..20_000).rev().collect::<Vec<_>>());
    }

    #[test]
    fn the_place_of_a_decision_is_found_beyond_four_billion() {
        for first in [0, 1 << 31, (1 << 32) - 5, 1 << 32, 7 << 31] {
            for offset in [0, 4, 10, 99_999] {
                let kept = KeptDecision::new(first + offset, offset == 4);
                assert_eq!((kept.after(first), kept.is_among_failures()), (offset as usize, offset == 4));
            }
            // A decision that was dropped is in no ring.
            assert!(first == 0 || KeptDecision::new(first - 1, false).after(first) > 1_000_000);
        }
    }

    #[test]
    fn a_record_takes_the_memory_that_the_configuration_states() {
        let size = size_of::<ConnectionRecord>();
        assert!((560..=640).contains(&size), "{size}");
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
