//! When the requests of an open loop are due: at moments that do not depend on how the answers come.

use std::time::Duration;

/// Requests at a steady rate: request `k`, counted from 0, is due `k / rate` seconds after the beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    rate: f64,
}

impl Schedule {
    /// So many requests a second; more than none.
    pub(super) fn new(rate: f64) -> Self {
        Self { rate }
    }

    /// When request `k` is due, from the beginning on.
    pub(super) fn due(&self, k: u64) -> Duration {
        Duration::try_from_secs_f64(k as f64 / self.rate).unwrap_or(Duration::MAX)
    }

    /// How many requests are due once so much time has gone by.
    pub(super) fn due_by(&self, elapsed: Duration) -> u64 {
        self.count(elapsed.as_secs_f64().mul_add(self.rate, 1.0), |due| due <= elapsed)
    }

    /// How many requests are due before so much time has gone by.
    pub(super) fn within(&self, time: Duration) -> u64 {
        self.count(time.as_secs_f64() * self.rate, |due| due < time)
    }

    /// The number of requests of whose moments `counts` holds; `about` is off by rounding only.
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
            let schedule = Schedule::new(rate);
            prop_assert_eq!(schedule.due(0), Duration::ZERO);
            let exact = k as f64 / rate;
            prop_assert!((schedule.due(k).as_secs_f64() - exact).abs() <= 1e-9 + exact * 1e-12);
            prop_assert!(schedule.due(k) <= schedule.due(k + 1));
        }

        #[test]
        fn who_is_due_by_a_moment_was_due_until_then_and_the_next_one_is_not(
            rate in 0.001f64..1e6, nanos in 0u64..100_000_000_000,
        ) {
            let (schedule, now) = (Schedule::new(rate), Duration::from_nanos(nanos));
            let due = schedule.due_by(now);
            prop_assert!(due >= 1 && schedule.due(due - 1) <= now && schedule.due(due) > now);
            let within = schedule.within(now);
            prop_assert!(within == 0 || schedule.due(within - 1) < now);
            prop_assert!(schedule.due(within) >= now);
        }
    }

    #[test]
    fn a_second_at_ten_a_second_has_ten_requests_and_the_eleventh_is_due_when_it_is_over() {
        let (schedule, second) = (Schedule::new(10.0), Duration::from_secs(1));
        assert_eq!((schedule.within(second), schedule.due_by(second)), (10, 11));
    }
}
