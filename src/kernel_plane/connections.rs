//! The connections that the kernel forwards, as conntrack's events tell of them: counted, logged and recorded like those of
//! the workers.

mod listing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::conntrack::{ConntrackEntry, TcpState, Tuple};
use super::forwarded::{Ends, Open, Target, bytes_of};
use super::marks::{BACKEND_RESET, CLIENT_RESET, CONTINUED, ENDING, OURS, REVERSED};
use crate::domain::{Cause, CloseReason, ConnectionEnd, ConnectionRecord, Excluded, Failure, Route, Stage};
use crate::proxy::context::Shared;
use crate::proxy::progress::CloseRequest;
use crate::telemetry::ConnectError;

/// A connection that one side has ended, until the other one has.
struct Ending {
    original: Tuple,
    /// When its entry is looked at next, and how long after the last time that is.
    at: Instant,
    after: Duration,
}

/// The time from the first FIN to the first look: the answer to a FIN takes no longer, as a rule.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// The longest time between two looks.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// The shortest time between looks at entries of different connections: many are looked at together.
const MIN_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The open connections, by the direction of the first packet of each.
pub(super) struct Connections {
    open: HashMap<Tuple, Open>,
    /// In the order of their next look.
    ending: BTreeMap<(Instant, u64), Ending>,
    /// No entry is looked at before.
    not_before: Option<Instant>,
    /// Entries of connections that have ended, until the kernel removes them.
    ended: HashSet<Tuple>,
    /// Connections whose entries the kernel has removed while they were open.
    expired: Vec<[Tuple; 2]>,
    shared: Arc<Shared>,
    next_conn: u64,
    stride: u64,
    /// Connections that were cut at the end of a drain.
    pub(super) cut: usize,
}

impl Connections {
    /// Their numbers are `first` and every `stride`th after it.
    pub(super) fn new(shared: Arc<Shared>, first: u64, stride: u64) -> Self {
        Self {
            open: HashMap::new(),
            ending: BTreeMap::new(),
            not_before: None,
            ended: HashSet::new(),
            expired: Vec::new(),
            shared,
            next_conn: first,
            stride,
            cut: 0,
        }
    }

    /// Follows an entry that was made or has changed; `find` tells where a new one was sent.
    pub(super) fn follow(
        &mut self,
        entry: &ConntrackEntry,
        now: Instant,
        find: impl FnOnce(&ConntrackEntry) -> Option<Target>,
    ) {
        if entry.mark & OURS == 0 || self.ended.contains(&entry.original) {
            return;
        }
        if !self.open.contains_key(&entry.original) {
            let is_over = matches!(entry.state, Some(TcpState::TimeWait | TcpState::Reset));
            if entry.answered != Some(true) || is_over {
                return;
            }
            let Some(target) = find(entry) else { return };
            self.begin(entry, target, now);
        }
        let Some(open) = self.open.get_mut(&entry.original) else { return };
        open.mark |= entry.mark;
        if open.mark & ENDING != 0 && open.ending.is_none() {
            open.ending = Some(now);
            // After a reset there is nothing to wait for.
            let after =
                if open.mark & (CLIENT_RESET | BACKEND_RESET) == 0 { FIRST_LOOK } else { Duration::ZERO };
            let conn = open.conn;
            self.look_after(conn, entry.original, now, after);
        }
    }

    fn look_after(&mut self, conn: u64, original: Tuple, now: Instant, after: Duration) {
        let at = now + after;
        self.ending.insert((at, conn), Ending { original, at, after });
    }

