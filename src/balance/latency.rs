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
