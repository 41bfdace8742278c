//! When the clients send: each request needs a permit.
//!
//! In a closed loop there is always one. In an open loop a separate thread issues them by a [`SteadySchedule`]: a
//! runtime's timer has a resolution of a millisecond, which at a thousand requests a second is their interval.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::schedule::SteadySchedule;

/// How long after the end a permit may be taken: a request that is due at the last moment is not late yet.
const GRACE: Duration = Duration::from_millis(100);

/// When a test ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After this many requests.
    Number(u64),
    /// After this time.
    Time(Duration),
}

/// Permission to send one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendPermit {
    /// When the request is due, in an open loop.
    pub(super) due: Option<Instant>,
}

/// Issues the permits of a test.
#[derive(Debug)]
pub(super) struct Pacer {
    started: Instant,
    until: Until,
    schedule: Option<SteadySchedule>,
    /// Permits that are due and not taken.
    due: Semaphore,
    taken: AtomicU64,
    stopped: AtomicBool,
}

impl Pacer {
    /// Starts the test now.
    pub(super) fn new(until: Until, rate: Option<f64>) -> Self {
        Self {
            started: Instant::now(),
            until,
            schedule: rate.map(SteadySchedule::new),
            due: Semaphore::new(0),
            taken: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// When the test started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The number of requests, if known.
    pub(super) fn total(&self) -> Option<u64> {
        match (self.until, self.schedule) {
            (Until::Number(number), _) => Some(number),
            (Until::Time(time), Some(schedule)) => Some(schedule.within(time)),
            (Until::Time(_), None) => None,
        }
    }

    /// From when on no request starts.
    fn deadline(&self) -> Option<Instant> {
        match self.until {
            Until::Number(_) => None,
            Until::Time(time) => self.started.checked_add(time),
        }
    }

    /// The next permit, once it is due. `None`: there are no more.
    pub(super) async fn next(&self) -> Option<SendPermit> {
        if let Some(schedule) = &self.schedule {
            self.due.acquire().await.ok()?.forget();
            let number = self.take()?;
            return Some(SendPermit { due: self.started.checked_add(schedule.due(number)) });
        }
        let over = self.stopped.load(Ordering::Relaxed);
        if over || self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        self.take().map(|_| SendPermit { due: None })
    }

    fn take(&self) -> Option<u64> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        self.total().is_none_or(|total| number < total).then_some(number)
    }

    /// Permits taken.
    pub(super) fn taken(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        self.total().map_or(taken, |total| taken.min(total))
    }

    /// Permits due by `now` and not taken.
    pub(super) fn left(&self, now: Instant) -> u64 {
        let Some(schedule) = &self.schedule else { return 0 };
        let due = schedule.due_by(now.saturating_duration_since(self.started));
        self.total().map_or(due, |total| due.min(total)).saturating_sub(self.taken())
    }

    /// Issues no more permits.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.due.close();
    }

    /// Issues permits to `clients` clients when they are due; returns when there are no more, or after
    /// [`stop`](Self::stop) if this thread is unparked.
    pub(super) fn pace(&self, clients: usize) {
        let Some(schedule) = &self.schedule else { return };
        let total = self.total().unwrap_or(u64::MAX);
        let mut issued = 0;
        while issued < total && !self.stopped.load(Ordering::Relaxed) {
            let due = schedule.due_by(self.started.elapsed()).min(total);
            self.issue(due - issued);
            issued = due;
            if issued < total {
                sleep(self.started.checked_add(schedule.due(issued)));
            }
        }
        // Wakes the waiting clients, which find that there are no more.
        self.issue(clients as u64);
        let Some(end) = self.deadline().and_then(|deadline| deadline.checked_add(GRACE)) else { return };
        while Instant::now() < end && !self.stopped.load(Ordering::Relaxed) {
            sleep(Some(end));
        }
        self.due.close();
    }

    fn issue(&self, number: u64) {
        let room = Semaphore::MAX_PERMITS - self.due.available_permits();
        self.due.add_permits(usize::try_from(number).unwrap_or(room).min(room));
    }
}

/// Sleeps until `until`, or until the thread is unparked.
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

    fn next(pacer: &Pacer) -> Option<SendPermit> {
        runtime().block_on(async { in_time("a permit, or none left", pacer.next()).await })
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_closed_loop_has_a_permit_until_all_are_taken() {
        let pacer = Pacer::new(Until::Number(3), None);
        let take_all = async {
            let mut taken = 0;
            while pacer.next().await.is_some() {
                taken += 1;
            }
            taken
        };
        let taken = runtime().block_on(async { in_time("all are taken", take_all).await });
        assert_eq!((taken, pacer.taken(), pacer.left(Instant::now())), (3, 3, 0));
    }

    #[test]
    fn there_is_no_permit_after_the_end_or_a_stop() {
        let pacer = Pacer::new(Until::Time(Duration::ZERO), None);
        assert!(next(&pacer).is_none());
        for rate in [None, Some(1e6)] {
            let pacer = Pacer::new(Until::Number(9), rate);
            pacer.stop();
            assert!(next(&pacer).is_none());
        }
    }

    #[test]
    fn an_open_loop_issues_no_permit_before_it_is_due() {
        let pacer = Arc::new(Pacer::new(Until::Number(50), Some(1000.0)));
        let theirs = Arc::clone(&pacer);
        let pacing = thread::spawn(move || theirs.pace(1));
        let mut dues = Vec::new();
        let take_all = async {
            while let Some(permit) = pacer.next().await {
                let due = permit.due.unwrap();
                assert!(Instant::now() >= due);
                dues.push(due - pacer.started());
            }
        };
        runtime().block_on(async { in_time("all are taken", take_all).await });
        pacing.join().unwrap();
        let exact: Vec<_> = (0..50).map(Duration::from_millis).collect();
        assert_eq!(dues, exact);
    }

    #[test]
    fn permits_that_are_not_taken_in_time_are_counted() {
        let pacer = Pacer::new(Until::Time(Duration::from_millis(20)), Some(1000.0));
        pacer.pace(1);
        assert!(next(&pacer).is_none());
        assert_eq!(pacer.left(Instant::now()), 20);
    }
}
