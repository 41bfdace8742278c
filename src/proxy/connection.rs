//! The life of a connection, from top to bottom:
//! admit → read the preface, if one is expected (PROXY header, ClientHello) → choose the pool → preread → route and connect
//! → relay → record.

mod admission;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tracing::info;

use super::cancel;
use super::clock::{Moment, WholeSeconds};
use super::connect::{self, Caller, Connected, NotConnected};
use super::context::WorkerContext;
use super::failure_penalty;
use super::listener::{Listener, Settings};
use super::no_backend;
use super::preface::{HeaderSource, Preface};
use super::progress::{CloseRequest, Phase, Progress, Relayed};
use super::relay::Relay;
use super::replay::{Harmless, Replay, Sent};
use super::sockets;
use super::stream::Stream;
use crate::balance::Lease;
use crate::config;
use crate::domain::{
    Cause, Client, CloseReason, ConnectedBackend, ConnectionEnd, ConnectionRecord, Ending, FailedAttempt,
    Rejection, Route, Stage, TcpSides,
};
use crate::pool::{Choice, Failure, Pool};
use crate::protocol::postgres;
use crate::telemetry;
use crate::telemetry::records::KeptDecision;

/// Maximum bytes of a client that are read before it has a backend: one or two packets. More would only be held in the
/// process's memory instead of the kernel's until the backend is connected.
const PREREAD: usize = 4096;
/// How long to wait for the first bytes of a PostgreSQL client.
const FIRST_BYTES: Duration = Duration::from_secs(1);

/// Serves one accepted connection until its end.
pub(super) fn serve(
    context: Rc<WorkerContext>,
    listener: Arc<Listener>,
    client: Stream,
    peer: Client,
    permit: Option<OwnedSemaphorePermit>,
) -> impl Future<Output = ()> {
    let connection = Connection::new(context, listener, client, peer, permit);
    // By reference: the future of an async function holds an argument that it takes by value twice.
    async move { connection.live().await }
}

/// An accepted connection.
struct Connection {
    context: Rc<WorkerContext>,
    /// The listener's settings when it was accepted.
    settings: Arc<Settings>,
    client: Stream,
    progress: Rc<Progress>,
    /// Its lease on a backend: set by each choice, dropped when connecting fails and at the end.
    lease: Cell<Option<Lease>>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The end of a connection.
struct Closed {
    reason: CloseReason,
    /// Why the listener rejected it, if it did.
    rejection: Option<Rejection>,
    /// Whether the listener had admitted it.
    admitted: bool,
    /// The kernel's statistics of its sockets, if they were sampled.
    kernel: Option<TcpSides>,
}

/// How a relay ended.
enum RelayEnd {
    /// The connection has ended.
    Closed(Closed),
    /// The backend ended it before its first byte, and another one can get what the client has sent.
    Unanswered(CloseReason, Box<Sent>),
}

impl Connection {
    fn new(
        context: Rc<WorkerContext>,
        listener: Arc<Listener>,
        client: Stream,
        peer: Client,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let settings = listener.settings.load_full();
        let progress = Rc::new(Progress::new(context.next_conn(), peer, listener, Moment::now()));
        if let Some(assignment) = settings.routing.early().filter(|_| settings.hello_timeout.is_none()) {
            let _ = progress.assignment.set(Arc::clone(assignment));
        }
        context.table.enter(&progress);
        Self { context, settings, client, progress, lease: Cell::new(None), _permit: permit }
    }

    /// The whole life of the connection. Guards release everything that it holds, however it ends.
    async fn live(&self) {
        let life = async {
            // On the heap, and freed before the relay begins: an open connection holds only what the relay needs.
            let begin = Box::pin(async {
                self.check_peer()?;
                let open = self.admit()?;
                let mut preface = match &self.settings.proxy_protocol {
                    Some(expected) => self.read_header(expected).await?,
                    None => Preface::default(),
                };
                let slot = self.admit_client()?;
                let pool = match self.settings.hello_timeout {
                    Some(limit) if !self.settings.routing.has_source(self.progress.client.get()) => {
                        self.choose_pool_by_hello(&mut preface, limit).await?
                    }
                    _ => self.choose_pool(None)?,
                };
                preface.rest = self.preread(pool, preface.rest).await?;
                let backend = self.route_and_connect(pool, &preface).await?;
                self.copy_cancel_request(pool, &preface.rest);
                let harmless = self.progress.relayed().map(|relayed| Harmless::of(&relayed.settings));
                let (preread, replay) = Replay::new(harmless, preface, Vec::new());
                Ok((open, slot, backend, preread, replay))
            });
            let (_open, _slot, mut backend, mut preread, mut replay) = begin.await?;
            loop {
                let (reason, sent) = match self.relay(&backend, preread, replay).await {
                    RelayEnd::Closed(closed) => return Ok(closed),
                    RelayEnd::Unanswered(reason, sent) => (reason, sent),
                };
                // On the heap, as before.
                let next;
                (next, preread, replay) = Box::pin(self.replay(&backend, reason, sent)).await?;
                backend = next.unwrap_or(backend);
            }
        };
        self.record(life.await.unwrap_or_else(|rejected: Closed| rejected));
    }

