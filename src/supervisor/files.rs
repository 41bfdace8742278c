//! How many open files the process may need besides those of its clients, and how that affects the configured limits.

use std::fmt;

use tracing::warn;

use crate::config::{Admin, Config, Replicas};
use crate::discovery;
use crate::proxy::files::Files;

/// Files of every process: standard streams, two runtimes (an epoll and an eventfd each), signals, log files and the
/// next file during rotation, a connection accepted only to be closed, and files that are read occasionally: `/proc`
/// for the metrics, the configuration for a reload, `resolv.conf`. About 20, doubled as a margin.
const BASE: u64 = 48;
/// Files of each worker: an epoll and an eventfd, doubled as a margin.
const PER_WORKER: u64 = 4;
/// Files of each worker for each address: its listening socket, the second handle of it, and an accepted client that
/// waits for its permit.
const PER_WORKER_AND_ADDRESS: u64 = 3;
/// The socket that reserves an address.
const PER_ADDRESS: u64 = 1;
/// A reload opens the new addresses before it closes the old ones.
const SETS_OF_ADDRESSES: u64 = 2;
/// For the engine's replicas: event streams and requests. A replica may start while another one of the same name stops.
const PER_FLEET: u64 = 16;
const PER_REPLICA: u64 = 2;

/// The open files of a process with this configuration, the limit `limit` and that many workers.
pub(crate) fn files(config: &Config, limit: u64, workers: usize) -> Files {
    Files::new(limit, reserved(config, workers), workers)
}

/// The number of data-plane threads.
pub(crate) fn workers(config: &Config) -> usize {
    // available_parallelism respects a CPU quota.
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    config.runtime.workers.map_or_else(cores, usize::from)
}

/// The files that may be open besides those of clients. Checks count even if none is configured: a reload may add
/// them, and the reserve is fixed at the start.
fn reserved(config: &Config, workers: usize) -> u64 {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let workers = count(workers.max(1));
    let addresses = count(config.listeners.values().map(|listener| listener.bind.len()).sum());
    let per_address = (PER_ADDRESS + PER_WORKER_AND_ADDRESS * workers) * SETS_OF_ADDRESSES;
    let admin = if config.admin.is_some() { count(Admin::MOST_CONNECTIONS) + 1 } else { 0 };
    let sources = config.pools.values().flat_map(|pool| &pool.discover).map(discovery::files);
    let fleet = |replicas: &Replicas| PER_FLEET + PER_REPLICA * u64::from(replicas.max);
    let fleets = config.pools.values().filter_map(|pool| pool.replicas.as_ref()).map(fleet);
    [BASE, PER_WORKER.saturating_mul(workers), addresses.saturating_mul(per_address), admin]
        .into_iter()
        .chain([count(config.runtime.max_checks.get())])
        .chain(sources)
        .chain(fleets)
        .fold(0, u64::saturating_add)
}

/// A configured limit of connections above what the open files allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lowered {
    setting: String,
    configured: u64,
    allowed: u64,
    files: u64,
    /// The open-file limit with which it would fit.
    needed: u64,
}

impl fmt::Display for Lowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, configured, allowed, files, needed } = self;
        write!(
            f,
            "{setting} is {configured}, but the limit of {files} open files allows {allowed}: raise it to {needed} \
             ({})",
            Hint(*needed)
        )
    }
}

impl Lowered {
    /// Logs a warning.
    pub(super) fn log(&self) {
        let Self { setting, configured, allowed, files, needed } = self;
        warn!(
            setting,
            configured,
            allowed,
            open_files = files,
            needed,
            "the limit of open files lowers a limit of connections: raise it ({})",
            Hint(*needed)
        );
    }
}

/// The open-file limit may be too low to serve a single client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage(Files);

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, reserved, needed) = (self.0.limit(), self.0.reserved(), self.0.needed(1));
        write!(
            f,
            "the limit of {limit} open files may leave none for clients, as listeners, the admin server, checks and discovery \
             may need {reserved}: raise it to {needed} or more ({}), or lower runtime.max_checks",
            Hint(needed)
        )
    }
}

/// Whether files for a client are not guaranteed.
pub(crate) fn shortage(files: &Files) -> Option<Shortage> {
    (files.certain() == 0).then_some(Shortage(*files))
}

/// How to raise the limit of open files.
struct Hint(u64);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.0;
        write!(f, "LimitNOFILE={files} of systemd, ulimits of Compose, `ulimit -Hn {files}`")
    }
}

/// The limits of connections in a configuration that exceed what the open files allow.
pub(crate) fn lowered(config: &Config, files: &Files) -> Vec<Lowered> {
    let allowed = files.clients();
    let whole = config.runtime.max_connections.map(|limit| ("runtime.max_connections".to_owned(), limit));
    let listeners = config.listeners.iter().filter_map(|(name, listener)| {
        Some((format!("listeners.{name}.max_connections"), listener.max_connections?))
    });
    let lowered = whole.into_iter().chain(listeners).filter_map(|(setting, configured)| {
        let configured = u64::try_from(configured).unwrap_or(u64::MAX);
        (configured > allowed).then(|| Lowered {
            setting,
            configured,
            allowed,
            files: files.limit(),
            needed: files.needed(configured),
        })
    });
    lowered.collect()
}
