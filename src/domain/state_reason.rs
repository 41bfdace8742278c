//! Why a backend is in its state. The pool's state machine sets these reasons; their text is made where they are
//! logged, sent or displayed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use humantime::{format_duration, format_rfc3339_seconds};
use serde::{Deserialize, Serialize, Serializer};

use super::{AdminState, Cause, CheckFailure, Owner, SocketAddress};

/// Why a backend is in its state.
///
/// The derived representation, with all fields, is that of the state directory; in the API a reason has a name and a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum StateReason {
    /// A source reports it.
    ///
    /// Remedy: none needed: its first check follows at once. If it stays so, `/ready` and `pointsman why
    /// POOL/BACKEND` say what it waits for.
    Found {
        /// The source.
        source: Arc<str>,
    },
    /// A source reports it, and the pool has no checks.
    ///
    /// Remedy: none needed. With `health` it would be checked first.
    FoundUnchecked,
    /// It was in this state in the process from which this one took over.
    ///
    /// Remedy: that of the reason after the colon. The next checks decide, or the end of the ejection.
    TakenOver {
        /// Why it was in its state there.
        cause: Cause,
    },
    /// Its container is starting.
    ///
    /// Remedy: none needed: its HEALTHCHECK has not passed yet. If it stays so, look at `docker inspect` of the
    /// container.
    ContainerStarting,
    /// Its source no longer reports it as starting or unhealthy.
    ///
    /// Remedy: none needed.
    SourceHealthy,
    /// Its source reports it unhealthy, and why.
    ///
    /// Remedy: the cause comes from the source: look at the container (`docker inspect`), or unpause it.
    /// `healthcheck: false` ignores the HEALTHCHECK of containers.
    SourceUnhealthy(Cause),
    /// Its first check passed.
    ///
    /// Remedy: none needed.
    FirstCheckPassed,
    /// Enough checks passed in a row.
    ///
    /// Remedy: none needed.
    ChecksPassed {
        /// How many: the check's `rise`.
        count: u32,
    },
    /// Its first check failed.
    ///
    /// Remedy: the text after the colon says what the check saw. If the backend takes long to start, give it `grace`.
    FirstCheckFailed(HealthFailure),
    /// No check passed within the grace period.
    ///
    /// Remedy: it has not started in that time: read its own log, or raise `grace`.
    GraceOver {
        /// The grace period.
        grace: Duration,
        /// The last failure.
        failure: HealthFailure,
    },
    /// It failed often enough in a row.
    ///
    /// Remedy: the text after the colon says what the check or the client's connection saw. If it is well and merely
    /// slow at times, raise `timeout` or `fall` of the check.
    Failures {
        /// How often: the check's `fall`, or 1 for a backend that is also missing from its source.
        count: u32,
        /// The last failure.
        failure: HealthFailure,
    },
    /// The pool's checks were removed.
    ///
    /// Remedy: none needed.
    ChecksRemoved,
    /// The pool's checks were replaced by other ones.
    ///
    /// Remedy: none needed: the next result decides.
    ChecksChanged,
    /// It is ejected.
    ///
    /// Remedy: it answers checks but fails clients, or is slow: read its own log, and let the check look closer at
    /// what clients need. `eject` has the thresholds.
    Ejected {
        /// Why.
        #[serde(with = "EjectionReason")]
        why: EjectionReason,
        /// For how long.
        time: Duration,
    },
    /// The time of its ejection is over.
    ///
    /// Remedy: none needed: one more failure before its first response ejects it again.
    EjectionOver,
    /// Too few backends are left for it to stay ejected.
    ///
    /// Remedy: none needed: `eject.at_most` protects the pool. Look at why the others left or are down.
    TooFewOthers,
    /// An operator set its state.
    ///
    /// Remedy: `pointsman up POOL/BACKEND` puts it back in service.
    SetByOperator {
        /// The state.
        state: AdminState,
        /// The operator.
        by: Arc<str>,
    },
    /// An operator set its state before the last restart, and it was saved in the state directory.
    ///
    /// Remedy: `pointsman up POOL/BACKEND` puts it back in service.
    SetBeforeRestart {
        /// The state.
        state: AdminState,
        /// The operator.
        by: Arc<str>,
        /// When.
        at: SystemTime,
    },
    /// An operator removed it, after operators had added it.
    ///
    /// Remedy: none needed; a POST to `/api/v1/pools/POOL/backends` adds it again.
    RemovedByOperator {
        /// The operator.
        by: Arc<str>,
    },
    /// Its source no longer reports it.
    ///
    /// Remedy: none if it was meant to leave. Otherwise ask the source yourself (`dig NAME`, `docker ps`), and raise
    /// `flap` if it is missing for moments only.
    LeftSource {
        /// The source.
        source: Arc<str>,
    },
    /// Its source has not answered for so long that its last answer has expired, and its checks fail.
    ///
    /// Remedy: repair the source (DNS server, Docker engine): the backend had to leave because its checks fail as
    /// well.
    SourceSilent {
        /// The source.
        source: Arc<str>,
        /// How long: the source's `hold`.
        time: Duration,
    },
    /// Its address belongs to another name now.
    ///
    /// Remedy: none needed: the backend of that name has the address now.
    AddressTaken {
        /// The name.
        by: Arc<str>,
    },
    /// This process listens at its address.
    ///
    /// Remedy: remove the address from the source, or let the listener bind another one: Pointsman would connect to
    /// itself.
    OwnAddress {
        /// The address; `None`: that of each of several backends.
        address: Option<SocketAddress>,
        /// What listens there.
        owner: Owner,
    },
    /// This process no longer listens at its address.
    ///
    /// Remedy: none needed.
    OwnAddressReleased,
    /// Its pool was removed from the configuration.
    ///
    /// Remedy: none needed.
    PoolRemoved,
}

