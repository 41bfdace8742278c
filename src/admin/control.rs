//! Orders from an operator to the process as a whole, and the channel to the loop that runs it. A reload and a drain do
//! the same as SIGHUP and SIGTERM.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::api::{DrainReply, HandOverReply, ReloadPlanReply, ReloadReply};
use crate::domain::ListenerState;

/// How many orders may wait; more are refused.
const WAITING: usize = 16;

/// The channel for an order's result.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// An order to the process.
#[derive(Debug)]
pub(crate) enum Order {
    /// Apply another configuration.
    Reload {
        /// Which one.
        from: ReloadFrom,
        /// The operator.
        operator: Arc<str>,
        /// The channel for the result.
        answer: Answer<ReloadReply>,
    },
    /// Read the configuration again, and change nothing.
    PlanReload {
        /// The channel for the result.
        answer: Answer<ReloadPlanReply>,
    },
    /// Hand over to another process.
    HandOver {
        /// The operator.
        operator: Arc<str>,
        /// The Unix socket at which the other process waits.
        socket: PathBuf,
        /// The channel for the result, which is sent when the hand-over begins.
        answer: Answer<HandOverReply>,
    },
    /// Open or close the addresses of a listener.
    SetListenerState {
        /// The listener.
        listener: Arc<str>,
        /// Its new state.
        state: ListenerState,
        /// The operator.
        operator: Arc<str>,
        /// The channel for the result, which is sent when the addresses are open or closed.
        answer: Answer<()>,
    },
    /// Accept no new connections, and stop when the open ones have ended.
    Drain {
        /// The operator.
        operator: Arc<str>,
        /// The channel for the result, which is sent when the drain begins.
        answer: Answer<DrainReply>,
    },
}

/// Which configuration a reload applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReloadFrom {
    /// That of the file.
    File,
    /// That before the last reload.
    Previous,
}

/// Why an order is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no configuration file to read.
    NoFile,
    /// No reload has changed the configuration.
    NothingToUndo,
    /// The listener was removed meanwhile.
    NoListener,
    /// The configuration has these problems, as text.
    Invalid(String),
    /// The configuration cannot be put in effect, for this reason.
    NotPossible(String),
    /// The process is ending.
    Ending,
    /// Too many orders wait already.
    Busy,
    /// A demo accepts no orders.
    Demo,
}

/// The sending end.
#[derive(Clone, Debug)]
pub(crate) struct Control(Option<mpsc::Sender<Order>>);

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Orders(mpsc::Receiver<Order>);

impl Control {
    /// A channel for orders.
    pub(crate) fn new() -> (Self, Orders) {
        let (orders, received) = mpsc::channel(WAITING);
        (Self(Some(orders)), Orders(received))
    }

    /// A channel that refuses every order.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Sends an order, and returns its result.
    pub(crate) async fn order<T>(&self, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, Refusal> {
        let orders = self.0.as_ref().ok_or(Refusal::Demo)?;
        let (answer, answered) = oneshot::channel();
        orders.try_send(order(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::Ending,
        })?;
        answered.await.unwrap_or(Err(Refusal::Ending))
    }
}

impl Orders {
    /// The next order. Once this is dropped, all are refused.
    pub(crate) async fn next(&mut self) -> Option<Order> {
        self.0.recv().await
    }
}
