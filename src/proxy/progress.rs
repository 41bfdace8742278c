//! How far a connection has come: written by its own task, read by its worker's tick; both on one thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::clock;
use super::listener::{self, Listener};
use crate::balance::shadow::ShadowLeases;
use crate::config::{self, Algorithm, Timeouts};
use crate::domain::{Client, CloseReason, Ending};
use crate::pool::Backend;
use crate::pool::backend::Order;
use crate::telemetry::decisions::Which;
use crate::telemetry::flow::Flow;

/// A connection that is this old is one that lasts: worth what a short one would only pay for.
const LASTING: Duration = Duration::from_secs(1);

/// How often within a time limit the kernel is asked.
const LOOKS: u32 = 4;

/// Why and how a connection is to be ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// What it records.
    pub reason: CloseReason,
    /// What its two peers see.
    pub how: Ending,
}

/// A moment in a connection's life: microseconds since it was accepted. Half the size of an `Instant`, and idle
/// connections are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(NonZeroU64);

impl Age {
    /// The moment when it was accepted.
    pub const NONE: Self = Self(NonZeroU64::MIN);

    fn new(since_accepted: Duration) -> Self {
        Self(NonZeroU64::MIN.saturating_add(u64::try_from(since_accepted.as_micros()).unwrap_or(u64::MAX)))
    }

    /// From this moment to a later one.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.0.get().saturating_sub(self.0.get()))
    }
}

/// A connection's progress.
#[derive(Debug)]
pub struct Progress {
    /// Its number, unique within the process.
    pub conn: u64,
    /// Who connected.
    pub peer: Client,
    /// Where.
    pub listener: Arc<Listener>,
    /// When it was accepted.
    pub started: Instant,
    /// Bytes from the client that were written to the backend.
    pub bytes_in: Cell<u64>,
    /// Bytes from the backend that were written to the client.
    pub bytes_out: Cell<u64>,
    /// Whether a byte has moved since the last tick.
    pub moved: Cell<bool>,
    /// Who finished first, if one side has: `ClientClosed` or `BackendClosed`.
    pub first: Cell<Option<CloseReason>>,
    /// When the backend's first byte came.
    pub first_byte: Cell<Option<Age>>,
    last_moved: Cell<Age>,
    lasting: Cell<bool>,
    /// How often the kernel was asked since a byte moved last, when it was the last time (or the byte moved), and
    /// whether it is to be asked now.
    looks: Cell<u32>,
    looked: Cell<Age>,
    look: Cell<bool>,
    /// What it is relayed to, once it is.
    relayed: OnceCell<Relayed>,
    orders_seen: Cell<u32>,
    /// When the backend's order is to be obeyed.
    due: Cell<Option<(Age, End)>>,
    reported: Cell<(u64, u64)>,
    end: Cell<Option<End>>,
    waker: RefCell<Option<Waker>>,
}

/// The way of a connection that was routed.
#[derive(Debug)]
pub struct Relayed {
    /// Its backend.
    pub backend: Arc<Backend>,
    /// The counters of its way.
    pub flow: Arc<Flow>,
    /// What happens to its listener's connections, as it was when it was accepted.
    pub listener: Arc<listener::Settings>,
    /// The settings of its pool when it was routed.
    pub settings: Arc<config::Pool>,
    /// When it was routed.
    pub at: Age,
    /// How long connecting to the backend took.
    pub connect: Duration,
    /// Its places where other algorithms are counted too.
    pub shadows: Option<Box<ShadowLeases>>,
}

impl Relayed {
    /// The backend has said its first byte, on a connection that was accepted at `started`.
    fn answered(&self, now: Age, started: Instant) {
        let took = self.at.until(now);
        self.backend.answered(took);
        if self.settings.balance == Algorithm::Ewma {
            self.backend.load.answered(took, clock::since_origin(started) + Age::NONE.until(now));
        }
    }

    /// Idle time before the client is probed, and before the backend is, if the connection lasts.
    fn keepalives(&self) -> [Option<Duration>; 2] {
        [self.listener.options.keepalive, self.settings.keepalive]
    }
}

