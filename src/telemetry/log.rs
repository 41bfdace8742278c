//! The log: to standard error, and to rolling files if configured.
//!
//! Separate threads write the lines, so that a full disk or a blocked terminal never delays a connection. Lines are
//! dropped and counted if a thread cannot keep up.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use super::CONNECTIONS;
use super::lines::{Condition, Lines, LogSink, SinkChange, Stream};
use super::log_fields::TextFields;
use super::log_files::{LogFiles, Plan};
use super::tail::Tail;
use crate::config::{Level, Log, LogFormat};

/// Variables that override `log.level`, the first that is set: levels, for all or by module, in the syntax of [`Targets`].
const FILTERS: [&str; 2] = ["POINTSMAN_LOG", "RUST_LOG"];
/// How often newly dropped lines are reported.
const REPORT: Duration = Duration::from_secs(10);

/// How often the waiting lines are offered again to a failed sink.
const RETRY: Duration = Duration::from_secs(1);

/// One for each destination of lines.
static WRITERS: Mutex<Vec<NonBlocking>> = Mutex::new(Vec::new());
/// The state of writing to them.
static CONDITION: Condition = Condition::new();

/// Why each log that cannot be written at present cannot be written, by its name.
static FAILURES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

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
        /// The system's error.
        error: String,
    },
    /// There is a log already.
    #[error("a log is set up already: {0}")]
    Twice(String),
}

/// Keeps the log running. Drop it last, and return from `main` instead of exiting: dropping it writes the pending
/// lines.
pub struct Guard {
    filter: reload::Handle<Targets, Registry>,
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
    let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let files = match &config.directory {
        Some(directory) => Some((files(config, directory)?, directory.display().to_string())),
        None => None,
    };
    // Only one destination feeds the tail: the files if configured, as their lines have no colors to remove.
    let (of_stderr, of_files) = if files.is_some() { (None, Some(&TAIL)) } else { (Some(&TAIL), None) };
    // The files first: they are closed first, and standard error can still report that.
    let files = files.map(|(files, directory)| not_blocking(files, directory, of_files, &mut writers));
    let stderr = not_blocking(Stream(io::stderr()), "standard error".to_owned(), of_stderr, &mut writers);
    let layers = match files {
        None => vec![layer(config.format, color, BoxMakeWriter::new(stderr))],
        // Both get the same bytes, which are formatted once.
        Some(files) if !color => {
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
        error!(%panic, "internal error: report this bug");
        before(panic);
    }));
    Ok(Guard { filter: handle, _writers: writers })
}

