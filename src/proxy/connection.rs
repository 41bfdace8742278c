//! The life of a connection, from top to bottom:
//! accept → admit → route → choose and connect → relay → record.

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use super::connect::{self, Caller, Connected, NotConnected, RouteTrace};
use super::failure_penalty;
use super::listener::{Listener, Settings};
use super::no_backend;
use super::progress::{Age, End, Progress, Relayed};
use super::relay::Relay;
use super::sockets;
use super::stream::Stream;
use super::worker::WorkerContext;
use crate::balance::Lease;
use crate::domain::{Client, CloseReason, CloseReason as R, Ending};
use crate::pool::{Backend, Choice, Failure};
use crate::telemetry::decisions::Decision;
use crate::telemetry::ends::Ended;
use crate::telemetry::flow::Flow;
use crate::telemetry::{CONNECTIONS, millis};

/// So many bytes of a client's first words are read before it has a backend: what fits a packet or two. More would only
/// be held in our memory instead of the kernel's for as long as that takes.
const FIRST_WORDS: usize = 4096;

/// Serves one accepted connection until its end. Everything that it counts is given back by guards, so no way
/// out of here forgets anything.
pub(super) fn serve(
    local: Rc<WorkerContext>,
    listener: Arc<Listener>,
    client: Stream,
    peer: Client,
    permit: Option<OwnedSemaphorePermit>,
) -> impl Future<Output = ()> {
    let connection = Connection::new(local, listener, client, peer, permit);
    // Lives by reference: what an async function takes by value, its future holds twice.
    async move { connection.reason.set(connection.live().await) }
}

/// A connection, and what is written down of it: its decision when it is routed, and its end, once, whatever happens.
struct Connection {
    local: Rc<WorkerContext>,
    settings: Arc<Settings>,
    client: Stream,
    progress: Rc<Progress>,
    /// Where it is counted if no backend could be found or reached.
    unserved: OnceCell<Arc<Flow>>,
    reason: Cell<CloseReason>,
    /// Its place at its backend, from when that is chosen.
    lease: Cell<Option<Lease>>,
    /// Its place in the worker's table.
    place: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(
        local: Rc<WorkerContext>,
        listener: Arc<Listener>,
        client: Stream,
        peer: Client,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let settings = listener.settings.load_full();
        let progress = Rc::new(Progress::new(local.next_conn(), peer, listener, Instant::now()));
        Self {
            settings,
            client,
            // What it stays at if its task ends before it could say why.
            reason: Cell::new(CloseReason::Internal),
            lease: Cell::new(None),
            unserved: OnceCell::new(),
            place: local.table.enter(&progress),
            _permit: permit,
            progress,
            local,
        }
    }

    async fn live(&self) -> CloseReason {
        // admit
        let Some(_admitted) = self.progress.listener.admit(self.settings.max_connections) else {
            sockets::reset_on_close(&self.client);
            return CloseReason::Limited;
        };

        // choose and connect: on the heap for as long as it takes, so that it is no part of what a connection holds on to
        let (stream, preread) = match Box::pin(self.reach()).await {
            Ok(reached) => reached,
            Err(reason) => {
                self.local.tcp_info.look(self.progress.conn, reason, &self.client, None);
                return reason;
            }
        };

        // relay: polled here, as a future around it would be held on to as well
        let mut relay = Relay::new(&self.client, &stream, &self.progress, &self.local.buffers, preread);
        let relayed = poll_fn(|cx| match self.progress.poll_ended(cx) {
            Poll::Ready(end) => Poll::Ready(Err(end)),
            Poll::Pending => relay.poll(cx).map(Ok),
        });
        let relayed = match relayed.await {
            Ok(Err(broken)) => Box::pin(self.unless_ended(relay.flush_before_reset(broken))).await,
            Ok(Ok(reason)) => Ok(reason),
            Err(end) => Err(end),
        };
        let reason = relayed.unwrap_or_else(|end| end.reason);
        self.local.tcp_info.look(self.progress.conn, reason, &self.client, Some(&stream));
        match relayed {
            Ok(CloseReason::ClientReset) => sockets::reset_on_close(&stream),
            Ok(CloseReason::BackendReset) => sockets::reset_on_close(&self.client),
            _ => {}
        }
        relayed.unwrap_or_else(|end| finish(&[&self.client, &stream], end))
    }

