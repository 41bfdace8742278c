//! Things that happen to the balancer, as they are told: each is one line of the log and one entry of the
//! [journal](super::journal). Nothing that happens once a connection is among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use serde::Serialize;
use tracing::field::display;
use tracing::{debug, error, info, warn};

use super::decisions::Client;
use super::text::Cause;

/// Something that happened. In JSON its `kind` tells which.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// A backend's state changed.
    State {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddr,
        /// Its state before.
        from: &'static str,
        /// Its state now.
        to: &'static str,
        /// Why.
        cause: Cause,
    },
    /// A backend's name has become known.
    Named {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddr,
    },
    /// A backend's share is another one.
    Weight {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// The share.
        weight: u32,
    },
    /// A backend would have been ejected, but too many are out already.
    Spared {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Why it would have been.
        cause: Cause,
    },
    /// Others than before serve a pool's clients.
    Service {
        /// The pool.
        pool: Arc<str>,
        /// Who serves them now.
        by: Service,
        /// Who served them before; `None`: that is not known, at a start.
        before: Option<Service>,
        /// How many backends are up.
        up: usize,
        /// How many are chosen from.
        used: usize,
        /// Below this share of backends that are up, all are used, in percent.
        panic: u8,
    },
    /// A source's answers changed in kind.
    Answers {
        /// Its pool.
        pool: Arc<str>,
        /// The source.
        source: Arc<str>,
        /// What it finds now and what is wrong with that; `None`: backends, again.
        trouble: Option<Trouble>,
    },
    /// A source's answer names others than the one before.
    Discovered {
        /// Its pool.
        pool: Arc<str>,
        /// The source.
        source: Arc<str>,
        /// The kind of answer, as in the metric `pointsman_resolutions_total`.
        result: &'static str,
        /// How many backends it names.
        backends: usize,
        /// The first of those that the answer before did not name, each with its address.
        new: Vec<Arc<str>>,
        /// The first of those that it no longer names, each with its address.
        missing: Vec<Arc<str>>,
    },
    /// A backend's check found another thing than the time before.
    Check {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddr,
        /// What was checked: `tcp`, `http`, `exchange`, `postgres`, `redis`.
        check: &'static str,
        /// Whether it passed.
        passed: bool,
        /// Why it did not.
        error: Option<Cause>,
        /// How long it took, in milliseconds.
        took_ms: f64,
    },
    /// A check has no result, for a reason of our own.
    NoResult {
        /// The pool.
        pool: Arc<str>,
        /// Who was to be checked.
        backend: Arc<str>,
        /// The reason.
        error: Cause,
    },
    /// Checks of a pool start late: too many checks of all pools are running.
    ChecksLate {
        /// The pool.
        pool: Arc<str>,
        /// How long the first of them waited for its turn, in milliseconds.
        waited_ms: u64,
    },
    /// Checks of a pool start on time again.
    ChecksOnTime {
        /// The pool.
        pool: Arc<str>,
        /// How long they ran late, in milliseconds.
        after_ms: u64,
        /// How many checks ran late.
        checks: u64,
    },
    /// An operator has changed something of a backend.
    Operator {
        /// Who that was.
        who: Arc<str>,
        /// The backend's pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddr,
        /// The state that is wanted of it, if it is to have another one.
        state: Option<&'static str>,
        /// The share that it is to have, if it is to have another one.
        weight: Option<u32>,
    },
    /// An operator has added a backend.
    Added {
        /// Who that was.
        who: Arc<str>,
        /// The pool.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddr,
        /// Its share.
        weight: u32,
        /// Whether it is a backup.
        backup: bool,
    },
    /// An operator has taken a backend away that operators had added.
    Removed {
        /// Who that was.
        who: Arc<str>,
        /// The pool.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddr,
    },
    /// An operator has ended a connection.
    Ended {
        /// Who that was.
        who: Arc<str>,
        /// The connection's number.
        conn: u64,
        /// Its client.
        client: Client,
        /// Its pool.
        pool: Arc<str>,
        /// Its backend, if it had one.
        backend: Option<Arc<str>>,
        /// How: `close` or `reset`.
        how: &'static str,
    },
    /// An operator has had backends checked out of turn.
    Checked {
        /// Who that was.
        who: Arc<str>,
        /// The pool; `None`: all.
        pool: Option<Arc<str>>,
        /// The backend; `None`: all of the pool.
        backend: Option<Arc<str>>,
    },
    /// The configuration was read again and is at work.
    Reloaded {
        /// Who wanted that: an operator, or a signal.
        who: Arc<str>,
        /// The file.
        config: Arc<str>,
        /// Listeners in it.
        listeners: usize,
        /// Pools in it.
        pools: usize,
        /// What has changed in it and takes effect after a restart.
        restart: Vec<&'static str>,
    },
    /// The configuration was read again and is not usable: nothing has changed.
    NotReloaded {
        /// Who wanted it.
        who: Arc<str>,
        /// The file.
        config: Arc<str>,
        /// What is wrong with it.
        problems: Vec<Wrong>,
    },
    /// Nobody new is let in from now on, or soon.
    DrainStarted {
        /// Who wanted that: an operator, or a signal.
        who: Arc<str>,
        /// Connections that are open.
        open: usize,
        /// For so long newcomers are still let in, in milliseconds.
        grace_ms: u64,
        /// After that, the open ones have so long to finish, in milliseconds.
        timeout_ms: u64,
    },
    /// A drain goes on.
    DrainProgress {
        /// Connections that are open.
        open: usize,
        /// The age of the oldest, in milliseconds.
        oldest_ms: Option<u64>,
        /// Time that they have left, in milliseconds.
        time_left_ms: u64,
    },
    /// A drain is over.
    DrainDone {
        /// Connections that are cut off now; `None`: all have finished.
        cut: Option<usize>,
    },
}

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// The line of the file, from 1; `None`: it is about the whole of it.
    pub line: Option<usize>,
    /// The column, in characters from 1.
    pub column: Option<usize>,
    /// What.
    pub message: Cause,
}

