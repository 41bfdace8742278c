//! What outlives the process (`runtime.state`): what operators set for backends and listeners, events, and the history.
//!
//! It is a folder that one process at a time uses. A thread writes the files, so that a slow or full disk delays no check
//! and no connection; only the reply to an operator waits until the setting is on the disk. Three files are lists of
//! lines ([`line_file`]): they are appended to, and rewritten when they have become twice as long as what is kept.
//! `operators.json` is replaced as a whole.
//!
//! Without `runtime.state` nothing is read or written: [`StateDirectory::default`] does nothing.

mod line_file;
mod saved;
mod writer;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::error;

pub use line_file::LineError;
pub use saved::{SavedBackend, SavedListener, SavedState, SavedWeight};
use saved::{SavedPool, Settings};
pub use writer::Reply;
use writer::Writer;

/// The mode of the folder and of its files: events name clients and operators.
const FOLDER_MODE: u32 = 0o700;

/// A file of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFile {
    /// The journal of events.
    Events,
    /// The history in steps of ten seconds.
    TenSeconds,
    /// The history in steps of a minute.
    Minutes,
}

impl StateFile {
    const ALL: [Self; 3] = [Self::Events, Self::TenSeconds, Self::Minutes];

    /// Its name in the folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events.jsonl",
            Self::TenSeconds => "history-10s.jsonl",
            Self::Minutes => "history-60s.jsonl",
        }
    }

    /// How many of the last lines are kept.
    pub const fn kept(self) -> usize {
        match self {
            Self::Events => 4096,
            Self::TenSeconds => 360,
            Self::Minutes => 1440,
        }
    }
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("another process uses it; each instance needs a folder of its own")]
    InUse,
    /// It cannot be created, locked or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The folder of the running process, or none. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct StateDirectory(Option<Arc<OpenDirectory>>);

#[derive(Debug)]
struct OpenDirectory {
    path: PathBuf,
    writer: Writer,
    /// What operators had set before the start, until the pool starts.
    restored: Mutex<Vec<SavedPool>>,
    /// How many pools have started.
    pools: AtomicU64,
    /// The open folder, which is locked.
    lock: File,
}