    /// The bytes that the client has sent by the worker's next turn, if any: they go to the backend with the handshake.
    /// `rest`: bytes that were read with the preface.
    async fn preread(&self, pool: &Pool, rest: Vec<u8>) -> Result<Vec<u8>, Closed> {
        self.context.next_turn.wait().await;
        if !rest.is_empty() {
            return Ok(rest);
        }
        if pool.settings().is_postgres() {
            self.wait_for_first_bytes().await?;
        }
        let readable = poll_fn(|cx| Poll::Ready(self.client.poll_readable(cx).is_ready())).await;
        if !readable {
            return Ok(Vec::new());
        }
        let mut buffer = self.context.buffers.buffer.borrow_mut();
        match self.client.read(&mut buffer[..PREREAD]) {
            Ok(read) => Ok(buffer[..read].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(_) => Err(self.closed(CloseReason::ClientReset, None)),
        }
    }

    /// Waits for the first bytes of a PostgreSQL client, which speaks first: a request to cancel a query must be recognized
    /// before it has a backend.
    async fn wait_for_first_bytes(&self) -> Result<(), Closed> {
        let readable = poll_fn(|cx| self.client.poll_readable(cx));
        match self.unless_closing(tokio::time::timeout(FIRST_BYTES, readable)).await {
            Ok(_) => Ok(()),
            Err(request) => Err(self.closed(carry_out(request, &[&self.client]), None)),
        }
    }

    /// The connection as `connect` needs it.
    fn caller<'a>(
        &'a self,
        pool: &'a Pool,
        preface: &'a Preface,
        unanswered: &'a [(u64, FailedAttempt)],
        lease: &'a Cell<Option<Lease>>,
    ) -> Caller<'a> {
        Caller {
            conn: self.progress.conn,
            accepted: self.progress.accepted,
            pool,
            peer: self.progress.client.get(),
            stream: &self.client,
            has_sent: !preface.rest.is_empty(),
            header: preface.header.as_deref(),
            hello: preface.hello.as_deref(),
            unanswered,
            lease,
            context: &self.context,
        }
    }

    /// Chooses a backend of the pool and connects to it, or rejects the client.
    async fn route_and_connect(&self, pool: &Pool, preface: &Preface) -> Result<Stream, Closed> {
        let caller = self.caller(pool, preface, &[], &self.lease);
        let has_sent = caller.has_sent;
        let reason = match self.unless_closing(connect::connect(&caller)).await {
            Ok(Ok(mut connected)) => {
                connected.route.proxy = preface.proxy;
                connected.route.cancel_request = self.cancel_request(pool, &preface.rest).is_some();
                return Ok(self.routed(pool, connected));
            }
            // The client left while it waited.
            Ok(Err(NotConnected { reason: CloseReason::ClientClosed, .. })) => CloseReason::ClientClosed,
            Ok(Err(NotConnected { reason: CloseReason::ClientReset, .. })) => CloseReason::ClientReset,
            Ok(Err(NotConnected { reason, route })) => {
                self.reject(pool, has_sent, reason, route).await;
                reason
            }
            Err(request) => carry_out(request, &[&self.client]),
        };
        Err(self.closed(reason, None))
    }

