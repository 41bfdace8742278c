//! One connection that the kernel forwards: its ends, where it was sent, and its record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::conntrack::{ConntrackEntry, Tuple};
use super::marks::{BACKEND_CLOSED, BACKEND_RESET, CLIENT_CLOSED, CLIENT_RESET, REVERSED};
use crate::balance::Lease;
use crate::domain::{Client, CloseReason, ConnectedBackend, ConnectionRecord, SocketAddress, Stage};
use crate::pool::{Backend, Pool, PoolSnapshot};
use crate::proxy::listener::{Admitted, Listener};
use crate::proxy::progress::CloseRequest;
use crate::telemetry::filter::ConnectionFilter;
use crate::telemetry::flow::Flow;
use crate::telemetry::records::KeptDecision;

/// Where the kernel has sent a connection.
pub(super) struct Target {
    pub(super) listener: Arc<Listener>,
    pub(super) pool: Arc<Pool>,
    pub(super) backend: Arc<Backend>,
    /// What was chosen from.
    pub(super) snapshot: Arc<PoolSnapshot>,
    /// Whether the rules alone find the same backend in the middle of a connection, so that it goes on without its entry, here
    /// or through another machine.
    pub(super) can_continue: bool,
}

/// The ends of the connection of an entry.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    /// The address that it has connected to.
    pub(super) listener: SocketAddr,
    pub(super) backend: SocketAddr,
}

impl Ends {
    pub(super) fn of(entry: &ConntrackEntry) -> Self {
        let ConntrackEntry { original, reply, .. } = entry;
        match entry.mark & REVERSED {
            0 => Self { client: original.source, listener: original.destination, backend: reply.source },
            _ => Self { client: reply.source, listener: reply.destination, backend: original.source },
        }
    }
}

/// Its bytes: those of the client, and those of the backend.
pub(super) fn bytes_of(entry: &ConntrackEntry) -> Option<[u64; 2]> {
    match (entry.bytes?, entry.mark & REVERSED) {
        (bytes, 0) => Some(bytes),
        ([from_backend, from_client], _) => Some([from_client, from_backend]),
    }
}

/// An open connection.
pub(super) struct Open {
    pub(super) conn: u64,
    pub(super) client: SocketAddr,
    /// Its two directions, as the entry has them.
    pub(super) directions: [Tuple; 2],
    pub(super) target: Target,
    /// When its backend had answered: the kernel reports no earlier event.
    pub(super) began: Instant,
    pub(super) began_at: SystemTime,
    /// Where its decision is kept.
    pub(super) decision: KeptDecision,
    /// The bits of its mark.
    pub(super) mark: u32,
    /// Its bytes when it was last listed.
    pub(super) bytes: [u64; 2],
    /// When the first side ended it.
    pub(super) ending: Option<Instant>,
    /// The backend's number of directives when it was routed.
    pub(super) directives: u32,
    /// When this process ends it, if it does, and why.
    pub(super) close_at: Option<(Instant, CloseRequest)>,
    /// Why it is ending it.
    pub(super) request: Option<CloseRequest>,
    pub(super) flow: Arc<Flow>,
    pub(super) _lease: Lease,
    pub(super) _admitted: Option<Admitted>,
}

impl Open {
    pub(super) fn client(&self) -> Client {
        Client::Tcp(self.client)
    }

    pub(super) fn matches(&self, filter: &ConnectionFilter) -> bool {
        let Target { listener, pool, backend, .. } = &self.target;
        filter.matches(
            &listener.name,
            Some(&pool.name),
            Some((&backend.name, &backend.address)),
            self.client(),
        )
    }

    /// Notes that it is being ended for that reason; returns its two directions.
    pub(super) fn end_for(&mut self, request: CloseRequest) -> [Tuple; 2] {
        self.request = Some(request);
        self.directions
    }

    /// The bits of its mark. The kernel notes which side has ended it by the direction of the packet.
    fn noted(&self) -> u32 {
        let both = |client, backend| match self.mark & (client | backend) {
            one if one == client => backend,
            one if one == backend => client,
            other => other,
        };
        match self.mark & REVERSED {
            0 => self.mark,
            _ => both(CLIENT_CLOSED, BACKEND_CLOSED) | both(CLIENT_RESET, BACKEND_RESET),
        }
    }

    /// Which side closed first, cleanly, if one did.
    pub(super) fn first_closed(&self) -> Option<CloseReason> {
        match self.noted() {
            mark if mark & CLIENT_CLOSED != 0 => Some(CloseReason::ClientClosed),
            mark if mark & BACKEND_CLOSED != 0 => Some(CloseReason::BackendClosed),
            _ => None,
        }
    }

    /// Why it has ended.
    pub(super) fn reason(&self) -> CloseReason {
        match (self.request, self.noted()) {
            (Some(request), _) => request.reason,
            (None, mark) if mark & BACKEND_RESET != 0 => CloseReason::BackendReset,
            (None, mark) if mark & CLIENT_RESET != 0 => CloseReason::ClientReset,
            // Without an end of either side its entry has expired.
            _ => self.first_closed().unwrap_or(CloseReason::IdleTimeout),
        }
    }

    /// Its record at a moment.
    pub(super) fn record(&self, at: Instant, stage: Stage) -> ConnectionRecord {
        let age = at.saturating_duration_since(self.began);
        let [bytes_in, bytes_out] = self.bytes;
        let record = self.target.record(self.conn, self.client, self.began_at, age, stage);
        ConnectionRecord { bytes_in, bytes_out, ..record }
    }
}

impl Target {
    pub(super) fn connected(&self) -> ConnectedBackend {
        let Backend { name, address, .. } = &*self.backend;
        ConnectedBackend { name: Arc::clone(name), address: address.clone(), connect: None }
    }

    /// The record of a connection that was sent there, without its route and its bytes.
    pub(super) fn record(
        &self,
        conn: u64,
        client: SocketAddr,
        accepted: SystemTime,
        age: Duration,
        stage: Stage,
    ) -> ConnectionRecord {
        ConnectionRecord {
            conn,
            client: Client::Tcp(client),
            listener: Arc::clone(&self.listener.name),
            pool: Some(Arc::clone(&self.pool.name)),
            pool_match: None,
            accepted,
            backend: Some(self.connected()),
            route: None,
            age,
            bytes_in: 0,
            bytes_out: 0,
            throttled: false,
            first_byte: None,
            stage,
        }
    }
}

/// Whether `bound` accepts a connection to `destination`.
pub(super) fn accepts(bound: &SocketAddress, destination: SocketAddr) -> bool {
    let Some(bound) = bound.tcp() else { return false };
    let ip = bound.ip().to_canonical();
    let any = ip.is_unspecified() && (bound.is_ipv6() || destination.is_ipv4());
    bound.port() == destination.port() && (any || ip == destination.ip().to_canonical())
}
