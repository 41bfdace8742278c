//! Writes log lines to sinks that may fail: a full disk, a blocked or closed terminal. Lines are written in batches and
//! never torn; lost lines are counted, and the beginning and the end of a failure are reported.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::tail::Tail;

/// How long lines are batched before a write, and the maximum of waiting bytes.
pub(super) const GATHER: Duration = Duration::from_millis(10);
pub(super) const GATHERED: usize = 64 * 1024;
/// How often a blocked sink is retried before its lines are lost.
const TRIES: u32 = 50;
/// The pause before a failed sink is retried.
const RETRY: Duration = Duration::from_millis(100);

/// The state of writing, for several sinks together.
#[derive(Debug, Default)]
pub(super) struct Condition {
    lost: AtomicU64,
    too_slow: AtomicU64,
    failing: AtomicUsize,
}

impl Condition {
    pub(super) const fn new() -> Self {
        Self { lost: AtomicU64::new(0), too_slow: AtomicU64::new(0), failing: AtomicUsize::new(0) }
    }

    /// Lines that were lost because they could not be written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The part of them that was lost because a sink would have blocked for long: this is not reported as a failure.
    pub(super) fn too_slow(&self) -> u64 {
        self.too_slow.load(Ordering::Relaxed)
    }

    /// Whether a sink fails now, and so has waiting lines.
    pub(super) fn fails(&self) -> bool {
        self.failing.load(Ordering::Relaxed) > 0
    }
}

/// Where lines are written.
pub(super) trait LogSink {
    /// Announces the number of bytes of whole lines to come. An error is reported, and the lines are written all the
    /// same.
    fn prepare(&mut self, _bytes: usize) -> io::Result<()> {
        Ok(())
    }

    /// Writes some of the bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Removes the last bytes that were written; returns whether it succeeded.
    fn take_back(&mut self, _bytes: usize) -> bool {
        false
    }
}

/// A sink whose written bytes cannot be removed.
#[derive(Debug)]
pub(super) struct Stream<W>(pub(super) W);

impl<W: Write> LogSink for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
}

/// A change in the state of a sink.
#[derive(Debug)]
pub(super) enum SinkChange {
    /// Writing fails from now on.
    Failed(io::Error),
    /// It works again.
    Works {
        /// Lines that were lost meanwhile.
        lost: u64,
    },
    /// The step before writing fails from now on: no new file can be created.
    NotPrepared(io::Error),
    /// It works again.
    Prepared,
}

/// Writes lines in batches. The writing thread flushes whenever it has caught up; a pause then lets the next lines
/// gather, which would otherwise cost one system call each and wake the connections' threads.
pub(super) struct Lines<P> {
    sink: P,
    /// Whole lines, except for the written part of the first one.
    waiting: Vec<u8>,
    /// The number of bytes at the beginning that are written.
    written: usize,
    /// The in-memory copy of the lines. It gets them before a blocked sink can delay this thread.
    tail: Option<&'static Tail>,
    condition: &'static Condition,
    /// Lines lost since writing began to fail; `None`: it does not fail.
    failing: Option<u64>,
    not_prepared: bool,
    /// The time before which it is not retried.
    next_try: Option<Instant>,
    report: Box<dyn Fn(SinkChange) + Send>,
}

/// The result of an attempt to write the waiting lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Done,
    /// It would block: another process may have made the shared standard error non-blocking.
    Blocked,
    Failed,
}

impl<P: LogSink> Lines<P> {
    pub(super) fn new(
        sink: P,
        tail: Option<&'static Tail>,
        condition: &'static Condition,
        report: impl Fn(SinkChange) + Send + 'static,
    ) -> Self {
        Self {
            sink,
            waiting: Vec::with_capacity(GATHERED),
            written: 0,
            tail,
            condition,
            failing: None,
            not_prepared: false,
            next_try: None,
            report: Box::new(report),
        }
    }

    fn room(&self, line: &[u8]) -> bool {
        self.waiting.is_empty() || self.waiting.len() - self.written + line.len() <= GATHERED
    }

    /// Writes the waiting lines, unless the sink has just failed.
    fn attempt(&mut self) -> Attempt {
        if self.waiting.is_empty() {
            return Attempt::Done;
        }
        if self.next_try.is_some_and(|next| Instant::now() < next) {
            return Attempt::Failed;
        }
        if self.written == 0 {
            let prepared = self.sink.prepare(self.waiting.len());
            match (std::mem::replace(&mut self.not_prepared, prepared.is_err()), prepared) {
                (false, Err(error)) => (self.report)(SinkChange::NotPrepared(error)),
                (true, Ok(())) => (self.report)(SinkChange::Prepared),
                _ => {}
            }
        }
        while self.written < self.waiting.len() {
            let error = match self.sink.write(&self.waiting[self.written..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(bytes) => {
                    self.written += bytes;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Attempt::Blocked,
                Err(error) => error,
            };
            self.failed(error);
            return Attempt::Failed;
        }
        self.waiting.clear();
        self.written = 0;
        self.next_try = None;
        if let Some(lost) = self.failing.take() {
            self.condition.failing.fetch_sub(1, Ordering::Relaxed);
            (self.report)(SinkChange::Works { lost });
        }
        Attempt::Done
    }

    fn failed(&mut self, error: io::Error) {
        // A partly written line is removed, or else completed before anything else is written.
        let whole =
            self.waiting[..self.written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let torn = self.written - whole;
        let taken_back = torn > 0 && self.sink.take_back(torn);
        self.waiting.drain(..whole);
        self.written = if taken_back { 0 } else { torn };
        self.next_try = Some(Instant::now() + RETRY);
        if self.failing.is_none() {
            self.failing = Some(0);
            self.condition.failing.fetch_add(1, Ordering::Relaxed);
            (self.report)(SinkChange::Failed(error));
        }
    }

    /// Writes the waiting lines, and retries a blocked sink for a while.
    fn persist(&mut self) -> Attempt {
        for _ in 1..TRIES {
            match self.attempt() {
                Attempt::Blocked => std::thread::sleep(GATHER),
                ended => return ended,
            }
        }
        self.attempt()
    }

    fn lose(&mut self, lines: &[u8]) {
        let lines = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.condition.lost.fetch_add(lines, Ordering::Relaxed);
        match &mut self.failing {
            Some(lost) => *lost += lines,
            None => _ = self.condition.too_slow.fetch_add(lines, Ordering::Relaxed),
        }
    }
}

/// Errors are handled here: the library does not report them, and after an error it ignores a request to stop.
impl<P: LogSink> Write for Lines<P> {
    /// Accepts whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if let Some(tail) = self.tail {
            tail.add(lines);
        }
        if self.room(lines) || self.persist() == Attempt::Done || self.room(lines) {
            self.waiting.extend_from_slice(lines);
        } else {
            self.lose(lines);
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.persist();
        std::thread::sleep(GATHER);
        Ok(())
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
