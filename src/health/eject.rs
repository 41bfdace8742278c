//! Passive ejection: a backend that fails live connections is left alone for a while. Pure.
//!
//! The first time out is as long as the configuration says, the second
//! twice that, the third three times, and so on, up to [`LONGEST`] times. A backend that has been back for as long as
//! it was out the last time begins anew. Who comes back is on probation: its failures in a row are still counted, so
//! that one more is enough, and the first answer clears it.

use std::time::{Duration, Instant};

use crate::domain::Cause;

/// A time out is at most this many times the first one: who may be sound again is tried again some day.
const LONGEST: u32 = 10;

/// The ejections of one backend.
#[derive(Clone, Debug, Default)]
pub struct Ejection {
    /// The last one; `None`: there was none that still matters.
    last: Option<Last>,
}

#[derive(Clone, Debug)]
struct Last {
    until: Instant,
    time: Duration,
    /// How many there were, each too soon after the one before.
    times: u32,
    why: Cause,
}

impl Ejection {
    /// Until when the backend is out, and why; `None`: it is not.
    pub fn out(&self, now: Instant) -> Option<(Instant, &Cause)> {
        self.last.as_ref().filter(|last| now < last.until).map(|last| (last.until, &last.why))
    }

    /// Ejects the backend; `period` is how long the first time is.
    pub fn eject(&mut self, period: Duration, why: &str, now: Instant) {
        let recent = self.last.as_ref().filter(|last| now < last.until + last.time);
        let times = recent.map_or(1, |last| last.times.saturating_add(1).min(LONGEST));
        let time = period * times;
        let why = format!("{why}; out for {}", humantime::format_duration(time)).into();
        self.last = Some(Last { until: now + time, time, times, why });
    }

    /// Ends the ejection before its time.
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

    fn out_for(ejection: &Ejection, now: Instant) -> Option<Duration> {
        ejection.out(now).map(|(until, _)| until - now)
    }

    #[test]
    fn each_time_out_is_longer_and_a_good_while_back_is_forgiven() {
        let (mut ejection, mut now) = (Ejection::default(), Instant::now());
        assert_eq!(out_for(&ejection, now), None);
        for times in 1..=12 {
            ejection.eject(SECOND, "it failed", now);
            let time = SECOND * times.min(LONGEST);
            assert_eq!(out_for(&ejection, now), Some(time));
            now += time;
            assert_eq!(out_for(&ejection, now), None);
        }
        now += SECOND * LONGEST;
        ejection.eject(SECOND, "it failed", now);
        assert_eq!(out_for(&ejection, now), Some(SECOND));
        ejection.lift(now);
        assert_eq!(out_for(&ejection, now), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn nobody_is_out_for_longer_than_ten_periods(
            waits in proptest::collection::vec(0u64..100_000, 1..60), period in 1u64..10_000,
        ) {
            let (mut ejection, mut now) = (Ejection::default(), Instant::now());
            let period = Duration::from_millis(period);
            for wait in waits {
                ejection.eject(period, "it failed", now);
                let time = out_for(&ejection, now).unwrap_or_default();
                prop_assert!(time >= period && time <= period * LONGEST);
                now += Duration::from_millis(wait);
            }
        }
    }
}
