//! The rolling log files: a new one each day or hour, in UTC, and before one grows too large. A limited number of them
//! is kept.
//!
//! The library's roller has no size limit, reports no error when it cannot create a file, and cannot remove a torn
//! line.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lines::LogSink;
use crate::config::Rotation;

/// The name of the only file, or of the link to the latest file.
const LATEST: &str = "pointsman.log";
const PREFIX: &str = "pointsman.";
const SUFFIX: &str = ".log";
/// The new link before it replaces the old one.
const NEW_LINK: &str = ".pointsman.log.new";
/// The pause before a failed file creation is retried.
const AGAIN: Duration = Duration::from_secs(1);

/// The configuration of the files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) rotation: Rotation,
    /// The size limit of a file, in bytes; only a single longer line exceeds it.
    pub(super) max_size: Option<u64>,
    /// The number of files to keep, the latest included.
    pub(super) keep: usize,
}

/// Identifies a file and gives the order of files: the period, as in the file's name (empty without rotation), and a
/// number.
///
/// With rotation the number counts the files of a period, from 0. Without rotation it counts the former latest files;
/// the latest file has no number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    period: String,
    number: u64,
}

impl Mark {
    fn name(&self) -> String {
        match (&*self.period, self.number) {
            ("", number) => format!("{PREFIX}{number}{SUFFIX}"),
            (period, 0) => format!("{PREFIX}{period}{SUFFIX}"),
            (period, number) => format!("{PREFIX}{period}.{number}{SUFFIX}"),
        }
    }

    /// The mark in that file name, if it is a log file.
    fn of(name: &OsStr) -> Option<Self> {
        let middle = name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let mark = match middle.split_once('.') {
            Some((period, number)) => Self { period: period.to_owned(), number: number.parse().ok()? },
            None => match middle.parse() {
                Ok(number) => Self { period: String::new(), number },
                Err(_) => Self { period: middle.to_owned(), number: 0 },
            },
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_period = mark.period.is_empty()
            || matches!(mark.period.len(), 10 | 13) && mark.period.split('-').all(digits);
        (is_period && mark.name() == name.to_str()?).then_some(mark)
    }
}

/// The files of a directory.
#[derive(Debug)]
pub(super) struct LogFiles {
    directory: PathBuf,
    plan: Plan,
    clock: fn() -> SystemTime,
    file: File,
    /// Its size, if no other program writes to it.
    size: u64,
    /// Its mark; without rotation it has none yet.
    mark: Option<Mark>,
    /// The existing content ends in the middle of a line.
    mend: bool,
    /// Creating a file has failed; the time of the next try.
    next_try: Option<SystemTime>,
}

impl LogFiles {
    /// Continues the latest file in `directory`, or creates one; `clock` returns the time.
    pub(super) fn open(directory: PathBuf, plan: Plan, clock: fn() -> SystemTime) -> io::Result<Self> {
        let mark = match period(plan.rotation, clock()) {
            None => None,
            Some(period) => {
                let latest = marks(&directory)?.into_iter().filter(|mark| mark.period == period).max();
                Some(latest.unwrap_or(Mark { period, number: 0 }))
            }
        };
        let (file, size, mend) = begin(&directory, mark.as_ref())?;
        let files = Self { directory, plan, clock, file, size, mark, mend, next_try: None };
        files.prune()?;
        Ok(files)
    }

    /// Opens the file for the next lines, unless it is already open.
    fn roll(&mut self, bytes: usize) -> io::Result<()> {
        let period = period(self.plan.rotation, (self.clock)());
        let same_period = self.mark.as_ref().map(|mark| &mark.period) == period.as_ref();
        let too_large = self
            .plan
            .max_size
            .is_some_and(|most| self.size > 0 && self.size.saturating_add(bytes as u64) > most);
        if same_period && !too_large {
            return Ok(());
        }
        let last = |period: &str| -> io::Result<Option<u64>> {
            let marks = marks(&self.directory)?.into_iter();
            Ok(marks.filter(|mark| mark.period == period).map(|mark| mark.number).max())
        };
        let mark = match period {
            Some(period) => {
                let number = last(&period)?.map_or(0, |last| last + 1);
                Some(Mark { period, number })
            }
            None => {
                let number = last("")?.map_or(1, |last| last + 1);
                let full = Mark { period: String::new(), number };
                match fs::rename(self.directory.join(LATEST), self.directory.join(full.name())) {
                    // Another program has moved it, or it was moved here and the next file could not be created.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    renamed => renamed?,
                }
                None
            }
        };
        (self.file, self.size, self.mend) = begin(&self.directory, mark.as_ref())?;
        self.mark = mark;
        self.prune()
    }