/// Who serves a pool's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Nobody is up.
    Nobody,
    /// Those who are no backups.
    Primaries,
    /// The backups.
    Backups,
    /// All, whether up or not: panic.
    All,
}

/// What is wrong with a source's answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The kind of answer, as in the metric `pointsman_resolutions_total`.
    pub result: &'static str,
    /// What that means, in words.
    pub reason: Cause,
}

impl Fact {
    /// The pool that it is about; `None`: about the process as a whole.
    pub fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::State { pool, .. }
            | Self::Named { pool, .. }
            | Self::Weight { pool, .. }
            | Self::Spared { pool, .. }
            | Self::Service { pool, .. }
            | Self::Answers { pool, .. }
            | Self::Discovered { pool, .. }
            | Self::Check { pool, .. }
            | Self::NoResult { pool, .. }
            | Self::ChecksLate { pool, .. }
            | Self::ChecksOnTime { pool, .. }
            | Self::Operator { pool, .. }
            | Self::Added { pool, .. }
            | Self::Removed { pool, .. }
            | Self::Ended { pool, .. } => Some(pool),
            Self::Checked { pool, .. } => pool.as_ref(),
            Self::Reloaded { .. } | Self::NotReloaded { .. } => None,
            Self::DrainStarted { .. } | Self::DrainProgress { .. } | Self::DrainDone { .. } => None,
        }
    }

    /// The name of the backend that it is about, if it is about one.
    pub fn backend(&self) -> Option<&Arc<str>> {
        match self {
            Self::State { backend, .. }
            | Self::Named { backend, .. }
            | Self::Weight { backend, .. }
            | Self::Spared { backend, .. }
            | Self::Check { backend, .. }
            | Self::NoResult { backend, .. }
            | Self::Operator { backend, .. }
            | Self::Added { backend, .. }
            | Self::Removed { backend, .. } => Some(backend),
            Self::Ended { backend, .. } | Self::Checked { backend, .. } => backend.as_ref(),
            Self::Service { .. } | Self::Answers { .. } | Self::Discovered { .. } => None,
            Self::ChecksLate { .. } | Self::ChecksOnTime { .. } => None,
            Self::Reloaded { .. } | Self::NotReloaded { .. } => None,
            Self::DrainStarted { .. } | Self::DrainProgress { .. } | Self::DrainDone { .. } => None,
        }
    }

    /// That backend's address, where it is told.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::State { address, .. }
            | Self::Named { address, .. }
            | Self::Check { address, .. }
            | Self::Operator { address, .. }
            | Self::Added { address, .. }
            | Self::Removed { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// Writes its line to the log.
    pub(super) fn log(&self) {
        match self {
            Self::State { pool, backend, address, from, to, cause } => {
                state(pool, backend, *address, from, to, cause);
            }
            Self::Named { pool, backend, address } => info!(%pool, %backend, %address, "backend named"),
            Self::Weight { pool, backend, weight } => info!(%pool, %backend, weight, "backend weight"),
            Self::Spared { pool, backend, cause } => {
                warn!(%pool, %backend, cause = &**cause, "not ejected: as many are out as eject.at_most allows");
            }
            Self::Service { pool, by, before, up, used, panic } => {
                service(pool, *by, *before, [*up, *used], *panic);
            }
            Self::Answers { pool, source, trouble: None } => {
                info!(%pool, source = &**source, "resolved again");
            }
            Self::Answers { pool, source, trouble: Some(Trouble { result, reason }) } => {
                warn!(%pool, source = &**source, %result, reason = &**reason, "resolve failed");
            }
            Self::Discovered { pool, source, result, backends, new, missing } => {
                let (new, missing) = (new.join(", "), missing.join(", "));
                debug!(%pool, source = &**source, %result, backends, new, missing, "discovered");
            }
            Self::Check { pool, backend, address, check, passed, error, took_ms } => {
                let error = error.as_deref();
                debug!(%pool, %backend, %address, %check, passed, error, took_ms, "check changed");
            }
            Self::NoResult { pool, backend, error } => {
                warn!(%pool, %backend, error = &**error, "check without result: local error");
            }
            Self::ChecksLate { pool, waited_ms } => {
                warn!(%pool, waited_ms, "checks run late: too many are under way; raise runtime.max_checks");
            }
            Self::ChecksOnTime { pool, after_ms, checks } => {
                info!(%pool, after_ms, checks, "checks are on time again");
            }
            Self::Operator { who, pool, backend, address, state, weight } => {
                info!(%pool, %backend, %address, who = &**who, state, weight, "operator");
            }
            Self::Added { who, pool, backend, address, weight, backup } => {
                info!(%pool, %backend, %address, who = &**who, weight, backup, "operator adds a backend");
            }
            Self::Removed { who, pool, backend, address } => {
                info!(%pool, %backend, %address, who = &**who, "operator removes a backend");
            }
            Self::Ended { who, conn, client, pool, backend, how } => {
                let backend = backend.as_ref().map(display);
                info!(conn, %client, %pool, backend, who = &**who, how, "operator ends a connection");
            }
            Self::Checked { who, pool, backend } => {
                let (pool, backend) = (pool.as_ref().map(display), backend.as_ref().map(display));
                info!(pool, backend, who = &**who, "operator asks for checks");
            }
            Self::Reloaded { who, config, listeners, pools, restart } => {
                for part in restart {
                    warn!(part, "changed, and takes effect after a restart");
                }
                info!(%config, listeners, pools, who = &**who, "reload applied");
            }
            Self::NotReloaded { who, config, problems } => not_reloaded(who, config, problems),
            Self::DrainStarted { .. } | Self::DrainProgress { .. } | Self::DrainDone { .. } => self.drain(),
        }
    }

    fn drain(&self) {
        match self {
            Self::DrainStarted { who, open, grace_ms, timeout_ms } => {
                let [grace, timeout] =
                    [grace_ms, timeout_ms].map(|ms| format_duration(Duration::from_millis(*ms)));
                info!(open, %grace, %timeout, who = &**who, "drain started");
            }
            Self::DrainProgress { open, oldest_ms, time_left_ms } => {
                info!(open, oldest_ms, time_left_ms, "drain progress");
            }
            Self::DrainDone { cut: None } => info!("drain done"),
            Self::DrainDone { cut: Some(cut) } => warn!(cut, "drain done: the rest is cut off"),
            _ => {}
        }
    }
}

