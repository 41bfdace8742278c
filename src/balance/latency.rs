//! How long a backend takes to answer, as a peak EWMA: a moving average that rises at once and falls slowly, as in
//! Finagle (`PeakEwma.scala`) and linkerd.
//!
//! A sample above the average becomes the average; a sample below pulls it down: of the old value the part e^(-t/τ)
//! remains after time t. Confidence in the average decays with the same τ while there are no samples, or a backend
//! that was slow once would never be chosen again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// τ, as in linkerd: long enough to average the ten last connections of a quiet service, short enough that a recovered
/// backend gets its share back within half a minute.
const DECAY_MS: f64 = 10_000.0;

/// A peak EWMA. All workers write it, without a lock.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// In the upper half the average in microseconds, at least 1 (0: no sample yet); in the lower half the time of the
    /// last sample in milliseconds. One word, so that both are read together. The time wraps after 49 days: a sample
    /// older than half of that may look new, once.
    packed: AtomicU64,
}

/// A latency as estimated at some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LatencyEstimate {
    /// The average, in microseconds.
    pub(super) micros: f64,
    /// From 1 (sampled just now) to 0 (unknown).
    pub(super) confidence: f64,
}

impl Latency {
    pub(super) fn observe(&self, took: Duration, now: Duration) {
        let took = took.as_micros().clamp(1, u128::from(u32::MAX)) as f64;
        let updated = |packed: u64| {
            let LatencyEstimate { micros, confidence } = unpack(packed, millis(now));
            let average = micros * confidence + took * (1.0 - confidence);
            Some((average.max(took) as u64) << 32 | u64::from(millis(now)))
        };
        // It fails only if `updated` returns `None`, which it never does.
        let _ = self.packed.fetch_update(Relaxed, Relaxed, updated);
    }

    pub(super) fn estimate(&self, now: Duration) -> LatencyEstimate {
        unpack(self.packed.load(Relaxed), millis(now))
    }
}

/// Only differences of it are used: it may wrap.
fn millis(now: Duration) -> u32 {
    now.as_millis() as u32
}

fn unpack(packed: u64, now: u32) -> LatencyEstimate {
    let micros = (packed >> 32) as u32;
    if micros == 0 {
        return LatencyEstimate { micros: 0.0, confidence: 0.0 };
    }
    // Workers read their clocks at different times: a sample of another worker may lie in the future.
    let age = (now.wrapping_sub(packed as u32) as i32).max(0);
    LatencyEstimate { micros: micros.into(), confidence: (-f64::from(age) / DECAY_MS).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn micros(latency: &Latency, now: Duration) -> f64 {
        latency.estimate(now).micros
    }

    #[test]
    fn the_confidence_before_the_first_sample_is_zero() {
        assert_eq!(Latency::default().estimate(SECOND).confidence, 0.0);
    }

    #[test]
    fn the_average_rises_at_once_and_falls_slowly() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(10), SECOND);
        latency.observe(Duration::from_millis(900), SECOND);
        assert_eq!(micros(&latency, SECOND), 900_000.0);
        latency.observe(Duration::from_millis(10), SECOND);
        assert_eq!(micros(&latency, SECOND), 900_000.0);
        // After τ, 1/e of it is left.
        latency.observe(Duration::from_millis(10), 11 * SECOND);
        let expected = 10_000.0 + 890_000.0 / std::f64::consts::E;
        assert!((micros(&latency, 11 * SECOND) - expected).abs() < 1.0);
    }

    #[test]
    fn confidence_decays_without_samples() {
        let latency = Latency::default();
        latency.observe(SECOND, SECOND);
        let confidence = |seconds: u32| latency.estimate(seconds * SECOND).confidence;
        assert_eq!(confidence(1), 1.0);
        assert!((confidence(11) - (-1.0_f64).exp()).abs() < 1e-9 && confidence(101) < 1e-4);
        // The clock of another worker is a little behind.
        assert_eq!(latency.estimate(Duration::from_millis(990)).confidence, 1.0);
    }

    #[test]
    fn the_time_may_wrap() {
        let latency = Latency::default();
        let wraps = Duration::from_millis(u64::from(u32::MAX) + 1);
        latency.observe(SECOND, wraps - SECOND);
        assert!((latency.estimate(wraps + 9 * SECOND).confidence - (-1.0_f64).exp()).abs() < 1e-9);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_average_is_at_least_the_last_and_at_most_the_longest_sample(
            all in proptest::collection::vec((1u64..10_000_000, 0u64..30_000), 1..40),
        ) {
            let (latency, mut now, mut longest) = (Latency::default(), 0, 0);
            for (took, later) in all {
                now += later;
                longest = longest.max(took);
                latency.observe(Duration::from_micros(took), Duration::from_millis(now));
                let estimate = latency.estimate(Duration::from_millis(now));
                prop_assert!(estimate.confidence == 1.0 && estimate.micros >= took as f64 && estimate.micros <= longest as f64);
            }
        }
    }
}
