//! The log: to standard error, and to rolling files if asked.
//!
//! Lines are handed to a thread of their own, so that a full disk or a blocked terminal never holds up a
//! connection. When it cannot keep up, lines are dropped, and counted.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::{error, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, WorkerGuard};
use tracing_appender::rolling::{self, RollingFileAppender};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::CONNECTIONS;
use super::tail::Tail;
use super::text::TextFields;
use crate::config::{Level, Log, LogFormat, Rotation};

/// Variables that override `log.level`, the first that is set: filters in the syntax of `tracing`.
const FILTERS: [&str; 2] = ["POINTSMAN_LOG", "RUST_LOG"];
/// How often newly dropped lines are reported.
const REPORT: Duration = Duration::from_secs(10);

/// How long lines gather before they are written together, and how many bytes of them at most.
const GATHER: Duration = Duration::from_millis(10);
const GATHERED: usize = 64 * 1024;
/// How often they are offered to somebody who does not take them now.
const TRIES: u32 = 50;

/// One counter for each place that lines go to.
static DROPPED: Mutex<Vec<ErrorCounter>> = Mutex::new(Vec::new());

/// The last lines.
static TAIL: Tail = Tail::new();

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable holds no filter.
    #[error("{variable}={value:?} is not a log filter: {error}; write for example {variable}=debug")]
    Filter {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        error: String,
    },
    /// The files cannot be written.
    #[error("the log directory {} cannot be used: {error}; set log.directory to one that can be written", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        error: String,
    },
    /// There is a log already.
    #[error("a log is set up already: {0}")]
    Twice(String),
}

/// Keeps the log going. Drop it last, and return from `main` instead of exiting: what is still under way to
/// the files is written when it is dropped.
pub struct Guard {
    filter: reload::Handle<EnvFilter, Registry>,
    _writers: Vec<WorkerGuard>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

/// Sets up the log of the process.
pub fn init(config: &Log) -> Result<Guard, Error> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let mut writers = Vec::new();
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let files = config.directory.as_deref().map(|directory| files(config, directory)).transpose()?;
    // One of the two feeds the tail: the files, whose lines have no colours to be taken out.
    let (of_stderr, of_files) = if files.is_some() { (None, Some(&TAIL)) } else { (Some(&TAIL), None) };
    let stderr = not_blocking(io::stderr(), of_stderr, &mut writers);
    let files = files.map(|files| not_blocking(files, of_files, &mut writers));
    let layers = match files {
        None => vec![layer(config.format, colour, BoxMakeWriter::new(stderr))],
        // The same bytes for both: put into words once.
        Some(files) if !colour => {
            vec![layer(config.format, false, BoxMakeWriter::new(stderr.and(files)))]
        }
        Some(files) => vec![
            layer(config.format, true, BoxMakeWriter::new(stderr)),
            layer(config.format, false, BoxMakeWriter::new(files)),
        ],
    };
    let registry = tracing_subscriber::registry().with(filter).with(layers);
    registry.try_init().map_err(|error| Error::Twice(error.to_string()))?;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        error!(%panic, "a fault of our own: please report it");
        before(panic);
    }));
    Ok(Guard { filter: handle, _writers: writers })
}