fn not_reloaded(who: &str, config: &str, problems: &[Wrong]) {
    for Wrong { line, column, message } in problems {
        let at = line.zip(*column).map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
        error!(config = %format_args!("{config}{at}"), error = &**message, who, "reload refused");
    }
}

fn state(pool: &str, backend: &str, address: SocketAddr, from: &str, to: &str, cause: &str) {
    macro_rules! tell {
        ($level:ident, $message:literal) => {
            $level!(%pool, %backend, %address, %from, %to, cause, $message)
        };
    }
    // The messages are stable words for tools, so each is written out.
    match to {
        "joining" => tell!(info, "backend joining"),
        "up" => tell!(info, "backend up"),
        "down" => tell!(warn, "backend down"),
        "ejected" => tell!(warn, "backend ejected"),
        "draining" => tell!(info, "backend draining"),
        "maintenance" => tell!(info, "backend maintenance"),
        _ => tell!(info, "backend gone"),
    }
}

fn service(pool: &str, by: Service, before: Option<Service>, [up, used]: [usize; 2], panic: u8) {
    match by {
        Service::Nobody => {
            warn!(%pool, "no backend is up: clients of this pool are turned away until one is");
        }
        Service::All => warn!(%pool, up, used, panic, "panic: too few backends are up, so all are used"),
        Service::Backups => warn!(%pool, used, "no primary is up: backups are used"),
        Service::Primaries if before == Some(Service::All) => {
            info!(%pool, up, "panic is over: enough backends are up");
        }
        Service::Primaries => info!(%pool, used, "primaries are used again"),
    }
}
