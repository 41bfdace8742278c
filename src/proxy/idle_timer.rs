//! When an idle connection is probed and when it is closed. Pure: the worker's tick passes the time.
//!
//! Bytes that the relay has written may still be on their way to a slow reader, so the kernel is queried before an idle
//! connection is closed: at each quarter of its time limit, and when the limit expires. It is also queried after each
//! keepalive time, to detect peers that vanished with bytes in flight.

use std::time::Duration;

use super::clock::Moment;

/// Probes within a time limit, so that bytes that the kernel still moves are detected before the limit expires.
const PROBES: u32 = 4;

/// The times that apply to a connection; `None`: not limited.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdleLimits {
    /// The connection is closed when it has been idle for this long.
    pub(super) timeout: Option<Duration>,
    /// The TCP keepalive times of the client and of the backend.
    pub(super) keepalives: [Option<Duration>; 2],
}

impl IdleLimits {
    /// The time between probes.
    fn probe_interval(&self) -> Option<Duration> {
        let [client, backend] = self.keepalives;
        [self.timeout.map(|limit| limit / PROBES), client, backend].into_iter().flatten().min()
    }
}

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleStep {
    Nothing,
    /// Query whether the kernel moves bytes, and report it with [`IdleTimer::moved`] if so.
    Probe,
    /// Nothing has moved for the whole time limit.
    Close,
}

/// The idle timer of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleTimer {
    last_moved: Moment,
    /// The last probe, or the last byte if no probe followed it.
    last_probe: Moment,
    /// Probes since the last byte.
    probes: u32,
    /// A probe is due and not yet taken.
    probing: bool,
}

impl IdleTimer {
    /// The timer of a connection that was routed now.
    pub(super) fn new(now: Moment) -> Self {
        Self { last_moved: now, last_probe: now, probes: 0, probing: false }
    }

    /// A byte has moved since the last step.
    pub(super) fn moved(&mut self, now: Moment) {
        (self.last_moved, self.last_probe, self.probes) = (now, now, 0);
    }

    /// When a byte moved last, or when the connection was routed.
    pub(super) fn last_moved(&self) -> Moment {
        self.last_moved
    }

    /// What is due now; nothing until a due probe is taken.
    pub(super) fn step(&mut self, now: Moment, limits: &IdleLimits) -> IdleStep {
        if self.probing {
            return IdleStep::Nothing;
        }
        let expired = |at: Moment| limits.timeout.is_some_and(|limit| self.last_moved.until(at) >= limit);
        // One probe is not enough: the bytes that the kernel holds are compared with those at the previous probe.
        if expired(self.last_probe) && self.probes > 1 {
            return IdleStep::Close;
        }
        let is_due = limits.probe_interval().is_some_and(|interval| self.last_probe.until(now) >= interval);
        if is_due || expired(now) && !expired(self.last_probe) {
            (self.last_probe, self.probes, self.probing) = (now, self.probes + 1, true);
            return IdleStep::Probe;
        }
        IdleStep::Nothing
    }

    /// The first moment at which [`step`](Self::step) may find something due if no byte moves; `None`: never.
    pub(super) fn next(&self, limits: &IdleLimits) -> Option<Moment> {
        if self.probing {
            return Some(self.last_probe); // when the probe is taken
        }
        let probe = limits.probe_interval().map(|interval| self.last_probe + interval);
        let expiry = limits.timeout.map(|limit| self.last_moved + limit);
        probe.into_iter().chain(expiry).min()
    }

