//! How many connections the admin server has at once, and which one gives way when a new one finds no place.
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
    taken: Mutex<Vec<Arc<Connection>>>,
    freed: Notify,
    /// Held by the request whose turn is next.
    next: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Connection {
    phase: Mutex<Phase>,
    /// Whether the other side does not take what is written.
    blocked: Arc<AtomicBool>,
    told: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For the head of a request, since then.
    WaitingForHead(Instant),
    /// For the rest of its body; since the wait for its head began.
    WaitingForBody(Instant),
    Answered,
    /// Its place was taken away, and it ends unless a request has arrived after all.
    GivesWay,
}

/// What a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// A short answer, after which its connection ends.
    ShortOnly,
}

impl Places {
    /// `limit` places, the last `reserved` of them for short answers.
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
                Phase::WaitingForHead(since) | Phase::WaitingForBody(since) => Some(since),
                Phase::Answered | Phase::GivesWay => None,
            };
            give_way(&mut taken, None, waits)?;
        }
        let connection = Arc::new(Connection {
            phase: Mutex::new(Phase::WaitingForHead(Instant::now())),
            blocked: Arc::default(),
            told: Notify::new(),
        });
        taken.push(Arc::clone(&connection));
        Some(Place { places: Arc::clone(self), connection })
    }

    /// A place for a new connection, as soon as there is one.
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

    fn taken(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the place of the connection that `waits` longest, if there is one.
fn give_way(
    taken: &mut Vec<Arc<Connection>>,
    but: Option<&Arc<Connection>>,
    waits: impl Fn(Phase) -> Option<Instant>,
) -> Option<()> {
    let candidates = taken.iter().enumerate();
    let candidates = candidates.filter(|(_, connection)| but.is_none_or(|but| !Arc::ptr_eq(but, connection)));
    let oldest = candidates
        .filter(|(_, connection)| !connection.is_blocked())
        .filter_map(|(index, connection)| Some((waits(*connection.phase())?, index)))
        .min()?
        .1;
    let connection = taken.swap_remove(oldest);
    *connection.phase() = Phase::GivesWay;
    connection.told.notify_one();
    Some(())
}

impl Connection {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last answer was made, and is not sent.
    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    fn has_request(&self) -> bool {
        self.is_blocked() || matches!(*self.phase(), Phase::WaitingForBody(_) | Phase::Answered)
    }
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    connection: Arc<Connection>,
}

/// A connection's place, for its requests.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    places: Arc<Places>,
    connection: Arc<Connection>,
}

impl Place {
    /// For what writes to the connection: whether the other side does not take it.
    pub(super) fn blocked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.connection.blocked)
    }

    /// For the connection's requests.
    pub(super) fn turns(&self) -> Turns {
        Turns { places: Arc::clone(&self.places), connection: Arc::clone(&self.connection) }
    }

    /// Ends when another connection has got the place.
    pub(super) async fn given_away(&self) {
        self.connection.told.notified().await;
    }

    /// Whether another connection has got the place, and no request has arrived since.
    pub(super) fn gives_way(&self) -> bool {
        *self.connection.phase() == Phase::GivesWay
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
            if *phase == Phase::GivesWay {
                taken.push(Arc::clone(&self.connection)); // one more than there are places, until it is answered
            }
            *phase = match *phase {
                Phase::WaitingForHead(since) if !is_whole => Phase::WaitingForBody(since),
                Phase::GivesWay if !is_whole => Phase::WaitingForBody(Instant::now()),
                _ => Phase::Answered,
            };
        }
        if taken.iter().filter(|connection| connection.has_request()).count() <= self.places.long {
            return Admission::Admitted;
        }
        // A request whose body does not come is worth less than one that is there.
        let waits = |phase| match phase {
            Phase::WaitingForBody(since) => Some(since),
            _ => None,
        };
        match give_way(&mut taken, Some(&self.connection), waits) {
            Some(()) => Admission::Admitted,
            None => Admission::ShortOnly,
        }
    }

    /// Waits for the request's turn among those of its origin. They begin one by one, and the runtime does other things in
    /// between: answers take their time to be made, and a request of the other origin does not wait for all of them.
    pub(super) async fn wait(&self) {
        let _turn = self.places.next.lock().await;
        tokio::task::yield_now().await;
    }

    /// The request is there whole, or needs no more to be answered.
    pub(super) fn received(&self) {
        let mut phase = self.connection.phase();
        if *phase != Phase::GivesWay {
            *phase = Phase::Answered;
        }
    }

    /// The answer is made. It is sent when the connection is no longer blocked.
    pub(super) fn answered(&self) {
        let mut phase = self.connection.phase();
        if *phase != Phase::GivesWay {
            *phase = Phase::WaitingForHead(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Connections that were accepted one after the other.
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
        // What is sent makes a connection wait again, behind those that have waited longer.
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
        // There are as many as there may be again before there is a free one.
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
        // A request without its body keeps no other request from its answer.
        assert_eq!(three.turns().begin(true), Admission::Admitted);
        assert!(gone(&four) && !gone(&two));
        // The client of a made answer does not take it.
        three.turns().answered();
        three.blocked().store(true, Ordering::Relaxed);
        assert_eq!(two.turns().begin(true), Admission::ShortOnly);
    }
}
