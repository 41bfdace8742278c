//! The admin server's connection limit, and which connection is evicted when a new one finds no free slot.
//!
//! A connection *waits* until its request has arrived, and is *answered* from then until its answer is sent. Only a
//! waiting connection is evicted: the one that has waited longest. Long answers cannot take every slot: the last ones
//! are reserved for short answers, so that a health check is always answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// The connection slots of one origin (see `access::PerOrigin`).
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    limit: usize,
    /// Requests at once that may have an answer of any length.
    long: usize,
    taken: Mutex<Vec<Arc<AdminConnection>>>,
    freed: Notify,
    /// Held by the request whose turn is next.
    next: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct AdminConnection {
    phase: Mutex<RequestPhase>,
    /// Whether the client does not read what is written.
    blocked: Arc<AtomicBool>,
    evicted: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestPhase {
    /// Since this time.
    WaitingForHead(Instant),
    /// The time at which the wait for the request's head began.
    WaitingForBody(Instant),
    Answered,
    /// A new connection got its slot: it is closed unless its request has arrived in time.
    Evicted,
}

/// The kind of answer that a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// A short answer, after which its connection closes.
    ShortOnly,
}

impl ConnectionSlots {
    /// Creates `limit` slots, the last `reserved` of them for short answers.
    pub(super) fn new(limit: usize, reserved: usize) -> Arc<Self> {
        let (taken, freed, next) = (Mutex::default(), Notify::new(), tokio::sync::Mutex::default());
        Arc::new(Self { limit, long: limit.saturating_sub(reserved), taken, freed, next })
    }

    /// A slot for a new connection: a free one, or that of the connection that has waited longest for a request.
    /// `None`: all connections are being answered.
    pub(super) fn take(self: &Arc<Self>) -> Option<ConnectionSlot> {
        let mut taken = self.taken();
        if taken.len() >= self.limit {
            let waits = |phase| match phase {
                RequestPhase::WaitingForHead(since) | RequestPhase::WaitingForBody(since) => Some(since),
                RequestPhase::Answered | RequestPhase::Evicted => None,
            };
            evict(&mut taken, None, waits)?;
        }
        let connection = Arc::new(AdminConnection {
            phase: Mutex::new(RequestPhase::WaitingForHead(Instant::now())),
            blocked: Arc::default(),
            evicted: Notify::new(),
        });
        taken.push(Arc::clone(&connection));
        Some(ConnectionSlot { slots: Arc::clone(self), connection })
    }

    /// Waits for a slot for a new connection.
    pub(super) async fn wait(self: &Arc<Self>) -> ConnectionSlot {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable(); // a slot that is freed from here on wakes it
            if let Some(slot) = self.take() {
                return slot;
            }
            freed.await;
        }
    }

    #[cfg(test)]
    fn is_full(&self) -> bool {
        self.taken().len() >= self.limit
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Arc<AdminConnection>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evicts the connection that `waits` longest, other than `except`; `None`: no connection waits.
fn evict(
    taken: &mut Vec<Arc<AdminConnection>>,
    except: Option<&Arc<AdminConnection>>,
    waits: impl Fn(RequestPhase) -> Option<Instant>,
) -> Option<()> {
    let candidates = taken.iter().enumerate();
    let candidates =
        candidates.filter(|(_, connection)| except.is_none_or(|except| !Arc::ptr_eq(except, connection)));
    let oldest = candidates
        .filter(|(_, connection)| !connection.is_blocked())
        .filter_map(|(index, connection)| Some((waits(*connection.phase())?, index)))
        .min()?
        .1;
    let connection = taken.swap_remove(oldest);
    *connection.phase() = RequestPhase::Evicted;
    connection.evicted.notify_one();
    Some(())
}

impl AdminConnection {
    fn phase(&self) -> MutexGuard<'_, RequestPhase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last answer is complete but not sent.
    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    fn has_request(&self) -> bool {
        self.is_blocked() || matches!(*self.phase(), RequestPhase::WaitingForBody(_) | RequestPhase::Answered)
    }
}

/// A connection's slot, freed when this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    connection: Arc<AdminConnection>,
}

/// Reports the state of a connection's requests to its slot.
#[derive(Clone, Debug)]
pub(super) struct SlotHandle {
    slots: Arc<ConnectionSlots>,
    connection: Arc<AdminConnection>,
}

impl ConnectionSlot {
    /// A flag that the connection's writer sets while the client does not read.
    pub(super) fn blocked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.connection.blocked)
    }

    /// The handle for the connection's requests.
    pub(super) fn handle(&self) -> SlotHandle {
        SlotHandle { slots: Arc::clone(&self.slots), connection: Arc::clone(&self.connection) }
    }

    /// Returns when a new connection has taken the slot.
    pub(super) async fn evicted(&self) {
        self.connection.evicted.notified().await;
    }

    /// Whether a new connection has taken the slot and no request has arrived since.
    pub(super) fn is_evicted(&self) -> bool {
        *self.connection.phase() == RequestPhase::Evicted
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.taken().retain(|other| !Arc::ptr_eq(other, &self.connection));
        self.slots.freed.notify_waiters();
    }
}

