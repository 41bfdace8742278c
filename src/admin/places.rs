//! The admin server's connection limit, and which connection gives way when a new one finds no place.
//!
//! A connection *waits* until its request has arrived, and is *answered* from then until its answer is sent. Only a
//! waiting connection gives way: the one that has waited longest. Long answers cannot take every place: the last ones
//! are reserved for short answers, so that a health check is always answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// The places of one origin (see `access::PerOrigin`).
#[derive(Debug)]
pub(super) struct Places {
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
    told: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestPhase {
    /// For the head of a request, since this time.
    WaitingForHead(Instant),
    /// For the rest of its body; the time at which the wait for its head began.
    WaitingForBody(Instant),
    Answered,
    /// Its place was taken: it ends unless a request has arrived in time.
    GivesWay,
}

/// The kind of answer that a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// A short answer, after which its connection closes.
    ShortOnly,
}

impl Places {
    /// Creates `limit` places, the last `reserved` of them for short answers.
    pub(super) fn new(limit: usize, reserved: usize) -> Arc<Self> {
        let (taken, freed, next) = (Mutex::default(), Notify::new(), tokio::sync::Mutex::default());
        Arc::new(Self { limit, long: limit.saturating_sub(reserved), taken, freed, next })
    }

    /// A place for a new connection: a free one, or that of the connection that has waited longest for a request.
    /// `None`: all connections are being answered.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken();
        if taken.len() >= self.limit {
            let waits = |phase| match phase {
                RequestPhase::WaitingForHead(since) | RequestPhase::WaitingForBody(since) => Some(since),
                RequestPhase::Answered | RequestPhase::GivesWay => None,
            };
            give_way(&mut taken, None, waits)?;
        }
        let connection = Arc::new(AdminConnection {
            phase: Mutex::new(RequestPhase::WaitingForHead(Instant::now())),
            blocked: Arc::default(),
            told: Notify::new(),
        });
        taken.push(Arc::clone(&connection));
        Some(Place { places: Arc::clone(self), connection })
    }

    /// Waits for a place for a new connection.
    pub(super) async fn wait(self: &Arc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable(); // a place that is freed from here on wakes it
            if let Some(place) = self.take() {
                return place;
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

/// Takes the place of the connection that `waits` longest, if there is one.
fn give_way(
    taken: &mut Vec<Arc<AdminConnection>>,
    but: Option<&Arc<AdminConnection>>,
    waits: impl Fn(RequestPhase) -> Option<Instant>,
) -> Option<()> {
    let candidates = taken.iter().enumerate();
    let candidates = candidates.filter(|(_, connection)| but.is_none_or(|but| !Arc::ptr_eq(but, connection)));
    let oldest = candidates
        .filter(|(_, connection)| !connection.is_blocked())
        .filter_map(|(index, connection)| Some((waits(*connection.phase())?, index)))
        .min()?
        .1;
    let connection = taken.swap_remove(oldest);
    *connection.phase() = RequestPhase::GivesWay;
    connection.told.notify_one();
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

/// A connection's place, held until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    connection: Arc<AdminConnection>,
}

/// The handle of a connection's place for its requests.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    places: Arc<Places>,
    connection: Arc<AdminConnection>,
}

impl Place {
    /// For the writer of the connection: whether the client does not read.
    pub(super) fn blocked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.connection.blocked)
    }

    /// For the connection's requests.
    pub(super) fn turns(&self) -> Turns {
        Turns { places: Arc::clone(&self.places), connection: Arc::clone(&self.connection) }
    }

    /// Returns when another connection has taken the place.
    pub(super) async fn given_away(&self) {
        self.connection.told.notified().await;
    }

    /// Whether another connection has taken the place and no request has arrived since.
    pub(super) fn gives_way(&self) -> bool {
        *self.connection.phase() == RequestPhase::GivesWay
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().retain(|other| !Arc::ptr_eq(other, &self.connection));
        self.places.freed.notify_waiters();
    }
}

impl Turns {
    /// The head of a request has arrived, and its body too if it `is_whole`.
    pub(super) fn begin(&self, is_whole: bool) -> Admission {
        let mut taken = self.places.taken();
        {
            let mut phase = self.connection.phase();
            if *phase == RequestPhase::GivesWay {
                taken.push(Arc::clone(&self.connection)); // exceeds the limit by one until it is answered
            }
            *phase = match *phase {
                RequestPhase::WaitingForHead(since) if !is_whole => RequestPhase::WaitingForBody(since),
                RequestPhase::GivesWay if !is_whole => RequestPhase::WaitingForBody(Instant::now()),
                _ => RequestPhase::Answered,
            };
        }
        if taken.iter().filter(|connection| connection.has_request()).count() <= self.places.long {
            return Admission::Admitted;
        }
        // A request with a missing body gives way to a complete request.
        let waits = |phase| match phase {
            RequestPhase::WaitingForBody(since) => Some(since),
            _ => None,
        };
        match give_way(&mut taken, Some(&self.connection), waits) {
            Some(()) => Admission::Admitted,
            None => Admission::ShortOnly,
        }
    }

