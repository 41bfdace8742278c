//! The state of a connection, which its own task and the worker's tick share; both run on one thread.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::clock::{Moment, ShortTime, WholeSeconds};
use super::failure_penalty;
use super::idle_timer::{IdleLimits, IdleStep, IdleTimer};
use super::listener::Listener;
use super::routing::Assignment;
use super::visits::{Visit, Visits};
use crate::balance::shadow::ShadowLeases;
use crate::config::{self, Algorithm};
use crate::domain::{Client, CloseReason, Ending};
use crate::pool::backend::CloseDirective;
use crate::pool::{Backend, Pool};
use crate::telemetry::filter::ConnectionFilter;
use crate::telemetry::flow::Flow;
use crate::telemetry::records::KeptDecision;

/// From this age on, a connection is worth the system calls that set keepalive on its backend's side.
const LASTING: Duration = Duration::from_secs(1);

/// Why and how a connection is closed from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseRequest {
    /// The reason in its record.
    pub reason: CloseReason,
    /// Whether its two peers receive a FIN or a reset.
    pub how: Ending,
}

/// The phases of a connection. It is either rejected or relayed, and never returns to an earlier phase.
#[derive(Debug)]
pub(super) enum Phase {
    /// Until a backend is connected or the client is rejected.
    Connecting,
    /// No backend was found or reached: the connection is counted among the pool's unserved ones.
    Rejected(Arc<Flow>),
    /// Bytes are relayed. Where the decision is kept is beside the variant's tag, where it takes no memory.
    Relaying(Relayed, KeptDecision),
    /// The connection is counted and recorded.
    Closed,
}

/// A connection that has a backend.
#[derive(Debug)]
pub struct Relayed {
    /// The backend.
    pub backend: Arc<Backend>,
    /// The counters of its listener's connections to that backend.
    pub flow: Arc<Flow>,
    /// The pool's settings when it was routed.
    pub settings: Arc<config::Pool>,
    /// When it was routed.
    pub at: Moment,
    /// How long connecting to the backend took.
    pub connect: ShortTime,
    /// The keepalive of the client's side; `settings` has that of the backend's side.
    pub client_keepalive: Option<WholeSeconds>,
    /// Its leases of the shadow algorithms.
    #[allow(dead_code, reason = "held until the end: its connection counts for the shadows")]
    pub shadows: Option<Box<ShadowLeases>>,
}

impl Relayed {
    fn answered(&self, took: Duration) {
        self.backend.answered(took);
        if self.settings.balance == Algorithm::Ewma {
            self.backend.load.answered(took, (self.at + took).since_origin());
        }
    }

    /// The keepalive of the client's side and of the backend's.
    fn keepalives(&self) -> [Option<Duration>; 2] {
        [self.client_keepalive.map(Duration::from), self.settings.keepalive]
    }
}

/// A connection's state.
pub struct Progress {
    // Set when it is accepted.
    key: Cell<u32>,
    /// Its number, unique within the process.
    pub conn: u64,
    /// The listener that accepted it.
    pub listener: Arc<Listener>,
    /// When it was accepted.
    pub accepted: Moment,

    // Written by the connection's task.
    /// The client: the peer, until a PROXY header contains another address.
    pub client: Cell<Client>,
    /// Its pool, once that is known.
    pub(super) assignment: OnceCell<Arc<Assignment>>,
    phase: RefCell<Phase>,
    /// Wakes the task; taken by the code that wakes it.
    waker: Cell<Option<Waker>>,

    // Written by the relay.
    /// Bytes from the client that were written to the backend.
    pub(super) bytes_in: Cell<u64>,
    /// Bytes from the backend that were written to the client.
    pub(super) bytes_out: Cell<u64>,
    /// A bandwidth limit has delayed some of them.
    pub(super) throttled: Cell<bool>,
    /// A byte has moved since the last tick, which clears it.
    pub(super) moved: Cell<bool>,
    /// Which side finished first, if one has: `ClientClosed` or `BackendClosed`.
    pub(super) first_closed: Cell<Option<CloseReason>>,
    /// From the routing decision to the backend's first byte; more than 71 minutes count as that.
    first_byte: Cell<Option<ShortTime>>,

    // Written by the worker's tick; the relay takes the probes of the idle timer.
    watch: Cell<Watch>,

    // Written once, by the tick or on behalf of an operator or a drain.
    close: Cell<Option<CloseRequest>>,
}

/// The tick's state of a connection.
#[derive(Clone, Copy, Debug)]
struct Watch {
    idle: IdleTimer,
    /// The connection is older than [`LASTING`].
    lasting: bool,
    /// The number of its backend's directives that it has seen.
    directives: u32,
    /// When the backend's directive closes it.
    scheduled: Option<(Moment, CloseRequest)>,
    /// The bytes that its flow has counted.
    counted: (u64, u64),
}