/// A failure of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthFailure {
    /// It failed a check.
    Check(CheckFailure),
    /// It failed a client's connection.
    Connection(Failure),
}

/// How a live connection failed before the backend sent anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It could not be opened, and why.
    Connect(Cause),
    /// The backend reset it.
    Reset,
}

/// Why a backend is ejected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case")]
pub enum EjectionReason {
    /// Clients' connections failed in a row.
    Failures {
        /// How many.
        count: u32,
        /// The last one.
        failure: Failure,
    },
    /// It answers much slower than the others.
    Slow {
        /// Its median response time.
        median: Duration,
        /// The median response time of the others.
        others: Duration,
    },
}

impl StateReason {
    /// The name for tools; the text may change.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Found { .. } => "found",
            Self::FoundUnchecked => "found_unchecked",
            Self::TakenOver { .. } => "taken_over",
            Self::ContainerStarting => "container_starting",
            Self::SourceHealthy => "source_healthy",
            Self::SourceUnhealthy(_) => "source_unhealthy",
            Self::FirstCheckPassed => "first_check_passed",
            Self::ChecksPassed { .. } => "checks_passed",
            Self::FirstCheckFailed(_) => "first_check_failed",
            Self::GraceOver { .. } => "grace_over",
            Self::Failures { .. } => "failures",
            Self::ChecksRemoved => "checks_removed",
            Self::ChecksChanged => "checks_changed",
            Self::Ejected { why: EjectionReason::Failures { .. }, .. } => "ejected_failures",
            Self::Ejected { why: EjectionReason::Slow { .. }, .. } => "ejected_slow",
            Self::EjectionOver => "ejection_over",
            Self::TooFewOthers => "too_few_others",
            Self::SetByOperator { state: AdminState::Up, .. } => "operator_up",
            Self::SetByOperator { state: AdminState::Draining, .. } => "operator_draining",
            Self::SetByOperator { state: AdminState::Maintenance, .. } => "operator_maintenance",
            Self::SetBeforeRestart { state: AdminState::Up, .. } => "operator_up_before_restart",
            Self::SetBeforeRestart { state: AdminState::Draining, .. } => "operator_draining_before_restart",
            Self::SetBeforeRestart { state: AdminState::Maintenance, .. } => {
                "operator_maintenance_before_restart"
            }
            Self::RemovedByOperator { .. } => "operator_removed",
            Self::LeftSource { .. } => "left_source",
            Self::SourceSilent { .. } => "source_silent",
            Self::AddressTaken { .. } => "address_taken",
            Self::OwnAddress { .. } => "own_address",
            Self::OwnAddressReleased => "own_address_released",
            Self::PoolRemoved => "pool_removed",
        }
    }

    /// The reason without the backend's address: two backends have the same reason if these are equal.
    #[must_use]
    pub fn without_address(&self) -> Self {
        match self.clone() {
            Self::FirstCheckFailed(failure) => Self::FirstCheckFailed(failure.without_address()),
            Self::GraceOver { grace, failure } => {
                Self::GraceOver { grace, failure: failure.without_address() }
            }
            Self::Failures { count, failure } => Self::Failures { count, failure: failure.without_address() },
            Self::OwnAddress { owner, .. } => Self::OwnAddress { address: None, owner },
            same => same,
        }
    }

    /// Its text without the prefix of a take-over, so that the prefix is not repeated at each hand-over.
    pub fn original_cause(&self) -> Cause {
        match self {
            Self::TakenOver { cause } => cause.clone(),
            _ => self.text(),
        }
    }

    /// Its text, bounded as a whole.
    pub fn text(&self) -> Cause {
        let text = match self {
            Self::Found { source } => format!("found in {source}"),
            Self::FoundUnchecked => return "found, and the pool has no checks".into(),
            Self::TakenOver { cause } => format!("taken over from the process before: {cause}"),
            Self::ContainerStarting => return "its container is starting".into(),
            Self::SourceHealthy => return "its source reports it healthy".into(),
            Self::SourceUnhealthy(cause) => return cause.clone(),
            Self::FirstCheckPassed => return "its first check passed".into(),
            Self::ChecksPassed { count } => in_a_row(*count, "check passed", "checks passed"),
            Self::FirstCheckFailed(failure) => format!("its first check failed: {failure}"),
            Self::GraceOver { grace, failure } => {
                format!("its checks did not pass within {}: {failure}", format_duration(*grace))
            }
            Self::Failures { count, failure } => {
                format!("{}: {failure}", in_a_row(*count, "failure", "failures"))
            }
            Self::ChecksRemoved => return "the pool's checks were removed".into(),
            Self::ChecksChanged => return "the pool's checks were changed".into(),
            Self::Ejected { why, time } => format!("{why}; ejected for {}", format_duration(*time)),
            Self::EjectionOver => return "its ejection time is over".into(),
            Self::TooFewOthers => return "ejection lifted: too few other backends".into(),
            Self::SetByOperator { state, by } => format!("{} by {by}", set_to(*state)),
            Self::SetBeforeRestart { state, by, at } => {
                format!("{} by {by} before the restart, on {}", set_to(*state), utc(*at))
            }
            Self::RemovedByOperator { by } => format!("removed by {by}"),
            Self::LeftSource { source } => format!("no longer in {source}"),
            Self::SourceSilent { source, time } => {
                format!("{source} has not answered for {}, and its checks fail", format_duration(*time))
            }
            Self::AddressTaken { by } => format!("its address now belongs to {by}"),
            Self::OwnAddress { address: Some(address), owner } => {
                format!("refused: {address} is this balancer's own {owner}")
            }
            Self::OwnAddress { address: None, owner } => {
                format!("refused: its address is this balancer's own {owner}")
            }
            Self::OwnAddressReleased => return "this balancer no longer listens at its address".into(),
            Self::PoolRemoved => return "its pool was removed from the configuration".into(),
        };
        text.into()
    }
}

