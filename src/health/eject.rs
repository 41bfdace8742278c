//! Passive ejection: a backend that fails live connections is excluded for a while. Pure.
//!
//! The first ejection lasts for the configured period, the second for two, the third for three, and so on, up to
//! [`LONGEST`]. A backend that has been back for as long as its last ejection starts over. After an ejection its count of
//! consecutive failures stays: one more failure ejects it again, and the first response clears the count.

use std::time::{Duration, Instant};

use crate::domain::{EjectionReason, StateReason};

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

impl Ejection {
    /// The end of the present ejection, and its reason.
    pub fn out(&self, now: Instant) -> Option<(Instant, &StateReason)> {
        self.last.as_ref().filter(|last| now < last.until).map(|last| (last.until, &last.reason))
    }

    /// Ejects the backend; `period` is the length of a first ejection. Returns the reason for its state.
    pub fn eject(&mut self, period: Duration, why: EjectionReason, now: Instant) -> StateReason {
        let recent = self.last.as_ref().filter(|last| now < last.until + last.time);
        let times = recent.map_or(1, |last| last.times.saturating_add(1).min(LONGEST));
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
