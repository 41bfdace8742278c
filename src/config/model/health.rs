//! Active checks.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::check;
use super::super::decode::MapReader;
use super::super::keys::{Beside, ConfigKeys, settings, words};
use super::super::kind::{Kind, one_or_list, optional, shorthand, table, word, word_of};
use super::super::outline::Map;
use super::super::scalar::{interval, path, port, text, time, time_from, whole};
use super::super::shape::KeyShape;
use super::super::value::{bytes, http_host, http_path, protocol_word, status};
use super::ClientTls;
use crate::domain::CheckKind;
use crate::protocol::proxy_header::ProxyVersion;

settings! {
    /// One active check of a pool's backends (`health`, or an item of it).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Health: new, needs ("oneOf", &CHECKS), check check::health {
        /// What is done to check.
        check: Check => Beside, absent Check::Tcp, required "";
        /// Time from one check to the next.
        every: Duration => interval(), default Duration::from_secs(2);
        /// The same while the backend is in doubt: new, or not as it was before; shorter than `every`. Absent: no
        /// difference.
        fast_every: Option<Duration> => optional(interval()), absent None, example "500ms";
        /// Time after which a check has failed; at most `every`, and by default `every` if that is less than 1s.
        timeout: Duration => time_from(Duration::from_millis(1)), default Duration::from_secs(1).min(every);
        /// Successes in a row until a backend that was down is up again.
        rise: u32 => whole(1..=1000), default 2;
        /// Failures in a row until a backend is down.
        fall: u32 => whole(1..=1000), default 3;
        /// The port that is checked. Absent, and for a Unix socket: the backend's own address.
        port: Option<u16> => optional(port()), absent None, example "5000";
        /// TLS: the connection is encrypted, and the backend identified, before anything else is checked. With
        /// `postgres` the server is first asked for TLS in its protocol. Absent: no TLS.
        tls: Option<ClientTls> => optional(table()), absent None;
        /// How long a new backend may take to pass for the first time: failures meanwhile do not count.
        grace: Duration => time(), default Duration::ZERO;
    } also {
        /// The pool's PROXY header, which it sends first unless it connects to a port of its own.
        proxy_header: Option<ProxyVersion> = None;
        /// The addresses that it comes from, the pool's: the first one of the backend's address family.
        source: Vec<IpAddr> = Vec::new();
    }
}

/// The keys of the kinds of checks.
const CHECKS: [&str; 5] = ["http", "tcp", "exchange", "postgres", "redis"];

/// A kind of check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection can be opened.
    Tcp,
    /// An HTTP/1.1 GET gets the expected response.
    Http(HttpCheck),
    /// The response to the sent bytes contains the expected bytes.
    Exchange(Exchange),
    /// A PostgreSQL server accepts the login and has the expected role.
    Postgres(PostgresCheck),
    /// A Redis server executes commands and has the expected role.
    Redis(RedisCheck),
}

impl Check {
    /// Its kind, whose name is its key in the configuration.
    pub fn kind(&self) -> CheckKind {
        match self {
            Self::Tcp => CheckKind::Tcp,
            Self::Http(_) => CheckKind::Http,
            Self::Exchange(_) => CheckKind::Exchange,
            Self::Postgres(_) => CheckKind::Postgres,
            Self::Redis(_) => CheckKind::Redis,
        }
    }
}

fn http() -> Kind<HttpCheck> {
    shorthand(http_path(), HttpCheck::new)
}

fn postgres() -> Kind<PostgresCheck> {
    shorthand(word_of(POSTGRES_ROLES), PostgresCheck::new)
}

fn redis() -> Kind<RedisCheck> {
    shorthand(word_of(REDIS_ROLES), RedisCheck::new)
}

impl ConfigKeys for Check {
    fn names(names: &mut Vec<&'static str>) {
        names.extend(CHECKS);
    }

    fn describe(keys: &mut Vec<KeyShape>) {
        let shapes = [
            ("An HTTP/1.1 GET must be answered as wanted: the path, or more than that.", http().shape()),
            ("A TCP connection must open. It has no keys.", table::<TcpCheck>().shape()),
            (
                "The answer to the sent bytes must contain the expected ones. The escapes \\r \\n \\t \\0 \\\\ and \\xHH \
                 stand for bytes; bytes from \\x80 up are written in single quotes.",
                table::<Exchange>().shape(),
            ),
            (
                "A PostgreSQL server must let us log in and have the role wanted: the role, or more than that.",
                postgres().shape(),
            ),
            (
                "A Redis server must answer and have the role wanted: the role, or more than that.",
                redis().shape(),
            ),
        ];
        keys.extend(
            CHECKS
                .into_iter()
                .zip(shapes)
                .map(|(name, (doc, shape))| KeyShape { shape, ..KeyShape::new(name, &[doc]) }),
        );
    }

