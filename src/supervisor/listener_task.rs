//! The one owner of a listener's addresses: opens them, and closes them when the listener goes, while an operator drains it,
//! and, for `no_backend: refuse`, while no backend is up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{error, info};

use super::bound_address::BoundAddress;
use crate::config::NoBackend;
use crate::domain::{ListenerState, Plane, SocketAddress};
use crate::hand_over::HandedSocket;
use crate::kernel_plane::KernelPlane;
use crate::proxy::listener::Listener;
use crate::proxy::worker::Worker;
use crate::task::spawn;

/// Time until an address that cannot be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);

enum ListenerCommand {
    /// The listener's settings have changed, and perhaps its addresses.
    Change { add: Vec<BoundAddress>, remove: Vec<SocketAddress>, done: oneshot::Sender<()> },
    /// The listener's state has changed: open or close all addresses, then reply.
    SetState(oneshot::Sender<()>),
    /// Close all addresses, then reply.
    Close(oneshot::Sender<()>),
    /// Reply with the sockets, and change nothing until the next command: another process may use them.
    Share(oneshot::Sender<io::Result<Vec<HandedSocket>>>),
    /// The other process did not take over.
    Resume,
    /// The other process has taken over these addresses, as they are configured: stop accepting there, and close the
    /// others, then reply.
    HandOver(Vec<SocketAddress>, oneshot::Sender<()>),
}

/// A running listener.
#[derive(Debug)]
pub(super) struct ListenerTask {
    pub(super) listener: Arc<Listener>,
    commands: mpsc::UnboundedSender<ListenerCommand>,
}

impl ListenerTask {
    /// Starts `listener`, which has no address yet.
    pub(super) fn start(
        listener: Arc<Listener>,
        workers: Arc<Vec<Worker>>,
        kernel_plane: KernelPlane,
    ) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        spawn(keep(Arc::clone(&listener), workers, kernel_plane, received));
        Self { listener, commands }
    }

    /// Applies the listener's new settings, and adds and removes addresses. New ones open before old ones close. The
    /// receiver resolves when the new ones are open, or at once if they wait for a backend that is up.
    pub(super) fn change(&self, add: Vec<BoundAddress>, remove: Vec<SocketAddress>) -> oneshot::Receiver<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(ListenerCommand::Change { add, remove, done });
        when_done
    }

    /// Opens or closes the addresses by the listener's state. The receiver resolves when that is done; closed: when every
    /// connection that the kernel has completed is accepted.
    pub(super) fn follow_state(&self) -> oneshot::Receiver<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(ListenerCommand::SetState(done));
        when_done
    }

    /// The sockets of all addresses, for a process that takes over. Until [`resume`](Self::resume) or
    /// [`hand_over`](Self::hand_over), no address is opened or closed: a socket that is closed here would lose connections
    /// there. Fails with `TimedOut` if the listener is closing and does not finish `within` this time.
    pub(super) async fn share(&self, within: Duration) -> io::Result<Vec<HandedSocket>> {
        let (reply, replied) = oneshot::channel();
        let _ = self.commands.send(ListenerCommand::Share(reply));
        match timeout(within, replied).await {
            Ok(shared) => shared.unwrap_or_else(|_| Ok(Vec::new())),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "listener {:?} is closing, and connections that wait in it are not accepted yet: the limit of \
                     connections (runtime.max_connections) or of open files is reached",
                    self.listener.name
                ),
            )),
        }
    }

    /// The other process did not take over: continues.
    pub(super) fn resume(&self) {
        let _ = self.commands.send(ListenerCommand::Resume);
    }

    /// The other process has taken over the addresses `taken`, as they are configured: stops accepting there, and closes
    /// the others.
    pub(super) async fn hand_over(self, taken: Vec<SocketAddress>) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(ListenerCommand::HandOver(taken, done));
        let _ = when_done.await;
    }

    /// Closes all addresses; returns when every connection that the kernel has completed is accepted.
    pub(super) async fn close(self) {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(ListenerCommand::Close(done));
        let _ = when_done.await;
    }
}

