//! Active checks.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One active check of a pool's backends (`health`, or an item of it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is done to check.
    pub check: Check,
    /// Time from one check to the next.
    pub every: Duration,
    /// The same while the backend is in doubt: new, or not as it was before.
    pub fast_every: Option<Duration>,
    /// Time after which a check has failed.
    pub timeout: Duration,
    /// Successes in a row until a backend is up again.
    pub rise: u32,
    /// Failures in a row until a backend is down.
    pub fall: u32,
    /// The port that is checked; `None`: the backend's own.
    pub port: Option<u16>,
    /// How long a new backend may take to pass for the first time: what fails meanwhile does not count.
    pub grace: Duration,
}

impl Health {
    /// A check with the defaults.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            every: Duration::from_secs(2),
            fast_every: None,
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            port: None,
            grace: Duration::ZERO,
        }
    }
}

/// A kind of check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection can be opened.
    Tcp,
    /// An HTTP/1.1 GET is answered as wanted.
    Http(HttpCheck),
    /// What is sent is answered as wanted.
    Exchange(Exchange),
    /// A PostgreSQL server lets us in and has the role wanted.
    Postgres(PostgresCheck),
    /// A Redis server answers and has the role wanted.
    Redis(RedisCheck),
}

impl Check {
    /// Its key in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Exchange(_) => "exchange",
            Self::Postgres(_) => "postgres",
            Self::Redis(_) => "redis",
        }
    }
}

/// An HTTP check (`health.http`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// The path and query asked for; begins with `/`.
    pub path: String,
    /// The Host header; `None`: the backend's address.
    pub host: Option<String>,
    /// The statuses wanted; never empty.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body must contain.
    pub body: Option<String>,
}

impl HttpCheck {
    /// A check that any 2xx passes.
    pub fn new(path: String) -> Self {
        Self { path, host: None, status: vec![200..=299], body: None }
    }
}

/// Bytes that are sent, and bytes that the answer must contain (`health.exchange`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// What is sent once the connection is open; empty: the server speaks first.
    pub send: Vec<u8>,
    /// What must come back, somewhere in the first 64 KiB; never empty.
    pub expect: Vec<u8>,
}

/// A PostgreSQL check (`health.postgres`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresCheck {
    /// What the server must be.
    pub role: Role,
    /// Who logs in.
    pub user: String,
    /// Where.
    pub database: String,
    /// The file with the password; `None`: none is needed.
    /// While it cannot be read, backends stay what they were: it says nothing of them, and would take out all of them.
    pub password_file: Option<PathBuf>,
    /// The authentication methods that a check with a password allows; never empty. With any other method the check
    /// fails and does not send the password.
    pub require_auth: BTreeSet<AuthMethod>,
}

impl PostgresCheck {
    /// A check with the defaults.
    pub fn new(role: Role) -> Self {
        let postgres = || "postgres".to_owned();
        let require_auth = BTreeSet::from([AuthMethod::ScramSha256]);
        Self { role, user: postgres(), database: postgres(), password_file: None, require_auth }
    }
}

/// A PostgreSQL authentication method, named as in libpq's `require_auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthMethod {
    /// The password is not sent, and the server proves that it knows it.
    ScramSha256,
    /// A hash of the password is sent, from which a weak password can be guessed; the server proves nothing.
    Md5,
    /// The password is sent in clear.
    Password,
    /// The server does not ask for a password: any server at the address passes.
    None,
}

impl AuthMethod {
    /// All methods, the strongest first.
    pub const ALL: [Self; 4] = [Self::ScramSha256, Self::Md5, Self::Password, Self::None];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::None => "none",
        }
    }
}

/// A Redis check (`health.redis`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisCheck {
    /// What the server must be.
    pub role: Role,
    /// Who logs in; `None`: the default user.
    pub user: Option<String>,
    /// The file with the password; `None`: no password. Every backend of the pool receives it in clear: the protocol
    /// has no other way.
    /// While it cannot be read, backends stay what they were: it says nothing of them, and would take out all of them.
    pub password_file: Option<PathBuf>,
}

impl RedisCheck {
    /// A check with the defaults.
    pub fn new(role: Role) -> Self {
        Self { role, user: None, password_file: None }
    }
}

/// What a server of a replicated database must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Whatever it is.
    Any,
    /// The one that takes writes: `primary` in PostgreSQL, `master` in Redis.
    Primary,
    /// One that follows it: `standby` in PostgreSQL, `replica` in Redis.
    Replica,
}