impl Guard {
    /// Takes another level, and another word on the lines of connections. The rest of the log's settings take a
    /// restart.
    pub fn reconfigure(&self, config: &Log) -> Result<(), Error> {
        let filter = filter(config)?;
        // It fails only when the log is gone, and then there is nobody to tell.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

/// The last lines that were written.
pub fn tail() -> &'static Tail {
    &TAIL
}

/// Lines that were dropped since the start.
pub fn dropped_lines() -> u64 {
    let counters = DROPPED.lock().unwrap_or_else(PoisonError::into_inner);
    counters.iter().map(|counter| counter.dropped_lines() as u64).sum()
}

/// Says, now and then and for ever, when lines were dropped.
pub async fn report_dropped() {
    let mut before = 0;
    loop {
        tokio::time::sleep(REPORT).await;
        let now = dropped_lines();
        if now > before {
            warn!(
                lines = now - before,
                "log lines were dropped: they came faster than they could be written"
            );
        }
        before = now;
    }
}

fn filter(config: &Log) -> Result<EnvFilter, Error> {
    let set = FILTERS.iter().find_map(|variable| {
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
        Some((*variable, value))
    });
    let level = match config.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    // The resolver says of its own failures what the pools say better.
    let default = format!("{level},hickory_net=error,hickory_resolver=error,hickory_proto=error");
    let mut directives = set.as_ref().map_or(default, |(_, value)| value.clone());
    if !config.connections {
        directives.push_str(&format!(",{CONNECTIONS}=off"));
    }
    EnvFilter::try_new(directives).map_err(|error| {
        let (variable, value) = set.unwrap_or((FILTERS[0], String::new()));
        Error::Filter { variable, value, error: error.to_string() }
    })
}

fn not_blocking(
    writer: impl io::Write + Send + 'static,
    tail: Option<&'static Tail>,
    guards: &mut Vec<WorkerGuard>,
) -> NonBlocking {
    let gathering = Gathering { writer: BufWriter::with_capacity(GATHERED, writer), tail };
    let (writer, guard) = tracing_appender::non_blocking(gathering);
    DROPPED.lock().unwrap_or_else(PoisonError::into_inner).push(writer.error_counter());
    guards.push(guard);
    writer
}

/// Writes lines together. The thread that writes flushes whenever it has caught up; a pause then lets the next lines
/// gather, which otherwise would cost a system call each, and their connections a wake-up.
struct Gathering<W: Write> {
    writer: BufWriter<W>,
    /// Where the lines are kept too. They are there before somebody who does not take them holds this thread up.
    tail: Option<&'static Tail>,
}

impl<W: Write> Write for Gathering<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(tail) = self.tail {
            tail.add(line);
        }
        // All of it: it would come again, and be in the tail twice.
        self.writer.write_all(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        for _ in 0..TRIES {
            let flushed = self.writer.flush();
            std::thread::sleep(GATHER);
            // Somebody else may have made our standard error non-blocking.
            if !flushed.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        // Of an error the library would tell nobody, and forget that it is to stop.
        Ok(())
    }
}

fn files(config: &Log, directory: &Path) -> Result<RollingFileAppender, Error> {
    let rotation = match config.rotation {
        Rotation::Hourly => rolling::Rotation::HOURLY,
        Rotation::Daily => rolling::Rotation::DAILY,
        Rotation::Never => rolling::Rotation::NEVER,
    };
    let failed = |error: String| Error::Directory { directory: directory.to_owned(), error };
    std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
    // The link to the latest file stands in the directory itself: from there, a relative path would lead elsewhere.
    let absolute = directory.canonicalize().map_err(|error| failed(error.to_string()))?;
    let mut builder = RollingFileAppender::builder()
        .filename_prefix("pointsman")
        .filename_suffix("log")
        // After a restart within a period the library counts the file of that period twice.
        .max_log_files(config.keep + 1);
    // Without rotation there is one file, and it has that name itself.
    if config.rotation != Rotation::Never {
        builder = builder.latest_symlink("pointsman.log");
    }
    builder.rotation(rotation).build(absolute).map_err(|error| failed(error.to_string()))
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn layer(format: LogFormat, colour: bool, writer: BoxMakeWriter) -> Box<dyn Layer<Filtered> + Send + Sync> {
    let base = tracing_subscriber::fmt::layer().with_timer(Utc).with_writer(writer).with_target(false);
    match format {
        LogFormat::Text => base.with_ansi(colour).fmt_fields(TextFields).boxed(),
        LogFormat::Json => base.with_ansi(false).with_target(true).json().flatten_event(true).boxed(),
    }
}

/// RFC 3339, in UTC, with milliseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A disk that takes nothing while somebody holds the lock.
    struct Blocked(Arc<Mutex<()>>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _free = self.0.lock().unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_blocked_disk_does_not_take_are_dropped_and_counted_and_hold_nobody_up() {
        let disk = Arc::new(Mutex::new(()));
        let blocked = disk.lock().unwrap();
        let mut guards = Vec::new();
        let mut log = not_blocking(Blocked(Arc::clone(&disk)), None, &mut guards);
        let before = dropped_lines();
        let gathered = GATHERED as u64 / 1024 + 1;
        let lines = tracing_appender::non_blocking::DEFAULT_BUFFERED_LINES_LIMIT as u64 + gathered + 100;
        for _ in 0..lines {
            log.write_all(&[b'-'; 1024]).unwrap();
        }
        // The queue is full, and so may be what gathers behind it.
        let dropped = dropped_lines() - before;
        assert!((100..=gathered + 100).contains(&dropped), "{dropped}");
        drop(blocked);
    }

    #[test]
    fn a_filter_that_is_none_is_told_with_its_variable() {
        let error = EnvFilter::try_new("pointsman=loud").unwrap_err();
        let error =
            Error::Filter { variable: FILTERS[0], value: "pointsman=loud".into(), error: error.to_string() };
        assert!(error.to_string().starts_with("POINTSMAN_LOG=\"pointsman=loud\" is not a log filter: "));
    }
}
