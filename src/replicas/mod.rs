//! Backends that Pointsman itself starts and stops, as containers of a Docker engine: the *replicas* of a pool.
//!
//! One task (`manager.rs`) for each pool with replicas owns the truth about them. What there is to be, and what follows
//! from what is seen at the engine, a state machine (`fleet.rs`) says; by what load there are to be more or fewer, another
//! one (`scale.rs`). Both are pure. That they serve, and are found by the pool, is not done here: they have a label, and
//! one of the pool's sources ([`crate::discovery`]) follows it.
//!
//! The label also is how they are found again when Pointsman starts anew: they outlive it.

mod board;
mod containers;
mod fleet;
mod leave;
mod load;
mod lookout;
mod manager;
mod names;
mod neighbours;
mod refusal;
mod scale;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use board::Board;
use manager::Order;
pub use refusal::Refusal;

use crate::config;
use crate::pool::Pool;

/// Limits of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    min: u32,
    max: u32,
    respawn: bool,
}

impl From<&config::Replicas> for Settings {
    fn from(config: &config::Replicas) -> Self {
        Self { min: config.min, max: config.max, respawn: config.respawn }
    }
}

/// How long whoever asks waits for the first look at the engine.
const FIRST_LOOK: Duration = Duration::from_secs(6);

/// The replicas of a pool, for whoever wants to see or to change them. When the last of these is dropped, nothing is
/// decided any longer, and who is being taken out still leaves in good order.
#[derive(Clone, Debug)]
pub struct Replicas {
    /// Whose they are.
    pub pool: Arc<str>,
    orders: mpsc::UnboundedSender<Order>,
    board: watch::Receiver<Arc<Board>>,
}

impl Replicas {
    /// Begins to look after the replicas of `pool`; who is taken out has `drain` to finish its connections, unless
    /// the configuration says otherwise. Needs a tokio runtime.
    pub fn start(pool: &Arc<Pool>, config: &config::Replicas, drain: Duration) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let (shown, board) = watch::channel(Arc::new(Board::new(config)));
        manager::start(Arc::clone(pool), config.clone(), drain, received, shown);
        Self { pool: Arc::clone(&pool.name), orders, board }
    }

    /// Takes another configuration from now on. Those that run stay as they were started.
    pub fn reconfigure(&self, config: &config::Replicas, drain: Duration) {
        let _ = self.orders.send(Order::Reconfigure(Box::new(config.clone()), drain));
    }

    /// What there is to see.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board.borrow())
    }

    /// The names of the replicas there are to be; fails if the engine was never seen.
    pub async fn names(&self) -> Result<Vec<Arc<str>>, Refusal> {
        let mut board = self.board.clone();
        let seen = board.wait_for(|board| board.known || board.group.trouble.is_some());
        let board = match tokio::time::timeout(FIRST_LOOK, seen).await {
            Ok(Ok(board)) => Arc::clone(&board),
            _ => return Err(Refusal::Engine("the engine has not answered yet".to_owned())),
        };
        match (&board.group.trouble, board.known) {
            (Some(trouble), false) => Err(Refusal::Engine(trouble.clone())),
            _ => Ok(board.names()),
        }
    }

    /// Starts `n` more, of which some have names given: all of them or, on failure, none. The names of all there are
    /// then. `who` wants it, for the log.
    pub async fn add(&self, n: usize, names: Vec<String>, who: Arc<str>) -> Result<Vec<Arc<str>>, Refusal> {
        self.ask(|reply| Order::Add { n, names, who, reply }).await
    }

    /// Takes `n` out of service, those named and others at random: they get nothing new from now on, finish their
    /// connections, and then their containers are stopped and removed. The names of those that stay.
    pub async fn remove(
        &self,
        n: usize,
        names: Vec<String>,
        who: Arc<str>,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        self.ask(|reply| Order::Remove { n, names, who, reply }).await
    }

    async fn ask(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<Vec<Arc<str>>, Refusal>>) -> Order,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let gone = || Refusal::Engine("the pool is being taken down".to_owned());
        self.orders.send(order(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
