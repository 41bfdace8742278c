//! Back-off: the growing delays between attempts at something that keeps failing.

use std::time::Duration;

/// Doubles the delay with each attempt, up to a limit.
#[derive(Clone, Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    /// The delay after a reset.
    initial: Duration,
    next: Duration,
}

impl Backoff {
    /// The first delay is `shortest`, later ones grow up to `longest`.
    pub const fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, initial: shortest, next: shortest }
    }

    /// The same, but the first attempt is immediate.
    pub const fn immediate(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, initial: Duration::ZERO, next: Duration::ZERO }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).clamp(self.shortest, self.longest);
        delay
    }

    /// Makes the next delay at least the shortest one: an immediate attempt is pointless.
    pub fn skip_immediate(&mut self) {
        self.next = self.next.max(self.shortest);
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }

    /// The longest delay.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn delays(backoff: &mut Backoff, n: usize) -> Vec<u64> {
        (0..n).map(|_| backoff.next_delay().as_secs()).collect()
    }

    #[test]
    fn delays_double_up_to_the_limit_until_a_reset() {
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        assert_eq!(delays(&mut backoff, 5), [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(delays(&mut backoff, 2), [1, 2]);
    }

    #[test]
    fn the_first_attempt_is_immediate_unless_that_is_pointless() {
        let mut backoff = Backoff::immediate(seconds(1), seconds(60));
        assert_eq!(delays(&mut backoff, 9), [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        backoff.skip_immediate();
        assert_eq!(delays(&mut backoff, 2), [1, 2]);
        backoff.skip_immediate();
        assert_eq!(delays(&mut backoff, 1), [4], "a longer delay stays");
    }
}
