//! A task for each check of each backend. It runs one check at a time, so that checks never pile up.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::pace::PoolPace;
use super::{CheckError, CheckTarget, Checked, check};
use crate::config::{Health, SourceAddress, usable_sources};
use crate::domain::SocketAddress;
use crate::task::spawn;
use crate::tls::TlsClient;

/// Receives the results of a checker.
pub(super) type CheckSink = Box<dyn Fn(Checked) + Send>;

/// A running checker; it stops when dropped.
#[derive(Debug)]
pub struct Checker {
    check_now: Arc<Notify>,
    check_soon: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Checker {
    /// Checks `backend` at once, and then every `health.every` at its own offset. Needs a tokio runtime.
    pub fn start(backend: &SocketAddress, health: Health, pace: &PoolPace, sink: CheckSink) -> Self {
        // Behind a port of its own is another server, which expects no PROXY header.
        let (address, proxy_header) = match (backend, health.port) {
            (SocketAddress::Tcp(backend), Some(port)) => (SocketAddr::new(backend.ip(), port).into(), None),
            _ => (backend.clone(), health.proxy_header),
        };
        let kind = health.check.clone();
        let source = usable_sources(&health.source, &address).next().map(SourceAddress::Own);
        let tls = health.tls.clone().map(|tls| TlsClient::new(tls, &address));
        let target = CheckTarget { address, source, proxy_header, tls };
        let shared = Arc::new((target, kind));
        let once = move |deadline| {
            let shared = Arc::clone(&shared);
            async move { check(&shared.0, &shared.1, deadline).await }
        };
        Self::running(health, pace, sink, once)
    }

    fn running<F>(
        health: Health,
        pace: &PoolPace,
        sink: CheckSink,
        check: impl Fn(Instant) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), CheckError>> + Send + 'static,
    {
        let (check_now, check_soon) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let signals = (Arc::clone(&check_now), Arc::clone(&check_soon));
        let task = spawn(run(health, pace.clone(), signals, sink, check));
        Self { check_now, check_soon, _task: AbortOnDropHandle::new(task) }
    }

    /// Checks at once; the regular checks keep their times.
    pub fn check_now(&self) {
        self.check_now.notify_one();
    }

    /// Starts the next check `health.fast_every`, if set, after the start of the last one. The receiver of the results
    /// calls this after each result while the verdict is in transition.
    pub fn check_soon(&self) {
        self.check_soon.notify_one();
    }
}

async fn run<F>(
    health: Health,
    pace: PoolPace,
    (check_now, check_soon): (Arc<Notify>, Arc<Notify>),
    sink: CheckSink,
    check: impl Fn(Instant) -> F,
) where
    F: Future<Output = Result<(), CheckError>>,
{
    let (slots, schedule) = pace.checker(&health);
    loop {
        let due = Instant::now();
        let slot = slots.acquire().await;
        let began = Instant::now();
        let deadline = began + health.timeout;
        let result = timeout_at(deadline, check(deadline)).await.unwrap_or_else(|_| {
            Err(format!("no answer within {}", humantime::format_duration(health.timeout)).into())
        });
        drop(slot);
        let mut next = schedule.regular_after(began);
        sink(Checked { kind: health.check.kind(), result, waited: began - due, took: began.elapsed() });
        loop {
            tokio::select! {
                biased; // requests first: a check that is due fulfills them
                () = check_soon.notified() => next = schedule.soon_after(began),
                () = check_now.notified() => break,
                () = sleep_until(next) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use crate::config::Check;
    use crate::health::Pace;

    const EVERY: Duration = Duration::from_secs(2);

    fn health() -> Health {
        Health { every: EVERY, timeout: Duration::from_secs(1), ..Health::new(Check::Tcp) }
    }

    /// The checks of each of `n` checkers until `end`, with the time at which each began. A check takes `takes`, and at
    /// most `at_once` run at a time.
    async fn checks(
        n: usize,
        at_once: usize,
        takes: Duration,
        end: Duration,
    ) -> Vec<Vec<(Duration, Checked)>> {
        let pace = Arc::new(Pace::new(NonZeroUsize::new(at_once).unwrap())).pool();
        let seen = Arc::new(Mutex::new(vec![Vec::new(); n]));
        let permits = Arc::new(Semaphore::new(at_once));
        let start = Instant::now();
        let checkers: Vec<_> = (0..n)
            .map(|index| {
                let seen = Arc::clone(&seen);
                let sink = move |checked: Checked| {
                    seen.lock().unwrap()[index].push((start.elapsed() - checked.took, checked));
                };
                let permits = Arc::clone(&permits);
                let check = move |_| {
                    let permits = Arc::clone(&permits);
                    async move {
                        let _permit = permits.try_acquire().expect("no more than the limit");
                        tokio::time::sleep(takes).await;
                        Ok(())
                    }
                };
                Checker::running(health(), &pace, Box::new(sink), check)
            })
            .collect();
        tokio::time::sleep(end).await;
        drop(checkers);
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    /// A checker whose checks pass at once, and the times at which they begin.
    fn recorded(health: Health) -> (Checker, Arc<Mutex<Vec<Duration>>>) {
        let pace = Arc::new(Pace::new(NonZeroUsize::MIN)).pool();
        let times = Arc::new(Mutex::new(Vec::new()));
        let (start, noted) = (Instant::now(), Arc::clone(&times));
        let check = move |_| {
            noted.lock().unwrap().push(start.elapsed());
            async { Ok(()) }
        };
        (Checker::running(health, &pace, Box::new(|_| ()), check), times)
    }

    #[tokio::test(start_paused = true)]
    async fn five_hundred_backends_found_at_once_are_checked_at_once_and_then_evenly() {
        const N: u32 = 500;
        let seen = checks(N as usize, 1000, Duration::from_millis(5), 4 * EVERY).await;
        assert!(seen.iter().all(|checks| checks[0].0.is_zero()), "the first check is at once");
        let mut second: Vec<_> = seen.iter().map(|checks| checks[1].0).collect();
        second.sort();
        assert!(second[second.len() - 1] <= EVERY + Duration::from_millis(1));
        // The clock of tokio's timers ticks in milliseconds.
        let most = EVERY * 3 / N + Duration::from_millis(1);
        assert!(second.windows(2).all(|pair| pair[1] - pair[0] <= most), "{second:?}");
        for checks in &seen {
            for pair in checks[1..].windows(2) {
                let interval = pair[1].0 - pair[0].0;
                assert!(
                    interval.abs_diff(EVERY) <= Duration::from_millis(1),
                    "strictly regular: {interval:?}"
                );
            }
            assert!((4..=5).contains(&checks.len()), "{}", checks.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_of_checks_holds_and_waiting_ones_alternate() {
        const TAKES: Duration = Duration::from_millis(900);
        // More than fit into an interval, in which two rounds of the limit fit.
        let seen = checks(100, 10, TAKES, Duration::from_secs(60)).await;
        let counts: Vec<_> = seen.iter().map(Vec::len).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least >= 6 && most - least <= 1, "all get the same: {counts:?}");
        for (_, checked) in seen.iter().flatten() {
            assert_eq!(checked.result, Ok(()), "waiting does not count for the timeout");
            assert!(checked.took.abs_diff(TAKES) <= Duration::from_millis(1), "{:?}", checked.took);
        }
    }

    /// How long the checks of five backends wait, which take 5 ms each, beside a pool of 200 backends whose checks hang
    /// until they time out; with a limit of `at_once` checks.
    async fn waited_beside_silent(at_once: usize) -> Vec<Duration> {
        let pace = Arc::new(Pace::new(NonZeroUsize::new(at_once).unwrap()));
        let (silent, lively) = (pace.pool(), pace.pool());
        let hangs = |_| std::future::pending::<Result<(), CheckError>>();
        let start = |_| Checker::running(health(), &silent, Box::new(|_| ()), hangs);
        let _silent: Vec<_> = (0..200).map(start).collect();
        let waited = Arc::<Mutex<Vec<Duration>>>::default();
        let passes = |_| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        };
        let start = |_| {
            let waited = Arc::clone(&waited);
            let sink = move |checked: Checked| waited.lock().unwrap().push(checked.waited);
            Checker::running(health(), &lively, Box::new(sink), passes)
        };
        let _lively: Vec<_> = (0..5).map(start).collect();
        tokio::time::sleep(5 * EVERY).await;
        waited.lock().unwrap().clear();
        tokio::time::sleep(10 * EVERY).await;
        let waited = waited.lock().unwrap();
        waited.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_of_silent_backends_does_not_delay_the_checks_of_another_pool() {
        for at_once in [2, 20, 150] {
            let waited = waited_beside_silent(at_once).await;
            assert!(waited.len() >= 50, "{at_once}: each is checked every time: {}", waited.len());
            let longest = waited.iter().max().unwrap();
            assert!(*longest <= Duration::from_millis(30), "{at_once}: one waited {longest:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn checkers_that_stop_while_they_wait_release_all_slots() {
        let pace = Arc::new(Pace::new(NonZeroUsize::new(3).unwrap()));
        let hangs = |_| std::future::pending::<Result<(), CheckError>>();
        for round in 0..3 {
            let pool = pace.pool();
            let start = |_| Checker::running(health(), &pool, Box::new(|_| ()), hangs);
            let checkers: Vec<_> = (0..10_000).map(start).collect();
            tokio::time::sleep(EVERY / 10).await;
            assert!(format!("{pace:?}").contains("free: 0"), "{pace:?}");
            drop((checkers, pool));
            // The runtime drops an aborted task at a time of its choice.
            while !format!("{pace:?}").contains("free: 3") {
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert!(round < 3);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_times_out_and_releases_its_slot() {
        let seen = checks(2, 1, Duration::from_secs(3600), Duration::from_millis(2500)).await;
        for (checks, began) in seen.iter().zip([0, 1]) {
            assert_eq!(checks[0].0.as_secs_f64().round() as u64, began);
            assert_eq!(checks[0].1.result, Err("no answer within 1s".to_owned().into()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn checks_are_fast_while_each_result_requests_the_next_one_soon() {
        let fast = EVERY / 10;
        let health = Health { fast_every: Some(fast), ..health() };
        let (checker, times) = recorded(health);
        let start = EVERY + EVERY / 4;
        tokio::time::sleep(start).await;
        for _ in 0..3 {
            // Many requests give no faster checks than one.
            (0..10).for_each(|_| checker.check_soon());
            tokio::time::sleep(fast).await;
        }
        tokio::time::sleep(EVERY * 3 / 10).await;
        let times = times.lock().unwrap();
        let since: Vec<_> = times.iter().filter(|time| **time >= start).map(|time| *time - start).collect();
        assert_eq!(since.len(), 3, "{since:?}");
        for (time, wanted) in since.iter().zip([Duration::ZERO, fast, 2 * fast]) {
            assert!(time.abs_diff(wanted) <= Duration::from_millis(3), "{since:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_extra_check_runs_at_once_and_the_regular_ones_keep_their_times() {
        let (checker, times) = recorded(health());
        let start = EVERY + EVERY / 4;
        tokio::time::sleep(start).await;
        checker.check_now();
        tokio::time::sleep(3 * EVERY).await;
        let times = times.lock().unwrap();
        assert!(times.contains(&start), "{times:?}");
        // The offset of the first checker is zero.
        for regular in [0, 1, 2, 3, 4] {
            let near = |time: &&Duration| time.abs_diff(EVERY * regular) <= Duration::from_millis(1);
            assert_eq!(times.iter().filter(near).count(), 1, "{times:?}");
        }
        assert_eq!(times.len(), 6, "{times:?}");
    }
}