    /// Connects to another backend, as `backend` has ended the connection before its first byte, for which the client is not
    /// to suffer. If none can be reached, the connection ends if that backend has reset it; after a FIN it continues there, as
    /// the backend may still read (`None`). Also returns the bytes for the backend.
    async fn replay(
        &self,
        backend: &Stream,
        reason: CloseReason,
        mut sent: Box<Sent>,
    ) -> Result<(Option<Stream>, Vec<u8>, Replay), Closed> {
        let without_another = |mut sent: Box<Sent>| {
            if reason == CloseReason::BackendReset {
                sockets::reset_on_close(&self.client);
                return Err(self.closed(reason, Some(backend)));
            }
            let written = usize::try_from(self.progress.bytes_in.get()).unwrap_or(usize::MAX);
            let bytes = &mut sent.preface.rest;
            Ok((None, bytes.split_off(written.min(bytes.len())), Replay::Impossible))
        };
        let (Some(pool), Some(failed)) = (self.progress.pool(), self.unanswered(reason)) else {
            return without_another(sent);
        };
        sent.unanswered.push(failed);
        // The lease on the first backend is dropped when its end is counted.
        let lease = Cell::new(None);
        let caller = self.caller(pool, &sent.preface, &sent.unanswered, &lease);
        let connected = self.unless_closing(connect::connect(&caller)).await;
        if !matches!(connected, Ok(Ok(_))) && lease.take().is_some() {
            pool.queue.notify_first();
        }
        match connected {
            Ok(Ok(mut connected)) => {
                connected.route.proxy = sent.preface.proxy;
                self.leave_backend(pool, reason);
                self.lease.set(lease.take());
                let stream = self.routed(pool, connected);
                let (preread, replay) = sent.again();
                Ok((Some(stream), preread, replay))
            }
            Ok(Err(NotConnected {
                reason: left @ (CloseReason::ClientClosed | CloseReason::ClientReset),
                ..
            })) => Err(self.closed(left, Some(backend))),
            Ok(Err(_)) => without_another(sent),
            Err(request) => Err(self.closed(carry_out(request, &[&self.client]), Some(backend))),
        }
    }

    /// The failed attempt of a backend that has ended the connection before its first byte, with its key.
    fn unanswered(&self, reason: CloseReason) -> Option<(u64, FailedAttempt)> {
        let relayed = self.progress.relayed()?;
        let how = if reason == CloseReason::BackendReset { "reset" } else { "closed" };
        let attempt = FailedAttempt {
            backend: Arc::clone(&relayed.backend.name),
            address: relayed.backend.address.clone(),
            error: Cause::from(format!("{how} the connection before its first byte")),
            took: relayed.at.elapsed(),
        };
        Some((relayed.backend.key, attempt))
    }

    /// Counts the end of the connection to a backend that has sent nothing; the client's connection continues.
    fn leave_backend(&self, pool: &Pool, reason: CloseReason) {
        if let Some(relayed) = self.progress.relayed() {
            self.judge(&relayed, reason, Moment::now());
        }
        if let Some(relayed) = self.progress.leave_backend() {
            relayed.flow.closed(reason);
        }
        if self.lease.take().is_some() {
            pool.queue.notify_first();
        }
    }

    /// The cancel request of a PostgreSQL client, if it has sent one.
    fn cancel_request(&self, pool: &Pool, preread: &[u8]) -> Option<[u8; postgres::CANCEL_REQUEST]> {
        let request = postgres::cancel_request(preread)?;
        (self.settings.postgres || pool.settings().is_postgres()).then_some(request)
    }

    /// Sends a cancel request to the other backends too.
    fn copy_cancel_request(&self, pool: &Pool, preread: &[u8]) {
        let Some(request) = self.cancel_request(pool, preread) else { return };
        let Some(to) = self.progress.relayed().map(|relayed| Arc::clone(&relayed.backend)) else { return };
        let all = self.settings.routing.pools();
        let pools = match self.settings.postgres {
            // The request names no server.
            true => all,
            false => self.progress.pool().into_iter().collect(),
        };
        let source = HeaderSource {
            client: self.progress.client.get(),
            stream: &self.client,
            received: None,
            server_name: None,
            unique_id: self.context.id_of(self.progress.conn),
        };
        let header =
            |settings: &config::Pool| settings.send_proxy_protocol.map(|wanted| source.header(wanted));
        let others = cancel::send_to_others(&self.context, &pools, &to, source.client, request, header);
        self.progress.listener.cancel_requests.fetch_add(1, Ordering::Relaxed);
        info!(
            target: telemetry::CONNECTIONS,
            conn = self.progress.conn,
            client = %source.client,
            listener = %self.progress.listener.name,
            pool = %pool.name,
            others,
            "cancel request copied"
        );
    }

