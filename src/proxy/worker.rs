//! A worker: one thread of the data plane, with a single-threaded runtime. A connection stays on the worker that
//! accepted it until it ends.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::accept::{self, Closing, Socket};
use super::admit::Limit;
use super::clock::Moment;
use super::context::{Shared, WorkerContext};
use super::listener::Listener;
use super::progress::CloseRequest;
use super::table::{IdleOf, OpenAges};
use crate::domain::ConnectionRecord;
use crate::telemetry::filter::{ConnectionFilter, ConnectionSubject};

/// The supervisor's handle of a worker.
#[derive(Debug)]
pub struct Worker {
    /// The state that other threads read.
    pub shared: Arc<Shared>,
    handle: WorkerHandle,
    thread: Option<JoinHandle<()>>,
}

/// Lists and closes a worker's connections, from any thread.
#[derive(Clone, Debug)]
pub struct WorkerHandle(mpsc::UnboundedSender<WorkerCommand>);

impl WorkerHandle {
    /// A handle, and the commands that are sent through it.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<WorkerCommand>) {
        let (commands, received) = mpsc::unbounded_channel();
        (Self(commands), received)
    }

    /// The numbers of its connections.
    pub async fn report(&self) -> Report {
        self.call(WorkerCommand::Report).await.unwrap_or_default()
    }

    /// Whether the worker answers. It answers between two events; a worker that hangs never does.
    pub async fn is_alive(&self) -> bool {
        self.call(WorkerCommand::Report).await.is_some()
    }

    /// The open connections that match `filter`, at most `limit`, oldest first, and how many match.
    pub async fn connections(
        &self,
        filter: ConnectionFilter,
        limit: usize,
    ) -> (Vec<ConnectionRecord>, usize) {
        self.call(|reply| WorkerCommand::List(filter, limit, reply)).await.unwrap_or_default()
    }

    /// The open connections of `subject`, at most `limit`.
    pub async fn find(&self, subject: ConnectionSubject, limit: usize) -> Vec<ConnectionRecord> {
        self.call(|reply| WorkerCommand::Find(subject, limit, reply)).await.unwrap_or_default()
    }

    /// Closes the connection `conn`; returns its record, if this worker has it.
    pub async fn close(&self, conn: u64, request: CloseRequest) -> Option<ConnectionRecord> {
        self.call(|reply| WorkerCommand::Close(conn, request, reply)).await.flatten()
    }

    /// The ages of its open connections; `selected`: which of them are forecast.
    pub async fn ages(&self, selected: ConnectionFilter) -> OpenAges {
        self.call(|reply| WorkerCommand::Ages(selected, reply)).await.unwrap_or_default()
    }

    /// Closes the connections that are open now one by one over the time `over`, those that have been idle for the longest
    /// time first.
    pub fn close_over(&self, request: CloseRequest, over: Duration) {
        self.send(WorkerCommand::CloseOver(request, over));
    }

    /// Closes at most `most` connections to a backend that have been idle for the time `idle`, and counts these.
    pub async fn close_idle(
        &self,
        pool: Arc<str>,
        backend: u64,
        idle: Duration,
        most: u32,
        request: CloseRequest,
    ) -> IdleOf {
        let command = |reply| WorkerCommand::CloseIdle { pool, backend, idle, most, request, reply };
        self.call(command).await.unwrap_or_default()
    }

    /// Closes all connections.
    pub fn close_all(&self, request: CloseRequest) {
        self.send(WorkerCommand::CloseAll(request));
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> WorkerCommand) -> Option<T> {
        let (reply, replied) = oneshot::channel();
        self.send(command(reply));
        replied.await.ok()
    }

    fn send(&self, command: WorkerCommand) {
        // It fails only after the worker has stopped.
        let _ = self.0.send(command);
    }
}

/// What a worker is told; each asks for what the method of [`WorkerHandle`] of that name returns.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Accept connections on a socket until it is closing.
    Accept {
        /// The socket.
        socket: Socket,
        /// Its listener.
        listener: Arc<Listener>,
        /// Tells when.
        closing: Closing,
        /// Told when it is closed.
        closed: oneshot::Sender<()>,
    },
    /// Report the numbers of the connections.
    Report(oneshot::Sender<Report>),
    /// List the open connections that match, at most so many, and count them.
    List(ConnectionFilter, usize, oneshot::Sender<(Vec<ConnectionRecord>, usize)>),
    /// Find open connections, at most so many.
    Find(ConnectionSubject, usize, oneshot::Sender<Vec<ConnectionRecord>>),
    /// Close the connection with that number.
    Close(u64, CloseRequest, oneshot::Sender<Option<ConnectionRecord>>),
    /// Count the open connections by age.
    Ages(ConnectionFilter, oneshot::Sender<OpenAges>),
    /// Close connections to a backend that have been idle.
    CloseIdle {
        /// The pool.
        pool: Arc<str>,
        /// The key of the backend.
        backend: u64,
        /// For how long they have been idle.
        idle: Duration,
        /// At most so many.
        most: u32,
        /// Why and how.
        request: CloseRequest,
        /// Told how many there were.
        reply: oneshot::Sender<IdleOf>,
    },
    /// Close all connections one by one over that time.
    CloseOver(CloseRequest, Duration),
    /// Close all connections now.
    CloseAll(CloseRequest),
    /// Stop the worker.
    Stop,
}

