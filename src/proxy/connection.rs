//! The life of a connection, from top to bottom:
//! accept → admit → route → choose and connect → relay → record.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use super::connect::{self, Connected, NotConnected, Trail};
use super::listener::{Listener, Settings};
use super::no_backend;
use super::progress::{End, Progress, Relayed};
use super::relay;
use super::sockets;
use super::stream::Stream;
use super::worker::Local;
use crate::config::Ending;
use crate::pool::{Backend, Pool};
use crate::telemetry::decisions::{Client, Decision};
use crate::telemetry::flow::{Flow, Flows};
use crate::telemetry::{CONNECTIONS, CloseReason};

/// Serves one accepted connection until its end. Everything that it counts is given back by guards, so no way
/// out of here forgets anything.
pub(super) async fn serve(
    local: Rc<Local>,
    listener: Arc<Listener>,
    client: Stream,
    peer: Client,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let progress = Rc::new(Progress::new(Instant::now()));
    let _place = local.table.enter(&progress);
    let settings = listener.settings.load_full();
    let pool = &settings.pool;
    let mut record = Record::new(&local, &listener, pool, peer, &progress);

    // admit
    let Some(_admitted) = listener.admit(settings.max_connections) else {
        sockets::reset_on_close(&client);
        return record.close(CloseReason::Limited);
    };

    // choose and connect: on the heap for as long as it takes, so that it is no part of what a connection holds on to
    let connected = tokio::select! {
        biased;
        end = progress.ended() => return finish(record, &[&client], end),
        connected = Box::pin(connect::connect(pool, record.conn)) => connected,
    };
    let Connected { backend, stream, lease: _lease, took, trail } = match connected {
        Ok(connected) => connected,
        Err(NotConnected { trail }) => return Box::pin(turn_away(record, client, &settings, &trail)).await,
    };
    let flow = record.routed(&backend, took, &trail);
    let timeouts = pool.settings().timeouts;
    let keepalives = [settings.options.keepalive, pool.settings().keepalive];
    progress.relaying(Relayed { backend, flow, timeouts, keepalives });

    // relay
    let mut relay = pin!(relay::relay(&client, &stream, &progress, &local.buffer, &local.pipes));
    let relayed = poll_fn(|cx| {
        local.pulse.beat();
        relay.as_mut().poll(cx)
    });
    let reason = tokio::select! {
        biased;
        end = progress.ended() => return finish(record, &[&client, &stream], end),
        reason = relayed => reason,
    };
    match reason {
        CloseReason::ClientReset => sockets::reset_on_close(&stream),
        CloseReason::BackendReset => sockets::reset_on_close(&client),
        _ => {}
    }
    record.close(reason);
}

/// Ends a connection that was told to end.
fn finish(record: Record<'_>, streams: &[&Stream], end: End) {
    if end.how == Ending::Reset {
        streams.iter().for_each(sockets::reset_on_close);
    }
    record.close(end.reason);
}

/// Turns away a client that no backend could be found for.
async fn turn_away(mut record: Record<'_>, client: Stream, settings: &Settings, trail: &Trail) {
    record.unserved(trail);
    let reason = if trail.attempts == 0 { CloseReason::NoBackend } else { CloseReason::ConnectFailed };
    no_backend::turn_away(client, settings.no_backend, &record.local.buffer).await;
    record.close(reason);
}

/// What is written down of a connection: its decision when it is routed, and its end, once, whatever happens.
struct Record<'a> {
    conn: u64,
    local: &'a Local,
    listener: &'a Arc<Listener>,
    pool: &'a Arc<Pool>,
    client: Client,
    progress: &'a Progress,
    /// Where it is counted, once that is known.
    flow: Option<Arc<Flow>>,
    chosen: Option<Chosen>,
    reason: CloseReason,
}

/// The backend that a connection was routed to.
struct Chosen {
    backend: Arc<Backend>,
    connect: Duration,
    at: Instant,
}

impl<'a> Record<'a> {
    fn new(
        local: &'a Local,
        listener: &'a Arc<Listener>,
        pool: &'a Arc<Pool>,
        client: Client,
        progress: &'a Progress,
    ) -> Self {
        Self {
            conn: local.next_conn(),
            local,
            listener,
            pool,
            client,
            progress,
            flow: None,
            chosen: None,
            // What it stays at if its task ends before it could say why.
            reason: CloseReason::Internal,
        }
    }

