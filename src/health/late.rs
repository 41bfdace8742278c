//! Whether a pool's checks start when they are due. Pure.

use std::time::{Duration, Instant};

/// A check that waits no longer than this is on time: on a busy machine the scheduler alone may take this long.
const NEGLIGIBLE: Duration = Duration::from_millis(100);

/// Lateness ends when no check has been late for this long, or for two intervals, so that the log gets one line for the
/// start and one for the end, not one per check.
const CALM: Duration = Duration::from_secs(10);

/// Whether a check that waited this long for a slot is late: by more than half of its interval. The failure of a backend
/// is detected later by the same time.
pub fn is_late(waited: Duration, every: Duration) -> bool {
    waited > NEGLIGIBLE.max(every / 2)
}

/// Follows the checks of one pool.
#[derive(Debug, Default)]
pub struct Lateness(Option<LatePeriod>);

#[derive(Debug)]
struct LatePeriod {
    since: Instant,
    last: Instant,
    checks: u64,
}

/// A change between late and on time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatenessChange {
    /// Checks run late now.
    Late,
    /// Checks are on time again.
    OnTime {
        /// How long they ran late.
        after: Duration,
        /// How many of them ran late.
        checks: u64,
    },
}

impl Lateness {
    /// Records a check that has just ended and that repeats every `every`.
    pub fn on(&mut self, late: bool, every: Duration, now: Instant) -> Option<LatenessChange> {
        match &mut self.0 {
            None if late => {
                self.0 = Some(LatePeriod { since: now, last: now, checks: 1 });
                Some(LatenessChange::Late)
            }
            None => None,
            Some(running) if late => {
                (running.last, running.checks) = (now, running.checks + 1);
                None
            }
            Some(running) if now.duration_since(running.last) < CALM.max(2 * every) => None,
            Some(_) => self.end(),
        }
    }

    /// Records that the pool has no more checks.
    pub fn end(&mut self) -> Option<LatenessChange> {
        let LatePeriod { since, last, checks } = self.0.take()?;
        Some(LatenessChange::OnTime { after: last.duration_since(since), checks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_check_is_late_by_more_than_half_of_its_interval() {
        assert!(!is_late(SECOND, 2 * SECOND));
        assert!(is_late(SECOND + Duration::from_millis(1), 2 * SECOND));
        let often = Duration::from_millis(10);
        assert!(!is_late(NEGLIGIBLE, often), "a busy machine alone is not reported");
        assert!(is_late(NEGLIGIBLE + Duration::from_millis(1), often));
    }

    #[test]
    fn late_checks_and_their_end_are_each_reported_once() {
        let start = Instant::now();
        let mut lateness = Lateness::default();
        let mut at = |seconds: u32, late| lateness.on(late, SECOND, start + seconds * SECOND);
        assert_eq!(at(0, false), None);
        assert_eq!(at(1, true), Some(LatenessChange::Late));
        assert_eq!([at(2, true), at(3, false), at(11, false), at(12, true)], [None; 4]);
        assert_eq!(at(21, false), None, "on time for nine seconds");
        assert_eq!(at(22, false), Some(LatenessChange::OnTime { after: 11 * SECOND, checks: 3 }));
        assert_eq!(at(23, false), None);
        assert_eq!(at(24, true), Some(LatenessChange::Late));
        // For rare checks the state lasts two intervals.
        assert_eq!(lateness.on(false, 60 * SECOND, start + 143 * SECOND), None);
        assert!(lateness.on(false, 60 * SECOND, start + 144 * SECOND).is_some());
        assert_eq!(lateness.end(), None);
    }
}
