//! Passive ejection: a backend that fails live connections is excluded for a while. Pure.
//!
//! The first ejection lasts for the configured period, the second for two, the third for three, and so on, up to
//! [`LONGEST`]. A backend that has been back for as long as its last ejection starts over. After an ejection its count of
//! consecutive failures stays: one more failure ejects it again, and the first response clears the count.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::domain::{Cause, EjectionReason, StateReason};

/// The longest ejection, in periods: a backend that may have recovered is tried again.
const LONGEST: u32 = 10;

/// The ejections of one backend.
#[derive(Clone, Debug, Default)]
pub struct Ejection {
    /// The last one, if any.
    last: Option<LastEjection>,
}

#[derive(Clone, Debug)]
struct LastEjection {
    until: Instant,
    time: Duration,
    /// The number of ejections, each soon after the one before.
    times: u32,
    reason: StateReason,
}

/// The last ejection of a backend, as it is handed over: in durations, because an `Instant` means nothing in another process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandedEjection {
    /// How much longer it lasts; zero if it is over.
    remaining: Duration,
    /// Its whole length.
    length: Duration,
    /// The number of ejections, each soon after the one before.
    count: u32,
    cause: Cause,
}

impl Ejection {
    /// The ejections of a backend that was handed over at `then`. One that was over counts as if it had ended then.
    pub fn take_over(handed: HandedEjection, then: Instant) -> Self {
        let HandedEjection { remaining, length: time, count: times, cause } = handed;
        let until = then.checked_add(remaining).unwrap_or(then);
        Self { last: Some(LastEjection { until, time, times, reason: StateReason::TakenOver { cause } }) }
    }

    /// The last ejection for the process that takes over, unless the next one would start over.
    pub fn hand_over(&self, now: Instant) -> Option<HandedEjection> {
        self.recent(now).map(|last| HandedEjection {
            remaining: last.until.saturating_duration_since(now),
            length: last.time,
            count: last.times,
            cause: last.reason.original_cause(),
        })
    }

    /// The last ejection, if the backend has been back for less time than that took.
    fn recent(&self, now: Instant) -> Option<&LastEjection> {
        self.last.as_ref().filter(|last| now < last.until + last.time)
    }

    /// The end of the present ejection, and its reason.
    pub fn out(&self, now: Instant) -> Option<(Instant, &StateReason)> {
        self.last.as_ref().filter(|last| now < last.until).map(|last| (last.until, &last.reason))
    }

    /// Ejects the backend; `period` is the length of a first ejection. Returns the reason for its state.
    pub fn eject(&mut self, period: Duration, why: EjectionReason, now: Instant) -> StateReason {
        let times = self.recent(now).map_or(1, |last| last.times.saturating_add(1).min(LONGEST));
        let time = period * times;
        let reason = StateReason::Ejected { why, time };
        self.last = Some(LastEjection { until: now + time, time, times, reason: reason.clone() });
        reason
    }

    /// Ends the ejection now.
    pub fn lift(&mut self, now: Instant) {
        if let Some(last) = &mut self.last {
            last.until = last.until.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SLOW: EjectionReason = EjectionReason::Slow { median: SECOND, others: Duration::ZERO };

    fn out_for(ejection: &Ejection, now: Instant) -> Option<Duration> {
        ejection.out(now).map(|(until, _)| until - now)
    }

    #[test]
    fn ejections_grow_and_start_over_after_a_while() {
        let (mut ejection, mut now) = (Ejection::default(), Instant::now());
        assert_eq!(out_for(&ejection, now), None);
        for times in 1..=12 {
            ejection.eject(SECOND, SLOW, now);
            let time = SECOND * times.min(LONGEST);
            assert_eq!(out_for(&ejection, now), Some(time));
            now += time;
            assert_eq!(out_for(&ejection, now), None);
        }
        now += SECOND * LONGEST;
        ejection.eject(SECOND, SLOW, now);
        assert_eq!(out_for(&ejection, now), Some(SECOND));
        ejection.lift(now);
        assert_eq!(out_for(&ejection, now), None);
    }

    #[test]
    fn an_ejection_goes_on_in_the_process_that_takes_over() {
        let (mut before, now) = (Ejection::default(), Instant::now());
        assert_eq!(before.hand_over(now), None);
        for _ in 0..3 {
            before.eject(SECOND, SLOW, now);
        }
        // As long as it would have lasted, and the next one is longer.
        let mut after = Ejection::take_over(before.hand_over(now + SECOND).unwrap(), now);
        let (until, reason) = after.out(now).unwrap();
        assert_eq!(until - now, 2 * SECOND);
        let cause = before.out(now).unwrap().1.text();
        assert_eq!(*reason, StateReason::TakenOver { cause });
        // The reason does not grow with each process.
        let third = Ejection::take_over(after.hand_over(now).unwrap(), now);
        assert_eq!(third.out(now), after.out(now));
        after.eject(SECOND, SLOW, now);
        assert_eq!(out_for(&after, now), Some(4 * SECOND));
        // One that is over is still counted for a while, then it is forgotten.
        let mut over = Ejection::take_over(before.hand_over(now + 5 * SECOND).unwrap(), now);
        assert_eq!(out_for(&over, now), None);
        over.eject(SECOND, SLOW, now);
        assert_eq!(out_for(&over, now), Some(4 * SECOND));
        assert_eq!(before.hand_over(now + 6 * SECOND), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_ejection_is_longer_than_ten_periods(
            waits in proptest::collection::vec(0u64..100_000, 1..60), period in 1u64..10_000,
        ) {
            let (mut ejection, mut now) = (Ejection::default(), Instant::now());
            let period = Duration::from_millis(period);
            for wait in waits {
                ejection.eject(period, SLOW, now);
                let time = out_for(&ejection, now).unwrap_or_default();
                prop_assert!(time >= period && time <= period * LONGEST);
                now += Duration::from_millis(wait);
            }
        }
    }
}
