//! The state that the connections of one worker share.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use rand::rngs::SmallRng;
use tokio::runtime::RuntimeMetrics;

use super::admit::Limit;
use super::handshake::Handshakes;
use super::relay::RelayBuffers;
use super::splice::Pipes;
use super::table::Table;
use super::tcp_info::TcpInfoSampler;
use super::turn::NextTurn;
use crate::telemetry::records::ConnectionRecords;
use crate::telemetry::shortage::Shortages;

/// The part of a worker's state that other threads read.
#[derive(Debug, Default)]
pub struct Shared {
    /// The connections that were routed, rejected or ended most recently, and those that failed.
    pub records: ConnectionRecords,
    /// Bursts that were copied because no pipe was free.
    pub bursts_copied: Arc<AtomicU64>,
    /// How often events of connections that the kernel forwards were lost.
    pub events_lost: AtomicU64,
    /// Shortages of local resources.
    pub shortages: Arc<Shortages>,
    /// Its runtime, set when the worker starts.
    pub runtime: OnceLock<RuntimeMetrics>,
}

/// The state that a worker's connections share. It never leaves the worker's thread.
pub struct WorkerContext {
    /// The open connections.
    pub(super) table: Rc<Table>,
    /// The buffer and pipes that relay their bytes.
    pub(super) buffers: RelayBuffers,
    /// The worker's next turn, which a new connection awaits before it reads the client's first bytes.
    pub(super) next_turn: Rc<NextTurn>,
    /// Its handshakes with backends.
    pub(super) handshakes: Handshakes,
    /// The state that other threads read.
    pub(super) shared: Arc<Shared>,
    /// The process's limit of connections.
    pub(super) limit: Arc<Limit>,
    /// The random numbers for choices: fast, and not cryptographic.
    pub(super) random: RefCell<SmallRng>,
    /// Samples the kernel's view of connections at their end.
    pub(super) tcp_info: TcpInfoSampler,
    conns: Cell<u64>,
    stride: u64,
    /// Distinguishes the connections of this worker from those of all other processes.
    id: u64,
}

/// An identifier of a connection that no other process uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionId {
    worker: u64,
    conn: u64,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.worker, self.conn)
    }
}

impl WorkerContext {
    /// The context of worker `index` of `workers`; all their connections have numbers above `numbered`.
    pub fn new(index: usize, workers: usize, numbered: u64, limit: Arc<Limit>, shared: Arc<Shared>) -> Self {
        let buffers = RelayBuffers::new(Pipes::new(limit.pipes, Arc::clone(&shared.bursts_copied)));
        Self {
            table: Rc::new(Table::new(Rc::clone(&buffers.visits))),
            buffers,
            next_turn: Rc::default(),
            handshakes: Handshakes::default(),
            shared,
            limit,
            random: RefCell::new(rand::make_rng()),
            tcp_info: TcpInfoSampler::default(),
            conns: Cell::new(numbered + index as u64 + 1),
            stride: workers as u64,
            id: rand::random(),
        }
    }

    /// A number for a connection, unique within the process without coordination between the workers.
    pub(super) fn next_conn(&self) -> u64 {
        let conn = self.conns.get();
        self.conns.set(conn + self.stride);
        conn
    }

    /// The number of the next connection.
    pub(super) fn coming_conn(&self) -> u64 {
        self.conns.get()
    }

    /// The identifier of the connection with that number.
    pub(super) fn id_of(&self, conn: u64) -> ConnectionId {
        ConnectionId { worker: self.id, conn }
    }
}