    /// Relays until both directions have ended, one side has failed, or a close is requested.
    fn relay<'a>(
        &'a self,
        backend: &'a Stream,
        preread: Vec<u8>,
        replay: Replay,
    ) -> impl Future<Output = RelayEnd> + 'a {
        let mut relay = Relay::new(&self.client, backend, &self.progress, &self.context.buffers, preread);
        relay.allow_replay(replay);
        if self.settings.bandwidth.is_some() {
            relay.limit_bandwidth();
        }
        async move {
            // Polled here: within another future, an idle connection would hold the relay twice.
            let relayed = poll_fn(|cx| match self.progress.poll_closing(cx) {
                Poll::Ready(request) => Poll::Ready(Err(request)),
                Poll::Pending => relay.poll(cx).map(Ok),
            });
            let relayed = relayed.await;
            if let Ok(ended) = &relayed
                && let Some((reason, sent)) = relay.unanswered(ended)
            {
                return RelayEnd::Unanswered(reason, sent);
            }
            let relayed = match relayed {
                Ok(Err(broken)) => Box::pin(self.unless_closing(relay.flush_before_reset(broken))).await,
                Ok(Ok(reason)) => Ok(reason),
                Err(request) => Err(request),
            };
            let closed = self.closed(relayed.unwrap_or_else(|request| request.reason), Some(backend));
            match relayed {
                Ok(CloseReason::ClientReset) => sockets::reset_on_close(backend),
                Ok(CloseReason::BackendReset) => sockets::reset_on_close(&self.client),
                Ok(_) => {}
                Err(request) => drop(carry_out(request, &[&self.client, backend])),
            }
            RelayEnd::Closed(closed)
        }
    }

    /// Records the end, once: after [`live`](Self::live) the fallback does nothing.
    fn record(&self, closed: Closed) {
        let admitted = closed.admitted;
        let Some((end, record, decision)) = self.finish(closed) else { return };
        record.log_closed(&end);
        // Clients that the listener rejects may be as many as successes.
        let failed = admitted && (end.reason.is_failure() || end.reason == CloseReason::Operator);
        if end.reason == CloseReason::DrainTimeout {
            self.context.table.count_cut();
        }
        self.context.shared.records.add_ended(record, failed, decision);
        self.context.table.leave(&self.progress);
    }

    /// Counts the end, drops the lease, and returns the record and where the decision is kept, if it had a backend; `None`:
    /// the end is already recorded.
    fn finish(
        &self,
        Closed { reason, rejection, admitted, kernel }: Closed,
    ) -> Option<(ConnectionEnd, ConnectionRecord, Option<KeptDecision>)> {
        let progress = &self.progress;
        // It may have ended before the ClientHello was complete.
        if let Some(assignment) = self.settings.routing.early() {
            let _ = progress.assignment.set(Arc::clone(assignment));
        }
        let pool = progress.pool();
        let phase = progress.enter(Phase::Closed);
        let (relayed, decision) = match &phase {
            Phase::Closed => return None,
            Phase::Connecting | Phase::Rejected(_) => (None, None),
            Phase::Relaying(relayed, decision) => (Some(relayed), Some(*decision)),
        };
        let now = Moment::now();
        let duration = progress.accepted.until(now);
        if reason.is_failure() && admitted && pool.is_none() {
            progress.listener.client_visible_failure(reason);
        }
        if let Some(pool) = pool.filter(|_| admitted) {
            pool.counters.connection.observe(duration.as_secs_f64());
            if reason.is_failure() {
                pool.counters.client_visible_failure(reason);
            }
            if relayed.is_some()
                && reason.is_without_answer(progress.bytes_in.get(), progress.bytes_out.get())
            {
                pool.counters.without_answer();
            }
            if relayed.is_some() {
                pool.lifetimes.ended(duration, reason.is_cut());
            }
        }
        if let Some(relayed) = relayed {
            progress.count_bytes(&relayed.flow);
            // Before the lease is dropped: the backend must not look idle in between.
            self.judge(relayed, reason, now);
        }
        // The last counter: once no connection is counted as open, the other counters are complete.
        match &phase {
            Phase::Relaying(Relayed { flow, .. }, _) | Phase::Rejected(flow) => flow.closed(reason),
            Phase::Connecting | Phase::Closed => {
                let flow = match pool {
                    Some(pool) => pool.unserved.of(&progress.listener.name),
                    None => Arc::clone(&progress.listener.without_pool),
                };
                if admitted { flow.ended_unrouted(reason) } else { flow.not_admitted(reason) }
            }
        }
        // After the counters: a leaving backend is removed with its last lease, and its counters are summed up then.
        if self.lease.take().is_some()
            && let Some(pool) = pool
        {
            pool.queue.notify_first();
        }
        let end = ConnectionEnd { reason, first_closed: progress.first_closed.get(), rejection, kernel };
        Some((end, progress.relayed_record(duration, relayed, Stage::Ended(end)), decision))
    }

    /// The end for that reason, with the kernel's view of the sockets, which are still open.
    fn closed(&self, reason: CloseReason, backend: Option<&Stream>) -> Closed {
        let kernel = self.context.tcp_info.sample(reason, &self.client, backend);
        Closed { reason, rejection: None, admitted: true, kernel }
    }

    /// The output of `future`, unless a close is requested first.
    async fn unless_closing<T>(&self, future: impl Future<Output = T>) -> Result<T, CloseRequest> {
        tokio::select! {
            biased;
            request = self.progress.closing() => Err(request),
            output = future => Ok(output),
        }
    }

    /// Counts and records the routing to the backend that is connected.
    fn routed(&self, pool: &Pool, connected: Connected) -> Stream {
        let Connected { chosen, stream, shadows, settings, at, took, route } = connected;
        let Choice { backend, directives, .. } = chosen;
        backend.latency.connect.add(took);
        pool.counters.routed(route.tier, u64::from(route.attempts.saturating_sub(1)));
        let connected = ConnectedBackend {
            name: Arc::clone(&backend.name),
            address: backend.address.clone(),
            connect: Some(took),
        };
        let record = self.progress.record(route.after, Stage::Routed);
        record.log_routed(&connected, &route);
        let decision = self.context.shared.records.add_routed(ConnectionRecord {
            backend: Some(connected),
            route: Some(route),
            ..record
        });
        let flow = backend.flows.of(&self.progress.listener.name);
        flow.opened();
        let client_keepalive = self.settings.options.keepalive.map(WholeSeconds::from);
        let relayed =
            Relayed { backend, flow, settings, at, connect: took.into(), client_keepalive, shadows };
        self.progress.relay(relayed, directives, decision);
        self.context.table.visit(&self.progress);
        stream
    }

    /// Rejects a client for which no backend was found or reached.
    async fn reject(&self, pool: &Pool, has_sent: bool, reason: CloseReason, route: Route) {
        let record = self.progress.record(route.after, Stage::Routed);
        record.log_rejected(&route, reason);
        self.context.shared.records.add_routed(ConnectionRecord { route: Some(route), ..record });
        let flow = pool.unserved.of(&self.progress.listener.name);
        flow.opened();
        self.progress.enter(Phase::Rejected(flow));
        let how = self.settings.no_backend;
        let rejected = no_backend::reject(&self.client, has_sent, how, &self.context.buffers);
        if let Err(request) = self.unless_closing(rejected).await {
            carry_out(request, &[&self.client]);
        }
    }

    /// Reports a backend that ended the connection before it had sent a byte.
    fn judge(&self, relayed: &Relayed, reason: CloseReason, now: Moment) {
        let progress = &self.progress;
        if progress.has_answer() {
            return;
        }
        match (reason, progress.first_closed.get()) {
            (CloseReason::BackendReset, None) => {
                if let Some(pool) = progress.pool() {
                    pool.report_failure(&relayed.backend, Failure::Reset);
                }
            }
            // An orderly end: either the server had nothing to send, or it is broken.
            (CloseReason::BackendClosed | CloseReason::BackendReset, Some(CloseReason::BackendClosed)) => {}
            _ => return,
        }
        if relayed.at.until(now) < failure_penalty::AT_ONCE {
            self.context.table.penalize(&relayed.backend, &self.context.random);
        }
    }
}

/// Prepares the sockets for the close that was requested, and returns its reason.
fn carry_out(request: CloseRequest, streams: &[&Stream]) -> CloseReason {
    if request.how == Ending::Reset {
        streams.iter().for_each(sockets::reset_on_close);
    }
    request.reason
}

impl Drop for Connection {
    /// The fallback, if the task ends early: by a panic, or with its worker.
    fn drop(&mut self) {
        self.record(Closed { reason: CloseReason::Internal, rejection: None, admitted: true, kernel: None });
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
