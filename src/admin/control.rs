//! Orders from an operator to the process as a whole, and the channel to the loop that runs it: a reload and a drain from
//! here are those of SIGHUP and SIGTERM.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::api::{DrainReply, ReloadReply};

/// How many orders may wait; more are refused.
const WAITING: usize = 16;

/// Where an order's result goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// An order to the process.
#[derive(Debug)]
pub(crate) enum Order {
    /// To read its configuration again.
    Reload {
        /// The operator.
        who: Arc<str>,
        /// Where the result goes.
        answer: Answer<ReloadReply>,
    },
    /// To accept no new connections, and to stop when the open ones have ended.
    Drain {
        /// The operator.
        who: Arc<str>,
        /// Where the result goes, when it begins.
        answer: Answer<DrainReply>,
    },
}

/// Why an order is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no configuration file to read.
    NoFile,
    /// The configuration has these problems, in words.
    Invalid(String),
    /// The configuration cannot be put to work, and why.
    NotPossible(String),
    /// The process is ending.
    Ending,
    /// It has too many orders to follow already.
    Busy,
    /// A demo takes no orders.
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

    /// Gives an order, and returns its result.
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
