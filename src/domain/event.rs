//! What happens to the balancer: each event is one line of the log and one entry of the journal. Events of single
//! connections are not among them; those are decisions and ends.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    AdminState, BackendState, Cause, CheckKind, Client, DrainForecast, EjectionReason, Ending, ListenerState,
    Resolution, ServingTier, SocketAddress, StateReason,
};

/// Something that happened. In JSON, `kind` names the variant.
///
/// It is deserialized from the state directory, which has reasons with all their fields (`telemetry/saved_event.rs`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A backend's state changed.
    StateChanged {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddress,
        /// Its state before.
        from: BackendState,
        /// Its state now.
        to: BackendState,
        /// Why.
        #[serde(flatten, deserialize_with = "saved_reason")]
        #[cfg_attr(any(test, feature = "testing"), schemars(with = "super::StateReasonInfo"))]
        reason: StateReason,
    },
    /// A backend that was known by its address only has a name now.
    BackendNamed {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddress,
    },
    /// A backend's weight changed.
    WeightChanged {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// The weight.
        weight: u32,
    },
    /// A backend was not ejected, because `eject.at_most` backends are ejected already.
    EjectionSuppressed {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Why it would have been ejected.
        #[serde(rename = "cause", deserialize_with = "EjectionReason::deserialize")]
        reason: EjectionReason,
    },
    /// A pool's connections go to another tier of its backends than before.
    ServingTierChanged {
        /// The pool.
        pool: Arc<str>,
        /// The tier.
        tier: ServingTier,
        /// The tier before; `None` at the start.
        before: Option<ServingTier>,
        /// How many backends are up.
        up: usize,
        /// How many are eligible.
        used: usize,
        /// The pool's `panic`: when fewer than this share of backends are up, all are used, in percent.
        panic: u8,
    },
    /// A source began to fail or to find nothing, in another way than before, or recovered.
    ResolverStatusChanged {
        /// Its pool.
        pool: Arc<str>,
        /// The source.
        source: Arc<str>,
        /// What is wrong; `None`: it finds backends again.
        trouble: Option<Trouble>,
    },
    /// A source reports other endpoints than before.
    EndpointsChanged {
        /// Its pool.
        pool: Arc<str>,
        /// The source.
        source: Arc<str>,
        /// The kind of answer, as in the metric `pointsman_resolutions_total`.
        result: Resolution,
        /// How many endpoints it reports.
        backends: usize,
        /// The first of those that are new.
        new: Vec<Endpoint>,
        /// The first of those that are missing now.
        missing: Vec<Endpoint>,
    },
    /// A backend's check has another result than the time before.
    CheckResultChanged {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddress,
        /// What was checked.
        check: CheckKind,
        /// Whether it passed.
        passed: bool,
        /// Why it did not.
        error: Option<Cause>,
        /// How long it took, in milliseconds.
        took_ms: f64,
    },
    /// A check has no result because of a local error.
    CheckInconclusive {
        /// The pool.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
        /// The error.
        error: Cause,
    },
    /// Checks of a pool start late: too many checks of all pools are running.
    ChecksLate {
        /// The pool.
        pool: Arc<str>,
        /// How long the first of them waited to start, in milliseconds.
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
    /// An operator set a backend's state or weight.
    OperatorChange {
        /// The operator.
        by: Arc<str>,
        /// The backend's pool.
        pool: Arc<str>,
        /// Its name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddress,
        /// The state, if that was set.
        state: Option<AdminState>,
        /// The weight, if that was set.
        weight: Option<u32>,
    },
    /// An operator added a backend.
    BackendAdded {
        /// The operator.
        by: Arc<str>,
        /// The pool.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddress,
        /// Its weight.
        weight: u32,
        /// Whether it is a backup.
        backup: bool,
    },
    /// An operator removed a backend that operators had added.
    BackendRemoved {
        /// The operator.
        by: Arc<str>,
        /// The pool.
        pool: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
        /// Its address.
        address: SocketAddress,
    },
    /// An operator drained a listener, or took that back.
    ListenerChange {
        /// The operator.
        by: Arc<str>,
        /// The listener.
        listener: Arc<str>,
        /// Its state now.
        state: ListenerState,
        /// Its open connections.
        open: u64,
    },
    /// An operator closed a connection.
    ConnectionClosed {
        /// The operator.
        by: Arc<str>,
        /// The connection's number.
        conn: u64,
        /// Its client.
        client: Client,
        /// Its pool, if that was known.
        pool: Option<Arc<str>>,
        /// Its backend, if it had one.
        backend: Option<Arc<str>>,
        /// How.
        how: Ending,
    },
    /// An operator requested checks of backends.
    CheckRequested {
        /// The operator.
        by: Arc<str>,
        /// The pool; `None`: all.
        pool: Option<Arc<str>>,
        /// The backend; `None`: all of the pool.
        backend: Option<Arc<str>>,
    },
    /// The configuration was reloaded and is in effect.
    ReloadApplied {
        /// An operator, or a signal.
        by: Arc<str>,
        /// The file.
        config: Arc<str>,
        /// Listeners in it.
        listeners: usize,
        /// Pools in it.
        pools: usize,
        /// Changed parts that take effect after a restart.
        restart: Vec<Arc<str>>,
    },
    /// The configuration was reloaded and is invalid: nothing changed.
    ReloadRefused {
        /// An operator, or a signal.
        by: Arc<str>,
        /// The file.
        config: Arc<str>,
        /// What is wrong with it.
        problems: Vec<ConfigProblem>,
    },
    /// The process started, and continues the journal of the one before (`runtime.state`).
    Started {
        /// The version.
        version: Arc<str>,
        /// Events of processes before this one that are still there.
        events: usize,
        /// Saved events that were skipped: another version recorded them.
        skipped: u64,
    },
    /// A hand-over to another process begins.
    HandOverStarted {
        /// An operator, or a signal.
        by: Arc<str>,
    },
    /// Another process accepts connections now; this one drains.
    HandOverDone {
        /// The other process.
        process: u32,
    },
    /// A hand-over has failed: this process continues as before.
    HandOverFailed {
        /// Why.
        error: Cause,
    },
    /// The process has taken over from another one.
    TookOver {
        /// The other process.
        process: u32,
        /// Addresses whose listening sockets it took over.
        addresses: usize,
    },
    /// A pool's connections are distributed unevenly: idle ones are moved (`rebalance`).
    RebalanceStarted {
        /// The pool.
        pool: Arc<str>,
        /// Connections above the shares of their backends.
        surplus: u64,
        /// Connections of these backends that can be closed now, as they are idle.
        idle: u64,
        /// How long it takes if enough connections become idle, in seconds.
        seconds: u64,
        /// Whether none is closed (`rebalance.dry_run`).
        dry_run: bool,
    },
    /// A pool's connections are distributed evenly again.
    RebalanceDone {
        /// The pool.
        pool: Arc<str>,
        /// Connections that were closed.
        closed: u64,
    },
    /// The process stops accepting connections, now or after the grace period.
    DrainStarted {
        /// An operator, or a signal.
        by: Arc<str>,
        /// Connections that are open.
        open: usize,
        /// The grace period, in which connections are still accepted, in milliseconds.
        grace_ms: u64,
        /// How long the open ones then have to finish, in milliseconds.
        timeout_ms: u64,
    },
    /// A drain is in progress.
    DrainProgress {
        /// What is still open, and how long that is expected to take.
        #[serde(flatten)]
        forecast: DrainForecast,
    },
    /// A drain is over.
    DrainDone {
        /// Connections that are reset; `None`: all have finished.
        cut: Option<usize>,
    },
}