fn set_to(state: AdminState) -> &'static str {
    match state {
        AdminState::Up => "put back in service",
        AdminState::Draining => "drained",
        AdminState::Maintenance => "put into maintenance",
    }
}

/// The last second of the year 9999, since the epoch: later times have no text.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// A time as text, such as `2026-11-25 at 00:34:19 UTC`.
fn utc(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST_SECOND);
    let text = format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string();
    text.trim_end_matches('Z').replace('T', " at ") + " UTC"
}

fn in_a_row(n: u32, one: &str, many: &str) -> String {
    if n == 1 { format!("a {one}") } else { format!("{n} {many} in a row") }
}

impl HealthFailure {
    fn without_address(self) -> Self {
        match self {
            Self::Check(failure) => Self::Check(failure.without_address()),
            Self::Connection(failure) => Self::Connection(failure),
        }
    }
}

impl fmt::Display for StateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

impl fmt::Display for HealthFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(failure) => failure.fmt(f),
            Self::Connection(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "a client's connection failed: {error}"),
            Self::Reset => f.write_str("it reset a client's connection before any response"),
        }
    }
}

impl EjectionReason {
    /// Its text, bounded as a whole.
    pub fn text(&self) -> Cause {
        self.to_string().into()
    }
}

impl fmt::Display for EjectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures { count: 1, failure } => write!(f, "a failure: {failure}"),
            Self::Failures { count, failure } => write!(f, "{count} failures in a row: {failure}"),
            Self::Slow { median, others } => {
                let [median, others] = [median, others].map(|time| (time.as_secs_f64() * 1e4).round() / 10.0);
                write!(f, "median response time {median} ms, other backends {others} ms")
            }
        }
    }
}

impl Serialize for EjectionReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text().serialize(serializer)
    }
}

impl Serialize for StateReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        StateReasonInfo { reason: self.name(), cause: self.text() }.serialize(serializer)
    }
}

/// A reason in the API.
#[derive(Serialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub(super) struct StateReasonInfo {
    /// Why, as a word for tools, such as `failures`.
    reason: &'static str,
    /// Why, in words.
    cause: Cause,
}

#[cfg(test)]
#[path = "state_reason_tests.rs"]
pub(super) mod tests;
