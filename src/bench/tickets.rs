//! Who sends a request next, and when: the tickets that the clients take, one for each request.
//!
//! In a closed loop there is always one. In an open loop they are given out at the moments of a [`Schedule`], by a
//! thread of its own: a runtime's timer ticks in milliseconds, which at a thousand a second is as long as the time
//! between two requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::schedule::Schedule;

/// What is due in the last moments of a test may be taken so long after its end: it was not late.
const GRACE: Duration = Duration::from_millis(100);

/// How many requests there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// So many.
    Number(u64),
    /// As many as there are in this time.
    Time(Duration),
}

/// Leave to send one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    /// When it is due, in an open loop.
    pub(super) due: Option<Instant>,
}

/// The tickets of a test.
#[derive(Debug)]
pub(super) struct Tickets {
    begun: Instant,
    until: Until,
    schedule: Option<Schedule>,
    /// Those that are due and that nobody has taken.
    due: Semaphore,
    taken: AtomicU64,
    stopped: AtomicBool,
}

impl Tickets {
    /// Tickets from now on.
    pub(super) fn new(until: Until, rate: Option<f64>) -> Self {
        Self {
            begun: Instant::now(),
            until,
            schedule: rate.map(Schedule::new),
            due: Semaphore::new(0),
            taken: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// When the test began.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// How many there will be, if that is known.
    pub(super) fn total(&self) -> Option<u64> {
        match (self.until, self.schedule) {
            (Until::Number(number), _) => Some(number),
            (Until::Time(time), Some(schedule)) => Some(schedule.within(time)),
            (Until::Time(_), None) => None,
        }
    }

    /// When no request is begun any more, whatever is due.
    fn deadline(&self) -> Option<Instant> {
        match self.until {
            Until::Number(_) => None,
            Until::Time(time) => self.begun.checked_add(time),
        }
    }

    /// The next one; waits until it is due. `None`: there is no other.
    pub(super) async fn next(&self) -> Option<Ticket> {
        if let Some(schedule) = &self.schedule {
            self.due.acquire().await.ok()?.forget();
            let number = self.take()?;
            return Some(Ticket { due: self.begun.checked_add(schedule.due(number)) });
        }
        let over = self.stopped.load(Ordering::Relaxed);
        if over || self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        self.take().map(|_| Ticket { due: None })
    }

    fn take(&self) -> Option<u64> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        self.total().is_none_or(|total| number < total).then_some(number)
    }

    /// Those that were taken.
    pub(super) fn taken(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        self.total().map_or(taken, |total| taken.min(total))
    }

    /// Those that were due by `now` and that nobody took.
    pub(super) fn left(&self, now: Instant) -> u64 {
        let Some(schedule) = &self.schedule else { return 0 };
        let due = schedule.due_by(now.saturating_duration_since(self.begun));
        self.total().map_or(due, |total| due.min(total)).saturating_sub(self.taken())
    }

    /// Gives no more out.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.due.close();
    }

    /// Gives tickets out when they are due, to `clients` of them; returns when there is nothing left to give, or after
    /// [`stop`](Self::stop) if this thread is unparked then.
    pub(super) fn pace(&self, clients: usize) {
        let Some(schedule) = &self.schedule else { return };
        let total = self.total().unwrap_or(u64::MAX);
        let mut given = 0;
        while given < total && !self.stopped.load(Ordering::Relaxed) {
            let due = schedule.due_by(self.begun.elapsed()).min(total);
            self.give(due - given);
            given = due;
            if given < total {
                sleep(self.begun.checked_add(schedule.due(given)));
            }
        }
        // Who waits learns that there is no other.
        self.give(clients as u64);
        let Some(end) = self.deadline().and_then(|deadline| deadline.checked_add(GRACE)) else { return };
        while Instant::now() < end && !self.stopped.load(Ordering::Relaxed) {
            sleep(Some(end));
        }
        self.due.close();
    }

    fn give(&self, number: u64) {
        let room = Semaphore::MAX_PERMITS - self.due.available_permits();
        self.due.add_permits(usize::try_from(number).unwrap_or(room).min(room));
    }
}

/// Until a moment, if the thread is not unparked before.
fn sleep(until: Option<Instant>) {
    let time = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
    if !time.is_zero() {
        thread::park_timeout(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_time;
    use std::sync::Arc;

    fn next(tickets: &Tickets) -> Option<Ticket> {
        runtime().block_on(async { in_time("a ticket, or that there is none", tickets.next()).await })
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_closed_loop_has_a_ticket_until_all_are_taken() {
        let tickets = Tickets::new(Until::Number(3), None);
        let take_all = async {
            let mut taken = 0;
            while tickets.next().await.is_some() {
                taken += 1;
            }
            taken
        };
        let taken = runtime().block_on(async { in_time("all are taken", take_all).await });
        assert_eq!((taken, tickets.taken(), tickets.left(Instant::now())), (3, 3, 0));
    }

    #[test]
    fn none_is_taken_after_the_end_of_the_time_or_a_stop() {
        let tickets = Tickets::new(Until::Time(Duration::ZERO), None);
        assert!(next(&tickets).is_none());
        for rate in [None, Some(1e6)] {
            let tickets = Tickets::new(Until::Number(9), rate);
            tickets.stop();
            assert!(next(&tickets).is_none());
        }
    }

    #[test]
    fn an_open_loop_gives_each_ticket_at_its_moment_and_never_before() {
        let tickets = Arc::new(Tickets::new(Until::Number(50), Some(1000.0)));
        let theirs = Arc::clone(&tickets);
        let pacer = thread::spawn(move || theirs.pace(1));
        let mut dues = Vec::new();
        let take_all = async {
            while let Some(ticket) = tickets.next().await {
                let due = ticket.due.unwrap();
                assert!(Instant::now() >= due);
                dues.push(due - tickets.begun());
            }
        };
        runtime().block_on(async { in_time("all are taken", take_all).await });
        pacer.join().unwrap();
        let exact: Vec<_> = (0..50).map(Duration::from_millis).collect();
        assert_eq!(dues, exact);
    }

    #[test]
    fn what_nobody_took_in_time_is_left() {
        let tickets = Tickets::new(Until::Time(Duration::from_millis(20)), Some(1000.0));
        tickets.pace(1);
        assert!(next(&tickets).is_none());
        assert_eq!(tickets.left(Instant::now()), 20);
    }
}
