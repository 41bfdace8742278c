//! Where backends come from. One file per source.
//!
//! A source says what it sees, round after round, as [`Observation`]s; it knows nothing of pools. What an
//! observation means for the backends that were there before is the pool state's to decide
//! (`src/pool/state_machine`). To add a source: its file here, its [`Source`] variant, and a line in [`start`].

pub(crate) mod container_filter;
pub(crate) mod containers;
mod dns;
mod docker;
pub(crate) mod engine;
pub(crate) mod engine_watcher;
mod file;
mod once;
mod resolve;
mod rounds;
mod srv;
mod vetted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

pub use crate::config::SourceKey;
use crate::config::{Source, StaticBackend};
use crate::domain::cause::{Cause, LONGEST, bounded};
pub use once::addresses;

/// One backend that a source sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is called: together with the address its identity.
    pub name: Arc<str>,
    /// Nothing told its name: it is called by its address.
    pub nameless: bool,
    /// Where it is connected to.
    pub address: SocketAddr,
    /// Its other addresses, for people.
    pub also: Vec<SocketAddr>,
    /// Its share; 0 means that it gets nothing new.
    pub weight: u32,
    /// Which of several tiers it belongs to: those of a higher number are used only while none of a lower one is up.
    pub tier: u16,
    /// Connections that it may carry at once; `None`: what the pool says.
    pub connections: Option<NonZeroU32>,
    /// What the source itself knows of its health.
    pub fitness: Fitness,
}

impl Found {
    /// A backend of which nothing more is known.
    pub fn new(name: Arc<str>, address: SocketAddr) -> Self {
        Self {
            name,
            nameless: false,
            address,
            also: Vec::new(),
            weight: 1,
            tier: 0,
            connections: None,
            fitness: Fitness::Unknown,
        }
    }

    /// The addresses of one name as backends: an IPv4 and an IPv6 address are one; several of a family stay apart.
    fn of(name: &Arc<str>, addresses: &BTreeSet<IpAddr>, port: u16) -> Vec<Self> {
        let one = |ip: &IpAddr| Self::new(Arc::clone(name), SocketAddr::new(*ip, port));
        match addresses.iter().collect::<Vec<_>>()[..] {
            [v4, v6] if v4.is_ipv4() && v6.is_ipv6() => {
                vec![Self { also: vec![SocketAddr::new(*v6, port)], ..one(v4) }]
            }
            ref all => all.iter().map(|ip| one(ip)).collect(),
        }
    }
}

impl From<&StaticBackend> for Found {
    fn from(written: &StaticBackend) -> Self {
        Self {
            weight: written.weight,
            tier: u16::from(written.backup),
            connections: written.connections,
            ..Self::new(Arc::clone(&written.name), written.address)
        }
    }
}

/// What a source knows of a backend's health, such as a container's HEALTHCHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Nothing.
    Unknown,
    /// It is not ready yet.
    Starting,
    /// It is well.
    Healthy,
    /// It is not, and why.
    Unhealthy(Cause),
}

/// What one round of asking a source found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The backends, or why there are none.
    pub outcome: Outcome,
    /// Whose the addresses are now, as far as it is known: of those found, and of those found before and
    /// missing now. This is what tells a backend whose address went to a stranger from one that is merely gone.
    pub owners: BTreeMap<IpAddr, Arc<str>>,
}

/// The answer of one round. The ways of finding nothing are told apart, because they mean different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The complete set; not empty.
    Backends(Vec<Found>),
    /// There is none: the name exists and has no address of the families asked for, the list is empty, no container has
    /// the label.
    Empty,
    /// The name does not exist (NXDOMAIN); with Docker also: no container of that name runs.
    NoSuchName(Cause),
    /// The server could not answer (SERVFAIL, REFUSED …): nothing can be concluded.
    ServerFailure(Cause),
    /// No answer came in time: nothing can be concluded.
    Silence(Cause),
    /// What was read makes no sense, or could not be read: what was read before stands. Each reason is told.
    Invalid(Cause),
}

impl Outcome {
    /// All that [`result`](Self::result) can say.
    pub const RESULTS: [&str; 6] = ["ok", "empty", "nxdomain", "server_failure", "timeout", "invalid"];

