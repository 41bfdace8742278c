//! Settings of the process itself: `runtime`, `log`, `admin`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::super::keys::{Useless, settings, words};
use super::super::kind::{list, optional, or_auto, or_off, table, word};
use super::super::scalar::{MOST, file_mode, flag, path, size, time, time_from, whole};
use super::super::value::{bind, host_name};
use super::SocketMode;
use crate::domain::SocketAddress;

settings! {
    /// Settings of the process itself (`runtime`).
    #[derive(Clone, Debug, PartialEq)]
    pub struct Runtime: Default {
        /// The folder in which events, the history, and the states and weights that operators set outlive the process;
        /// one process uses it at a time. Absent: nothing is kept. Takes effect at a start, not at a reload.
        state: Option<PathBuf> => optional(path()), absent None, example "/var/lib/pointsman";
        /// Threads that carry the connections; auto: one per core, fewer under a CPU quota. Takes effect at a start,
        /// not at a reload.
        workers: Option<NonZeroUsize> => or_auto(whole(1..=1024)), default None;
        /// Connections that the whole process relays at once; more wait in the kernel until one ends. auto: what the
        /// open-file limit, which is raised at the start, allows. Takes effect at a start, not at a reload.
        max_connections: Option<usize> => or_auto(whole(1..=u64::MAX)), default None;
        /// How long an idle worker stays awake, such as 50us: waking up takes longer than a small message. It buys
        /// latency with CPU time. Takes effect at a start, not at a reload.
        busy_poll: Option<Duration> => or_off(time_from(Duration::from_micros(1))), default None;
        /// Concurrent health checks of all pools together; further checks wait, and the pools share the slots fairly.
        /// Takes effect at a start, not at a reload.
        max_checks: NonZeroUsize => whole(1..=MOST), default NonZeroUsize::new(256).unwrap_or(NonZeroUsize::MIN);
        /// Records of connections that each worker keeps in memory, for `why` and /api/v1/decisions: so many decisions and
        /// so many ends, and as many of each of connections that failed, were retried or got no backend, which successful
        /// ones do not push out. At about 600 bytes a record, 1024 take at most 2.5 MiB for each worker.
        records: usize => whole(1..=Runtime::MOST_RECORDS), default Runtime::RECORDS;
        /// What SIGTERM does.
        drain: Drain => table(), absent Drain::default();
    }
}

impl Runtime {
    /// The default of `records`.
    pub const RECORDS: usize = 1024;
    /// A query reads all records, which takes some milliseconds for so many.
    const MOST_RECORDS: u64 = 100_000;
}

settings! {
    /// The times of a drain (`runtime.drain`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Drain: Default {
        /// How long /ready replies 503 while new connections are still accepted, so that traffic can move elsewhere.
        grace: Duration => time(), default Duration::ZERO;
        /// How long existing connections may take to finish once no new ones are accepted. The rest is reset, and the
        /// exit code is 3.
        timeout: Duration => time(), default Duration::from_secs(30);
        /// The last part of `timeout`, in which the connections that are still open are reset one by one, those that have
        /// been idle for the longest time first: if all were reset at once, all clients would reconnect at once. Absent: a
        /// tenth of `timeout`.
        spread: Option<Duration> => optional(time()), absent None, example "3s";
    }
}

impl Drain {
    /// The last part of the timeout, in which connections are reset.
    pub fn spread_time(&self) -> Duration {
        self.spread.unwrap_or(self.timeout / 10).min(self.timeout)
    }
}

/// The default size of a log file. Seven files take at most 700 MiB: room for two million connections of two lines
/// each, and small enough for any disk.
const LOG_FILE_SIZE: u64 = 100 << 20;
/// A log file below 64 KiB would hold less than one burst of lines.
const SMALLEST_LOG_FILE: u64 = 64 << 10;

settings! {
    /// The log (`log`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Log: Default {
        /// The least severe level that is written. The variable POINTSMAN_LOG overrides it.
        level: Level => word(), default Level::Info;
        /// text is for people, json for machines: one object a line.
        format: LogFormat => word(), default LogFormat::Text;
        /// Directory of the rolling log files, besides standard error. Absent: standard error only.
        directory: Option<PathBuf> => optional(path()), absent None, example "logs";
        /// When a new file begins, in UTC.
        rotation: Rotation => word(), default Rotation::Daily;
        /// A new file begins before a file exceeds this size; off: no limit. All files together take at most `keep`
        /// times this size.
        max_size: Option<u64> => or_off(size(SMALLEST_LOG_FILE)), default Some(LOG_FILE_SIZE);
        /// How many files are kept.
        keep: usize => whole(1..=10_000), default 7;
        /// Write one line for each routing decision and one for each closed connection.
        connections: bool => flag(), default true;
    }
}

words! {
    /// A log level.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs)]
    pub enum Level {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

words! {
    /// The form of a log line.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum LogFormat {
        /// One line of text, colored on a terminal.
        Text = "text",
        /// One JSON object a line, fields flat.
        Json = "json",
    }
}

words! {
    /// When a new log file begins.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs)]
    pub enum Rotation {
        Hourly = "hourly",
        Daily = "daily",
        Never = "never",
    }
}

settings! {
    /// The admin server (`admin`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Admin: new, useless Admin::useless {
        /// Where it listens: 127.0.0.1:9900, or unix:/path.
        bind: SocketAddress => bind(), required "127.0.0.1:9900";
        /// The file with the token that changes need, as `Authorization: Bearer TOKEN`. Absent: changes are allowed
        /// over loopback and over a Unix socket only.
        token_file: Option<PathBuf> => optional(path()), absent None, example "/run/secrets/pointsman_token";
        /// Names that it answers to, besides addresses, localhost and (except over loopback) names without a dot: those
        /// that a proxy passes on, or that other machines use.
        hosts: Vec<String> => list(host_name(), "", "[lb.example.com]", None), default Vec::new();
        /// The mode of the socket at the Unix path, in octal and in quotes, whatever the umask; a user that may write
        /// to it may connect and change everything. Absent: "0660", the user and its group.
        socket_mode: SocketMode => file_mode(), absent SocketMode::default(), example "\"0660\"",
            only "for a unix: path";
    }
}

impl Admin {
    /// Connections at once from this machine, and as many from other machines: dashboards, scrapers and health checks
    /// need a few.
    pub const CONNECTIONS: usize = 128;
    /// The maximum of open connections: local ones, remote ones, and as many again that were evicted and are closing.
    pub const MOST_CONNECTIONS: usize = 4 * Self::CONNECTIONS;

    fn useless(&self, key: &str) -> Useless {
        let tcp = matches!(self.bind, SocketAddress::Tcp(_));
        (key == "socket_mode" && tcp).then(|| ("bind", "it has no Unix path".to_owned()))
    }
}