impl Progress {
    /// A connection that was accepted now.
    pub fn new(conn: u64, client: Client, listener: Arc<Listener>, now: Moment) -> Self {
        Self {
            key: Cell::new(0),
            conn,
            listener,
            accepted: now,
            client: Cell::new(client),
            assignment: OnceCell::new(),
            phase: RefCell::new(Phase::Connecting),
            waker: Cell::new(None),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            throttled: Cell::new(false),
            moved: Cell::new(false),
            first_closed: Cell::new(None),
            first_byte: Cell::new(None),
            watch: Cell::new(Watch {
                idle: IdleTimer::new(now),
                lasting: false,
                directives: 0,
                scheduled: None,
                counted: (0, 0),
            }),
            close: Cell::new(None),
        }
    }

    /// Its key in the worker's table.
    pub(super) fn key(&self) -> usize {
        self.key.get() as usize
    }

    /// Sets its key in the worker's table, which has less than 2³² connections.
    pub(super) fn set_key(&self, key: usize) {
        self.key.set(key as u32);
    }

    /// Records that a byte has moved. The next tick learns of it.
    pub(super) fn note_moved(&self, visits: &Visits) {
        if !self.moved.replace(true) {
            visits.set(self.key(), Visit::Next);
        }
    }

    /// Enters the next phase and returns the previous one.
    pub(super) fn enter(&self, phase: Phase) -> Phase {
        self.phase.replace(phase)
    }

    /// Enters the relay. From now on the time limits apply, and the backend's directives after the first `directives`.
    pub(super) fn relay(&self, relayed: Relayed, directives: u32, decision: KeptDecision) {
        self.watch.set(Watch { idle: IdleTimer::new(relayed.at), directives, ..self.watch.get() });
        self.enter(Phase::Relaying(relayed, decision));
    }