    /// Waits for the request's turn among those of its origin. They start one by one, and the runtime runs other tasks
    /// in between: answers take time to build, and a request of the other origin does not wait for all of them.
    pub(super) async fn wait(&self) {
        let _turn = self.places.next.lock().await;
        tokio::task::yield_now().await;
    }

    /// The request is complete, or the rest is not needed for the answer.
    pub(super) fn received(&self) {
        let mut phase = self.connection.phase();
        if *phase != RequestPhase::GivesWay {
            *phase = RequestPhase::Answered;
        }
    }

    /// The answer is complete. It counts as sent when the connection is no longer blocked.
    pub(super) fn answered(&self) {
        let mut phase = self.connection.phase();
        if *phase != RequestPhase::GivesWay {
            *phase = RequestPhase::WaitingForHead(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Connections, in the order in which they were accepted.
    async fn accepted<const N: usize>(places: &Arc<Places>) -> [Place; N] {
        let mut all = Vec::new();
        for _ in 0..N {
            all.push(places.take().unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        all.try_into().unwrap()
    }

    fn gone(place: &Place) -> bool {
        place.gives_way()
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_waits_longest_gives_way_and_never_one_that_is_answered() {
        let places = Places::new(4, 0);
        let [answered, oldest, body, blocked] = accepted(&places).await;
        assert_eq!(answered.turns().begin(true), Admission::Admitted);
        assert_eq!(body.turns().begin(false), Admission::Admitted);
        blocked.turns().begin(true);
        blocked.turns().answered();
        blocked.blocked().store(true, Ordering::Relaxed);
        let new = places.take().unwrap();
        assert!(gone(&oldest) && !gone(&body));
        oldest.given_away().await;
        let newer = places.take().unwrap();
        assert!(gone(&body) && !gone(&new));
        for place in [&new, &newer] {
            place.turns().begin(true);
        }
        assert!(places.take().is_none(), "all are being answered");
        assert!(!gone(&answered) && !gone(&blocked));
        // A sent answer makes a connection wait again, behind connections that have waited longer.
        answered.turns().answered();
        assert!(places.take().is_some() && gone(&answered));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_once_and_only_once() {
        let places = Places::new(2, 0);
        let [one, two] = accepted(&places).await;
        for place in [&one, &two] {
            place.turns().begin(true);
        }
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(one);
        let three = waiting.await.unwrap();
        assert!(places.is_full());
        // The place of a connection that gave way is taken away once, not again when it ends.
        let four = places.take().unwrap();
        assert!(gone(&three) && places.is_full());
        drop(three);
        assert!(places.is_full());
        drop((two, four));
        assert_eq!(places.taken().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_request_has_arrived_after_all_keeps_its_place() {
        let places = Places::new(2, 0);
        let [late, other] = accepted(&places).await;
        let new = places.take().unwrap();
        assert!(gone(&late));
        assert_eq!(late.turns().begin(true), Admission::Admitted);
        assert!(!gone(&late) && places.taken().len() == 3);
        // The number of connections must fall below the limit before there is a free place.
        drop(other);
        assert!(places.is_full());
        drop((late, new));
        assert_eq!(places.taken().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn long_answers_leave_the_reserved_places_to_short_ones() {
        let places = Places::new(4, 2);
        let [one, two, three, four] = accepted(&places).await;
        for place in [&one, &two] {
            assert_eq!(place.turns().begin(true), Admission::Admitted);
        }
        assert_eq!(three.turns().begin(true), Admission::ShortOnly);
        three.turns().answered();
        two.turns().answered();
        assert_eq!(four.turns().begin(false), Admission::Admitted);
        // A request with a missing body does not block other requests.
        assert_eq!(three.turns().begin(true), Admission::Admitted);
        assert!(gone(&four) && !gone(&two));
        // The client does not read its complete answer.
        three.turns().answered();
        three.blocked().store(true, Ordering::Relaxed);
        assert_eq!(two.turns().begin(true), Admission::ShortOnly);
    }
}