    /// What comes of `future`, unless the connection is told to end before.
    async fn unless_ended<T>(&self, future: impl Future<Output = T>) -> Result<T, End> {
        tokio::select! {
            biased;
            end = self.progress.ended() => Err(end),
            value = future => Ok(value),
        }
    }

    /// Finds it a backend and connects to that; or turns it away.
    async fn reach(&self) -> Result<(Stream, Vec<u8>), CloseReason> {
        let preread = self.preread().await.map_err(|_| CloseReason::ClientReset)?;
        let spoken = !preread.is_empty();
        let caller = Caller {
            conn: self.progress.conn,
            pool: &self.settings.pool,
            peer: self.progress.peer,
            stream: &self.client,
            spoken,
            lease: &self.lease,
            local: &self.local,
        };
        let connecting = connect::connect(&caller);
        match self.unless_ended(connecting).await.map_err(|end| finish(&[&self.client], end))? {
            Ok(connected) => Ok((self.routed(connected), preread)),
            Err(NotConnected { reason: R::ClientClosed, .. }) => Err(R::ClientClosed),
            Err(NotConnected { reason: R::ClientReset, .. }) => Err(R::ClientReset),
            Err(NotConnected { reason, trace }) => {
                self.turn_away(spoken, reason, trace).await;
                Err(reason)
            }
        }
    }