    /// The state of the relay, while the connection is relayed.
    pub(super) fn relayed(&self) -> Option<Ref<'_, Relayed>> {
        let relayed = Ref::filter_map(self.phase.borrow(), |phase| match phase {
            Phase::Relaying(relayed, _) => Some(relayed),
            Phase::Connecting | Phase::Rejected(_) | Phase::Closed => None,
        });
        relayed.ok()
    }

    /// Its pool, once that is known.
    pub(super) fn pool(&self) -> Option<&Arc<Pool>> {
        self.assignment.get()?.pool.as_ref()
    }

    /// Whether it matches `filter`.
    pub(super) fn matches(&self, filter: &ConnectionFilter) -> bool {
        let (listener, pool) = (&*self.listener.name, self.pool().map(|pool| &*pool.name));
        match self.relayed() {
            Some(relayed) => {
                let backend = (&*relayed.backend.name, &relayed.backend.address);
                filter.matches(listener, pool, Some(backend), self.client.get())
            }
            None => filter.matches(listener, pool, None, self.client.get()),
        }
    }

    /// Records that the relay has read from the backend.
    pub(super) fn answered(&self) {
        if self.first_byte.get().is_none()
            && let Some(relayed) = self.relayed()
        {
            let took = relayed.at.elapsed();
            self.first_byte.set(Some(took.into()));
            relayed.answered(took);
        }
    }

    /// Whether the backend has sent a byte.
    pub(super) fn has_answer(&self) -> bool {
        self.first_byte.get().is_some()
    }

    /// Whether it was routed so recently that a backend that ends it now cannot have served it.
    pub(super) fn is_recently_routed(&self) -> bool {
        self.relayed().is_some_and(|relayed| relayed.at.elapsed() < failure_penalty::AT_ONCE)
    }

    /// Leaves the relay to a backend that has sent nothing; another backend follows. Returns what was relayed to it.
    pub(super) fn leave_backend(&self) -> Option<Relayed> {
        if let Some(relayed) = self.relayed() {
            self.count_bytes(&relayed.flow);
        }
        self.bytes_in.set(0);
        self.first_closed.set(None);
        let watch = self.watch.get();
        // A directive of that backend does not concern the next one; the end of a drain does.
        let scheduled = watch.scheduled.filter(|(_, request)| request.reason == CloseReason::DrainTimeout);
        self.watch.set(Watch { counted: (0, 0), scheduled, ..watch });
        match self.enter(Phase::Connecting) {
            Phase::Relaying(relayed, _) => Some(relayed),
            Phase::Connecting | Phase::Rejected(_) | Phase::Closed => None,
        }
    }

    /// The time from the routing decision to the backend's first byte, once that has come.
    pub(super) fn first_byte(&self) -> Option<Duration> {
        self.first_byte.get().map(Duration::from)
    }

    /// Requests a close of the connection; the first request counts.
    pub fn close(&self, request: CloseRequest) {
        if self.close.get().is_none() {
            self.close.set(Some(request));
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Returns when a close is requested.
    pub(super) async fn closing(&self) -> CloseRequest {
        poll_fn(|cx| self.poll_closing(cx)).await
    }

    /// Ready when a close is requested.
    pub(super) fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<CloseRequest> {
        if let Some(request) = self.close.get() {
            return Poll::Ready(request);
        }
        let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }

    /// The keepalive that the backend's side gets, once the connection is older than [`LASTING`]. The task is woken
    /// then.
    pub(super) fn keepalive_due(&self) -> Option<Duration> {
        if self.watch.get().lasting { self.keepalives()[1] } else { None }
    }

    /// The keepalive of the client's side and of the backend's.
    pub(super) fn keepalives(&self) -> [Option<Duration>; 2] {
        self.relayed().map_or([None; 2], |relayed| relayed.keepalives())
    }

    /// Takes the idle probe that is due, if any; returns whether it is the first since a byte moved. The task is woken
    /// when one is due.
    pub(super) fn take_probe(&self) -> Option<bool> {
        let mut watch = self.watch.get();
        let probe = watch.idle.take_probe()?;
        self.watch.set(watch);
        Some(probe)
    }

    /// Counts the bytes that have moved since the last count.
    pub(super) fn count_bytes(&self, flow: &Flow) {
        let watch = self.watch.get();
        let (before, counted) = (watch.counted, (self.bytes_in.get(), self.bytes_out.get()));
        flow.moved(counted.0 - before.0, counted.1 - before.1);
        self.watch.set(Watch { counted, ..watch });
    }

    /// The worker's tick: counts bytes and closes the connection if its time is up. Returns a directive of its backend
    /// that it has not seen, so that the worker spreads the closing over all connections concerned.
    pub(super) fn tick(&self, now: Moment) -> Option<(Arc<Backend>, CloseDirective)> {
        let relayed = self.relayed()?;
        self.count_bytes(&relayed.flow);
        let mut watch = self.watch.get();
        if self.moved.take() {
            watch.idle.moved(now);
        }
        let (age, timeouts) = (self.accepted.until(now), &relayed.settings.timeouts);
        let turns_lasting = !watch.lasting && age >= LASTING;
        watch.lasting |= turns_lasting;
        if timeouts.lifetime.is_some_and(|limit| age >= limit) {
            self.close(CloseRequest { reason: CloseReason::Lifetime, how: Ending::Reset });
        }
        let (limits, reason) = self.idle_limits(&relayed);
        let step = watch.idle.step(now, &limits);
        if step == IdleStep::Close {
            // The open half of a half-closed connection waits for the rest of a stream: a FIN would make it look complete.
            let how = if self.is_half_closed() { Ending::Reset } else { Ending::Close };
            self.close(CloseRequest { reason, how });
        }
        if let Some((at, request)) = watch.scheduled
            && now >= at
        {
            self.close(request);
        }
        let seen = std::mem::replace(&mut watch.directives, relayed.backend.directives());
        let is_new = seen != watch.directives;
        if is_new {
            watch.scheduled = None; // replaced, or withdrawn
        }
        self.watch.set(watch);
        if turns_lasting || step == IdleStep::Probe {
            self.wake();
        }
        let directive = if is_new { relayed.backend.directive()? } else { return None };
        Some((Arc::clone(&relayed.backend), directive))
    }

    fn is_half_closed(&self) -> bool {
        self.first_closed.get().is_some()
    }

    /// The limits of its idle time, and the reason for which it is closed when it reaches them.
    fn idle_limits(&self, relayed: &Relayed) -> (IdleLimits, CloseReason) {
        let timeouts = &relayed.settings.timeouts;
        let limits = [
            (timeouts.half_closed.filter(|_| self.is_half_closed()), CloseReason::HalfClosedTimeout),
            (timeouts.idle, CloseReason::IdleTimeout),
        ];
        let limits = limits.into_iter().filter_map(|(limit, reason)| Some((limit?, reason)));
        let (timeout, reason) = limits
            .min_by_key(|(limit, _)| *limit)
            .map_or((None, CloseReason::IdleTimeout), |(limit, reason)| (Some(limit), reason));
        (IdleLimits { timeout, keepalives: relayed.keepalives() }, reason)
    }

    /// The next tick that must visit it, unless a byte moves, a side closes or its backend gets a directive before.
    pub(super) fn next_visit(&self) -> Visit {
        let Some(relayed) = self.relayed() else { return Visit::NEVER };
        let watch = self.watch.get();
        let times = [
            (!watch.lasting).then(|| self.accepted + LASTING),
            relayed.settings.timeouts.lifetime.map(|limit| self.accepted + limit),
            watch.idle.next(&self.idle_limits(&relayed).0),
            watch.scheduled.map(|(at, _)| at),
        ];
        times.into_iter().flatten().min().map_or(Visit::NEVER, Visit::At)
    }

    /// The time since a byte was relayed, or since the accept, to the accuracy of the ticks.
    pub(super) fn idle(&self, now: Moment) -> Duration {
        if self.moved.get() { Duration::ZERO } else { self.watch.get().idle.last_moved().until(now) }
    }

    /// Closes the connection at that moment, unless its backend gets another directive first.
    pub(super) fn schedule_close(&self, at: Moment, request: CloseRequest) {
        self.watch.set(Watch { scheduled: Some((at, request)), ..self.watch.get() });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { conn, client, phase, .. } = self;
        f.debug_struct("Progress")
            .field("conn", conn)
            .field("client", client)
            .field("phase", phase)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_connection_fits_into_256_bytes() {
        // With the two counters of its Rc; the allocator's next size is 320 bytes.
        assert!(size_of::<Progress>() + 2 * size_of::<usize>() <= 256, "{}", size_of::<Progress>());
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
pub(super) mod simulated;