    /// Removes the oldest files.
    fn prune(&self) -> io::Result<()> {
        let mut marks = marks(&self.directory)?;
        marks.sort_unstable();
        // Without rotation the latest file has no mark.
        let keep = if self.mark.is_some() { self.plan.keep } else { self.plan.keep - 1 };
        for mark in &marks[..marks.len().saturating_sub(keep)] {
            if Some(mark) != self.mark.as_ref() {
                fs::remove_file(self.directory.join(mark.name()))?;
            }
        }
        Ok(())
    }
}

impl LogSink for LogFiles {
    fn prepare(&mut self, bytes: usize) -> io::Result<()> {
        let now = (self.clock)();
        // A clock that was set back must not delay it for long.
        let wait =
            |next: SystemTime| next.duration_since(now).is_ok_and(|wait| !wait.is_zero() && wait <= AGAIN);
        if self.next_try.is_some_and(wait) {
            return Err(io::Error::other("a file could not be begun a moment ago"));
        }
        let rolled = self.roll(bytes);
        self.next_try = rolled.is_err().then(|| now + AGAIN);
        rolled
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.mend {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.mend = false;
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn take_back(&mut self, bytes: usize) -> bool {
        // If another process has appended lines, truncating would remove them too.
        let alone = self.file.metadata().is_ok_and(|file| file.len() == self.size);
        let left = self.size.saturating_sub(bytes as u64);
        let taken_back = alone && self.file.set_len(left).is_ok();
        if taken_back {
            self.size = left;
        }
        taken_back
    }
}

/// The period of a time as written in a file's name; `None`: there is only one.
fn period(rotation: Rotation, time: SystemTime) -> Option<String> {
    // `2026-11-22T13:59:59Z`; before 1970 the clock is not set.
    let text = humantime::format_rfc3339_seconds(time.max(UNIX_EPOCH)).to_string();
    match rotation {
        Rotation::Never => None,
        Rotation::Daily => Some(text[..10].to_owned()),
        Rotation::Hourly => Some(text[..13].replace('T', "-")),
    }
}

/// The marks of the files in a directory.
fn marks(directory: &Path) -> io::Result<Vec<Mark>> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(directory)? {
        marks.extend(Mark::of(&entry?.file_name()));
    }
    Ok(marks)
}

/// Opens a file for appending: the file, its size, and whether it ends in the middle of a line.
fn begin(directory: &Path, mark: Option<&Mark>) -> io::Result<(File, u64, bool)> {
    let latest = directory.join(LATEST);
    let name = mark.map_or(LATEST.to_owned(), Mark::name);
    let is_link = fs::symlink_metadata(&latest).map(|found| found.is_symlink());
    if mark.is_none() && matches!(is_link, Ok(true)) {
        fs::remove_file(&latest)?; // from an earlier run with rotation
    }
    let file = OpenOptions::new().read(true).append(true).create(true).open(directory.join(&name))?;
    let size = file.metadata()?.len();
    let mut end = [b'\n'];
    if size > 0 {
        file.read_exact_at(&mut end, size - 1)?;
    }
    if mark.is_some() {
        if matches!(is_link, Ok(false)) {
            // The file of an earlier run without rotation.
            let numbers = marks(directory)?.into_iter().filter(|mark| mark.period.is_empty());
            let number = numbers.map(|mark| mark.number).max().map_or(1, |last| last + 1);
            fs::rename(&latest, directory.join(Mark { period: String::new(), number }.name()))?;
        }
        // Renamed over the old link, so that a link always exists; an absolute path would break if the directory is
        // renamed.
        let new = directory.join(NEW_LINK);
        let _ = fs::remove_file(&new);
        symlink(&name, &new)?;
        fs::rename(&new, &latest)?;
    }
    Ok((file, size, end != *b"\n"))
}

#[cfg(test)]
#[path = "log_files_tests.rs"]
mod tests;