    fn read(map: &MapReader<'_>) -> Option<Self> {
        match map.kind(&CHECKS)? {
            "http" => map.read("http", &http()).value().map(Self::Http),
            "tcp" => map.read("tcp", &table()).value().map(|TcpCheck {}| Self::Tcp),
            "exchange" => map.read("exchange", &table()).value().map(Self::Exchange),
            "postgres" => map.read("postgres", &postgres()).value().map(Self::Postgres),
            _ => map.read("redis", &redis()).value().map(Self::Redis),
        }
    }

    fn write(&self, map: &mut Map) {
        let check = match self {
            Self::Tcp => table().write(&TcpCheck {}),
            Self::Http(check) => http().write(check),
            Self::Exchange(check) => table().write(check),
            Self::Postgres(check) => postgres().write(check),
            Self::Redis(check) => redis().write(check),
        };
        map.put(self.kind().name(), check);
    }
}

settings! {
    /// A check that has no settings (`health.tcp`).
    #[derive(Clone, Copy, Debug)]
    struct TcpCheck {}
}

settings! {
    /// An HTTP check (`health.http`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct HttpCheck: new {
        /// The path and query of the request; it begins with /.
        path: String => http_path(), required "/health";
        /// The Host header. Absent: the backend's address.
        host: Option<String> => optional(http_host()), absent None, example "backend";
        /// The statuses wanted: 200, 2xx, 200-299 or a list of these.
        status: Vec<RangeInclusive<u16>> => one_or_list(status(), "at least one status is needed"),
            default vec![200..=299], example "[2xx, 304, 400-403]";
        /// What the body must contain. Absent: anything.
        body: Option<String> => optional(text()), absent None, example "ok";
    }
}

settings! {
    /// Bytes that are sent, and bytes that the answer must contain (`health.exchange`).
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Exchange {
        /// What is sent once the connection is open. Absent: the server speaks first.
        send: Vec<u8> => bytes(), absent Vec::new(), example "PING\\r\\n";
        /// What must come back, somewhere in the first 64 KiB.
        expect: Vec<u8> => bytes(), required "+PONG";
    }
}

settings! {
    /// A PostgreSQL check (`health.postgres`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PostgresCheck: new {
        /// What the server must be.
        role: Role => word_of(POSTGRES_ROLES), required "primary";
        /// The user that logs in.
        user: String => protocol_word(), default "postgres".to_owned();
        /// The database.
        database: String => protocol_word(), default "postgres".to_owned();
        /// The file with the password. Absent: none is needed. While it cannot be read, backends stay as they were: a
        /// missing file is no evidence against them, and would take out all of them.
        password_file: Option<PathBuf> => optional(path()), absent None, example "/run/secrets/postgres";
        /// Allowed authentication methods: one or a list, as in libpq. With any other method the check fails and does
        /// not send the password. md5 sends a hash from which a weak password can be guessed, password sends it in
        /// clear; none accepts a server that does not ask for it.
        require_auth: Vec<AuthMethod> => one_or_list(word(), "at least one method is needed"), default vec![AuthMethod::ScramSha256];
    }
}

words! {
    /// A PostgreSQL authentication method, named as in libpq's `require_auth`; the strongest first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AuthMethod {
        /// The password is not sent, and the server proves that it knows it.
        ScramSha256 = "scram-sha-256",
        /// A hash of the password is sent, from which a weak password can be guessed; the server proves nothing.
        Md5 = "md5",
        /// The password is sent in clear.
        Password = "password",
        /// The server does not ask for a password: any server at the address passes.
        None = "none",
    }
}

settings! {
    /// A Redis check (`health.redis`).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RedisCheck: new {
        /// What the server must be.
        role: Role => word_of(REDIS_ROLES), required "master";
        /// The user that logs in. Absent: the default user.
        user: Option<String> => optional(protocol_word()), absent None, example "pointsman", with "password_file";
        /// The file with the password. Absent: none is needed. Every backend of the pool receives the password itself,
        /// as the protocol has no other way, and without `tls` in clear: use a user that may only PING and ROLE.
        password_file: Option<PathBuf> => optional(path()), absent None, example "/run/secrets/redis";
    }
}

/// The role that a server of a replicated database must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Either role.
    Any,
    /// The server that accepts writes: `primary` in PostgreSQL, `master` in Redis.
    Primary,
    /// A server that replicates it: `standby` in PostgreSQL, `replica` in Redis.
    Replica,
}

const POSTGRES_ROLES: &[(&str, Role)] =
    &[("primary", Role::Primary), ("standby", Role::Replica), ("any", Role::Any)];
const REDIS_ROLES: &[(&str, Role)] =
    &[("master", Role::Primary), ("replica", Role::Replica), ("any", Role::Any)];
