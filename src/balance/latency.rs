//! How long a backend takes, as a moving average that believes bad news at once: a peak EWMA, as in Finagle
//! (`PeakEwma.scala`) and linkerd.
//!
//! What takes longer than the average becomes the average; what takes less pulls it down, by the part e^(-t/τ) that
//! remains of what was known t ago. What is known fades with the same τ when nothing new is learned, or a backend that
//! was slow once would never be asked again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// τ, in milliseconds. Linkerd has the same 10 s: long enough to see the tenth connection of a quiet service together
/// with the first, short enough that a backend that has recovered gets its share back within half a minute.
const DECAY: f64 = 10_000.0;

/// A peak EWMA. All workers write it, without a lock.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// The average in microseconds, at least 1 (0: nothing is known), and in the lower half when it was written, in
    /// milliseconds: one number, so that nobody reads the one without the other. The time wraps after 49 days: what was
    /// learned longer than half of that ago may look new, once.
    packed: AtomicU64,
}

/// What is known of a latency at some moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known {
    /// The average, in microseconds.
    pub(super) micros: f64,
    /// How much of it is still worth: from 1, just learned, to 0, nothing is known.
    pub(super) trust: f64,
}

impl Latency {
    pub(super) fn observe(&self, took: Duration, now: Duration) {
        let took = took.as_micros().clamp(1, u128::from(u32::MAX)) as f64;
        let updated = |packed: u64| {
            let Known { micros, trust } = unpack(packed, millis(now));
            let average = micros * trust + took * (1.0 - trust);
            Some((average.max(took) as u64) << 32 | u64::from(millis(now)))
        };
        // It fails only if `updated` declines, which it never does.
        let _ = self.packed.fetch_update(Relaxed, Relaxed, updated);
    }

    pub(super) fn known(&self, now: Duration) -> Known {
        unpack(self.packed.load(Relaxed), millis(now))
    }
}

/// Of the time only differences count: it may wrap.
fn millis(now: Duration) -> u32 {
    now.as_millis() as u32
}

fn unpack(packed: u64, now: u32) -> Known {
    let micros = (packed >> 32) as u32;
    if micros == 0 {
        return Known { micros: 0.0, trust: 0.0 };
    }
    // Workers look at their clocks one after the other: what another one has just written may be from the future.
    let age = (now.wrapping_sub(packed as u32) as i32).max(0);
    Known { micros: micros.into(), trust: (-f64::from(age) / DECAY).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn micros(latency: &Latency, now: Duration) -> f64 {
        latency.known(now).micros
    }

    #[test]
    fn nothing_is_known_before_the_first() {
        assert_eq!(Latency::default().known(SECOND).trust, 0.0);
    }

    #[test]
    fn bad_news_counts_at_once_and_good_news_by_and_by() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(10), SECOND);
        latency.observe(Duration::from_millis(900), SECOND);
        assert_eq!(micros(&latency, SECOND), 900_000.0);
        latency.observe(Duration::from_millis(10), SECOND);
        assert_eq!(micros(&latency, SECOND), 900_000.0);
        // After τ the part 1/e of it is left.
        latency.observe(Duration::from_millis(10), 11 * SECOND);
        let expected = 10_000.0 + 890_000.0 / std::f64::consts::E;
        assert!((micros(&latency, 11 * SECOND) - expected).abs() < 1.0);
    }

    #[test]
    fn what_is_known_fades() {
        let latency = Latency::default();
        latency.observe(SECOND, SECOND);
        let trust = |seconds: u32| latency.known(seconds * SECOND).trust;
        assert_eq!(trust(1), 1.0);
        assert!((trust(11) - (-1.0_f64).exp()).abs() < 1e-9 && trust(101) < 1e-4);
        // A worker whose clock is a little behind.
        assert_eq!(latency.known(Duration::from_millis(990)).trust, 1.0);
    }

    #[test]
    fn the_time_may_wrap() {
        let latency = Latency::default();
        let wraps = Duration::from_millis(u64::from(u32::MAX) + 1);
        latency.observe(SECOND, wraps - SECOND);
        assert!((latency.known(wraps + 9 * SECOND).trust - (-1.0_f64).exp()).abs() < 1e-9);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_is_never_below_the_last_nor_above_the_longest(
            all in proptest::collection::vec((1u64..10_000_000, 0u64..30_000), 1..40),
        ) {
            let (latency, mut now, mut longest) = (Latency::default(), 0, 0);
            for (took, later) in all {
                now += later;
                longest = longest.max(took);
                latency.observe(Duration::from_micros(took), Duration::from_millis(now));
                let known = latency.known(Duration::from_millis(now));
                prop_assert!(known.trust == 1.0 && known.micros >= took as f64 && known.micros <= longest as f64);
            }
        }
    }
}
