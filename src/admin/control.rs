//! What an operator can tell the process as a whole, and the way to who runs it: a reload and a drain that are asked for
//! here are those of SIGHUP and SIGTERM.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::api::{DrainReply, ReloadReply};

/// So many orders may wait; more are refused.
const WAITING: usize = 16;

/// Where an order's result is told.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What an operator tells the process.
#[derive(Debug)]
pub enum Order {
    /// To read its configuration again.
    Reload {
        /// Who wants it.
        who: Arc<str>,
        /// Where the result is told.
        answer: Answer<ReloadReply>,
    },
    /// To let nobody new in, and to end when the open connections have.
    Drain {
        /// Who wants it.
        who: Arc<str>,
        /// Where it is told that it begins.
        answer: Answer<DrainReply>,
    },
}

/// Why an order is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
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
    /// Nobody takes orders here: it is a demo.
    Nobody,
}

/// Where orders go.
#[derive(Clone, Debug)]
pub struct Control(Option<mpsc::Sender<Order>>);

/// Where they come from.
#[derive(Debug)]
pub struct Orders(mpsc::Receiver<Order>);

impl Control {
    /// A way for orders, from one end to the other.
    pub fn new() -> (Self, Orders) {
        let (orders, received) = mpsc::channel(WAITING);
        (Self(Some(orders)), Orders(received))
    }

    /// A way that leads nowhere.
    pub fn none() -> Self {
        Self(None)
    }

    /// Gives an order, and returns what comes of it.
    pub async fn order<T>(&self, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, Refusal> {
        let orders = self.0.as_ref().ok_or(Refusal::Nobody)?;
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
    pub async fn next(&mut self) -> Option<Order> {
        self.0.recv().await
    }
}
