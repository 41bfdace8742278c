//! Limits what the kernel queues for slow receivers (`buffers.unsent`).
//!
//! The queue for a receiver grows to megabytes, and with it the receive buffer of the sender that fills it: without a limit,
//! a hundred slow readers hold more than a gigabyte. A small queue however doubles the cost of bulk transfers, whose receivers
//! take megabytes in milliseconds. So a receiver has the limit until it proves to be fast, and again once it has become slow.

use std::time::Duration;

use super::clock::Moment;

/// A receiver is fast if it takes this many bytes …
const BYTES: u64 = 1024 * 1024;
/// … within this time. With the limit, a slower one wakes its worker a few times a second.
const WITHIN: Duration = Duration::from_millis(250);

/// What the kernel may queue for one receiver.
#[derive(Debug)]
pub(super) struct Unsent {
    limit: u64,
    is_limited: bool,
    /// The bytes of the current comparison, and its begin.
    bytes: u64,
    since: Moment,
}

impl Unsent {
    /// A receiver of which nothing is known; `limit` holds for it.
    pub(super) fn new(limit: u64, now: Moment) -> Self {
        Self { limit, is_limited: true, bytes: 0, since: now }
    }

    /// The limit that holds now.
    pub(super) fn limit(&self) -> Option<u64> {
        self.is_limited.then_some(self.limit)
    }

    /// The most bytes to read for it at once.
    pub(super) fn most(&self) -> usize {
        self.limit().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Counts bytes for the receiver; returns whether [`limit`](Self::limit) has changed.
    pub(super) fn moved(&mut self, bytes: usize, now: impl FnOnce() -> Moment) -> bool {
        self.bytes += bytes as u64;
        if self.bytes < BYTES {
            return false;
        }
        let now = now();
        let is_slow = self.since.until(now) > WITHIN;
        (self.bytes, self.since) = (0, now);
        std::mem::replace(&mut self.is_limited, is_slow) != is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 18;

    /// Moves `bytes` in steps of 64 KiB, one after each `pause`; returns the time of the last one.
    fn receive(unsent: &mut Unsent, mut now: Moment, bytes: u64, pause: Duration) -> Moment {
        for _ in 0..bytes >> 16 {
            now = now + pause;
            unsent.moved(1 << 16, || now);
        }
        now
    }

    #[test]
    fn only_slow_receivers_have_the_limit() {
        let start = Moment::now();
        let mut unsent = Unsent::new(LIMIT, start);
        assert_eq!(unsent.limit(), Some(LIMIT));
        let now = receive(&mut unsent, start, BYTES - 1, Duration::from_micros(50));
        assert_eq!(unsent.limit(), Some(LIMIT), "it has not taken enough yet");
        let now = receive(&mut unsent, now, BYTES, Duration::from_micros(50));
        assert_eq!(unsent.limit(), None);
        let now = receive(&mut unsent, now, 2 * BYTES, Duration::from_millis(100));
        assert_eq!(unsent.limit(), Some(LIMIT), "it has become slow");
        receive(&mut unsent, now, 2 * BYTES, Duration::from_millis(1));
        assert_eq!(unsent.limit(), None);
    }

    #[test]
    fn the_limit_is_set_and_lifted_once_for_each_change() {
        let start = Moment::now();
        let mut unsent = Unsent::new(LIMIT, start);
        let changes =
            |unsent: &mut Unsent, at: Moment| (0..64).filter(|_| unsent.moved(1 << 16, || at)).count();
        assert_eq!(changes(&mut unsent, start), 1);
        assert_eq!(changes(&mut unsent, start), 0);
    }
}
