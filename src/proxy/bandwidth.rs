//! The bandwidth limits of a listener, for each connection and for all its connections together, in each direction
//! (`bandwidth`).
//!
//! A read first reserves its bytes. A limit is one number, the time by which all bytes reserved so far have passed at its
//! rate, and each reservation moves that time on (the virtual scheduling of ITU-T I.371, annex A). So connections that
//! share a limit take turns, however many they are. A reload starts with no reservations: those at the old rates would block
//! the new ones. The bytes that travel with the backend's handshake are not counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{Bandwidth, ByteRate};

/// Unused bandwidth may be used this much later: timers are a little late, and bytes do not arrive evenly.
const CREDIT: Duration = Duration::from_millis(50);
/// One reservation is the bytes that pass in this part of a second (50 ms) …
const STEPS: u64 = 20;
/// … but not less, as a read has a cost, and not more, so that connections that share a limit take turns soon.
const STEP_BYTES: [u64; 2] = [1024, 256 * 1024];

/// The bytes that have passed one limit in one direction.
#[derive(Debug, Default)]
pub(super) struct Passage {
    /// When all of them have passed, in nanoseconds since the origin of all moments.
    until: AtomicU64,
}

impl Passage {
    /// Reserves bytes; returns when they may pass, which may be before `now`.
    pub(super) fn reserve(&self, bytes: u64, rate: ByteRate, now: Duration) -> Duration {
        let earliest = nanos(now.saturating_sub(CREDIT));
        let before = self.advance(|until| until.max(earliest).saturating_add(time(bytes, rate)));
        Duration::from_nanos(before.max(earliest))
    }

    /// Returns reserved bytes that did not pass.
    pub(super) fn release(&self, bytes: u64, rate: ByteRate) {
        self.advance(|until| until.saturating_sub(time(bytes, rate)));
    }

    /// Replaces the time, and returns the last one.
    fn advance(&self, next: impl Fn(u64) -> u64) -> u64 {
        let replaced =
            self.until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(next(until)));
        replaced.unwrap_or_else(|until| until)
    }
}

/// How long bytes take at that rate, in nanoseconds.
fn time(bytes: u64, rate: ByteRate) -> u64 {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.0.get());
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The limits of a listener since the last reload.
#[derive(Debug)]
pub struct BandwidthLimits {
    pub(super) rates: Bandwidth,
    /// What all connections share: from the clients, and from the backends.
    pub(super) total: [Passage; 2],
}

impl BandwidthLimits {
    /// Limits at these rates; nothing is reserved.
    pub(super) fn new(rates: Bandwidth) -> Self {
        Self { rates, total: Default::default() }
    }

    /// The bytes of one reservation.
    pub(super) fn step(&self) -> u64 {
        let rates = self.rates.per_connection.into_iter().chain(self.rates.total);
        let bytes = rates.map(|rate| rate.0.get() / STEPS).min();
        bytes.unwrap_or(u64::MAX).clamp(STEP_BYTES[0], STEP_BYTES[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU64;

    fn rate(bytes: u64) -> ByteRate {
        ByteRate(NonZeroU64::new(bytes).unwrap())
    }

    proptest! {
        /// Readers that read all that they reserved, as soon as they may.
        #[test]
        fn readers_take_turns_at_the_rate(per_second in 1_000u64..1_000_000_000, readers in 1usize..20, bytes in 1024u64..262_144) {
            let (passage, rate) = (Passage::default(), rate(per_second));
            let start = Duration::from_secs(1);
            let mut due = vec![start; readers];
            for _ in 0..readers * 10 {
                let next = (0..readers).min_by_key(|reader| due[*reader]).unwrap();
                let at = passage.reserve(bytes, rate, due[next]).max(due[next]);
                // It waits for one turn of each other reader, and its own last one.
                let longest = Duration::from_nanos(time(bytes, rate) * readers as u64);
                prop_assert!(at <= due[next] + longest, "{at:?} after {:?}, longest {longest:?}", due[next]);
                due[next] = at;
            }
            let last = due.into_iter().max().unwrap();
            let passed = bytes * (readers as u64 * 10 - 1);
            // The first bytes may use the credit, and each division rounds down by less than a nanosecond.
            let needed = Duration::from_nanos(time(passed, rate));
            let early = start + needed - CREDIT - Duration::from_micros(1);
            prop_assert!((early..=start + needed).contains(&last), "{last:?} for {needed:?}");
        }

        #[test]
        fn bytes_that_are_released_do_not_count(per_second in 1_000u64..1_000_000_000, reads in proptest::collection::vec(0u64..65_536, 1..50)) {
            let (whole, exact, rate) = (Passage::default(), Passage::default(), rate(per_second));
            let now = Duration::from_secs(1);
            for read in reads {
                whole.reserve(65_536, rate, now);
                whole.release(65_536 - read, rate);
                exact.reserve(read, rate, now);
                let [whole, exact] = [&whole, &exact].map(|passage| passage.until.load(Ordering::Relaxed));
                // Each of the two divisions rounds by less than a nanosecond.
                prop_assert!(whole.abs_diff(exact) <= 100);
            }
        }
    }

    #[test]
    fn bandwidth_that_was_not_used_is_lost_but_for_the_credit() {
        let (passage, rate) = (Passage::default(), rate(1_000_000));
        let hour = Duration::from_secs(3600);
        assert_eq!(passage.reserve(50_000, rate, hour), hour - CREDIT);
        assert_eq!(passage.reserve(50_000, rate, hour), hour);
        assert_eq!(passage.reserve(1, rate, hour), hour + Duration::from_millis(50));
    }

    #[test]
    fn a_reservation_is_fifty_milliseconds_of_the_lower_rate() {
        let step = |connection: u64, total: u64| {
            let [per_connection, total] = [connection, total].map(|rate| NonZeroU64::new(rate).map(ByteRate));
            BandwidthLimits::new(Bandwidth { per_connection, total }).step()
        };
        assert_eq!(step(1_000_000, 0), 50_000);
        assert_eq!(step(1_000_000, 200_000), 10_000);
        assert_eq!(step(1024, 0), 1024);
        assert_eq!(step(0, 10_000_000_000), 262_144);
    }
}
