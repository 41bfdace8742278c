//! The inputs of the pool's state machine, and their effects.

use std::sync::Arc;

use super::backend::Backend;
use crate::config;
use crate::discovery::{Found, Observation, SourceKey};

use crate::domain::{AdminState, BackendState, Event, Failure, SetBy, SocketAddress};
use crate::health::CheckError;
use crate::own::OwnAddresses;
use crate::state_directory::SavedBackend;

/// An input of the pool state.
#[derive(Debug)]
pub enum Input {
    /// A source was polled.
    Observed(SourceKey, Observation),
    /// The key of a backend, the number of a check, and its result.
    Checked(u64, usize, Result<(), CheckError>),
    /// The key of a backend, how a live connection to it failed, and the number of failures in a row.
    Failed(u64, Failure, u32),
    /// The key of a backend, an operator's command for it, and the operator.
    Command(u64, Command, SetBy),
    /// An operator adds a backend at a free address (see [`addable`](super::state_machine::PoolState::addable)).
    Added(Found),
    /// An operator removes the backend that operators have added at an address (see
    /// [`removable`](super::state_machine::PoolState::removable)); and the operator, for the log.
    Withdrawn(SocketAddress, Arc<str>),
    /// The pool has a new configuration.
    Reconfigured(Box<config::Pool>),
    /// The process now listens on these addresses.
    OwnAddresses(Arc<OwnAddresses>),
    /// The pool is no longer in the configuration.
    Removed,
    /// A deadline was reached.
    Tick,
}

/// An operator's command for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Put it in service, drain it or disable it.
    SetAdminState(AdminState),
    /// Set its weight; 0: no new connections. The weight holds until its source reports another one.
    SetWeight(u32),
    /// Check it at once.
    Check,
}

/// An effect of inputs: an event to report, or a command to the pool's task. Effects are carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Report an event.
    Report(Event),
    /// Count that a backend entered a state; if it is gone, keep its totals.
    CountState(Arc<Backend>, BackendState),
    /// Start its checks, or restart them with other settings.
    Check(Arc<Backend>),
    /// Stop its checks.
    Uncheck(u64),
    /// Check it now.
    CheckNow(u64),
    /// Run its check with this number again after the fast interval: `rise` or `fall` is not reached yet.
    CheckSoon(u64, usize),
    /// Rebuild the snapshot: its backends or their weights have changed.
    Reshape,
    /// Query the sources now.
    QueryNow,
    /// Save what operators have set: it has changed.
    SaveSettings,
    /// Log that what operators had set before the restart does not apply any longer, and why.
    DropSettings(SavedBackend, &'static str),
}

impl Effect {
    /// Whether it changes the pool's snapshot or status.
    pub fn shows(&self) -> bool {
        match self {
            Self::CountState(..) | Self::Reshape => true,
            Self::Report(event) => matches!(
                event,
                Event::BackendNamed { .. }
                    | Event::WeightChanged { .. }
                    | Event::ResolverStatusChanged { .. }
                    | Event::EndpointsChanged { .. }
            ),
            Self::Check(_) | Self::Uncheck(_) | Self::CheckNow(_) | Self::CheckSoon(..) | Self::QueryNow => {
                false
            }
            Self::SaveSettings | Self::DropSettings(..) => false,
        }
    }
}