    /// When an entry is to be looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.ending
            .first_key_value()
            .map(|((at, _), _)| self.not_before.map_or(*at, |not_before| not_before.max(*at)))
    }

    /// The connections whose entries are to be looked at now.
    pub(super) fn take_ending(&mut self, now: Instant) -> Vec<Tuple> {
        self.not_before = Some(now + MIN_LOOK_INTERVAL);
        let mut tuples = Vec::new();
        while let Some(first) = self.ending.first_entry().filter(|first| first.get().at <= now) {
            let ((_, conn), Ending { original, after, .. }) = first.remove_entry();
            // Another connection may have the same ends by now.
            if self.open.get(&original).is_some_and(|open| open.conn == conn) {
                tuples.push(original);
                self.look_after(conn, original, now, (after * 2).clamp(FIRST_LOOK, LAST_LOOK));
            }
        }
        tuples
    }

    /// Ends the connection of an entry if both sides have ended it.
    pub(super) fn look_at(&mut self, entry: &ConntrackEntry) {
        let Some(open) = self.open.get_mut(&entry.original) else { return };
        open.mark |= entry.mark;
        if matches!(entry.state, Some(TcpState::TimeWait | TcpState::Reset)) {
            // The second side ended it at an unknown moment since then, most likely at once.
            let at = open.ending.unwrap_or_else(Instant::now);
            self.end(entry.original, bytes_of(entry), at);
            self.ended.insert(entry.original);
        }
    }

    /// Adds a connection whose backend has answered: counts, logs and records that it was routed.
    fn begin(&mut self, entry: &ConntrackEntry, target: Target, now: Instant) {
        let conn = self.next_conn;
        self.next_conn += self.stride;
        let Target { listener, pool, backend, snapshot, .. } = &target;
        listener.count_accepted();
        let flow = backend.flows.of(&listener.name);
        flow.opened();
        let route = Route {
            after: Duration::ZERO,
            algorithm: snapshot.algorithm,
            excluded: Excluded { ineligible: Arc::clone(&snapshot.ineligible), ..Excluded::default() },
            attempts: 1,
            failed: Vec::new(),
            candidates: snapshot.candidates(Some(backend)),
            home: None,
            tier: snapshot.kind(),
            queued: None,
            source: None,
            proxy: None,
            proxy_header: false,
            cancel_request: false,
        };
        pool.counters.routed(route.tier, 0);
        let (began_at, client) = (SystemTime::now(), Ends::of(entry).client);
        let connected = target.connected();
        let record = target.record(conn, client, began_at, Duration::ZERO, Stage::Routed);
        record.log_routed(&connected, &route);
        let decision = self.shared.records.add_routed(ConnectionRecord { route: Some(route), ..record });
        let open = Open {
            conn,
            client,
            directions: [entry.original, entry.reply],
            began: now,
            began_at,
            decision,
            mark: entry.mark,
            bytes: [0; 2],
            ending: None,
            directives: backend.directives(),
            close_at: None,
            request: None,
            flow,
            _lease: backend.load.lease(),
            _admitted: listener.admit(None),
            target,
        };
        self.open.insert(entry.original, open);
    }

    /// Ends the connection of an entry that is gone; `find` tells where one that was never answered was sent.
    pub(super) fn gone(
        &mut self,
        entry: &ConntrackEntry,
        now: Instant,
        find: impl FnOnce(&ConntrackEntry) -> Option<Target>,
    ) {
        if self.ended.remove(&entry.original) {
            return;
        }
        if let Some(open) = self.open.get(&entry.original) {
            // One that has just been ended may be over, and its ends in use again.
            let is_ending = open.ending.is_some_and(|at| now.saturating_duration_since(at) < LAST_LOOK);
            if open.request.is_none() && !is_ending && !open.target.can_continue {
                self.expired.push(open.directions);
            }
            self.end(entry.original, bytes_of(entry), now);
        } else if entry.answered == Some(false)
            && let Some(target) = find(entry)
        {
            match entry.mark & (CONTINUED | REVERSED) {
                0 => self.fail(entry, &target),
                _ => self.not_continued(entry, &target),
            }
        }
    }

    /// Takes the connections whose entries the kernel has removed after a time limit. Their ends have not been notified.
    pub(super) fn take_expired(&mut self) -> Vec<[Tuple; 2]> {
        let mut expired = std::mem::take(&mut self.expired);
        // Another connection may have the same ends by now.
        expired.retain(|[original, _]| !self.open.contains_key(original));
        expired
    }

    /// Their ends could not be notified: they are taken again.
    pub(super) fn retry_expired(&mut self, expired: Vec<[Tuple; 2]>) {
        self.expired.extend(expired);
    }

    /// Counts, logs and records a connection that a backend has refused or not answered, and has the backend checked.
    fn fail(&mut self, entry: &ConntrackEntry, target: &Target) {
        // The kernel removes an entry at once if a reset is its only answer.
        let (error, cause) = match bytes_of(entry) {
            None | Some([_, 0]) => (ConnectError::Timeout, "no answer"),
            _ => (ConnectError::Refused, "connection refused"),
        };
        target.backend.connect_failed(error);
        target.pool.report_failure(&target.backend, Failure::Connect(Cause::from(cause)));
        self.add_unrouted(entry, target, CloseReason::ConnectFailed);
    }

    /// The same for a connection that began through another machine and has another backend here, which has reset it: the
    /// backend has not failed.
    fn not_continued(&mut self, entry: &ConntrackEntry, target: &Target) {
        let reason =
            if entry.mark & REVERSED == 0 { CloseReason::BackendReset } else { CloseReason::ClientReset };
        // Without an answer there may have been no connection, only a late packet.
        if bytes_of(entry).is_some_and(|bytes| bytes.iter().all(|sent| *sent > 0)) {
            self.add_unrouted(entry, target, reason);
        }
    }

    /// Counts, logs and records a connection without an answer of its backend.
    fn add_unrouted(&mut self, entry: &ConntrackEntry, target: &Target, reason: CloseReason) {
        let conn = self.next_conn;
        self.next_conn += self.stride;
        let Target { listener, pool, backend, .. } = target;
        let [bytes_in, bytes_out] = bytes_of(entry).unwrap_or_default();
        listener.count_accepted();
        if reason.is_failure() {
            pool.counters.client_visible_failure(reason);
        }
        backend.flows.of(&listener.name).ended_unrouted(reason);
        let end = ConnectionEnd { reason, first_closed: None, rejection: None, kernel: None };
        let stage = Stage::Ended(end);
        let record = target.record(conn, Ends::of(entry).client, SystemTime::now(), Duration::ZERO, stage);
        let record = ConnectionRecord { bytes_in, bytes_out, ..record };
        record.log_closed(&end);
        self.shared.records.add_ended(record, reason.is_failure(), None);
    }

    /// Ends connections that are no longer in the table: the events of their end were lost. Their sides are not notified.
    pub(super) fn keep(&mut self, exists: impl Fn(&Tuple) -> bool, now: Instant) {
        self.ended.retain(|original| exists(original));
        let gone: Vec<_> = self.open.keys().copied().filter(|original| !exists(original)).collect();
        gone.into_iter().for_each(|original| self.end(original, None, now));
    }

    /// Counts, logs and records the end of a connection at that moment.
    fn end(&mut self, original: Tuple, bytes: Option<[u64; 2]>, at: Instant) {
        let Some(open) = self.open.remove(&original) else { return };
        let [bytes_in, bytes_out] = bytes.unwrap_or(open.bytes);
        let pool = &open.target.pool;
        let (reason, age) = (open.reason(), at.saturating_duration_since(open.began));
        pool.counters.connection.observe(age.as_secs_f64());
        if reason.is_failure() {
            pool.counters.client_visible_failure(reason);
        }
        pool.lifetimes.ended(age, reason.is_cut());
        self.cut += usize::from(reason == CloseReason::DrainTimeout);
        open.flow.moved(bytes_in, bytes_out);
        open.flow.closed(reason);
        let end = ConnectionEnd { reason, first_closed: open.first_closed(), rejection: None, kernel: None };
        let record = ConnectionRecord { bytes_in, bytes_out, ..open.record(at, Stage::Ended(end)) };
        record.log_closed(&end);
        let failed = reason.is_failure() || reason == CloseReason::Operator;
        self.shared.records.add_ended(record, failed, Some(open.decision));
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The number of the next one.
    pub(super) fn coming_conn(&self) -> u64 {
        self.next_conn
    }

    /// Notes the bytes of an open connection.
    pub(super) fn note_bytes(&mut self, entry: &ConntrackEntry) {
        if let (Some(open), Some(bytes)) = (self.open.get_mut(&entry.original), bytes_of(entry)) {
            open.bytes = bytes;
        }
    }

    /// Notes that the selected connections end now for that reason; returns the two directions of each.
    pub(super) fn request(
        &mut self,
        request: CloseRequest,
        selected: impl Fn(u64) -> bool,
    ) -> Vec<[Tuple; 2]> {
        let wanted = self.open.values_mut().filter(|open| open.request.is_none() && selected(open.conn));
        wanted.map(|open| open.end_for(request)).collect()
    }

    /// They could not be ended: the next attempt is due at once.
    pub(super) fn retry(&mut self, wanted: &[[Tuple; 2]]) {
        for [original, _] in wanted {
            if let Some(open) = self.open.get_mut(original)
                && let Some(request) = open.request.take()
            {
                open.close_at = Some((Instant::now(), request));
            }
        }
    }

    /// The same for the connections that are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<[Tuple; 2]> {
        let due = |open: &mut Open| match open.close_at {
            Some((at, request)) if at <= now && open.request.is_none() => Some(open.end_for(request)),
            _ => None,
        };
        self.open.values_mut().filter_map(due).collect()
    }

    /// Ends all that are open now, one by one over the time `over`, the oldest first.
    pub(super) fn close_over(&mut self, request: CloseRequest, over: Duration, now: Instant) {
        spread(self.open.values_mut().collect(), request, now, over);
    }

    /// Follows the directives of the backends, where those have changed since the connections were routed.
    pub(super) fn schedule(&mut self, now: Instant) {
        let mut concerned: HashMap<usize, Vec<&mut Open>> = HashMap::new();
        for open in self.open.values_mut() {
            let backend = &open.target.backend;
            if open.directives != backend.directives() {
                open.directives = backend.directives();
                concerned.entry(Arc::as_ptr(backend).addr()).or_default().push(open);
            }
        }
        for open in concerned.into_values() {
            match open[0].target.backend.directive() {
                Some(directive) => {
                    let request = CloseRequest { reason: directive.reason, how: directive.how };
                    spread(open, request, directive.at.max(now), directive.over);
                }
                None => open.into_iter().for_each(|open| open.close_at = None),
            }
        }
    }

    /// Forgets all, without a record: another process follows them.
    pub(super) fn forget(&mut self) {
        self.open.clear();
        self.ending.clear();
        self.expired.clear();
    }
}

/// Sets when the connections end: evenly from the moment `first` over the time `over`, the oldest first.
fn spread(mut open: Vec<&mut Open>, request: CloseRequest, first: Instant, over: Duration) {
    open.sort_unstable_by_key(|open| open.conn);
    let n = u32::try_from(open.len()).unwrap_or(u32::MAX);
    for (index, open) in (1u32..).zip(open) {
        let after = if over.is_zero() { over } else { over.mul_f64(f64::from(index) / f64::from(n)) };
        open.close_at = Some((first + after, request));
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
