//! The thread that writes the files.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::StateFile;
use super::line_file::{LineFile, replace};
use super::saved::{self, SavedBackend, SavedListener, SavedPool, Settings};

/// The pause before a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the disk.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// The number of files of lines.
const FILES: usize = StateFile::ALL.len();

/// Sends a reply that waited until a setting is on the disk.
pub type Reply = Box<dyn FnOnce() + Send>;

/// Queues what is to be written, and starts the thread that writes it.
#[derive(Debug)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// A pool's settings, and the number of the pool: a removed pool must not overwrite those of a new one of its name.
#[derive(Debug)]
struct NumberedPool {
    number: u64,
    saved: SavedPool,
}

#[derive(Default)]
struct Queue {
    /// The lines to append to each file.
    lines: [VecDeque<String>; FILES],
    /// Lines that were dropped because the disk does not take them.
    lost: u64,
    pools: Vec<NumberedPool>,
    /// The listeners that are drained.
    listeners: Vec<SavedListener>,
    /// Whether the settings differ from those on the disk.
    unsaved: bool,
    replies: Vec<Reply>,
    /// When a failed write is retried.
    retry_at: Option<Instant>,
    /// Why the last write failed: the file and the error.
    failure: Option<String>,
    pause: Pause,
    closing: bool,
    closed: bool,
    /// Another process writes the files.
    abandoned: bool,
}