    /// The word for it in `pointsman_resolutions_total{result}`.
    pub fn result(&self) -> &'static str {
        match self {
            Self::Backends(_) => "ok",
            Self::Empty => "empty",
            Self::NoSuchName(_) => "nxdomain",
            Self::ServerFailure(_) => "server_failure",
            Self::Silence(_) => "timeout",
            Self::Invalid(_) => "invalid",
        }
    }

    /// What is news if it is another than that of the answer before.
    pub fn gist(&self) -> &str {
        match self {
            // Whoever mends one mistake and makes another wants to know.
            Self::Invalid(reason) => reason,
            // These are not the reader's doing, and may be put in other words each time.
            _ => self.result(),
        }
    }

    /// Why nothing was found in `source`, for people.
    pub fn trouble(&self, source: &SourceKey) -> Option<Cause> {
        match self {
            Self::Backends(_) => None,
            Self::Empty => Some(nothing_in(source).into()),
            Self::NoSuchName(reason) => Some(reason.clone()),
            Self::ServerFailure(reason) | Self::Silence(reason) => {
                Some(told(reason, "; the last good answer stands for now"))
            }
            Self::Invalid(reason) => Some(told(reason, "; what was read before stands")),
        }
    }

    /// The backends seen; `None` when nothing can be concluded about who is there.
    pub fn seen(&self) -> Option<&[Found]> {
        match self {
            Self::Backends(found) => Some(found),
            Self::Empty | Self::NoSuchName(_) => Some(&[]),
            Self::ServerFailure(_) | Self::Silence(_) | Self::Invalid(_) => None,
        }
    }
}

/// A reason with its consequence, which must stay even if the reason is long.
fn told(reason: &str, follows: &str) -> Cause {
    let room = LONGEST - follows.chars().count();
    Cause::from(bounded(reason, room) + follows)
}

/// What it means that a source is well and has no backends.
fn nothing_in(source: &SourceKey) -> &'static str {
    match source {
        SourceKey::Static | SourceKey::File(_) | SourceKey::Operator => "the list is empty",
        SourceKey::Dns(..) | SourceKey::Srv(_) => "the name exists but has no address",
        SourceKey::Docker { .. } => "no running container that can be a backend has the label",
    }
}

/// Where a source puts what it sees.
pub type Sink = Box<dyn Fn(Observation) + Send>;

/// A running source; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    ask_now: Arc<Notify>,
    _task: Option<AbortOnDropHandle<()>>,
}

impl Running {
    /// Asks again soon instead of at the next regular time: something suggests that the last answer is stale.
    pub fn ask_now(&self) {
        self.ask_now.notify_one();
    }
}

/// Open files that watching `source` may need at once.
pub(crate) fn files(source: &Source) -> u64 {
    /// A question goes to up to two servers at a time.
    const SERVERS: u64 = 2;
    const FAMILIES: u64 = 2;
    /// A TCP connection to each server, for answers that do not fit a datagram.
    const OVER_TCP: u64 = 4;
    /// Two streams: events and lists.
    const ENGINE: u64 = 4;
    match source {
        Source::Static(_) => 0,
        Source::File(_) => 1,
        // Reverse lookups start when the addresses are known.
        Source::Dns(_) => rounds::AT_ONCE as u64 * SERVERS + OVER_TCP,
        Source::Srv(_) => rounds::AT_ONCE as u64 * SERVERS * FAMILIES + OVER_TCP,
        Source::Docker(_) => rounds::AT_ONCE as u64 + ENGINE,
    }
}

/// Starts watching `source`; needs a tokio runtime.
pub fn start(source: &Source, sink: Sink) -> Running {
    let ask_now = Arc::new(Notify::new());
    let sink = vetted::vetted(SourceKey::from(source), sink);
    let task = match source {
        Source::Static(backends) => {
            let outcome = Outcome::Backends(backends.iter().map(Found::from).collect());
            sink(Observation { outcome, owners: BTreeMap::new() });
            None
        }
        Source::Dns(settings) => {
            let watcher = dns::Watcher::new(settings.clone());
            Some(tokio::spawn(rounds::watch(watcher, Arc::clone(&ask_now), sink)))
        }
        Source::Srv(settings) => {
            let watcher = srv::Watcher::new(settings.clone());
            Some(tokio::spawn(rounds::watch(watcher, Arc::clone(&ask_now), sink)))
        }
        Source::File(settings) => {
            Some(tokio::spawn(file::watch(settings.clone(), Arc::clone(&ask_now), sink)))
        }
        Source::Docker(settings) => {
            Some(tokio::spawn(docker::watch(settings.clone(), Arc::clone(&ask_now), sink)))
        }
    };
    Running { ask_now, _task: task.map(AbortOnDropHandle::new) }
}