    /// Takes the probe that is due, if any; returns whether it is the first since the last byte.
    pub(super) fn take_probe(&mut self) -> Option<bool> {
        std::mem::take(&mut self.probing).then_some(self.probes <= 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: Duration = Duration::from_millis(100);
    /// One tick finds the limit expired and probes, the next one closes; and a tick is up to its length late.
    const LATE: Duration = Duration::from_millis(300);
    const NO_LIMITS: IdleLimits = IdleLimits { timeout: None, keepalives: [None; 2] };

    fn idle(timeout: Duration) -> IdleLimits {
        IdleLimits { timeout: Some(timeout), ..NO_LIMITS }
    }

    /// Ticks for `ticks` ticks and takes each probe at once. `moves(tick, probed)`: whether a byte moves. The ticks of
    /// the probes, and the one that closes.
    fn run(limits: &IdleLimits, ticks: u32, moves: impl Fn(u32, bool) -> bool) -> (Vec<u32>, Option<u32>) {
        let start = Moment::now();
        let (mut timer, mut probes) = (IdleTimer::new(start), Vec::new());
        for tick in 1..=ticks {
            let now = start + TICK * tick;
            if moves(tick, false) {
                timer.moved(now);
            }
            match timer.step(now, limits) {
                IdleStep::Nothing => {}
                IdleStep::Probe => {
                    probes.push(tick);
                    let first = timer.take_probe().unwrap();
                    if !first && moves(tick, true) {
                        timer.moved(now);
                    }
                }
                IdleStep::Close => return (probes, Some(tick)),
            }
        }
        (probes, None)
    }

    proptest! {
        #[test]
        fn a_connection_is_closed_at_its_limit_after_the_last_byte_or_slightly_later(
            limit in 1u64..20_000, moved in proptest::collection::btree_set(1u32..200, 0..20),
        ) {
            let limit = Duration::from_millis(limit);
            let (probes, closed) = run(&idle(limit), 500, |tick, probed| !probed && moved.contains(&tick));
            let closed = closed.unwrap();
            let last = moved.iter().rev().find(|tick| **tick <= closed).copied().unwrap_or(0);
            let idle = TICK * (closed - last);
            prop_assert!(limit <= idle && idle <= limit + LATE, "{idle:?} of {limit:?}");
            prop_assert!(probes.iter().filter(|tick| **tick > last).count() > 1, "{probes:?}");
        }

        #[test]
        fn a_connection_is_not_closed_while_the_kernel_moves_its_bytes(limit in 1u64..20_000) {
            let (_, closed) = run(&idle(Duration::from_millis(limit)), 1000, |_, probed| probed);
            prop_assert_eq!(closed, None);
        }

        #[test]
        fn nothing_is_due_as_long_as_a_probe_is_not_taken(limit in 1u64..5_000, ticks in 1u32..200) {
            let (start, limits) = (Moment::now(), idle(Duration::from_millis(limit)));
            let mut timer = IdleTimer::new(start);
            let steps = (1..=ticks).map(|tick| timer.step(start + TICK * tick, &limits));
            let due = steps.filter(|step| *step != IdleStep::Nothing).collect::<Vec<_>>();
            prop_assert!(due.is_empty() || due == [IdleStep::Probe]);
            prop_assert_eq!(timer.take_probe(), (!due.is_empty()).then_some(true));
            prop_assert_eq!(timer.take_probe(), None);
        }
    }

    #[test]
    fn probes_are_due_at_each_quarter_of_the_limit_and_after_each_keepalive() {
        let seconds = |n| Some(Duration::from_secs(n));
        let keepalives = |client, backend| IdleLimits { keepalives: [client, backend], ..NO_LIMITS };
        let within_20_s = |limits| run(&limits, 199, |_, _| false);
        assert_eq!(within_20_s(NO_LIMITS), (vec![], None));
        assert_eq!(within_20_s(idle(Duration::from_secs(40))), (vec![100], None));
        assert_eq!(within_20_s(keepalives(seconds(6), seconds(9))), (vec![60, 120, 180], None));
        assert_eq!(within_20_s(keepalives(seconds(6), seconds(4))), (vec![40, 80, 120, 160], None));
        assert_eq!(within_20_s(idle(Duration::from_secs(4))), (vec![10, 20, 30, 40], Some(41)));
    }
}