/// Whether the thread writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pause {
    /// It writes what is queued.
    #[default]
    No,
    /// It writes what is queued, and then pauses.
    Requested,
    /// It writes nothing: another process may use the folder.
    Paused,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        !self.unsaved && self.replies.is_empty() && self.lines.iter().all(VecDeque::is_empty)
    }

    /// How long to wait before the next write; `None`: until something is queued.
    fn wait(&self, now: Instant) -> Option<Duration> {
        if self.pause == Pause::Paused && !self.closing {
            return None;
        }
        if self.closing || !self.replies.is_empty() {
            return Some(Duration::ZERO);
        }
        (!self.is_empty())
            .then(|| self.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)))
    }

    /// Queues lines before those that came later; while the disk takes none, the oldest are dropped.
    fn put_back(&mut self, file: usize, lines: VecDeque<String>) {
        let later = std::mem::replace(&mut self.lines[file], lines);
        self.lines[file].extend(later);
        self.bound(file);
    }

    fn bound(&mut self, file: usize) {
        let most = StateFile::ALL[file].kept();
        while self.lines[file].len() > most {
            self.lines[file].pop_front();
            self.lost += 1;
        }
    }

    fn pool(&mut self, name: &str) -> Option<&mut NumberedPool> {
        self.pools.iter_mut().find(|pool| *pool.saved.pool == *name)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread for a folder in which these settings are saved.
    pub(super) fn start(folder: &Path, Settings { pools, listeners }: Settings) -> io::Result<Self> {
        let pools = pools.into_iter().map(|saved| NumberedPool { number: 0, saved }).collect();
        let queue = Mutex::new(Queue { pools, listeners, ..Queue::default() });
        let shared = Arc::new(Shared { queue, changed: Condvar::new() });
        let thread = Thread { folder: folder.to_owned(), files: [const { None }; FILES], failing: false };
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("state".to_owned()).spawn(move || thread.run(&theirs))?;
        Ok(Self(shared))
    }

    /// Why the last write failed; `None`: it succeeded.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.lock().failure.clone()
    }

    pub(super) fn append(&self, file: StateFile, line: String) {
        let mut queue = self.0.lock();
        if queue.abandoned {
            return;
        }
        let index = file as usize;
        queue.lines[index].push_back(line);
        queue.bound(index);
        self.0.changed.notify_all();
    }

    /// A pool starts, with these settings.
    pub(super) fn begin(&self, name: &Arc<str>, number: u64, restored: &[SavedBackend]) {
        let mut queue = self.0.lock();
        match queue.pool(name) {
            Some(pool) => {
                pool.number = number;
                let differs = pool.saved.backends != restored;
                pool.saved.backends = restored.to_vec();
                queue.unsaved |= differs;
            }
            None => {
                let saved = SavedPool { pool: Arc::clone(name), backends: restored.to_vec() };
                queue.pools.push(NumberedPool { number, saved });
            }
        }
        self.0.changed.notify_all();
    }

    /// Forgets a pool that has not started.
    pub(super) fn end(&self, name: &str) {
        let mut queue = self.0.lock();
        queue.pools.retain(|pool| *pool.saved.pool != *name);
        queue.unsaved = true;
        self.0.changed.notify_all();
    }

    pub(super) fn save(&self, name: &str, number: u64, backends: Vec<SavedBackend>, replies: Vec<Reply>) {
        let mut queue = self.0.lock();
        if let Some(pool) = queue.pool(name).filter(|pool| pool.number == number) {
            let differs = pool.saved.backends != backends;
            pool.saved.backends = backends;
            queue.unsaved |= differs && !queue.abandoned;
        }
        self.reply(queue, replies);
    }

    /// The listeners that are drained.
    pub(super) fn listeners(&self) -> Vec<SavedListener> {
        self.0.lock().listeners.clone()
    }

    pub(super) fn save_listener(&self, name: &str, drained: Option<SavedListener>, reply: Reply) {
        let mut queue = self.0.lock();
        queue.listeners.retain(|saved| *saved.listener != *name);
        queue.listeners.extend(drained);
        queue.unsaved |= !queue.abandoned;
        self.reply(queue, vec![reply]);
    }

    /// Sends the replies when what is queued now is on the disk, or cannot be written.
    fn reply(&self, mut queue: MutexGuard<'_, Queue>, replies: Vec<Reply>) {
        if queue.closed {
            drop(queue);
            return replies.into_iter().for_each(|reply| reply());
        }
        queue.replies.extend(replies);
        self.0.changed.notify_all();
    }

    /// Writes what is queued, and then nothing more until [`resume`](Self::resume). Returns whether it is written.
    pub(super) fn pause(&self) -> bool {
        let mut queue = self.0.lock();
        queue.pause = Pause::Requested;
        self.0.changed.notify_all();
        let writing = |queue: &mut Queue| queue.pause != Pause::Paused && !queue.closed;
        let waited = self.0.changed.wait_timeout_while(queue, CLOSE_TIME, writing);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes what was queued during the pause, and continues.
    pub(super) fn resume(&self) {
        self.0.lock().pause = Pause::No;
        self.0.changed.notify_all();
    }

    /// Ends the writing, and drops what was queued during the pause: another process writes the files now.
    pub(super) fn abandon(&self) {
        let mut queue = self.0.lock();
        queue.lines = Default::default();
        queue.unsaved = false;
        queue.abandoned = true;
        drop(queue);
        self.close();
    }

    pub(super) fn close(&self) {
        let mut queue = self.0.lock();
        queue.closing = true;
        self.0.changed.notify_all();
        let open = |queue: &mut Queue| !queue.closed;
        let _ = self.0.changed.wait_timeout_while(queue, CLOSE_TIME, open);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Thread {
    folder: PathBuf,
    /// The files that were written to.
    files: [Option<LineFile>; FILES],
    failing: bool,
}

impl Thread {
    fn run(mut self, shared: &Shared) {
        let mut queue = shared.lock();
        loop {
            if queue.pause == Pause::Requested && queue.is_empty() {
                // The other process may replace the files.
                self.files = [const { None }; FILES];
                queue.pause = Pause::Paused;
                shared.changed.notify_all();
            }
            let now = Instant::now();
            match queue.wait(now) {
                None => {
                    queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    let waited = shared.changed.wait_timeout(queue, wait);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
            }
            let lines = std::mem::take(&mut queue.lines);
            let replies = std::mem::take(&mut queue.replies);
            let settings = std::mem::take(&mut queue.unsaved).then(|| {
                let set = queue.pools.iter().map(|pool| &pool.saved).filter(|pool| !pool.backends.is_empty());
                Settings { pools: set.cloned().collect(), listeners: queue.listeners.clone() }
            });
            let closing = queue.closing;
            drop(queue);

            let mut failed = None;
            let path = saved::path(&self.folder);
            let saved = settings.map_or(Ok(()), |settings| replace(&path, &settings.in_json()));
            let unsaved = saved.is_err();
            failed = failed.or(saved.err().map(|error| ("operators.json", error)));
            replies.into_iter().for_each(|reply| reply());
            let mut unwritten = [const { VecDeque::new() }; FILES];
            for (index, lines) in lines.into_iter().enumerate().filter(|(_, lines)| !lines.is_empty()) {
                if let Err((written, error)) = self.append(index, &lines) {
                    failed = failed.or(Some((StateFile::ALL[index].name(), error)));
                    if !written {
                        unwritten[index] = lines;
                    }
                }
            }
            if closing {
                self.files.iter().flatten().for_each(|file| _ = file.sync());
            }

            queue = shared.lock();
            queue.unsaved |= unsaved;
            for (index, lines) in unwritten.into_iter().enumerate() {
                queue.put_back(index, lines);
            }
            queue.failure = failed.as_ref().map(|(file, error)| format!("{file}: {error}"));
            queue.retry_at = failed.as_ref().map(|_| Instant::now() + RETRY);
            let lost = if failed.is_none() { std::mem::take(&mut queue.lost) } else { 0 };
            drop(queue);
            self.report(failed, lost);
            queue = shared.lock();
            if closing {
                queue.closed = true;
                shared.changed.notify_all();
                return;
            }
        }
    }

    /// Appends lines to a file; an error comes with whether they were written all the same.
    fn append(&mut self, index: usize, lines: &VecDeque<String>) -> Result<(), (bool, io::Error)> {
        let file = StateFile::ALL[index];
        let open = match &mut self.files[index] {
            Some(open) => open,
            closed => {
                let opened = LineFile::open(self.folder.join(file.name()), file.kept());
                closed.insert(opened.map_err(|error| (false, error))?)
            }
        };
        open.append(lines.iter()).map_err(|error| (false, error))?;
        open.compact().map_err(|error| (true, error))
    }

    /// Reports the beginning and the end of a failure.
    fn report(&mut self, failed: Option<(&'static str, io::Error)>, lost: u64) {
        let before = std::mem::replace(&mut self.failing, failed.is_some());
        match failed {
            Some((file, error)) if !before => {
                let path = self.folder.join(file);
                error!(file = %path.display(), %error, "the state cannot be written: a restart would lose changes");
            }
            None if before => info!(folder = %self.folder.display(), lost, "the state is written again"),
            _ => {}
        }
    }
}