impl Progress {
    /// A connection that was just accepted.
    pub fn new(conn: u64, peer: Client, listener: Arc<Listener>, now: Instant) -> Self {
        Self {
            conn,
            peer,
            listener,
            started: now,
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            moved: Cell::new(false),
            first: Cell::new(None),
            first_byte: Cell::new(None),
            last_moved: Cell::new(Age::NONE),
            lasting: Cell::new(false),
            looks: Cell::new(0),
            looked: Cell::new(Age::NONE),
            look: Cell::new(false),
            relayed: OnceCell::new(),
            orders_seen: Cell::new(0),
            due: Cell::new(None),
            reported: Cell::new((0, 0)),
            end: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// How old it is now.
    pub fn age(&self) -> Age {
        Age::new(self.started.elapsed())
    }

    /// Notes what it is relayed to; from now on the time limits hold, and what the backend orders after the first
    /// `orders`.
    pub fn relaying(&self, relayed: Relayed, orders: u32) {
        self.orders_seen.set(orders);
        self.last_moved.set(relayed.at);
        let _ = self.relayed.set(relayed);
    }

    /// What it is relayed to, once it is.
    pub fn relayed(&self) -> Option<&Relayed> {
        self.relayed.get()
    }

    /// Whether it is among those that somebody asks for.
    pub(super) fn is_of(&self, which: &Which) -> bool {
        match self.relayed() {
            Some(Relayed { listener, backend, .. }) => {
                which.has(&listener.pool.name, Some((&backend.name, backend.address)), self.peer)
            }
            None => which.has(&self.listener.settings.load().pool.name, None, self.peer),
        }
    }

    /// Notes the backend's first byte.
    pub fn note_first_byte(&self) {
        if self.first_byte.get().is_none() {
            let now = self.age();
            self.first_byte.set(Some(now));
            if let Some(relayed) = self.relayed.get() {
                relayed.answered(now, self.started);
            }
        }
    }

    /// Tells the connection to end; the first word counts.
    pub fn end(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The keepalive that its backend is to have, once it has turned out to last. Its task is woken then.
    pub fn keepalive_due(&self) -> Option<Duration> {
        if self.lasting.get() { self.keepalives()[1] } else { None }
    }

    /// Its client's keepalive and its backend's.
    pub fn keepalives(&self) -> [Option<Duration>; 2] {
        self.relayed.get().map_or([None; 2], Relayed::keepalives)
    }

    /// Whether the kernel is to be asked if anything moves behind our back (see `idle.rs`), and how often it was
    /// since a byte moved last, this time included.
    pub fn look_due(&self) -> Option<u32> {
        self.look.take().then(|| self.looks.get())
    }

    /// Returns when the connection was told to end.
    pub async fn ended(&self) -> End {
        poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// Ready when the connection was told to end.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(end) = self.end.get() {
            return Poll::Ready(end);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Adds what has moved since the last report to the counters.
    pub fn report(&self) {
        let Some(relayed) = self.relayed.get() else { return };
        let now = (self.bytes_in.get(), self.bytes_out.get());
        let before = self.reported.replace(now);
        relayed.flow.moved(now.0 - before.0, now.1 - before.1);
    }

    /// The worker's tick: reports, and ends the connection if its time is up. An order from its backend that it
    /// has not seen yet is given back, so that the worker can spread the order over all that it concerns.
    pub fn tick(&self, now: Instant) -> Option<(&Arc<Backend>, Order)> {
        self.report();
        let relayed = self.relayed.get()?;
        let lived = now.saturating_duration_since(self.started);
        let now = Age::new(lived);
        if self.moved.take() {
            self.last_moved.set(now);
            self.looks.set(0);
            self.looked.set(now);
        }
        if !self.lasting.get() && lived >= LASTING {
            self.lasting.set(true);
            self.wake();
        }
        if relayed.settings.timeouts.lifetime.is_some_and(|limit| lived >= limit) {
            self.end(End { reason: CloseReason::Lifetime, how: Ending::Reset });
        }
        self.enforce_idle_timeout(relayed, now);
        if let Some((due, end)) = self.due.get()
            && now >= due
        {
            self.end(end);
        }
        let orders = relayed.backend.orders();
        if self.orders_seen.replace(orders) == orders {
            return None;
        }
        self.due.set(None); // a newer order, or none, replaces it
        relayed.backend.order().map(|order| (&relayed.backend, order))
    }

    /// Ends a connection on which nothing moves. Whether that is so is asked of the kernel first, in good time: what
    /// was written may still be on its way to a slow reader.
    fn enforce_idle_timeout(&self, relayed: &Relayed, now: Age) {
        let Timeouts { idle, half_closed, .. } = relayed.settings.timeouts;
        let half_closed = if self.first.get().is_some() { half_closed } else { None };
        let limits = [(half_closed, CloseReason::HalfClosedTimeout), (idle, CloseReason::IdleTimeout)];
        let limit =
            limits.into_iter().filter_map(|(limit, reason)| Some((limit?, reason))).min_by_key(|l| l.0);
        if self.look.get() {
            return; // its task has not come to it yet
        }
        let last_moved = self.last_moved.get();
        let (quiet, looked) = (last_moved.until(now), last_moved.until(self.looked.get()));
        if let Some((limit, reason)) = limit
            && looked >= limit
            && self.looks.get() > 1
        {
            // One side of a half-closed connection waits for the rest of a stream: a FIN would make it look complete.
            let how = if self.first.get().is_some() { Ending::Reset } else { Ending::Close };
            return self.end(End { reason, how });
        }
        let over = limit.is_some_and(|(limit, _)| quiet >= limit && looked < limit);
        let [client, backend] = relayed.keepalives();
        let steps = [limit.map(|(limit, _)| limit / LOOKS), client, backend];
        if over || steps.into_iter().flatten().min().is_some_and(|step| quiet - looked >= step) {
            self.looks.set(self.looks.get() + 1);
            self.looked.set(now);
            self.look.set(true);
            self.wake();
        }
    }

    /// Sets when the connection is to obey an order.
    pub fn obey(&self, at: Instant, end: End) {
        self.due.set(Some((Age::new(at.saturating_duration_since(self.started)), end)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_connection_holds_fits_into_the_block_of_memory_that_it_always_had() {
        // With the two counters of its Rc; the next larger block of the allocator has 320 bytes.
        assert!(size_of::<Progress>() + 2 * size_of::<usize>() <= 256, "{}", size_of::<Progress>());
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
pub(super) mod simulated;
