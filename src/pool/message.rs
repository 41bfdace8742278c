//! The messages to a pool's task.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Backend;
use super::input::Command;
use super::state_machine::{NotAdded, NotRemoved, PoolHandOver};
use crate::config;
use crate::discovery::{Found, Observation, SourceKey};
use crate::domain::SetBy;
use crate::health::Checked;
use crate::own::OwnAddresses;

/// A message to a pool's task.
#[derive(Debug)]
pub(super) enum Message {
    /// An observation of a source, with the number of the configuration that started it: a replaced source may still
    /// have messages in the queue.
    Observed(SourceKey, u64, Observation),
    /// A check has ended.
    Checked(CheckEnded),
    Command {
        key: u64,
        command: Command,
        by: SetBy,
        done: oneshot::Sender<()>,
    },
    /// Replied to with what a process that takes over needs to know.
    HandOver {
        reply: oneshot::Sender<PoolHandOver>,
    },
    /// Replied to when the effects of all earlier messages are visible.
    Shown {
        done: oneshot::Sender<()>,
    },
    Added {
        found: Found,
        done: oneshot::Sender<Result<(), NotAdded>>,
    },
    Withdrawn {
        key: u64,
        operator: Arc<str>,
        done: oneshot::Sender<Result<(), NotRemoved>>,
    },
    Reconfigured(u64, Box<config::Pool>),
    OwnAddresses {
        own: Arc<OwnAddresses>,
        done: oneshot::Sender<()>,
    },
    Removed,
}

/// A check of a backend that has ended.
#[derive(Debug)]
pub(super) struct CheckEnded {
    pub(super) backend: Arc<Backend>,
    /// The number of the check in the configuration.
    pub(super) check: usize,
    /// How often the pool's checks had changed when this check was started.
    pub(super) round: u64,
    pub(super) checked: Checked,
}
