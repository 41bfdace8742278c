//! Files of lines: each line is one entry in JSON. A crash in the middle of a write leaves an incomplete last line, which
//! is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::set_aside;

/// The mode of the files.
const FILE_MODE: u32 = 0o600;
/// A larger file is not one of ours: the largest ones, with a hundred backends in each of 2,880 lines, have 40 MiB.
const LARGEST: u64 = 256 << 20;

/// Why a line is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It is JSON of a kind that this version does not know.
    Unknown,
    /// It is not JSON.
    Damaged,
}

impl LineError {
    /// The error for a line that could not be deserialized.
    pub fn of(line: &str) -> Self {
        match serde_json::from_str::<serde::de::IgnoredAny>(line) {
            Ok(_) => Self::Unknown,
            Err(_) => Self::Damaged,
        }
    }
}

/// Fails if no file can be created in the folder. A full disk is no such failure: it may have room later.
pub(super) fn check_writable(folder: &Path) -> io::Result<()> {
    let trial = folder.join("trial.new");
    let created = create(&trial);
    let _ = fs::remove_file(&trial);
    match created {
        Err(error) if is_full(&error) => Ok(()),
        created => created.map(drop),
    }
}

/// Whether the disk, or the user's part of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// Replaces a file by one with that content: after a crash it has either the old content or the new one.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = create(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&new); // it takes room on a disk that may be full
    }
    written?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The content of a file; `None`: there is none, or it was set aside.
pub(super) fn content(path: &Path) -> Option<Vec<u8>> {
    let read = || {
        let size = fs::metadata(path)?.len();
        if size > LARGEST {
            return Err(io::Error::other(format!("it has {size} bytes")));
        }
        fs::read(path)
    };
    match read() {
        Ok(content) => Some(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            set_aside(path, &error);
            None
        }
    }
}

/// The complete lines: an incomplete last one was being written when the process ended.
fn complete(content: &[u8]) -> &[u8] {
    let end = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    &content[..end]
}

/// The last `kept` lines as `parse` reads them, and how many it did not know.
pub(super) fn restore<T>(
    path: &Path,
    kept: usize,
    parse: impl Fn(&str) -> Result<T, LineError>,
) -> (Vec<T>, u64) {
    let Some(content) = content(path) else { return (Vec::new(), 0) };
    let (mut entries, mut unknown, mut damaged) = (Vec::new(), 0, 0_usize);
    let mut sound = Vec::new();
    for line in complete(&content).split_inclusive(|byte| *byte == b'\n') {
        let text = std::str::from_utf8(line).map_err(|_| LineError::Damaged);
        match text.and_then(|text| parse(text.trim_end_matches('\n'))) {
            Ok(entry) => entries.push(entry),
            Err(LineError::Unknown) => unknown += 1,
            Err(LineError::Damaged) => {
                damaged += 1;
                continue;
            }
        }
        sound.push(line);
    }
    if unknown > 0 {
        warn!(file = %path.display(), lines = unknown, "state of another version: lines skipped");
    }
    if damaged > 0 {
        set_aside(path, &format_args!("{damaged} lines of it cannot be read"));
        let last = sound.len().saturating_sub(kept);
        if let Err(error) = replace(path, &sound[last..].concat()) {
            warn!(file = %path.display(), %error, "its other lines cannot be written");
        }
    }
    entries.drain(..entries.len().saturating_sub(kept));
    (entries, unknown)
}

/// A file that lines are appended to.
#[derive(Debug)]
pub(super) struct LineFile {
    path: PathBuf,
    /// How many of the last lines are kept.
    kept: usize,
    file: File,
    size: u64,
    lines: usize,
}

impl LineFile {
    /// Opens the file, or creates one, and removes an incomplete last line.
    pub(super) fn open(path: PathBuf, kept: usize) -> io::Result<Self> {
        let content = content(&path).unwrap_or_default();
        let complete = complete(&content);
        let lines = complete.iter().filter(|byte| **byte == b'\n').count();
        let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(&path)?;
        let size = complete.len() as u64;
        file.set_len(size)?;
        Ok(Self { path, kept, file, size, lines })
    }

    /// Appends lines: all of them or, after an error, none.
    pub(super) fn append<'l>(&mut self, lines: impl Iterator<Item = &'l String>) -> io::Result<()> {
        let (mut text, mut added) = (String::new(), 0);
        for line in lines {
            text.push_str(line);
            text.push('\n');
            added += 1;
        }
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += text.len() as u64;
        self.lines += added;
        Ok(())
    }

    /// Drops the older lines when there are twice as many as are kept.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        if self.lines < 2 * self.kept {
            return Ok(());
        }
        let content = fs::read(&self.path)?;
        let lines: Vec<_> = complete(&content).split_inclusive(|byte| *byte == b'\n').collect();
        replace(&self.path, &lines[lines.len().saturating_sub(self.kept)..].concat())?;
        *self = Self::open(self.path.clone(), self.kept)?;
        Ok(())
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