async fn keep(
    listener: Arc<Listener>,
    workers: Arc<Vec<Worker>>,
    kernel_plane: KernelPlane,
    mut commands: mpsc::UnboundedReceiver<ListenerCommand>,
) {
    let mut addresses: Vec<BoundAddress> = Vec::new();
    let mut changed: Option<oneshot::Sender<()>> = None;
    loop {
        let settings = listener.settings.load_full();
        // With several pools, that of a connection is known only after it is accepted.
        let only_pool = settings.routing.only().filter(|_| settings.no_backend == NoBackend::Refuse);
        let mut up = only_pool.map(|pool| pool.up());
        let mut retry = None;
        let refusing = only_pool.filter(|_| up.as_mut().map(|up| *up.borrow_and_update()) == Some(0));
        let is_drained = listener.state() == ListenerState::Draining;
        // Open connections stay with whatever forwards them.
        let is_forwarded = settings.plane == Plane::Kernel
            && !is_drained
            && !addresses.is_empty()
            && {
                let to = addresses.iter().map(|bound| bound.address.clone()).collect();
                match kernel_plane.forward(&listener, to).await {
                    Ok(()) => {
                        listener.set_kernel_obstacle(None);
                        true
                    }
                    Err(error) => {
                        let obstacle = Some(error.to_string().into());
                        if listener.kernel_obstacle() != obstacle {
                            error!(listener = %listener.name, %error, "the kernel cannot forward its connections: this process does, and retries");
                        }
                        listener.set_kernel_obstacle(obstacle);
                        retry = Some(RETRY);
                        false
                    }
                }
            };
        let is_closed = is_forwarded || refusing.is_some() || is_drained;
        // Connections that wait in sockets of the process before are accepted, even if the address is then closed.
        for bound in addresses.iter_mut().filter(|bound| !is_closed || bound.has_inherited()) {
            bound.change(&settings.options);
            bound.change_mode(settings.socket_mode);
            if let Err(error) = bound.open(&workers, &listener, &settings.options, settings.socket_mode) {
                error!(listener = %listener.name, address = %bound.address, %error, "cannot listen: retrying");
                retry = Some(RETRY);
            }
        }
        if !is_forwarded {
            kernel_plane.withdraw(&listener.name).await;
        }
        if let Some(pool) = refusing.filter(|_| addresses.iter().any(BoundAddress::is_open)) {
            info!(listener = %listener.name, pool = %pool.name, "no backend is up: refusing connections");
        }
        if is_closed {
            close(&mut addresses).await;
        }
        if let Some(done) = changed.take() {
            let _ = done.send(());
        }
        tokio::select! {
            command = commands.recv() => match command {
                Some(ListenerCommand::Change { add, remove, done }) => {
                    changed = Some(done);
                    let (mut leaving, staying) =
                        addresses.into_iter().partition(|bound: &BoundAddress| remove.contains(&bound.configured));
                    addresses = staying;
                    addresses.extend(add);
                    // The new ones open at the top of the loop, while the old ones close.
                    spawn(async move { close(&mut leaving).await });
                }
                Some(ListenerCommand::SetState(done)) => changed = Some(done),
                Some(command) => {
                    if matches!(command, ListenerCommand::Close(_)) {
                        kernel_plane.withdraw(&listener.name).await;
                    }
                    if apply_to_all(command, &listener, &mut addresses, &mut commands).await {
                        return;
                    }
                }
                None => return,
            },
            () = when_changed(up.as_mut()), if up.is_some() => {}
            () = listener.kernel_plane_failed.notified(), if is_forwarded => {}
            () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
        }
    }
}

/// Applies a command that concerns all addresses; returns whether it was the last one.
async fn apply_to_all(
    command: ListenerCommand,
    listener: &Listener,
    addresses: &mut [BoundAddress],
    commands: &mut mpsc::UnboundedReceiver<ListenerCommand>,
) -> bool {
    let mut next = Some(command);
    loop {
        match next {
            Some(ListenerCommand::Share(reply)) => {
                let shared = addresses.iter().map(|bound| bound.share(&listener.name));
                let shared = shared.collect::<io::Result<Vec<_>>>();
                let _ = reply.send(shared.map(|all| all.into_iter().flatten().collect()));
                next = commands.recv().await;
            }
            Some(ListenerCommand::HandOver(taken, done)) => {
                let (mut others, mut handed_over) = (Vec::new(), Vec::new());
                for bound in addresses {
                    let is_taken = taken.contains(&bound.configured);
                    if is_taken { handed_over.push(bound) } else { others.push(bound) }
                }
                for bound in handed_over {
                    bound.hand_over().await;
                }
                close(others).await;
                let _ = done.send(());
                return true;
            }
            Some(ListenerCommand::Close(done)) => {
                close(addresses).await;
                let _ = done.send(());
                return true;
            }
            Some(ListenerCommand::Resume | ListenerCommand::Change { .. } | ListenerCommand::SetState(_)) => {
                return false;
            }
            None => return true,
        }
    }
}

/// Returns when the number of backends that are up has changed.
async fn when_changed(up: Option<&mut watch::Receiver<usize>>) {
    if let Some(up) = up
        && up.changed().await.is_ok()
    {
        return;
    }
    // The pool is gone: a command follows.
    std::future::pending::<()>().await;
}

/// Closes several listeners at once.
pub(super) async fn close_all(listener_tasks: Vec<ListenerTask>) {
    let closing: Vec<_> =
        listener_tasks.into_iter().map(|listener_task| spawn(listener_task.close())).collect();
    for closed in closing {
        let _ = closed.await;
    }
}

async fn close(addresses: impl IntoIterator<Item = &mut BoundAddress>) {
    let mut closing: Vec<_> = addresses.into_iter().map(|bound| Box::pin(bound.close())).collect();
    for bound in &mut closing {
        bound.await;
    }
}
