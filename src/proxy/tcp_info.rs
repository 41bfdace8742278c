//! Samples of the kernel's statistics of a connection at its end (TCP_INFO), while both sockets are open. Each takes two
//! system calls, so orderly ends are sampled within a budget; failures always are.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::sockets;
use super::stream::Stream;
use crate::domain::{CloseReason, TcpSides};

/// Orderly ends that are sampled …
const BUDGET: u32 = 50;
/// … in this time: 500 a second, which takes a thousandth of a worker's time.
const PERIOD: Duration = Duration::from_millis(100);

/// A worker's sampler, with its budget.
#[derive(Debug, Default)]
pub(super) struct TcpInfoSampler {
    period: Cell<Option<Instant>>,
    spent: Cell<u32>,
}

impl TcpInfoSampler {
    /// Samples a connection that ends for `reason`; `None`: the budget is spent.
    pub(super) fn sample(
        &self,
        reason: CloseReason,
        client: &Stream,
        backend: Option<&Stream>,
    ) -> Option<TcpSides> {
        if reason.is_orderly() && !self.affords(Instant::now()) {
            return None;
        }
        Some(TcpSides {
            client: sockets::tcp_statistics(client),
            backend: backend.and_then(sockets::tcp_statistics),
        })
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
    fn no_more_orderly_ends_are_sampled_than_the_budget_allows() {
        let (tcp_info, now) = (TcpInfoSampler::default(), Instant::now());
        let afforded = |at: Instant| (0..1000).filter(|_| tcp_info.affords(at)).count();
        assert_eq!(afforded(now), BUDGET as usize);
        assert_eq!(afforded(now + PERIOD / 2), 0);
        assert_eq!(afforded(now + PERIOD), BUDGET as usize);
    }
}