/// The numbers of a worker's connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Connections that are open.
    pub open: usize,
    /// Connections that were cut at the end of a drain.
    pub cut: usize,
    /// The number of its next connection.
    pub next_conn: u64,
}

impl Worker {
    /// Starts worker `index` of `workers`, whose connections have numbers above `numbered`. `busy_poll`: how long it polls
    /// before it sleeps.
    pub fn start(
        index: usize,
        workers: usize,
        numbered: u64,
        limit: Arc<Limit>,
        busy_poll: Option<Duration>,
    ) -> io::Result<Self> {
        let (handle, received) = WorkerHandle::channel();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let (started, when_started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // A local runtime cannot be sent to its thread, so it is made there.
            let runtime =
                Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = of_thread.runtime.set(runtime.handle().metrics());
                    let _ = started.send(Ok(()));
                    runtime.block_on(run(
                        WorkerContext::new(index, workers, numbered, limit, of_thread),
                        busy_poll,
                        received,
                    ));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        when_started.recv().map_err(io::Error::other)??;
        Ok(Self { shared, handle, thread: Some(thread) })
    }

    /// Accepts connections of `listener` on `socket` until `closing`. The receiver resolves when the socket is closed.
    pub fn accept(
        &self,
        socket: Socket,
        listener: &Arc<Listener>,
        closing: &Closing,
    ) -> oneshot::Receiver<()> {
        let (closed, when_closed) = oneshot::channel();
        let (listener, closing) = (Arc::clone(listener), closing.clone());
        self.handle.send(WorkerCommand::Accept { socket, listener, closing, closed });
        when_closed
    }

    /// Lists and closes its connections.
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
    }
}

impl Drop for Worker {
    /// Stops the thread, which cuts off its open connections.
    fn drop(&mut self) {
        self.handle.send(WorkerCommand::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(
    context: WorkerContext,
    busy_poll: Option<Duration>,
    mut commands: mpsc::UnboundedReceiver<WorkerCommand>,
) {
    let context = Rc::new(context);
    let table = &context.table;
    tokio::task::spawn_local(Rc::clone(table).run_ticks());
    tokio::task::spawn_local(Rc::clone(&context.next_turn).run());
    if let Some(time) = busy_poll {
        tokio::task::spawn_local(Rc::clone(&context.buffers.pulse).stay_awake(time));
    }
    while let Some(command) = commands.recv().await {
        match command {
            WorkerCommand::Accept { socket, listener, closing, closed } => {
                let context = Rc::clone(&context);
                tokio::task::spawn_local(async move {
                    let name = Arc::clone(&listener.name);
                    if let Err(error) = accept::accept(context, socket, listener, closing).await {
                        error!(listener = %name, %error, "cannot accept on a listening socket");
                    }
                    let _ = closed.send(());
                });
            }
            WorkerCommand::Report(reply) => {
                let next_conn = context.coming_conn();
                let _ = reply.send(Report { open: table.open(), cut: table.cut(), next_conn });
            }
            WorkerCommand::List(filter, limit, reply) => {
                let _ = reply.send(table.list(&filter, limit));
            }
            WorkerCommand::Find(subject, limit, reply) => {
                let _ = reply.send(table.find(subject, limit));
            }
            WorkerCommand::Close(conn, request, reply) => {
                let _ = reply.send(table.close(conn, request));
            }
            WorkerCommand::Ages(selected, reply) => {
                let _ = reply.send(table.ages(&selected, Moment::now()));
            }
            WorkerCommand::CloseIdle { pool, backend, idle, most, request, reply } => {
                let _ = reply.send(table.close_idle((&pool, backend), idle, most, request, Moment::now()));
            }
            WorkerCommand::CloseOver(request, over) => table.close_over(request, over, Moment::now()),
            WorkerCommand::CloseAll(request) => table.close_all(request),
            WorkerCommand::Stop => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_has_ended_is_not_alive() {
        let (handle, mut taken) = WorkerHandle::channel();
        let answering = async {
            if let Some(WorkerCommand::Report(reply)) = taken.recv().await {
                let _ = reply.send(Report::default());
            }
        };
        assert!(tokio::join!(handle.is_alive(), answering).0);
        drop(taken);
        assert!(!handle.is_alive().await);
    }
}