impl Guard {
    /// Applies a new `log.level` and `log.connections`. The rest of the log's settings require a restart.
    pub fn reconfigure(&self, config: &Log) -> Result<(), Error> {
        let filter = filter(config)?;
        // It fails only when the log is gone, and then no report is possible.
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
    dropped_by_queues() + CONDITION.lost()
}

/// The logs that cannot be written at present, each with the error.
pub fn failures() -> Vec<(String, String)> {
    let failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    failures.iter().map(|(log, error)| (log.clone(), error.clone())).collect()
}

/// The part of them that found no room in the threads' queues.
fn dropped_by_queues() -> u64 {
    let writers = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
    writers.iter().map(|writer| writer.error_counter().dropped_lines() as u64).sum()
}

/// Reports dropped lines every [`REPORT`], and makes failed sinks retry even when no line is logged. Never returns.
pub async fn report_dropped() {
    let mut before = 0;
    let mut next = Instant::now() + REPORT;
    loop {
        tokio::time::sleep(RETRY).await;
        if CONDITION.fails() {
            let mut writers = WRITERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for writer in &mut writers {
                // Empty: it makes the thread flush.
                let _ = writer.write(b"");
            }
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + REPORT;
        let now = dropped_by_queues() + CONDITION.too_slow();
        if now > before {
            warn!(
                lines = now - before,
                "log lines were dropped: they came faster than they could be written"
            );
        }
        before = now;
    }
}

fn filter(config: &Log) -> Result<Targets, Error> {
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
    // The pools log the resolver's failures with more detail.
    let default = format!("{level},hickory_net=error,hickory_resolver=error,hickory_proto=error");
    let mut directives = set.as_ref().map_or(default, |(_, value)| value.clone());
    if !config.connections {
        directives.push_str(&format!(",{CONNECTIONS}=off"));
    }
    directives.parse::<Targets>().map_err(|error| {
        let (variable, value) = set.unwrap_or((FILTERS[0], String::new()));
        Error::Filter { variable, value, error: error.to_string() }
    })
}

/// Starts a writing thread in front of a sink; `log` is its name in log lines.
fn not_blocking(
    sink: impl LogSink + Send + 'static,
    log: String,
    tail: Option<&'static Tail>,
    guards: &mut Vec<WorkerGuard>,
) -> NonBlocking {
    let lines = Lines::new(sink, tail, &CONDITION, move |change| report_change(&log, &change));
    let (writer, guard) = tracing_appender::non_blocking(lines);
    WRITERS.lock().unwrap_or_else(PoisonError::into_inner).push(writer.clone());
    guards.push(guard);
    writer
}

/// The log files in `directory`, which is created if it is missing.
fn files(config: &Log, directory: &Path) -> Result<LogFiles, Error> {
    let failed =
        |error: io::Error| Error::Directory { directory: directory.to_owned(), error: error.to_string() };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let plan = Plan { rotation: config.rotation, max_size: config.max_size, keep: config.keep };
    LogFiles::open(directory.to_owned(), plan, SystemTime::now).map_err(failed)
}

/// Logs a change of the sink `log`. The writing thread may call it: its lines go to its own queue, which never blocks.
fn report_change(log: &str, change: &SinkChange) {
    let mut failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    match change {
        SinkChange::Failed(error) => _ = failures.insert(log.to_owned(), error.to_string()),
        SinkChange::Works { .. } => _ = failures.remove(log),
        SinkChange::NotPrepared(_) | SinkChange::Prepared => {}
    }
    drop(failures);
    match change {
        SinkChange::Failed(error) => {
            error!(log, %error, "log cannot be written: lines wait, up to 64 KiB, and then are lost and counted");
        }
        SinkChange::Works { lost: 0 } => info!(log, lost = 0, "log is written again"),
        SinkChange::Works { lost } => warn!(log, lost, "log is written again: lines are missing"),
        SinkChange::NotPrepared(error) => {
            error!(log, %error, "cannot create a log file: keeping the last one");
        }
        SinkChange::Prepared => info!(log, "log files are created again"),
    }
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>;

fn layer(format: LogFormat, color: bool, writer: BoxMakeWriter) -> Box<dyn Layer<Filtered> + Send + Sync> {
    let base = tracing_subscriber::fmt::layer().with_timer(Utc).with_writer(writer).with_target(false);
    match format {
        LogFormat::Text => base.with_ansi(color).fmt_fields(TextFields).boxed(),
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
    use super::super::lines::GATHERED;
    use super::*;
    use std::sync::Arc;

    /// A disk that takes nothing while the lock is held.
    struct Blocked(Arc<Mutex<()>>);

    impl LogSink for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _free = self.0.lock().unwrap();
            Ok(bytes.len())
        }
    }

    #[test]
    fn lines_for_a_blocked_disk_are_dropped_and_counted_without_a_delay() {
        let disk = Arc::new(Mutex::new(()));
        let blocked = disk.lock().unwrap();
        let mut guards = Vec::new();
        let mut log = not_blocking(Blocked(Arc::clone(&disk)), "test".to_owned(), None, &mut guards);
        let before = dropped_lines();
        let gathered = GATHERED as u64 / 1024 + 1;
        let lines = tracing_appender::non_blocking::DEFAULT_BUFFERED_LINES_LIMIT as u64 + gathered + 100;
        for _ in 0..lines {
            log.write_all(&[b'-'; 1024]).unwrap();
        }
        // The queue is full, and so may be the batch behind it.
        let dropped = dropped_lines() - before;
        assert!((100..=gathered + 100).contains(&dropped), "{dropped}");
        drop(blocked);
    }

    #[test]
    fn a_log_is_listed_while_it_cannot_be_written() {
        let listed = || failures().into_iter().find(|(log, _)| log == "a test's log");
        assert_eq!(listed(), None);
        report_change("a test's log", &SinkChange::Failed(io::ErrorKind::StorageFull.into()));
        assert_eq!(listed().map(|(_, error)| error), Some("no storage space".to_owned()));
        report_change("a test's log", &SinkChange::Works { lost: 3 });
        assert_eq!(listed(), None);
    }

    #[test]
    fn an_invalid_filter_is_reported_with_its_variable() {
        let error = "pointsman=loud".parse::<Targets>().unwrap_err();
        let error =
            Error::Filter { variable: FILTERS[0], value: "pointsman=loud".into(), error: error.to_string() };
        assert!(error.to_string().starts_with("POINTSMAN_LOG=\"pointsman=loud\" is not a log filter: "));
    }
}
