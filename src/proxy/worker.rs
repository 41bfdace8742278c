//! A worker: one thread of the data plane, with a single-threaded runtime. A connection lives and dies on the
//! worker that accepted it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::admit::Limit;
use super::handshake::Handshakes;
use super::listener::{self, Closing, Listener, Socket};
use super::open::Open;
use super::progress::End;
use super::relay::RelayBuffers;
use super::splice::Pipes;
use super::table::Table;
use super::tcp_info::TcpInfoSampler;
use super::turn::NextTurn;
use crate::telemetry::decisions::{Decisions, Which, Whose};
use crate::telemetry::ends::Ends;
use crate::telemetry::shortage::Shortages;

/// A worker as the supervisor holds it.
#[derive(Debug)]
pub struct Worker {
    /// What it shares with those who look.
    pub shared: Arc<Shared>,
    handle: WorkerHandle,
    thread: Option<JoinHandle<()>>,
}

/// What a worker shares with those who look.
#[derive(Debug, Default)]
pub struct Shared {
    /// Its last routing decisions.
    pub decisions: Decisions,
    /// Its last connections that ended.
    pub ends: Ends,
    /// How often a burst was copied on, because there was no pipe for it.
    pub bursts_copied: Arc<AtomicU64>,
    /// The local resources that it ran out of.
    pub shortages: Arc<Shortages>,
}

/// Where a worker is asked about its connections, and told to end some.
#[derive(Clone, Debug)]
pub struct WorkerHandle(mpsc::UnboundedSender<Command>);

impl WorkerHandle {
    /// How busy it is.
    pub async fn report(&self) -> Report {
        self.ask(Command::Report).await.unwrap_or_default()
    }

    /// Its open connections that are asked for, at most `limit`, oldest first, and how many there are.
    pub async fn connections(&self, which: Which, limit: usize) -> (Vec<Open>, usize) {
        self.ask(|answer| Command::List(which, limit, answer)).await.unwrap_or_default()
    }

    /// Its open connections that are meant, at most `limit`.
    pub async fn find(&self, whose: Whose, limit: usize) -> Vec<Open> {
        self.ask(|answer| Command::Find(whose, limit, answer)).await.unwrap_or_default()
    }

    /// Ends the connection of that number; what it was then, if it is one of this worker's.
    pub async fn end(&self, conn: u64, end: End) -> Option<Open> {
        self.ask(|answer| Command::End(conn, end, answer)).await.flatten()
    }

    /// Ends all its connections.
    pub fn end_all(&self, end: End) {
        self.send(Command::EndAll(end));
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer));
        answered.await.ok()
    }

    fn send(&self, command: Command) {
        // A worker that is no longer there has nothing left to do.
        let _ = self.0.send(command);
    }
}

/// What a worker's connections share. Never leaves its thread.
pub struct WorkerContext {
    /// The open connections.
    pub table: Rc<Table>,
    /// What they move their bytes through.
    pub buffers: RelayBuffers,
    /// A new connection waits for it before it reads the client's first bytes.
    pub(super) next_turn: Rc<NextTurn>,
    /// Its handshakes with backends.
    pub(super) handshakes: Handshakes,
    /// What is shared with other threads.
    pub shared: Arc<Shared>,
    /// The process's limit of connections.
    pub limit: Arc<Limit>,
    /// What is drawn for choices: quick, and not for secrets.
    pub random: RefCell<SmallRng>,
    /// What the kernel is asked at the end of connections.
    pub(super) tcp_info: TcpInfoSampler,
    conns: Cell<u64>,
    stride: u64,
}

impl WorkerContext {
    /// What the connections of worker `index` of `workers` share.
    pub fn new(index: usize, workers: usize, limit: Arc<Limit>, shared: Arc<Shared>) -> Self {
        Self {
            table: Rc::default(),
            buffers: RelayBuffers::new(Pipes::new(limit.pipes, Arc::clone(&shared.bursts_copied))),
            next_turn: Rc::default(),
            handshakes: Handshakes::default(),
            shared,
            limit,
            random: RefCell::new(rand::make_rng()),
            tcp_info: TcpInfoSampler::default(),
            conns: Cell::new(index as u64 + 1),
            stride: workers as u64,
        }
    }

