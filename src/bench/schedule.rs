//! When the requests of an open loop are due, independent of the responses.

use std::time::Duration;

/// A steady rate: request `k`, counted from 0, is due `k / rate` seconds after the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct SteadySchedule {
    rate: f64,
}

impl SteadySchedule {
    /// `rate` requests a second, above 0.
    pub(super) fn new(rate: f64) -> Self {
        Self { rate }
    }

    /// When request `k` is due, since the start.
    pub(super) fn due(&self, k: u64) -> Duration {
        Duration::try_from_secs_f64(k as f64 / self.rate).unwrap_or(Duration::MAX)
    }

    /// The number of requests due at `elapsed` or before.
    pub(super) fn due_by(&self, elapsed: Duration) -> u64 {
        self.count(elapsed.as_secs_f64().mul_add(self.rate, 1.0), |due| due <= elapsed)
    }

    /// The number of requests due before `time`.
    pub(super) fn within(&self, time: Duration) -> u64 {
        self.count(time.as_secs_f64() * self.rate, |due| due < time)
    }

    /// The number of requests whose due time satisfies `counts`; `about` is exact except for rounding.
    fn count(&self, about: f64, counts: impl Fn(Duration) -> bool) -> u64 {
        let mut number = about as u64;
        while counts(self.due(number)) {
            number += 1;
        }
        while number > 0 && !counts(self.due(number - 1)) {
            number -= 1;
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn request_k_is_due_at_k_over_rate(rate in 0.001f64..1e6, k in 0u64..10_000_000) {
            let schedule = SteadySchedule::new(rate);
            prop_assert_eq!(schedule.due(0), Duration::ZERO);
            let exact = k as f64 / rate;
            prop_assert!((schedule.due(k).as_secs_f64() - exact).abs() <= 1e-9 + exact * 1e-12);
            prop_assert!(schedule.due(k) <= schedule.due(k + 1));
        }

        #[test]
        fn due_requests_were_due_by_then_and_the_next_one_is_not(
            rate in 0.001f64..1e6, nanos in 0u64..100_000_000_000,
        ) {
            let (schedule, now) = (SteadySchedule::new(rate), Duration::from_nanos(nanos));
            let due = schedule.due_by(now);
            prop_assert!(due >= 1 && schedule.due(due - 1) <= now && schedule.due(due) > now);
            let within = schedule.within(now);
            prop_assert!(within == 0 || schedule.due(within - 1) < now);
            prop_assert!(schedule.due(within) >= now);
        }
    }

    #[test]
    fn one_second_at_rate_ten_has_ten_requests_and_the_eleventh_is_due_at_its_end() {
        let (schedule, second) = (SteadySchedule::new(10.0), Duration::from_secs(1));
        assert_eq!((schedule.within(second), schedule.due_by(second)), (10, 11));
    }
}