/// A reason with all its fields, as the state directory has it.
#[derive(Deserialize)]
struct SavedReason {
    #[serde(deserialize_with = "StateReason::deserialize")]
    detail: StateReason,
}

fn saved_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StateReason, D::Error> {
    Ok(SavedReason::deserialize(deserializer)?.detail)
}

/// A problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct ConfigProblem {
    /// The line of the file, from 1; `None`: the problem concerns the whole file.
    pub line: Option<usize>,
    /// The column, in characters from 1.
    pub column: Option<usize>,
    /// The problem.
    pub message: Cause,
}

/// An endpoint that a source reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddress,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// What is wrong with a source's answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Trouble {
    /// The kind of answer, as in the metric `pointsman_resolutions_total`.
    pub result: Resolution,
    /// What that means.
    pub reason: Cause,
}

impl Event {
    /// The pool that it concerns; `None`: the whole process.
    pub fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::StateChanged { pool, .. }
            | Self::BackendNamed { pool, .. }
            | Self::WeightChanged { pool, .. }
            | Self::EjectionSuppressed { pool, .. }
            | Self::ServingTierChanged { pool, .. }
            | Self::ResolverStatusChanged { pool, .. }
            | Self::EndpointsChanged { pool, .. }
            | Self::CheckResultChanged { pool, .. }
            | Self::CheckInconclusive { pool, .. }
            | Self::ChecksLate { pool, .. }
            | Self::ChecksOnTime { pool, .. }
            | Self::OperatorChange { pool, .. }
            | Self::BackendAdded { pool, .. }
            | Self::BackendRemoved { pool, .. }
            | Self::RebalanceStarted { pool, .. }
            | Self::RebalanceDone { pool, .. } => Some(pool),
            Self::ConnectionClosed { pool, .. } | Self::CheckRequested { pool, .. } => pool.as_ref(),
            Self::ListenerChange { .. } => None,
            Self::ReloadApplied { .. } | Self::ReloadRefused { .. } | Self::Started { .. } => None,
            Self::HandOverStarted { .. } | Self::HandOverDone { .. } | Self::HandOverFailed { .. } => None,
            Self::TookOver { .. } => None,
            Self::DrainStarted { .. } | Self::DrainProgress { .. } | Self::DrainDone { .. } => None,
        }
    }

    /// The name of the backend that it concerns, if any.
    pub fn backend(&self) -> Option<&Arc<str>> {
        match self {
            Self::StateChanged { backend, .. }
            | Self::BackendNamed { backend, .. }
            | Self::WeightChanged { backend, .. }
            | Self::EjectionSuppressed { backend, .. }
            | Self::CheckResultChanged { backend, .. }
            | Self::CheckInconclusive { backend, .. }
            | Self::OperatorChange { backend, .. }
            | Self::BackendAdded { backend, .. }
            | Self::BackendRemoved { backend, .. } => Some(backend),
            Self::ConnectionClosed { backend, .. } | Self::CheckRequested { backend, .. } => backend.as_ref(),
            Self::ServingTierChanged { .. }
            | Self::ResolverStatusChanged { .. }
            | Self::EndpointsChanged { .. } => None,
            Self::ChecksLate { .. } | Self::ChecksOnTime { .. } => None,
            Self::RebalanceStarted { .. } | Self::RebalanceDone { .. } => None,
            Self::ListenerChange { .. } => None,
            Self::ReloadApplied { .. } | Self::ReloadRefused { .. } | Self::Started { .. } => None,
            Self::HandOverStarted { .. } | Self::HandOverDone { .. } | Self::HandOverFailed { .. } => None,
            Self::TookOver { .. } => None,
            Self::DrainStarted { .. } | Self::DrainProgress { .. } | Self::DrainDone { .. } => None,
        }
    }

    /// That backend's address, if the event has it.
    pub fn address(&self) -> Option<&SocketAddress> {
        match self {
            Self::StateChanged { address, .. }
            | Self::BackendNamed { address, .. }
            | Self::CheckResultChanged { address, .. }
            | Self::OperatorChange { address, .. }
            | Self::BackendAdded { address, .. }
            | Self::BackendRemoved { address, .. } => Some(address),
            _ => None,
        }
    }
}