    /// A number for a connection, unique within the process without asking the other workers.
    pub fn next_conn(&self) -> u64 {
        let conn = self.conns.get();
        self.conns.set(conn + self.stride);
        conn
    }
}

#[derive(Debug)]
enum Command {
    Accept { socket: Socket, listener: Arc<Listener>, closing: Closing, closed: oneshot::Sender<()> },
    Report(oneshot::Sender<Report>),
    List(Which, usize, oneshot::Sender<(Vec<Open>, usize)>),
    Find(Whose, usize, oneshot::Sender<Vec<Open>>),
    End(u64, End, oneshot::Sender<Option<Open>>),
    EndAll(End),
    Stop,
}

/// How busy a worker is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Connections that are open.
    pub open: usize,
    /// When the oldest of them was accepted.
    pub oldest: Option<Instant>,
}

impl Worker {
    /// Starts worker `index` of `workers`. `busy_poll`: how long it stays awake when it has nothing to do.
    pub fn start(
        index: usize,
        workers: usize,
        limit: Arc<Limit>,
        busy_poll: Option<Duration>,
    ) -> io::Result<Self> {
        let (commands, received) = mpsc::unbounded_channel();
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let (started, when_started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // A local runtime cannot be sent to its thread, so it is made there.
            let runtime =
                Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(run(index, workers, limit, busy_poll, theirs, received));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        when_started.recv().map_err(io::Error::other)??;
        Ok(Self { shared, handle: WorkerHandle(commands), thread: Some(thread) })
    }

    /// Accepts connections of `listener` on `socket` until `closing` says so; what is returned then
    /// resolves once the socket is closed.
    pub fn accept(
        &self,
        socket: Socket,
        listener: &Arc<Listener>,
        closing: &Closing,
    ) -> oneshot::Receiver<()> {
        let (closed, when_closed) = oneshot::channel();
        let (listener, closing) = (Arc::clone(listener), closing.clone());
        self.handle.send(Command::Accept { socket, listener, closing, closed });
        when_closed
    }

    /// Where it is asked about its connections.
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
    }
}

impl Drop for Worker {
    /// Stops the thread; connections that are still open are cut off.
    fn drop(&mut self) {
        self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(
    index: usize,
    workers: usize,
    limit: Arc<Limit>,
    busy_poll: Option<Duration>,
    shared: Arc<Shared>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let local = Rc::new(WorkerContext::new(index, workers, limit, shared));
    let table = Rc::clone(&local.table);
    tokio::task::spawn_local(async move { table.keep_time().await });
    tokio::task::spawn_local(Rc::clone(&local.next_turn).run());
    if let Some(time) = busy_poll {
        tokio::task::spawn_local(Rc::clone(&local.buffers.pulse).stay_awake(time));
    }
    while let Some(command) = commands.recv().await {
        match command {
            Command::Accept { socket, listener, closing, closed } => {
                let local = Rc::clone(&local);
                tokio::task::spawn_local(async move {
                    let name = Arc::clone(&listener.name);
                    if let Err(error) = listener::accept(local, socket, listener, closing).await {
                        error!(listener = %name, %error, "a listening socket could not be used");
                    }
                    let _ = closed.send(());
                });
            }
            Command::Report(answer) => {
                let report = Report { open: local.table.open(), oldest: local.table.oldest() };
                let _ = answer.send(report);
            }
            Command::List(which, limit, answer) => {
                let _ = answer.send(local.table.list(&which, limit));
            }
            Command::Find(whose, limit, answer) => {
                let _ = answer.send(local.table.find(whose, limit));
            }
            Command::End(conn, end, answer) => {
                let _ = answer.send(local.table.end(conn, end));
            }
            Command::EndAll(end) => local.table.end_all(end),
            Command::Stop => break,
        }
    }
}
