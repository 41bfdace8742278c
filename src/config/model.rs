//! What a configuration means: every default filled in, every name resolved, every value in range.
//!
//! The rest of the program knows only these types. What the user may write is a tree of keys and values
//! ([`super::parse`]); the one way from the tree to these types is `read/`. The defaults stand here, each in its `new`
//! or `default`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// What SIGTERM does.
    pub drain: Drain,
}

impl Default for Runtime {
    fn default() -> Self {
        let drain = Drain { grace: Duration::ZERO, timeout: Duration::from_secs(30) };
        Self { workers: None, max_connections: None, busy_poll: None, drain }
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
    /// How many files are kept.
    pub keep: usize,
    /// One line for each routing decision and each closed connection.
    pub connections: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: LogFormat::Text,
            directory: None,
            rotation: Rotation::Daily,
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

/// A pool (`pools.NAME`).
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// How a backend is chosen.
    pub balance: Algorithm,
    /// Where the backends come from; never empty.
    pub discover: Vec<Source>,
    /// Active checks; `None`: a backend is up as soon as it is found.
    pub health: Option<Health>,
    /// How a backend is connected to.
    pub connect: Connect,
    /// When a connection is given up.
    pub timeouts: Timeouts,
    /// Idle time before a backend is probed, in whole seconds (`TCP_KEEPIDLE` in tcp(7)), and a client whose listener
    /// says nothing else; `None`: no probes.
    pub keepalive: Option<Duration>,
    /// How long what was sent to a backend may go unacknowledged, or untaken, before the kernel ends the connection, in
    /// milliseconds (`TCP_USER_TIMEOUT` in tcp(7), RFC 5482); `None`: as long as it sends again. Off unless it is asked
    /// for: it also cuts off a backend that is there and does not read.
    pub user_timeout: Option<Duration>,
    /// What happens to the connections of a backend whose checks fail.
    pub on_down: Policy,
    /// What happens to the connections of a backend that left discovery.
    pub on_leave: Policy,
}

impl Pool {
    /// A pool with the defaults.
    pub fn new(discover: Vec<Source>) -> Self {
        Self {
            balance: Algorithm::RoundRobin,
            discover,
            health: None,
            connect: Connect { timeout: Duration::from_secs(1), attempts: 3 },
            timeouts: Timeouts {
                idle: Some(Duration::from_secs(3600)),
                half_closed: Some(Duration::from_secs(60)),
                lifetime: None,
            },
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: None,
            on_down: Policy::Keep,
            on_leave: Policy::End { how: Ending::Close, over: Duration::from_secs(300) },
        }
    }
}

/// An algorithm that chooses a backend (`balance`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Each in turn, whatever its weight.
    RoundRobin,
    /// Each in turn, as often as its weight says, spread out smoothly.
    Weighted,
    /// The one with the fewest connections for its weight.
    LeastConnections,
}

impl Algorithm {
    /// The name in the configuration and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::LeastConnections => "least-connections",
        }
    }
}

/// One place that backends come from (an item of `discover`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Written down.
    Static(Vec<StaticBackend>),
    /// The A and AAAA records of a name.
    Dns(Dns),
}

/// A backend that is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticBackend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name; the address when none was given.
    pub name: Arc<str>,
    /// Its share; 0 means that it gets nothing new.
    pub weight: u32,
}

impl StaticBackend {
    /// A backend with the defaults.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, name: address.to_string().into(), weight: 1 }
    }
}

/// A name whose A and AAAA records are backends (`dns`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name asked for, as written.
    pub name: String,
    /// The port of every backend found.
    pub port: u16,
    /// How often the name is asked for, whatever the answer's TTL.
    pub every: Duration,
    /// The server asked; `None`: those of `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
    /// How long the last good answer stands while asking fails.
    pub hold: Duration,
    /// How long an address must be missing from good answers before its backend leaves.
    pub flap: Duration,
    /// Which addresses are taken.
    pub family: Family,
}

impl Dns {
    /// A name with the defaults.
    pub fn new(name: String, port: u16) -> Self {
        Self {
            name,
            port,
            every: Duration::from_secs(1),
            server: None,
            hold: Duration::from_secs(10),
            flap: Duration::from_secs(3),
            family: Family::Any,
        }
    }
}

/// Which address family is asked for (`family`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Both A and AAAA.
    Any,
    /// A only.
    V4,
    /// AAAA only.
    V6,
}

/// Active checks of a pool's backends (`health`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is done to check.
    pub check: Check,
    /// Time from one check to the next.
    pub every: Duration,
    /// Time after which a check has failed.
    pub timeout: Duration,
    /// Successes in a row until a backend is up again.
    pub rise: u32,
    /// Failures in a row until a backend is down.
    pub fall: u32,
    /// The port that is checked; `None`: the backend's own.
    pub port: Option<u16>,
}

impl Health {
    /// Checks with the defaults.
    pub fn new(check: Check) -> Self {
        let (every, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Self { check, every, timeout, rise: 2, fall: 3, port: None }
    }
}

/// A kind of check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection can be opened.
    Tcp,
    /// An HTTP/1.1 GET is answered as wanted.
    Http(HttpCheck),
}

/// An HTTP check (`health.http`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// The path and query asked for; begins with `/`.
    pub path: String,
    /// The Host header; `None`: the backend's address.
    pub host: Option<String>,
    /// The status wanted; `None`: any 2xx.
    pub status: Option<u16>,
    /// What the body must contain.
    pub body: Option<String>,
}

impl HttpCheck {
    /// A check that any 2xx passes.
    pub fn new(path: String) -> Self {
        Self { path, host: None, status: None, body: None }
    }
}

/// How a backend is connected to (`connect`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Time for one attempt.
    pub timeout: Duration,
    /// Different backends tried before the client learns of trouble; at least 1.
    pub attempts: u32,
}

/// When a connection is given up (`timeouts`); `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// No byte in either direction for this long.
    pub idle: Option<Duration>,
    /// One side has finished and the other has not sent or taken a byte for this long.
    pub half_closed: Option<Duration>,
    /// However busy it is.
    pub lifetime: Option<Duration>,
}

/// What happens to the connections of a backend that is taken out (`on_down`, `on_leave`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They run on.
    Keep,
    /// They are ended.
    End {
        /// By an orderly close or by a reset.
        how: Ending,
        /// Zero: at once. Else they are ended one by one, spread evenly over this time, so that the clients
        /// do not all come back in the same instant.
        over: Duration,
    },
}

/// How a connection is ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// FIN.
    Close,
    /// RST.
    Reset,
}
