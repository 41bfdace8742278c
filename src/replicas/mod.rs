//! Replicas: backends that Pointsman starts and stops as containers of a Docker engine.
//!
//! Each pool with replicas has one task (`manager/`). Two pure state machines decide for it: `fleet.rs` compares the
//! containers with the wanted replicas, `scale.rs` chooses their number by the load. The pool finds replicas like any
//! other container, by a label that one of its sources ([`crate::discovery`]) follows. By that label Pointsman also
//! finds them again after a restart.

mod container_runtime;
mod engine_health;
mod fleet;
mod load;
mod manager;
mod names;
mod refusal;
mod removal;
mod scale;
mod status;
mod unmanaged;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use manager::ReplicaCommand;
pub(crate) use refusal::Refusal;
pub(crate) use status::FleetStatus;

use crate::config;
use crate::pool::Pool;

/// The limits of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FleetLimits {
    min: u32,
    max: u32,
    respawn: bool,
}

impl From<&config::Replicas> for FleetLimits {
    fn from(config: &config::Replicas) -> Self {
        Self { min: config.min, max: config.max, respawn: config.respawn }
    }
}

/// The time limit for the first listing of the containers.
const FIRST_LISTING: Duration = Duration::from_secs(6);

/// A handle to the replicas of a pool. After the last one is dropped, nothing is decided any more; removals in progress
/// finish.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    commands: mpsc::UnboundedSender<ReplicaCommand>,
    status: watch::Receiver<Arc<FleetStatus>>,
}

impl Replicas {
    /// Begins to manage the replicas of `pool`. A replica that is removed has `drain` to finish its connections, unless
    /// the configuration sets another time. Needs a tokio runtime.
    pub(crate) fn start(pool: &Arc<Pool>, config: &config::Replicas, drain: Duration) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (sender, status) = watch::channel(Arc::new(FleetStatus::new(config)));
        manager::start(Arc::clone(pool), config.clone(), drain, received, sender);
        Self { commands, status }
    }

    /// Applies another configuration. Running replicas stay as they were started.
    pub(crate) fn reconfigure(&self, config: &config::Replicas, drain: Duration) {
        let _ = self.commands.send(ReplicaCommand::Reconfigure(Box::new(config.clone()), drain));
    }

    /// The present status.
    pub(crate) fn status(&self) -> Arc<FleetStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// The names of the wanted replicas; fails if the containers were never listed.
    pub(crate) async fn names(&self) -> Result<Vec<Arc<str>>, Refusal> {
        let mut status = self.status.clone();
        let listed = status.wait_for(|status| status.known || status.group.trouble.is_some());
        let status = match tokio::time::timeout(FIRST_LISTING, listed).await {
            Ok(Ok(status)) => Arc::clone(&status),
            _ => return Err(Refusal::Engine("the engine has not answered yet".to_owned())),
        };
        match (&status.group.trouble, status.known) {
            (Some(trouble), false) => Err(Refusal::Engine(trouble.clone())),
            _ => Ok(status.names()),
        }
    }

    /// Starts `n` more replicas, with the given names and generated ones: all of them or, on failure, none. Returns the
    /// names of all replicas. `actor` is for the log.
    pub(crate) async fn add(
        &self,
        n: usize,
        names: Vec<String>,
        actor: Arc<str>,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        self.send(|reply| ReplicaCommand::Add { n, names, actor, reply }).await
    }

    /// Removes `n` replicas, the named ones and others at random: they stop receiving new connections, finish the open
    /// ones, and their containers are stopped and removed. Returns the names of the remaining ones.
    pub(crate) async fn remove(
        &self,
        n: usize,
        names: Vec<String>,
        actor: Arc<str>,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        self.send(|reply| ReplicaCommand::Remove { n, names, actor, reply }).await
    }

    async fn send(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<Vec<Arc<str>>, Refusal>>) -> ReplicaCommand,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Refusal::Engine("the pool is being removed".to_owned());
        self.commands.send(command(reply)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}
