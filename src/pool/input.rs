//! What the pool's state machine takes in, and what follows from it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::backend::Backend;
use crate::config;
use crate::discovery::{Found, Observation, Outcome, SourceKey};

use crate::domain::{AdminState, BackendState, Cause};
use crate::health::CheckError;
use crate::own::OwnAddresses;

/// Something that a pool state takes in.
#[derive(Debug)]
pub enum Input {
    /// A source has asked once more.
    Observed(SourceKey, Observation),
    /// A backend was checked, by the pool's check of that number.
    Checked(u64, usize, Result<(), CheckError>),
    /// A live connection to a backend failed, the last of so many in a row.
    Failed(u64, Failure, u32),
    /// An operator wants something of a backend; with it who that is, for the log.
    Told(u64, Command, Arc<str>),
    /// An operator adds a backend, at an address that is nobody's (see [`addable`](super::state_machine::PoolState::addable)).
    Added(Found),
    /// An operator takes away what operators have added at an address (see
    /// [`removable`](super::state_machine::PoolState::removable)); with it who that is, for the log.
    Withdrawn(SocketAddr, Arc<str>),
    /// The pool's configuration is another one from now on.
    Reconfigured(Box<config::Pool>),
    /// The process now listens on these addresses.
    OwnAddresses(Arc<OwnAddresses>),
    /// The pool is no longer in the configuration.
    Removed,
    /// A deadline was reached.
    Tick,
}

/// What an operator can tell a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// To be used, or not.
    SetAdminState(AdminState),
    /// To have another share; 0 means that it gets nothing new. Holds until its source gives it another one.
    SetWeight(u32),
    /// To be checked at once.
    Check,
}

/// How a live connection failed before the backend had said anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It could not be opened, and why.
    Connect(Cause),
    /// The backend reset it.
    Reset,
}

/// Something that follows from events, in the order in which it is to be done.
#[derive(Debug)]
pub enum Effect {
    /// A backend's state changed.
    Changed {
        /// Whose.
        backend: Arc<Backend>,
        /// Its state before.
        from: BackendState,
        /// Its state now.
        to: BackendState,
        /// Why.
        cause: Cause,
    },
    /// Begin to check it, or begin anew with other settings.
    Check(Arc<Backend>),
    /// Do not check it any longer.
    Uncheck(u64),
    /// Check it out of turn.
    CheckNow(u64),
    /// A live failure counts against it as a failure of its first check does: check it as one in doubt.
    Doubt(u64),
    /// A backend's name has become known.
    Named(Arc<Backend>),
    /// A backend's share is another one.
    Weighed {
        /// Whose.
        backend: Arc<Backend>,
        /// The share.
        weight: u32,
    },
    /// The snapshot is to be made anew: who is in it, or with what share, has changed.
    Reshape,
    /// A backend would have been ejected, but too many are out already.
    Spared {
        /// Who.
        backend: Arc<Backend>,
        /// Why it would have been.
        cause: Cause,
    },
    /// Ask discovery again out of turn.
    AskNow,
    /// A source's answer names others than the one before.
    Discovered {
        /// Which source.
        source: SourceKey,
        /// The kind of answer.
        result: &'static str,
        /// How many backends it names.
        backends: usize,
        /// Those that the answer before did not name, at most [`NAMED`](super::NAMED).
        new: Vec<Found>,
        /// Those that it no longer names, as many at most.
        missing: Vec<Found>,
    },
    /// A source's answers changed in kind.
    Answers {
        /// Which source.
        source: SourceKey,
        /// What it finds now; `None`: backends, again.
        trouble: Option<Outcome>,
    },
}

impl Effect {
    /// Whether it can be seen in the pool's snapshot or status.
    pub fn shows(&self) -> bool {
        match self {
            Self::Changed { .. } | Self::Named(_) | Self::Weighed { .. } | Self::Reshape => true,
            Self::Check(_) | Self::Uncheck(_) | Self::CheckNow(_) | Self::Doubt(_) => false,
            Self::AskNow | Self::Answers { .. } | Self::Spared { .. } | Self::Discovered { .. } => false,
        }
    }
}
