//! Connections that the kernel forwards (`plane: kernel`): nftables translates their addresses, and no byte of them passes
//! through this process.
//!
//! One task owns the table of rules. It builds the table from the snapshots of the pools ([`rules`], pure), writes the
//! differences in single transactions ([`nft`]), and follows what conntrack reports of the connections ([`conntrack`]), which
//! it counts, logs and records like those of the workers ([`connections`]). To the rest of the process it looks like one more
//! worker. The connections do not need the process: after `kill -9` they go on, and the next process finds them again.

mod connections;
pub mod conntrack;
mod forwarded;
pub mod listener_rules;
mod marks;
pub mod nft;
mod ownership;
mod probe;
pub mod rules;
mod served;
mod task;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::domain::SocketAddress;
use crate::proxy::context::Shared;
use crate::proxy::listener::Listener;
use crate::proxy::worker::WorkerHandle;
use crate::task::spawn;
use nft::Error;
use task::Task;

/// How often the rules of a process that hands over are looked for.
const RETRY: Duration = Duration::from_millis(200);

/// The handle of the kernel plane.
#[derive(Clone, Debug)]
pub struct KernelPlane {
    commands: mpsc::UnboundedSender<PlaneCommand>,
    /// Its records.
    pub shared: Arc<Shared>,
    worker: WorkerHandle,
}

/// What the task is told; each is what the method of [`KernelPlane`] of that name asks for.
enum PlaneCommand {
    Forward {
        listener: Arc<Listener>,
        addresses: Vec<SocketAddress>,
        done: oneshot::Sender<Result<(), Error>>,
    },
    Withdraw {
        listener: Arc<str>,
        done: oneshot::Sender<()>,
    },
    Hold(bool),
    RemoveRemains(oneshot::Sender<bool>),
    Abandon(oneshot::Sender<()>),
    End(oneshot::Sender<()>),
}

impl KernelPlane {
    /// Starts it; it does nothing before the first listener. Its connections have the number `first` and every `stride`th
    /// after it. `takes_over`: from another process, which may own the table until it has handed over. Needs a tokio runtime.
    pub fn start(first: u64, stride: u64, takes_over: bool) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (worker, worker_commands) = WorkerHandle::channel();
        let shared = Arc::<Shared>::default();
        let task = Task::new(Arc::clone(&shared), first, stride, takes_over);
        spawn(task.run(received, worker_commands));
        Self { commands, shared, worker }
    }

    /// Lists and closes its connections.
    pub fn handle(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Lets the kernel forward new connections to these addresses of a listener; returns when it does.
    pub async fn forward(
        &self,
        listener: &Arc<Listener>,
        addresses: Vec<SocketAddress>,
    ) -> Result<(), Error> {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(PlaneCommand::Forward { listener: Arc::clone(listener), addresses, done });
        when_done.await.unwrap_or(Err(Error::Stopped))
    }

    /// Takes a listener out of the kernel's rules: its new connections reach this process's sockets, open ones continue.
    pub async fn withdraw(&self, listener: &Arc<str>) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(PlaneCommand::Withdraw { listener: Arc::clone(listener), done });
        let _ = when_done.await;
    }

    /// Whether the rules stay as they are, as another process may be taking over.
    pub fn hold(&self, is_held: bool) {
        let _ = self.commands.send(PlaneCommand::Hold(is_held));
    }

    /// Another process has taken over: leaves rules and connections to it.
    pub async fn abandon(&self) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(PlaneCommand::Abandon(done));
        let _ = when_done.await;
    }

    /// Removes rules that another process has left; a listener that the kernel forwards would replace them. Waits for a process
    /// that hands over.
    pub async fn remove_remains(&self) {
        loop {
            let (done, when_done) = oneshot::channel();
            let _ = self.commands.send(PlaneCommand::RemoveRemains(done));
            if when_done.await.unwrap_or(true) {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Removes the table.
    pub async fn end(&self) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(PlaneCommand::End(done));
        let _ = when_done.await;
    }
}