    /// What the client has said by the worker's next turn, if anything: it will be waiting for the backend.
    async fn preread(&self) -> io::Result<Vec<u8>> {
        self.local.next_turn.wait().await;
        let readable = poll_fn(|cx| Poll::Ready(self.client.poll_readable(cx).is_ready())).await;
        if !readable {
            return Ok(Vec::new());
        }
        let mut buffer = self.local.buffers.buffer.borrow_mut();
        match self.client.read(&mut buffer[..FIRST_WORDS]) {
            Ok(read) => Ok(buffer[..read].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// A backend was chosen and connected to.
    fn routed(&self, connected: Connected) -> Stream {
        let Connected { chosen: Choice { backend, orders, .. }, stream, shadows, settings, took, trace } =
            connected;
        let pool = &self.settings.pool;
        info!(
            target: CONNECTIONS,
            conn = self.progress.conn,
            client = %self.progress.peer,
            listener = %self.progress.listener.name,
            pool = %pool.name,
            backend = %backend.name,
            address = %backend.address,
            algorithm = %trace.algorithm,
            skipped = &*trace.skipped,
            attempts = trace.attempts,
            queued_ms = trace.queued.map(millis),
            connect_ms = millis(took),
            "routed"
        );
        let at = self.progress.age();
        pool.counters.connect.observe(took.as_secs_f64());
        backend.pace.connect.add(took);
        pool.counters.routed(u64::from(trace.attempts.saturating_sub(1)));
        self.decide(Some((&backend, took)), at, trace);
        let flow = backend.flows.of(&self.progress.listener.name);
        flow.opened();
        let listener = Arc::clone(&self.settings);
        self.progress
            .relaying(Relayed { backend, flow, listener, settings, at, connect: took, shadows }, orders);
        stream
    }

    /// Turns away a client that no backend could be found or reached for.
    async fn turn_away(&self, spoken: bool, reason: CloseReason, trace: RouteTrace) {
        let pool = &self.settings.pool;
        warn!(
            target: CONNECTIONS,
            conn = self.progress.conn,
            client = %self.progress.peer,
            listener = %self.progress.listener.name,
            pool = %pool.name,
            algorithm = %trace.algorithm,
            skipped = &*trace.skipped,
            attempts = trace.attempts,
            queued_ms = trace.queued.map(millis),
            reason = %reason.name(),
            "no backend"
        );
        self.decide(None, self.progress.age(), trace);
        self.unserved.get_or_init(|| pool.unserved.of(&self.progress.listener.name)).opened();
        let how = self.settings.no_backend;
        let turned_away = no_backend::turn_away(&self.client, spoken, how, &self.local.buffers);
        if let Err(end) = self.unless_ended(turned_away).await {
            finish(&[&self.client], end);
        }
    }

    /// What its end says against its backend, if the client had no answer and did not leave of its own.
    fn judge(&self, relayed: &Relayed) {
        let (progress, pool) = (&self.progress, &self.settings.pool);
        if progress.first_byte.get().is_some() {
            return;
        }
        match (self.reason.get(), progress.first.get()) {
            (R::BackendReset, None) => pool.report_failure(&relayed.backend, Failure::Reset),
            // An orderly end: of a server that has nothing to say, or of one that has nothing to offer.
            (R::BackendClosed | R::BackendReset, Some(R::BackendClosed)) => {}
            _ => return,
        }
        if relayed.at.until(progress.age()) < failure_penalty::AT_ONCE {
            self.local.table.penalize(&relayed.backend, &self.local.random);
        }
    }

    fn decide(&self, reached: Option<(&Arc<Backend>, Duration)>, at: Age, trace: RouteTrace) {
        let backend = reached.map(|(backend, _)| backend);
        self.local.shared.decisions.record(Decision {
            conn: self.progress.conn,
            at: SystemTime::now(),
            client: self.progress.peer,
            listener: Arc::clone(&self.progress.listener.name),
            pool: Arc::clone(&self.settings.pool.name),
            backend: backend.map(|backend| Arc::clone(&backend.name)),
            address: backend.map(|backend| backend.address),
            algorithm: trace.algorithm,
            skipped: trace.skipped,
            attempts: trace.attempts,
            failed: trace.failed,
            candidates: trace.candidates,
            home: trace.home,
            tier: trace.tier,
            age_ms: millis(Age::NONE.until(at)),
            queued_ms: trace.queued.map(millis),
            connect_ms: reached.map(|(_, took)| millis(took)),
        });
    }

    /// Keeps its end for those who ask why.
    fn record_end(&self, duration: Duration, first_byte: Option<Duration>) {
        let (progress, relayed) = (&self.progress, self.progress.relayed());
        self.local.shared.ends.record(Ended {
            conn: progress.conn,
            at: SystemTime::now(),
            client: progress.peer,
            listener: Arc::clone(&progress.listener.name),
            pool: Arc::clone(&self.settings.pool.name),
            backend: relayed.map(|relayed| Arc::clone(&relayed.backend.name)),
            address: relayed.map(|relayed| relayed.backend.address),
            reason: self.reason.get(),
            first: progress.first.get(),
            bytes_in: progress.bytes_in.get(),
            bytes_out: progress.bytes_out.get(),
            duration_ms: millis(duration),
            connect_ms: relayed.map(|relayed| millis(relayed.connect)),
            first_byte_ms: first_byte.map(millis),
            kernel: self.local.tcp_info.take(progress.conn),
        });
    }
}

/// Ends a connection that was told to end.
fn finish(streams: &[&Stream], end: End) -> CloseReason {
    if end.how == Ending::Reset {
        streams.iter().for_each(sockets::reset_on_close);
    }
    end.reason
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (progress, reason) = (&self.progress, self.reason.get());
        let duration = progress.started.elapsed();
        progress.report();
        let pool = &self.settings.pool;
        pool.counters.connection.observe(duration.as_secs_f64());
        if reason.is_failure() {
            pool.counters.seen(reason);
        }
        let relayed = progress.relayed();
        // Before its place is free: the backend must not look idle in between.
        if let Some(relayed) = relayed {
            self.judge(relayed);
        }
        let first_byte =
            relayed.and_then(|relayed| progress.first_byte.get().map(|first| relayed.at.until(first)));
        if let Some(time) = first_byte {
            pool.counters.first_byte.observe(time.as_secs_f64());
        }
        // The last of the counters: who sees no connection open sees all of them.
        match relayed.map(|relayed| &relayed.flow).or(self.unserved.get()) {
            Some(flow) => flow.closed(reason),
            None => pool.unserved.of(&self.progress.listener.name).turned_away(reason),
        }
        // After them: a backend that leaves is gone with its last place, and what it has counted is added up then.
        if self.lease.take().is_some() {
            pool.queue.look_again();
        }
        info!(
            target: CONNECTIONS,
            conn = self.progress.conn,
            client = %self.progress.peer,
            listener = %self.progress.listener.name,
            pool = %pool.name,
            backend = relayed.map(|relayed| display(&relayed.backend.name)),
            address = relayed.map(|relayed| display(relayed.backend.address)),
            reason = %reason.name(),
            bytes_in = progress.bytes_in.get(),
            bytes_out = progress.bytes_out.get(),
            connect_ms = relayed.map(|relayed| millis(relayed.connect)),
            first_byte_ms = first_byte.map(millis),
            duration_ms = millis(duration),
            "closed"
        );
        self.record_end(duration, first_byte);
        self.local.table.leave(self.place);
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