impl SlotHandle {
    /// The head of a request has arrived, and its body too if it `is_whole`.
    pub(super) fn begin(&self, is_whole: bool) -> Admission {
        let mut taken = self.slots.taken();
        {
            let mut phase = self.connection.phase();
            if *phase == RequestPhase::Evicted {
                taken.push(Arc::clone(&self.connection)); // exceeds the limit by one until it is answered
            }
            *phase = match *phase {
                RequestPhase::WaitingForHead(since) if !is_whole => RequestPhase::WaitingForBody(since),
                RequestPhase::Evicted if !is_whole => RequestPhase::WaitingForBody(Instant::now()),
                _ => RequestPhase::Answered,
            };
        }
        if taken.iter().filter(|connection| connection.has_request()).count() <= self.slots.long {
            return Admission::Admitted;
        }
        // A connection with an incomplete request is evicted for a complete one.
        let waits = |phase| match phase {
            RequestPhase::WaitingForBody(since) => Some(since),
            _ => None,
        };
        match evict(&mut taken, Some(&self.connection), waits) {
            Some(()) => Admission::Admitted,
            None => Admission::ShortOnly,
        }
    }

    /// Waits for the request's turn among those of its origin. They start one by one, and the runtime runs other tasks
    /// in between: building an answer takes time, and a request of the other origin does not wait for all of them.
    pub(super) async fn wait(&self) {
        let _turn = self.slots.next.lock().await;
        tokio::task::yield_now().await;
    }

    /// The request is complete, or the rest is not needed for the answer.
    pub(super) fn received(&self) {
        let mut phase = self.connection.phase();
        if *phase != RequestPhase::Evicted {
            *phase = RequestPhase::Answered;
        }
    }

    /// The answer is complete. It counts as sent when the connection is no longer blocked.
    pub(super) fn answered(&self) {
        let mut phase = self.connection.phase();
        if *phase != RequestPhase::Evicted {
            *phase = RequestPhase::WaitingForHead(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Connections, in the order in which they were accepted.
    async fn accepted<const N: usize>(slots: &Arc<ConnectionSlots>) -> [ConnectionSlot; N] {
        let mut all = Vec::new();
        for _ in 0..N {
            all.push(slots.take().unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        all.try_into().unwrap()
    }

    fn gone(slot: &ConnectionSlot) -> bool {
        slot.is_evicted()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_waiting_connection_is_evicted_and_never_an_answered_one() {
        let slots = ConnectionSlots::new(4, 0);
        let [answered, oldest, body, blocked] = accepted(&slots).await;
        assert_eq!(answered.handle().begin(true), Admission::Admitted);
        assert_eq!(body.handle().begin(false), Admission::Admitted);
        blocked.handle().begin(true);
        blocked.handle().answered();
        blocked.blocked().store(true, Ordering::Relaxed);
        let new = slots.take().unwrap();
        assert!(gone(&oldest) && !gone(&body));
        oldest.evicted().await;
        let newer = slots.take().unwrap();
        assert!(gone(&body) && !gone(&new));
        for slot in [&new, &newer] {
            slot.handle().begin(true);
        }
        assert!(slots.take().is_none(), "all are being answered");
        assert!(!gone(&answered) && !gone(&blocked));
        // A sent answer makes a connection wait again, behind connections that have waited longer.
        answered.handle().answered();
        assert!(slots.take().is_some() && gone(&answered));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_freed_exactly_once() {
        let slots = ConnectionSlots::new(2, 0);
        let [one, two] = accepted(&slots).await;
        for slot in [&one, &two] {
            slot.handle().begin(true);
        }
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(one);
        let three = waiting.await.unwrap();
        assert!(slots.is_full());
        // The slot of an evicted connection is taken once, not again when the connection closes.
        let four = slots.take().unwrap();
        assert!(gone(&three) && slots.is_full());
        drop(three);
        assert!(slots.is_full());
        drop((two, four));
        assert_eq!(slots.taken().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_evicted_connection_whose_request_arrives_in_time_keeps_its_slot() {
        let slots = ConnectionSlots::new(2, 0);
        let [late, other] = accepted(&slots).await;
        let new = slots.take().unwrap();
        assert!(gone(&late));
        assert_eq!(late.handle().begin(true), Admission::Admitted);
        assert!(!gone(&late) && slots.taken().len() == 3);
        // A slot is free only when the number of connections is below the limit.
        drop(other);
        assert!(slots.is_full());
        drop((late, new));
        assert_eq!(slots.taken().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn long_answers_leave_the_reserved_slots_to_short_ones() {
        let slots = ConnectionSlots::new(4, 2);
        let [one, two, three, four] = accepted(&slots).await;
        for slot in [&one, &two] {
            assert_eq!(slot.handle().begin(true), Admission::Admitted);
        }
        assert_eq!(three.handle().begin(true), Admission::ShortOnly);
        three.handle().answered();
        two.handle().answered();
        assert_eq!(four.handle().begin(false), Admission::Admitted);
        // An incomplete request does not block other requests.
        assert_eq!(three.handle().begin(true), Admission::Admitted);
        assert!(gone(&four) && !gone(&two));
        // The client does not read its complete answer.
        three.handle().answered();
        three.blocked().store(true, Ordering::Relaxed);
        assert_eq!(two.handle().begin(true), Admission::ShortOnly);
    }
}
