//! The life of a connection, from top to bottom:
//! admit → preread → route and connect → relay → record.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use super::clock::Moment;
use super::connect::{self, Caller, Connected, NotConnected, RouteTrace};
use super::context::WorkerContext;
use super::failure_penalty;
use super::listener::{Admitted, Listener, Settings};
use super::no_backend;
use super::progress::{CloseRequest, Phase, Progress, Relayed};
use super::relay::Relay;
use super::sockets;
use super::stream::Stream;
use crate::balance::Lease;
use crate::domain::{Client, CloseReason, Ending};
use crate::pool::{Backend, Choice, Failure};
use crate::telemetry::decisions::Decision;
use crate::telemetry::ends::{Ended, Sides};
use crate::telemetry::{CONNECTIONS, millis};

/// Bytes of a client that are read before it has a backend: a packet or two. More would only be held in our memory
/// instead of the kernel's until the backend is connected.
const PREREAD: usize = 4096;

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
    /// Its place at a backend. Set by each choice of one, freed when connecting fails and at the end.
    lease: Cell<Option<Lease>>,
    /// Its key in the worker's table.
    key: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The end of a connection.
struct Closed {
    reason: CloseReason,
    /// What the kernel knew of its sockets, if it was asked.
    kernel: Option<Sides>,
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
        let key = context.table.enter(&progress);
        Self { context, settings, client, progress, lease: Cell::new(None), key, _permit: permit }
    }

    /// The whole life. What the connection takes is freed by guards, whichever way it ends.
    async fn live(&self) {
        let life = async {
            let _admitted = self.admit()?;
            let preread = self.preread().await?;
            // On the heap, and freed before the relay begins: an open connection holds only what the relay needs.
            let backend = Box::pin(self.route_and_connect(!preread.is_empty())).await?;
            Ok(self.relay(&backend, preread).await)
        };
        self.record(life.await.unwrap_or_else(|rejected: Closed| rejected));
    }

    /// Counts it among its listener's connections, unless there are too many.
    fn admit(&self) -> Result<Admitted, Closed> {
        self.progress.listener.admit(self.settings.max_connections).ok_or_else(|| {
            sockets::reset_on_close(&self.client);
            Closed { reason: CloseReason::Limited, kernel: None }
        })
    }

    /// The bytes that the client has sent by the worker's next turn, if any: they go to the backend with the handshake.
    async fn preread(&self) -> Result<Vec<u8>, Closed> {
        self.context.next_turn.wait().await;
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

    /// Chooses a backend and connects to it, or rejects the client. `spoken`: the client has sent bytes.
    async fn route_and_connect(&self, spoken: bool) -> Result<Stream, Closed> {
        let caller = Caller {
            conn: self.progress.conn,
            pool: &self.settings.pool,
            peer: self.progress.client,
            stream: &self.client,
            spoken,
            lease: &self.lease,
            context: &self.context,
        };
        let reason = match self.unless_closing(connect::connect(&caller)).await {
            Ok(Ok(connected)) => return Ok(self.routed(connected)),
            // It left while it waited.
            Ok(Err(NotConnected { reason: CloseReason::ClientClosed, .. })) => CloseReason::ClientClosed,
            Ok(Err(NotConnected { reason: CloseReason::ClientReset, .. })) => CloseReason::ClientReset,
            Ok(Err(NotConnected { reason, trace })) => {
                self.reject(spoken, reason, trace).await;
                reason
            }
            Err(request) => carry_out(request, &[&self.client]),
        };
        Err(self.closed(reason, None))
    }

    /// Relays until both directions have ended, one side has failed, or the connection is told to close.
    fn relay<'a>(&'a self, backend: &'a Stream, preread: Vec<u8>) -> impl Future<Output = Closed> + 'a {
        let mut relay = Relay::new(&self.client, backend, &self.progress, &self.context.buffers, preread);
        async move {
            // Polled here: within another future, an idle connection would hold the relay twice.
            let relayed = poll_fn(|cx| match self.progress.poll_closing(cx) {
                Poll::Ready(request) => Poll::Ready(Err(request)),
                Poll::Pending => relay.poll(cx).map(Ok),
            });
            let relayed = match relayed.await {
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
            closed
        }
    }

    /// Writes down the end, once: after [`live`](Self::live) nothing is left for the fallback.
    fn record(&self, closed: Closed) {
        let Some(ended) = self.finish(closed) else { return };
        log_closed(&ended);
        self.context.shared.ends.record(ended);
        self.context.table.leave(self.key);
    }

    /// Counts the end, frees the place at the backend, and returns the record; `None`: that was done before.
    fn finish(&self, Closed { reason, kernel }: Closed) -> Option<Ended> {
        let (progress, pool) = (&self.progress, &self.settings.pool);
        let phase = progress.enter(Phase::Closed);
        let relayed = match &phase {
            Phase::Closed => return None,
            Phase::Connecting | Phase::Rejected(_) => None,
            Phase::Relaying(relayed) => Some(relayed),
        };
        let now = Moment::now();
        let duration = progress.accepted.until(now);
        pool.counters.connection.observe(duration.as_secs_f64());
        if reason.is_failure() {
            pool.counters.seen(reason);
        }
        let first_byte = relayed.and_then(|relayed| progress.first_byte(relayed));
        if let Some(relayed) = relayed {
            progress.count_bytes(&relayed.flow);
            // Before its place is free: the backend must not look idle in between.
            self.judge(relayed, reason, now);
        }
        // The last of the counters: once no connection is counted as open, all the others are complete.
        match &phase {
            Phase::Relaying(Relayed { flow, .. }) | Phase::Rejected(flow) => flow.closed(reason),
            Phase::Connecting | Phase::Closed => {
                pool.unserved.of(&progress.listener.name).turned_away(reason);
            }
        }
        // After them: a backend that is leaving is gone with its last place, and its counters are added up then.
        if self.lease.take().is_some() {
            pool.queue.look_again();
        }
        Some(Ended {
            conn: progress.conn,
            at: SystemTime::now(),
            client: progress.client,
            listener: Arc::clone(&progress.listener.name),
            pool: Arc::clone(&pool.name),
            backend: relayed.map(|relayed| Arc::clone(&relayed.backend.name)),
            address: relayed.map(|relayed| relayed.backend.address),
            reason,
            first: progress.first_closed.get(),
            bytes_in: progress.bytes_in.get(),
            bytes_out: progress.bytes_out.get(),
            duration_ms: millis(duration),
            connect_ms: relayed.map(|relayed| millis(relayed.connect)),
            first_byte_ms: first_byte.map(millis),
            kernel,
        })
    }

    /// The end for that reason, with the kernel's view of the sockets, which are still open.
    fn closed(&self, reason: CloseReason, backend: Option<&Stream>) -> Closed {
        Closed { reason, kernel: self.context.tcp_info.sample(reason, &self.client, backend) }
    }

    /// The output of `future`, unless the connection is told to close first.
    async fn unless_closing<T>(&self, future: impl Future<Output = T>) -> Result<T, CloseRequest> {
        tokio::select! {
            biased;
            request = self.progress.closing() => Err(request),
            output = future => Ok(output),
        }
    }

    /// Counts and logs the routing to the backend that is connected.
    fn routed(&self, connected: Connected) -> Stream {
        let Connected { chosen: Choice { backend, directives, .. }, stream, shadows, settings, took, trace } =
            connected;
        let pool = &self.settings.pool;
        info!(
            target: CONNECTIONS,
            conn = self.progress.conn,
            client = %self.progress.client,
            listener = %self.progress.listener.name,
            pool = %pool.name,
            backend = %backend.name,
            address = %backend.address,
            algorithm = %trace.algorithm.name(),
            skipped = %trace.excluded,
            attempts = trace.attempts,
            queued_ms = trace.queued.map(millis),
            connect_ms = millis(took),
            "routed"
        );
        let at = Moment::now();
        backend.pace.connect.add(took);
        pool.counters.routed(u64::from(trace.attempts.saturating_sub(1)));
        self.decide(Some((&backend, took)), at, trace);
        let flow = backend.flows.of(&self.progress.listener.name);
        flow.opened();
        let listener = Arc::clone(&self.settings);
        let relayed = Relayed { backend, flow, listener, settings, at, connect: took, shadows };
        self.progress.relay(relayed, directives);
        stream
    }

    /// Rejects a client for which no backend was found or reached.
    async fn reject(&self, spoken: bool, reason: CloseReason, trace: RouteTrace) {
        let pool = &self.settings.pool;
        warn!(
            target: CONNECTIONS,
            conn = self.progress.conn,
            client = %self.progress.client,
            listener = %self.progress.listener.name,
            pool = %pool.name,
            algorithm = %trace.algorithm.name(),
            skipped = %trace.excluded,
            attempts = trace.attempts,
            queued_ms = trace.queued.map(millis),
            reason = %reason.name(),
            "no backend"
        );
        self.decide(None, Moment::now(), trace);
        let flow = pool.unserved.of(&self.progress.listener.name);
        flow.opened();
        self.progress.enter(Phase::Rejected(flow));
        let how = self.settings.no_backend;
        let rejected = no_backend::reject(&self.client, spoken, how, &self.context.buffers);
        if let Err(request) = self.unless_closing(rejected).await {
            carry_out(request, &[&self.client]);
        }
    }

    /// Reports a backend that ended the connection before it had sent a byte.
    fn judge(&self, relayed: &Relayed, reason: CloseReason, now: Moment) {
        let (progress, pool) = (&self.progress, &self.settings.pool);
        if progress.first_byte(relayed).is_some() {
            return;
        }
        match (reason, progress.first_closed.get()) {
            (CloseReason::BackendReset, None) => pool.report_failure(&relayed.backend, Failure::Reset),
            // An orderly end: either the server had nothing to send, or it is broken.
            (CloseReason::BackendClosed | CloseReason::BackendReset, Some(CloseReason::BackendClosed)) => {}
            _ => return,
        }
        if relayed.at.until(now) < failure_penalty::AT_ONCE {
            self.context.table.penalize(&relayed.backend, &self.context.random);
        }
    }

    /// Keeps the decision.
    fn decide(&self, reached: Option<(&Arc<Backend>, Duration)>, at: Moment, trace: RouteTrace) {
        let backend = reached.map(|(backend, _)| backend);
        self.context.shared.decisions.record(Decision {
            conn: self.progress.conn,
            at: SystemTime::now(),
            client: self.progress.client,
            listener: Arc::clone(&self.progress.listener.name),
            pool: Arc::clone(&self.settings.pool.name),
            backend: backend.map(|backend| Arc::clone(&backend.name)),
            address: backend.map(|backend| backend.address),
            algorithm: trace.algorithm,
            excluded: trace.excluded,
            attempts: trace.attempts,
            failed: trace.failed,
            candidates: trace.candidates,
            home: trace.home,
            tier: trace.tier,
            age_ms: millis(self.progress.accepted.until(at)),
            queued_ms: trace.queued.map(millis),
            connect_ms: reached.map(|(_, took)| millis(took)),
        });
    }
}

/// Prepares the sockets for the close that was requested, and returns its reason.
fn carry_out(request: CloseRequest, streams: &[&Stream]) -> CloseReason {
    if request.how == Ending::Reset {
        streams.iter().for_each(sockets::reset_on_close);
    }
    request.reason
}

fn log_closed(ended: &Ended) {
    info!(
        target: CONNECTIONS,
        conn = ended.conn,
        client = %ended.client,
        listener = %ended.listener,
        pool = %ended.pool,
        backend = ended.backend.as_ref().map(display),
        address = ended.address.map(display),
        reason = %ended.reason.name(),
        bytes_in = ended.bytes_in,
        bytes_out = ended.bytes_out,
        connect_ms = ended.connect_ms,
        first_byte_ms = ended.first_byte_ms,
        duration_ms = ended.duration_ms,
        "closed"
    );
}

impl Drop for Connection {
    /// The fallback, if the task ends early: by a panic, or with its worker.
    fn drop(&mut self) {
        self.record(Closed { reason: CloseReason::Internal, kernel: None });
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