    /// A backend was chosen and connected to. The counters of its way.
    fn routed(&mut self, backend: &Arc<Backend>, took: Duration, trail: &Trail) -> Arc<Flow> {
        info!(
            target: CONNECTIONS,
            conn = self.conn,
            client = %self.client,
            listener = %self.listener.name,
            pool = %self.pool.name,
            backend = %backend.name,
            address = %backend.address,
            algorithm = %trail.algorithm,
            skipped = &*trail.skipped,
            attempts = trail.attempts,
            connect_ms = millis(took),
            "routed"
        );
        self.decide(Some(backend), trail);
        self.pool.counters.connect.observe(took.as_secs_f64());
        self.pool.counters.masked(u64::from(trail.attempts.saturating_sub(1)));
        self.chosen = Some(Chosen { backend: Arc::clone(backend), connect: took, at: Instant::now() });
        self.count(&backend.flows)
    }

    /// No backend could be found or reached.
    fn unserved(&mut self, trail: &Trail) {
        warn!(
            target: CONNECTIONS,
            conn = self.conn,
            client = %self.client,
            listener = %self.listener.name,
            pool = %self.pool.name,
            algorithm = %trail.algorithm,
            skipped = &*trail.skipped,
            attempts = trail.attempts,
            "no backend"
        );
        self.decide(None, trail);
        self.count(&self.pool.unserved);
    }

    /// Counts the connection among those that took this way; its end is counted there too.
    fn count(&mut self, flows: &Flows) -> Arc<Flow> {
        let flow = flows.of(&self.listener.name);
        flow.opened();
        self.flow = Some(Arc::clone(&flow));
        flow
    }

    fn decide(&self, backend: Option<&Arc<Backend>>, trail: &Trail) {
        self.local.shared.decisions.record(Decision {
            conn: self.conn,
            at: SystemTime::now(),
            client: self.client,
            listener: Arc::clone(&self.listener.name),
            pool: Arc::clone(&self.pool.name),
            backend: backend.map(|backend| Arc::clone(&backend.name)),
            address: backend.map(|backend| backend.address),
            algorithm: trail.algorithm,
            skipped: Arc::clone(&trail.skipped),
            attempts: trail.attempts,
        });
    }

    /// The connection is over.
    fn close(mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let (progress, reason) = (self.progress, self.reason);
        let duration = progress.started.elapsed();
        progress.report();
        let counters = &self.pool.counters;
        counters.connection.observe(duration.as_secs_f64());
        if is_failure(reason) {
            counters.seen(reason);
        }
        let chosen = self.chosen.as_ref();
        let first_byte = chosen
            .and_then(|chosen| progress.first_byte.get().map(|at| at.saturating_duration_since(chosen.at)));
        if let Some(time) = first_byte {
            counters.first_byte.observe(time.as_secs_f64());
        }
        // The last of the counters: who sees no connection open sees all of them.
        match &self.flow {
            Some(flow) => flow.closed(reason),
            None => self.pool.unserved.of(&self.listener.name).turned_away(reason),
        }
        info!(
            target: CONNECTIONS,
            conn = self.conn,
            client = %self.client,
            listener = %self.listener.name,
            pool = %self.pool.name,
            backend = chosen.map(|chosen| display(&chosen.backend.name)),
            address = chosen.map(|chosen| display(chosen.backend.address)),
            reason = %reason.name(),
            bytes_in = progress.bytes_in.get(),
            bytes_out = progress.bytes_out.get(),
            connect_ms = chosen.map(|chosen| millis(chosen.connect)),
            first_byte_ms = first_byte.map(millis),
            duration_ms = millis(duration),
            "closed"
        );
    }
}

/// Whether the client got less than it could expect, and not by its own doing.
fn is_failure(reason: CloseReason) -> bool {
    use CloseReason as R;
    match reason {
        R::BackendReset
        | R::ConnectFailed
        | R::NoBackend
        | R::Limited
        | R::BackendDown
        | R::BackendLeft
        | R::DrainTimeout
        | R::Internal => true,
        R::ClientClosed | R::BackendClosed | R::ClientReset => false,
        R::IdleTimeout | R::HalfClosedTimeout | R::Lifetime => false,
    }
}

/// Milliseconds with three digits behind the point.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
