//! What is wrong now, since when, and what to do about it; and how close the process is to its limits.
//!
//! Once a second a task takes a [`Picture`] of the process and counts what has grown ([`growth`]); every few seconds it
//! reads the limits from the kernel ([`kernel`]). The rules (`availability.rs`, `pools.rs`, `process.rs`, `forwarding.rs`,
//! `capacity.rs`) are functions of these alone. [`tracker`] remembers since when each problem exists. All of it runs outside the
//! workers, and reads only what they count in any case.

mod availability;
mod capacity;
mod finding;
mod forwarding;
mod growth;
mod kernel;
mod picture;
mod pools;
mod process;
mod tracker;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

use crate::api::{ProblemInfo, ProblemsReply, Timestamp};
use crate::domain::Severity;
use crate::overview::Overview;
use crate::socket_diag::AcceptQueue;
use capacity::{Measure, Trends};
use finding::Finding;
use growth::{Counter, Grown, SlidingGrowth};
use kernel::KernelPicture;
use picture::Picture;
use tracker::Tracker;

/// The time between two pictures.
const EVERY: Duration = Duration::from_secs(1);
/// The time over which failures are counted, as in the alerts: long enough for a rate, short enough that an operator who
/// has removed a cause soon sees that.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);
/// The time over which shortages count that each second of their duration repeats.
const RECENT: Duration = Duration::from_secs(60);
/// The time between two reads of the kernel's figures.
const KERNEL_EVERY: Duration = Duration::from_secs(5);
/// A read of the kernel's figures is followed by a pause of this many times its CPU time, so that they take at most 2 % of one
/// core, even with a hundred thousand sockets in TIME_WAIT.
const PAUSE_FACTOR: u32 = 50;

/// The input of the rules.
struct Sight<'p> {
    picture: &'p Picture,
    kernel: &'p KernelPicture,
    /// The growth of the counters within `window`, and within [`RECENT`].
    grown: Grown,
    recent: Grown,
    window: Duration,
}

/// The current problems. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems(Arc<Mutex<ProblemWatch>>);

#[derive(Debug, Default)]
struct ProblemWatch {
    picture: Option<Picture>,
    growth: SlidingGrowth,
    measures: Vec<Measure>,
    /// The last figures of the kernel that the picture lacks.
    kernel: KernelPicture,
    /// The packets that conntrack had dropped when the process started.
    drops_before: Option<u64>,
    trends: Trends,
    tracker: Tracker,
    /// The problems of the last picture.
    present: Arc<[ProblemInfo]>,
}

impl Problems {
    /// Examines the process every second until it ends.
    pub(crate) async fn watch(self, overview: Weak<Overview>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_kernel = Instant::now();
        // Another directory takes effect after a restart only.
        let log_directory: Option<Arc<Path>> = overview.upgrade().and_then(|overview| {
            let config = overview.config.load();
            config.log.directory.as_deref().map(|directory| Path::new(directory).into())
        });
        loop {
            ticks.tick().await;
            let kernel = if Instant::now() >= next_kernel {
                let read = tokio::task::spawn_blocking({
                    let log_directory = log_directory.clone();
                    move || {
                        let before = thread_cpu_time();
                        let kernel = KernelPicture::read(log_directory.as_deref());
                        (kernel, thread_cpu_time().saturating_sub(before))
                    }
                });
                let (kernel, took) = read.await.ok().unzip();
                next_kernel = Instant::now() + KERNEL_EVERY.max(took.unwrap_or_default() * PAUSE_FACTOR);
                kernel
            } else {
                None
            };
            let Some(overview) = overview.upgrade() else { return };
            let picture = Picture::of(&overview);
            drop(overview);
            self.lock().look(picture, kernel);
        }
    }

    /// The current problems, the worst first.
    pub(crate) fn present(&self) -> Vec<ProblemInfo> {
        self.lock().present.to_vec()
    }

    /// The number of problems of a severity.
    pub(crate) fn count(&self, severity: Severity) -> u64 {
        self.lock().present.iter().filter(|problem| problem.severity == severity.name()).count() as u64
    }

    /// The current problems and the capacity, with failures counted over `window`, which is [`WINDOW`] at most.
    pub(crate) fn reply(&self, window: Duration) -> ProblemsReply {
        self.lock().reply(window)
    }

    fn lock(&self) -> MutexGuard<'_, ProblemWatch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The CPU time of the calling thread (clock_gettime(2)). On a busy machine a read takes long without using much of it.
fn thread_cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

impl ProblemWatch {
    /// Handles a picture of the process, and one of the kernel if it is new.
    fn look(&mut self, mut picture: Picture, kernel: Option<KernelPicture>) {
        let is_new = kernel.is_some();
        if let Some(kernel) = kernel {
            self.kernel = kernel;
        }
        let own =
            |queue: &&AcceptQueue| picture.listeners.iter().any(|one| one.addresses.contains(&queue.address));
        let dropped =
            self.kernel.accept_queues.iter().filter(own).map(|queue| u64::from(queue.dropped)).sum();
        picture.counters.insert(Counter::AcceptQueueOverflows, dropped);
        if let Some(drops) = self.kernel.conntrack_drops {
            let before = *self.drops_before.get_or_insert(drops);
            picture.counters.insert(Counter::ConntrackDrops, drops.saturating_sub(before));
        }
        self.growth.take(picture.at, WINDOW, std::mem::take(&mut picture.counters));
        self.measures = capacity::measures(&picture, &self.kernel);
        if is_new {
            self.trends.take(picture.at, &self.measures);
        }
        let findings = self.findings(&picture, WINDOW);
        self.tracker.follow(&findings, picture.at, picture.clock);
        self.present = self.tracker.problems(&findings, picture.at, picture.clock).into();
        self.picture = Some(picture);
    }

    fn findings(&self, picture: &Picture, window: Duration) -> Vec<Finding> {
        let grown = self.growth.within(window, picture.at);
        let recent = self.growth.within(RECENT, picture.at);
        let sight = Sight { picture, kernel: &self.kernel, grown, recent, window };
        let mut findings = Vec::new();
        pools::findings(&sight, &mut findings);
        process::findings(&sight, &mut findings);
        forwarding::findings(&sight, &mut findings);
        self.trends.findings(&self.measures, &mut findings);
        findings
    }

    fn reply(&self, window: Duration) -> ProblemsReply {
        let window = window.min(WINDOW);
        let problems = match &self.picture {
            Some(picture) if window < WINDOW => {
                let findings = self.findings(picture, window);
                self.tracker.problems(&findings, picture.at, picture.clock)
            }
            _ => self.present.to_vec(),
        };
        ProblemsReply {
            now: Timestamp::now(),
            window_seconds: window.as_secs(),
            problems,
            capacity: self.trends.capacity(&self.measures),
        }
    }
}

#[cfg(test)]
mod tests;
