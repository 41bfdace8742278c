//! What a keeper takes in, and what follows from it.

use std::sync::Arc;

use super::backend::Backend;
use super::state::State;
use crate::config;
use crate::discovery::{Observation, Outcome, SourceKey};
use crate::health::CheckError;

/// Something that a keeper takes in.
#[derive(Debug)]
pub enum Event {
    /// A source has asked once more.
    Observed(SourceKey, Observation),
    /// A backend was checked, by the pool's check of that number.
    Checked(u64, usize, Result<(), CheckError>),
    /// A live connection to a backend failed, the last of so many in a row.
    Failed(u64, Failure, u32),
    /// The pool's configuration is another one from now on.
    Reconfigured(Box<config::Pool>),
    /// The pool is no longer in the configuration.
    Removed,
    /// A deadline was reached.
    Tick,
}

/// How a live connection failed before the backend had said anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It could not be opened, and why.
    Connect(String),
    /// The backend reset it.
    Reset,
}

/// Something that follows from an event, in the order in which it is to be done.
#[derive(Debug)]
pub enum Effect {
    /// A backend's state changed.
    Changed {
        /// Whose.
        backend: Arc<Backend>,
        /// Its state before.
        from: State,
        /// Its state now.
        to: State,
        /// Why.
        cause: Arc<str>,
    },
    /// Begin to check it, or begin anew with other settings.
    Check(Arc<Backend>),
    /// Do not check it any longer.
    Uncheck(u64),
    /// Check it out of turn.
    CheckNow(u64),
    /// A backend's name has become known.
    Named(Arc<Backend>),
    /// A backend's share is another one.
    Weighed {
        /// Whose.
        backend: Arc<Backend>,
        /// The share.
        weight: u32,
    },
    /// Ask discovery again out of turn.
    AskNow,
    /// A source's answers changed in kind.
    Answers {
        /// Which source.
        source: SourceKey,
        /// What it finds now; `None`: backends, again.
        trouble: Option<Outcome>,
    },
}