impl StateDirectory {
    /// Opens the folder, which is created if it does not exist, and locks it for this process. `inherited`: the folder of
    /// the process before, which it has locked; it is used if it is the same one.
    pub fn open(path: &Path, inherited: Option<OwnedFd>) -> Result<Self, OpenError> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
        let opened = File::open(path)?;
        let inherited = inherited.map(File::from);
        // The lock belongs to the open file, whichever process has it (flock(2)).
        let lock = match inherited.filter(|inherited| is_same(inherited, &opened)) {
            Some(inherited) => inherited,
            None => {
                match opened.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Err(OpenError::InUse),
                    Err(TryLockError::Error(error)) => return Err(error.into()),
                }
                opened
            }
        };
        line_file::check_writable(path)?;
        let settings = Settings::read(path);
        let restored = Mutex::new(settings.pools.clone());
        let writer = Writer::start(path, settings)?;
        let opened = OpenDirectory { path: path.to_owned(), writer, restored, pools: 0.into(), lock };
        Ok(Self(Some(Arc::new(opened))))
    }

    /// Whether there is a folder.
    pub fn is_configured(&self) -> bool {
        self.0.is_some()
    }

    /// The last lines of a file as `parse` reads them, the oldest first, and how many it did not know. A damaged file is
    /// set aside, and its other lines are kept.
    pub fn read<T>(&self, file: StateFile, parse: impl Fn(&str) -> Result<T, LineError>) -> (Vec<T>, u64) {
        let Some(opened) = &self.0 else { return (Vec::new(), 0) };
        line_file::restore(&opened.path.join(file.name()), file.kept(), parse)
    }

    /// Appends a line to a file, in the background.
    pub fn append(&self, file: StateFile, line: String) {
        if let Some(opened) = &self.0 {
            opened.writer.append(file, line);
        }
    }

    /// Why the folder cannot be written now.
    pub fn failure(&self) -> Option<String> {
        self.0.as_ref()?.writer.failure()
    }

    /// Where a pool that starts now saves what operators set, and what they had set before the start of the process.
    pub fn pool(&self, name: &Arc<str>) -> (SavedSettings, Vec<SavedBackend>) {
        let Some(opened) = &self.0 else { return (SavedSettings::default(), Vec::new()) };
        let restored = {
            let mut restored = opened.restored.lock().unwrap_or_else(PoisonError::into_inner);
            let index = restored.iter().position(|saved| saved.pool == *name);
            index.map(|index| restored.swap_remove(index).backends).unwrap_or_default()
        };
        let number = opened.pools.fetch_add(1, Ordering::Relaxed) + 1;
        opened.writer.begin(name, number, &restored);
        let settings = SavedSettings(Some((Arc::clone(opened), Arc::clone(name), number)));
        (settings, restored)
    }

    /// Drops what was set in pools that have not started: the configuration no longer has them.
    pub fn drop_other_pools(&self) {
        let Some(opened) = &self.0 else { return };
        let others = std::mem::take(&mut *opened.restored.lock().unwrap_or_else(PoisonError::into_inner));
        for other in &others {
            for saved in &other.backends {
                saved.log_dropped(&other.pool, "the configuration no longer has its pool");
            }
            opened.writer.end(&other.pool);
        }
    }

    /// The listeners that operators drain, since before the start of the process too.
    pub fn drained_listeners(&self) -> Vec<SavedListener> {
        self.0.as_ref().map(|opened| opened.writer.listeners()).unwrap_or_default()
    }

    /// Saves that a listener is drained, or no longer. The reply is sent when that is on the disk, or cannot be written, or
    /// at once without a folder.
    pub fn save_listener(&self, name: &str, drained: Option<SavedListener>, reply: Reply) {
        match &self.0 {
            Some(opened) => opened.writer.save_listener(name, drained, reply),
            None => reply(),
        }
    }

    /// Writes what is queued and pauses, so that a process that takes over can read the files. Returns the locked folder
    /// for it; `None`: there is no folder.
    pub fn hand_over(&self) -> io::Result<Option<OwnedFd>> {
        let Some(opened) = &self.0 else { return Ok(None) };
        let lock = opened.lock.try_clone()?;
        if !opened.writer.pause() {
            opened.writer.resume();
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the state directory cannot be written"));
        }
        Ok(Some(lock.into()))
    }

    /// The other process did not take over: writes what was queued since.
    pub fn resume(&self) {
        if let Some(opened) = &self.0 {
            opened.writer.resume();
        }
    }

    /// The other process has taken over, and writes the files from now on.
    pub fn abandon(&self) {
        if let Some(opened) = &self.0 {
            opened.writer.abandon();
        }
    }

    /// Writes what is queued, and ends the writing.
    pub fn close(&self) {
        if let Some(opened) = &self.0 {
            opened.writer.close();
        }
    }
}

/// Where a pool saves what operators set for its backends.
#[derive(Clone, Debug, Default)]
pub struct SavedSettings(Option<(Arc<OpenDirectory>, Arc<str>, u64)>);

impl SavedSettings {
    /// Saves what is set now. The replies are sent when it is on the disk, or cannot be written, or at once without a
    /// folder.
    pub fn save(&self, backends: Vec<SavedBackend>, replies: Vec<Reply>) {
        match &self.0 {
            Some((opened, pool, number)) => opened.writer.save(pool, *number, backends, replies),
            None => replies.into_iter().for_each(|reply| reply()),
        }
    }
}

/// Whether both are open handles of one folder.
fn is_same(one: &File, other: &File) -> bool {
    let inode = |file: &File| file.metadata().map(|found| (found.dev(), found.ino())).ok();
    inode(one).is_some_and(|inode_of_one| inode(other) == Some(inode_of_one))
}

/// Renames a damaged file, so that it does not prevent the start, and reports it.
fn set_aside(path: &Path, why: &dyn std::fmt::Display) {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".damaged");
    let aside = path.with_file_name(name);
    let renamed = fs::rename(path, &aside);
    error!(file = %path.display(), error = %why, aside = %aside.display(), "damaged state file: set aside");
    if let Err(error) = renamed {
        error!(file = %path.display(), %error, "it cannot be set aside, and will be overwritten");
    }
}

#[cfg(test)]
mod tests;
