//! Busy polling (`runtime.busy_poll`): a worker that was busy just now polls the kernel for events repeatedly instead
//! of sleeping. Waking up takes more time than a small message; busy polling takes a core instead.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Records activity of a worker's connections.
#[derive(Debug, Default)]
pub struct Pulse {
    beats: Cell<u64>,
    /// The polling task waits for the next activity.
    waiting: Cell<bool>,
    beat: Notify,
}

impl Pulse {
    /// Records activity of a connection.
    pub(super) fn beat(&self) {
        self.beats.set(self.beats.get().wrapping_add(1));
        if self.waiting.replace(false) {
            self.beat.notify_one();
        }
    }

    /// Keeps the worker awake for `time` after each activity. Never returns.
    pub(super) async fn stay_awake(self: Rc<Self>, time: Duration) {
        loop {
            self.waiting.set(true);
            self.beat.notified().await;
            let (mut seen, mut last) = (self.beats.get(), Instant::now());
            while last.elapsed() < time {
                // The runtime polls the kernel before it resumes this task.
                tokio::task::yield_now().await;
                if self.beats.get() != seen {
                    (seen, last) = (self.beats.get(), Instant::now());
                }
            }
        }
    }
}
