//! What the pool's state machine takes in, and what follows from it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::backend::Backend;
use crate::config;
use crate::discovery::{Found, Observation, SourceKey};

use crate::domain::{AdminState, BackendState, Event, Failure};
use crate::health::CheckError;
use crate::own::OwnAddresses;

/// Something that a pool state takes in.
#[derive(Debug)]
pub(crate) enum Input {
    /// A source has asked once more.
    Observed(SourceKey, Observation),
    /// A backend was checked, by the pool's check of that number.
    Checked(u64, usize, Result<(), CheckError>),
    /// A live connection to a backend failed, the last of so many in a row.
    Failed(u64, Failure, u32),
    /// A command of an operator to a backend, and the operator, for the log.
    Told(u64, Command, Arc<str>),
    /// An operator adds a backend, at an address without one (see [`addable`](super::state_machine::PoolState::addable)).
    Added(Found),
    /// An operator takes away what operators have added at an address (see
    /// [`removable`](super::state_machine::PoolState::removable)); and the operator, for the log.
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

/// What follows from inputs, in its order: events to report, and commands to the pool's task.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Report an event.
    Report(Event),
    /// Count that a backend entered a state; of one that is gone, keep the totals.
    CountState(Arc<Backend>, BackendState),
    /// Begin to check it, or begin anew with other settings.
    Check(Arc<Backend>),
    /// Stop checking it.
    Uncheck(u64),
    /// Check it now.
    CheckNow(u64),
    /// Do its check of that number next after the fast interval: its results are not settled yet.
    CheckSoon(u64, usize),
    /// Make the snapshot anew: its backends or their weights have changed.
    Reshape,
    /// Query the sources now.
    AskNow,
}

impl Effect {
    /// Whether it can be seen in the pool's snapshot or status.
    pub(crate) fn shows(&self) -> bool {
        match self {
            Self::CountState(..) | Self::Reshape => true,
            Self::Report(event) => matches!(event, Event::BackendNamed { .. } | Event::WeightChanged { .. }),
            Self::Check(_) | Self::Uncheck(_) | Self::CheckNow(_) | Self::CheckSoon(..) | Self::AskNow => {
                false
            }
        }
    }
}
