//! What the kernel knew of a connection when it ended, for those who ask why. It is asked while both sockets are open,
//! and that is a system call for each: always when the connection failed, otherwise as often as a budget allows, so that a
//! busy worker pays nothing to speak of.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::sockets;
use super::stream::Stream;
use crate::domain::CloseReason;
use crate::telemetry::ends::Sides;

/// So many orderly ends are looked into …
const BUDGET: u32 = 50;
/// … in this time: 500 a second, a thousandth of a worker's time.
const PERIOD: Duration = Duration::from_millis(100);

/// A worker's budget, and what was found of the connection that is just being closed. It lies here from the moment when
/// the sockets are still open to when the end is recorded, and nothing comes between the two; each connection would have
/// to hold a place for it all its life.
#[derive(Debug, Default)]
pub(super) struct TcpInfoSampler {
    period: Cell<Option<Instant>>,
    spent: Cell<u32>,
    found: Cell<Option<(u64, Sides)>>,
}

impl TcpInfoSampler {
    /// Looks into the connection of that number, which ends for that reason.
    pub(super) fn look(&self, conn: u64, reason: CloseReason, client: &Stream, backend: Option<&Stream>) {
        if reason.is_orderly() && !self.affords(Instant::now()) {
            return;
        }
        let sides = Sides { client: sockets::path(client), backend: backend.and_then(sockets::path) };
        self.found.set(Some((conn, sides)));
    }

    /// What was found of the connection of that number; `None`: it was not looked into.
    pub(super) fn take(&self, conn: u64) -> Option<Sides> {
        self.found.take().filter(|(of, _)| *of == conn).map(|(_, sides)| sides)
    }

    fn affords(&self, now: Instant) -> bool {
        if self.period.get().is_none_or(|began| now.saturating_duration_since(began) >= PERIOD) {
            self.period.set(Some(now));
            self.spent.set(0);
        }
        let spent = self.spent.get();
        self.spent.set(spent.saturating_add(1));
        spent < BUDGET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_looked_into_than_the_budget_allows() {
        let (tcp_info, now) = (TcpInfoSampler::default(), Instant::now());
        let afforded = |at: Instant| (0..1000).filter(|_| tcp_info.affords(at)).count();
        assert_eq!(afforded(now), BUDGET as usize);
        assert_eq!(afforded(now + PERIOD / 2), 0);
        assert_eq!(afforded(now + PERIOD), BUDGET as usize);
    }

    #[test]
    fn what_was_found_of_one_is_not_told_of_another() {
        let tcp_info = TcpInfoSampler::default();
        tcp_info.found.set(Some((1, Sides::default())));
        assert_eq!(tcp_info.take(2), None);
        tcp_info.found.set(Some((1, Sides::default())));
        assert_eq!((tcp_info.take(1), tcp_info.take(1)), (Some(Sides::default()), None));
    }
}
