//! What a configuration means: every default filled in, every name resolved, every value in range.
//!
//! The rest of the program knows only these types. What the user may write is a tree of keys and values
//! ([`super::parse`]); the one way from the tree to these types is `read/`. The defaults stand here, each in its `new`
//! or `default`.

mod discover;
mod health;
mod pool;
mod replicas;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use discover::*;
pub use health::*;
pub use pool::*;
pub use replicas::*;

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Settings of the process itself.
    pub runtime: Runtime,
    /// Where log lines go, and which.
    pub log: Log,
    /// The admin server; `None`: there is none.
    pub admin: Option<Admin>,
    /// The listeners by name. Every `pool` they name is in `pools`.
    pub listeners: BTreeMap<Arc<str>, Listener>,
    /// The pools by name.
    pub pools: BTreeMap<Arc<str>, Pool>,
}

/// Settings of the process itself (`runtime`).
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Threads of the data plane. `None`: one per core, fewer under a CPU quota.
    pub workers: Option<NonZeroUsize>,
    /// Connections that the whole process relays at once. `None`: what the open-file limit allows.
    pub max_connections: Option<usize>,
    /// How long a worker stays awake when it has nothing to do, in case something comes; `None`: not at all.
    pub busy_poll: Option<Duration>,
    /// Health checks that are under way at once, of all pools together.
    pub max_checks: NonZeroUsize,
    /// What SIGTERM does.
    pub drain: Drain,
}

/// Health checks under way at once, by default.
const MAX_CHECKS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

impl Default for Runtime {
    fn default() -> Self {
        let drain = Drain { grace: Duration::ZERO, timeout: Duration::from_secs(30) };
        Self { workers: None, max_connections: None, busy_poll: None, max_checks: MAX_CHECKS, drain }
    }
}

/// The two times of a drain (`runtime.drain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long the process says "not ready" but still accepts, so that whoever sends it traffic can stop.
    pub grace: Duration,
    /// How long running connections may take to finish once the listeners are closed.
    pub timeout: Duration,
}

/// The log (`log`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level written.
    pub level: Level,
    /// For eyes or for machines.
    pub format: LogFormat,
    /// Directory of the rolling files; `None`: standard error only.
    pub directory: Option<PathBuf>,
    /// When a new file is begun (in UTC).
    pub rotation: Rotation,
    /// The size in bytes above which a new file begins early; `None`: no limit.
    pub max_size: Option<u64>,
    /// How many files are kept.
    pub keep: usize,
    /// One line for each routing decision and each closed connection.
    pub connections: bool,
}

/// The default size of a log file. Seven files take at most 700 MiB: room for two million connections of two lines
/// each, and small enough for any disk.
const LOG_FILE_SIZE: u64 = 100 << 20;

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: LogFormat::Text,
            directory: None,
            rotation: Rotation::Daily,
            max_size: Some(LOG_FILE_SIZE),
            keep: 7,
            connections: true,
        }
    }
}

/// A log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text, coloured on a terminal.
    Text,
    /// One JSON object a line, fields flat.
    Json,
}

/// When a new log file is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rotation {
    Hourly,
    Daily,
    Never,
}

/// The admin server (`admin`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub bind: BindAddress,
    /// The file with the token that changes need; `None`: they are allowed from this machine only.
    pub token_file: Option<PathBuf>,
    /// Names that the server answers to, besides addresses, `localhost` and, except over loopback, names without a dot.
    pub hosts: Vec<String>,
    /// Which users may connect to its Unix socket.
    pub socket_mode: SocketMode,
}

impl Admin {
    /// Connections at once from this machine, and as many from other machines: dashboards, scrapers and health checks
    /// need a few.
    pub(crate) const CONNECTIONS: usize = 128;
    /// The maximum of open connections: local ones, remote ones, and as many again that gave way and are closing.
    pub(crate) const MOST_CONNECTIONS: usize = 4 * Self::CONNECTIONS;

    /// An admin server with the defaults.
    pub fn new(bind: BindAddress) -> Self {
        Self { bind, token_file: None, hosts: Vec::new(), socket_mode: SocketMode::default() }
    }
}

/// The mode of a Unix socket's file, whatever the umask: a process that may write to it may connect (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    /// Pointsman's user and group.
    fn default() -> Self {
        Self(0o660)
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// An address that can be listened on: `0.0.0.0:8080`, `[::]:8080`, `unix:/run/x.sock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BindAddress {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener (`listeners.NAME`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it accepts; never empty.
    pub bind: Vec<BindAddress>,
    /// The pool its connections go to.
    pub pool: Arc<str>,
    /// What a client gets when no backend is up.
    pub no_backend: NoBackend,
    /// Connections at once; `None`: no limit of its own.
    pub max_connections: Option<usize>,
    /// Options of its TCP sockets.
    pub options: SocketOptions,
    /// Which users may connect to its Unix sockets.
    pub socket_mode: SocketMode,
}

impl Listener {
    /// A listener with the defaults, in front of a pool of that name and with those settings.
    pub fn new(bind: BindAddress, pool: Arc<str>, settings: &Pool) -> Self {
        Self {
            bind: vec![bind],
            pool,
            no_backend: NoBackend::Reset,
            max_connections: None,
            options: SocketOptions::new(settings),
            socket_mode: SocketMode::default(),
        }
    }
}

/// Options of a listener's TCP sockets, as tcp(7) has them. They hold for connections that are let in from the moment
/// they are set. A Unix socket has none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Idle time before a client is probed, in whole seconds (`TCP_KEEPIDLE`); `None`: no probes.
    pub keepalive: Option<Duration>,
    /// How long the kernel holds a connection back whose client says nothing (`TCP_DEFER_ACCEPT`); `None`: not at all.
    /// The kernel measures it by the SYN-ACKs that it would repeat, and so rounds it up to 1, 3, 7, 15, 31, 63 or
    /// 127 s. Off unless it is asked for: where the server speaks first, the client would wait for the whole time.
    pub defer_accept: Option<Duration>,
    /// How many connections on one socket may bring data in their SYN before the handshake is completed
    /// (`TCP_FASTOPEN`, RFC 7413); `None`: none. There is one socket for each worker. Off unless it is asked for: such
    /// data may arrive twice (RFC 7413, 2.1), and only the operator knows whether the service can bear that.
    pub fast_open: Option<NonZeroU16>,
    /// How long what was sent to a client may go unacknowledged, or untaken, before the kernel ends the connection, in
    /// milliseconds (`TCP_USER_TIMEOUT`, RFC 5482); `None`: as long as it sends again. It takes the place of the number
    /// of keepalive probes, too. Off unless it is asked for: it also cuts off a client that is there and does not read.
    pub user_timeout: Option<Duration>,
}

impl SocketOptions {
    /// Those of a new socket.
    pub const NONE: Self = Self { keepalive: None, defer_accept: None, fast_open: None, user_timeout: None };

    /// The defaults in front of a pool with these settings: clients are probed as its backends are.
    pub fn new(pool: &Pool) -> Self {
        Self { keepalive: pool.keepalive, ..Self::NONE }
    }
}

/// What a client gets when no backend is up (`no_backend`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBackend {
    /// A TCP reset.
    Reset,
    /// An orderly close.
    Close,
    /// An HTTP/1.1 `503 Service Unavailable`.
    Http503,
    /// Nothing listens until a backend is up: the client's connect is refused.
    Refuse,
}
