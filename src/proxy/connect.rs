//! Choosing a backend and connecting to it, with retries on other backends that the client does not notice. If all
//! are full, the client waits in the pool's queue.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tracing::debug;

use super::attempt::{Opening, attempt};
use super::clock::Moment;
use super::context::WorkerContext;
use super::full::Full;
use super::hello::Hello;
use super::preface::HeaderSource;
use super::stream::Stream;
use crate::balance::shadow::ShadowLeases;
use crate::balance::{Lease, PickArgs, hash};
use crate::config::{self, Algorithm, BackupWhen, HashKey, SourceAddress};
use crate::domain::{CandidateSet, Cause, Client, CloseReason, Excluded, FailedAttempt, Route, RouteTier};
use crate::pool::queue::Ticket;
use crate::pool::{Backend, Choice, Failure, Pool, PoolSnapshot};
use crate::protocol::proxy_header::ProxyHeader;
use crate::telemetry::ConnectError;

/// A client that needs a connection to a backend.
pub(super) struct Caller<'a> {
    pub(super) conn: u64,
    /// When it was accepted.
    pub(super) accepted: Moment,
    pub(super) pool: &'a Pool,
    pub(super) peer: Client,
    pub(super) stream: &'a Stream,
    /// The client has sent bytes, which go to the backend at once.
    pub(super) has_sent: bool,
    /// The PROXY header that it began with.
    pub(super) header: Option<&'a ProxyHeader>,
    /// Its ClientHello, if that was read before it was routed.
    pub(super) hello: Option<&'a Hello>,
    /// The backends that ended its connection before their first byte, each with its key.
    pub(super) unanswered: &'a [(u64, FailedAttempt)],
    /// Its lease on a backend, once one is chosen. The code that drops it notifies the queue.
    pub(super) lease: &'a Cell<Option<Lease>>,
    pub(super) context: &'a WorkerContext,
}

impl Caller<'_> {
    fn server_name(&self) -> Option<&str> {
        self.hello?.server_name.as_deref()
    }

    fn header_source(&self) -> HeaderSource<'_> {
        HeaderSource {
            client: self.peer,
            stream: self.stream,
            received: self.header,
            server_name: self.server_name(),
            unique_id: self.context.id_of(self.conn),
        }
    }
}

/// A connection to a backend, with the decision that led to it.
#[derive(Debug)]
pub(super) struct Connected {
    /// The chosen backend.
    pub(super) chosen: Choice,
    /// The connection to it.
    pub(super) stream: Stream,
    /// Its leases of the shadow algorithms, which count it until they are dropped.
    pub(super) shadows: Option<Box<ShadowLeases>>,
    /// The pool's settings that it was routed by.
    pub(super) settings: Arc<config::Pool>,
    /// When it was connected.
    pub(super) at: Moment,
    /// How long the successful attempt took.
    pub(super) took: Duration,
    /// How the backend was chosen.
    pub(super) route: Route,
}

/// Why there is no connection to a backend.
#[derive(Debug)]
pub(super) struct NotConnected {
    /// The client left while it waited (`ClientClosed`, `ClientReset`), or the reason to reject it.
    pub(super) reason: CloseReason,
    /// How it was routed, with the failed attempts.
    pub(super) route: Route,
}

/// Connects a client to a backend of its pool; tries up to `connect.attempts` different ones.
pub(super) async fn connect(caller: &Caller<'_>) -> Result<Connected, NotConnected> {
    let mut search = Search::new(caller);
    let header = search.settings.send_proxy_protocol.map(|wanted| caller.header_source().header(wanted));
    let requests_tls = caller.hello.is_some_and(|hello| hello.after_ssl_request);
    let opening = Opening { client: caller.peer, header, requests_tls, has_more: caller.has_sent };
    loop {
        let chosen = match search.backend().await {
            Ok(chosen) => chosen,
            Err(reason) => {
                let route = search.route(Moment::now(), search.tried.len(), None);
                return Err(NotConnected { reason, route });
            }
        };
        let candidates = Some(search.snapshot.candidates(Some(&chosen.backend)));
        let (backend, start) = (&chosen.backend, Moment::now());
        match attempt(backend, &search.settings, &opening, caller.context).await {
            Ok((stream, source)) => {
                let took = start.elapsed();
                let at = start + took;
                if search.settings.balance == Algorithm::Ewma {
                    backend.load.connected(took, at.since_origin());
                }
                let route = search.route(at, search.tried.len() + 1, candidates);
                let (source, proxy_header) = (source.map(SourceAddress::ip), opening.header.is_some());
                let route = Route { source, proxy_header, ..route };
                let shadows = search.shadow(&chosen);
                let settings = search.settings;
                return Ok(Connected { chosen, stream, shadows, settings, at, took, route });
            }
            Err(error) => search.note_failure(backend, &error, start.elapsed()),
        }
    }
}

/// One client's search for a backend.
struct Search<'a> {
    caller: &'a Caller<'a>,
    settings: Arc<config::Pool>,
    /// The hash of the client, if an algorithm needs it.
    client: u64,
    /// The snapshot of the last choice, and the backends that were full then.
    snapshot: Arc<PoolSnapshot>,
    full: Full,
    /// Whether `snapshot` is of a higher tier because the lower ones are full.
    overflows: bool,
    /// The keys of the backends that were tried, sorted.
    tried: Vec<u64>,
    /// How many clients waited in the queue, if it was full.
    queue_full: Option<usize>,
    failed: Vec<FailedAttempt>,
    queued: Option<Duration>,
}

impl<'a> Search<'a> {
    fn new(caller: &'a Caller<'a>) -> Self {
        let settings = caller.pool.settings();
        let server_name = caller.server_name();
        let client = match caller.peer {
            _ if !settings.hashes() => 0,
            _ if settings.hash.key == HashKey::Sni && server_name.is_some() => {
                server_name.map_or(0, hash::server_name)
            }
            Client::Tcp(peer) => hash::client(peer.ip(), peer.port(), settings.hash.key),
            // Clients of a Unix socket cannot be distinguished.
            Client::Unix => caller.context.random.borrow_mut().next_u64(),
        };
        let mut tried: Vec<_> = caller.unanswered.iter().map(|(key, _)| *key).collect();
        tried.sort_unstable();
        Self {
            caller,
            settings,
            client,
            snapshot: caller.pool.snapshot(),
            full: Full::default(),
            overflows: false,
            tried,
            queue_full: None,
            failed: caller.unanswered.iter().map(|(_, attempt)| attempt.clone()).collect(),
            queued: None,
        }
    }

    /// Takes a lease on a backend. If all are full, the client waits in the queue; if the queue is full, or the wait
    /// takes too long, a backup takes the connection.
    async fn backend(&mut self) -> Result<Choice, CloseReason> {
        if self.tried.len() >= self.settings.connect.attempts as usize {
            return Err(CloseReason::ConnectFailed);
        }
        (self.overflows, self.queue_full) = (false, None);
        let queue = &self.caller.pool.queue;
        // Clients in the queue come first. Without a backend there is nothing to wait for.
        if (queue.is_empty() || self.snapshot.is_empty())
            && let Some(chosen) = self.look()?
        {
            return Ok(chosen);
        }
        let limits = self.settings.limits;
        let room = self.snapshot.queue_room(limits.queue);
        let Some(ticket) = queue.join(room) else {
            // The full backends of a rejected client are not listed: there may be very many such clients.
            self.queue_full = (room > 0).then_some(room);
            return self.overflow().ok_or(CloseReason::Limited);
        };
        let (start, before) = (Instant::now(), self.queued.unwrap_or_default());
        let timeout = limits.queue_timeout.saturating_sub(before);
        let served = tokio::time::timeout(timeout, self.wait(&ticket)).await;
        self.queued = Some(before + start.elapsed());
        if let Ok(served) = served {
            return served;
        }
        // The backends may have changed since this client's last turn.
        self.snapshot = self.caller.pool.snapshot();
        match self.look()? {
            Some(chosen) => Ok(chosen),
            None => self.overflow().ok_or(CloseReason::Limited),
        }
    }

    /// Tries to take a lease at each turn of the client, until it succeeds or the client leaves.
    async fn wait(&mut self, ticket: &Ticket<'_>) -> Result<Choice, CloseReason> {
        let caller = self.caller;
        let mut left = std::pin::pin!(left(caller.stream, caller.has_sent));
        loop {
            tokio::select! {
                biased;
                reason = &mut left => return Err(reason),
                () = ticket.turn() => {}
            }
            self.snapshot = caller.pool.snapshot();
            if let Some(chosen) = self.look()? {
                return Ok(chosen);
            }
            // The free slot may be on a backend that failed this client.
            if !self.tried.is_empty() {
                ticket.notify_next();
            }
        }
    }

    /// Chooses a backend and takes a lease on it; `None`: all backends that were not tried are full.
    fn look(&mut self) -> Result<Option<Choice>, CloseReason> {
        let (full, chosen) = self.take_lease(&self.snapshot);
        self.full = full;
        if chosen.is_some() {
            return Ok(chosen);
        }
        match (self.full.count == 0, self.tried.is_empty()) {
            (false, _) => Ok(self.look_in_other_zones()),
            (true, true) => Err(CloseReason::NoBackend),
            (true, false) => match self.snapshot.standby.clone() {
                // The checks have not detected the failure yet; other zones or the next tier serve the client.
                Some(standby) => {
                    self.snapshot = standby;
                    self.look()
                }
                None => Err(CloseReason::ConnectFailed),
            },
        }
    }

    /// Chooses a backend of another zone and takes a lease on it, as all of the local zone are full: a client does not
    /// wait while one of the same tier has room. `None`: those are full too.
    fn look_in_other_zones(&mut self) -> Option<Choice> {
        let others = self.snapshot.other_zones()?;
        let (full, chosen) = self.take_lease(others);
        self.full.extend(full);
        if chosen.is_some() {
            self.snapshot = Arc::clone(others);
        }
        chosen
    }

    /// Chooses a backend of a higher tier and takes a lease on it, as all backends of this tier are full; `None`: those
    /// of higher tiers are full too, or the pool uses them only when this tier is down.
    fn overflow(&mut self) -> Option<Choice> {
        if self.settings.backup.when == BackupWhen::Down {
            return None;
        }
        let others = self.snapshot.other_zones().cloned();
        let mut full = others.as_ref().map(|others| Full::of(others, &self.tried).0).unwrap_or_default();
        let mut next = others.as_ref().unwrap_or(&self.snapshot).standby.clone();
        while let Some(standby) = next {
            let (more, chosen) = self.take_lease(&standby);
            full.extend(more);
            if chosen.is_some() {
                self.full = Full::of(&self.snapshot, &self.tried).0;
                self.full.extend(full);
                self.snapshot = standby;
                self.overflows = true;
                return chosen;
            }
            next = standby.standby.clone();
        }
        None
    }

    /// Chooses a backend of that snapshot and takes a lease on it; also returns its full backends.
    fn take_lease(&self, snapshot: &PoolSnapshot) -> (Full, Option<Choice>) {
        let Caller { context, lease, .. } = self.caller;
        // Only this algorithm needs the time.
        let by_time = snapshot.algorithm == Algorithm::Ewma;
        let now = if by_time { Moment::now().since_origin() } else { Duration::ZERO };
        let random = || context.random.borrow_mut().next_u64();
        let (full, taken) = take_lease(snapshot, &self.tried, self.client, now, random);
        let chosen = taken.map(|(chosen, taken)| {
            lease.set(Some(taken));
            chosen.clone()
        });
        (full, chosen)
    }

    /// Records an attempt that failed.
    fn note_failure(&mut self, backend: &Arc<Backend>, error: &io::Error, took: Duration) {
        let Caller { conn, pool, context, lease, .. } = self.caller;
        let kind = ConnectError::from(error);
        backend.connect_failed(kind);
        let error = Cause::from(kind.explain(error));
        debug!(conn, pool = %pool.name, backend = %backend.name, address = %backend.address, error = &*error, "connect failed");
        if kind == ConnectError::Local {
            context
                .shared
                .shortages
                .connects
                .add(format!("{} (pool {:?}): {error}", backend.address, pool.name));
        } else {
            pool.report_failure(backend, Failure::Connect(error.clone()));
            context.table.penalize(backend, &context.random);
        }
        lease.take();
        pool.queue.notify_first();
        self.tried(backend.key);
        self.failed.push(FailedAttempt {
            backend: Arc::clone(&backend.name),
            address: backend.address.clone(),
            error,
            took,
        });
        // The pool may have excluded more backends in the meantime.
        self.snapshot = pool.snapshot();
    }

    /// Counts the choices of the shadow algorithms.
    fn shadow(&self, chosen: &Choice) -> Option<Box<ShadowLeases>> {
        if self.settings.shadow.is_empty() {
            return None;
        }
        let random = self.caller.context.random.borrow_mut().next_u64();
        self.snapshot.shadow(chosen, &PickArgs { client: self.client, random, ..PickArgs::default() })
    }

    fn tried(&mut self, key: u64) {
        let index = self.tried.partition_point(|before| *before < key);
        self.tried.insert(index, key);
    }

    /// The routing of the connection at that moment. `candidates`: the eligible backends of the choice; `None`: the
    /// current ones.
    fn route(&mut self, at: Moment, attempts: usize, candidates: Option<CandidateSet>) -> Route {
        Route {
            after: self.caller.accepted.until(at),
            algorithm: self.snapshot.algorithm,
            excluded: Excluded {
                ineligible: Arc::clone(&self.snapshot.ineligible),
                busy: self.full.exclusions(),
                more_full: self.full.count - self.full.named.len(),
                queue_full: self.queue_full,
            },
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            failed: std::mem::take(&mut self.failed),
            candidates: candidates.unwrap_or_else(|| self.snapshot.candidates(None)),
            home: self.full.overloaded.as_ref().map(|home| Arc::clone(&home.name)),
            tier: if self.overflows { RouteTier::Overflow } else { self.snapshot.kind() },
            queued: self.queued,
            source: None,
            proxy: None,
            proxy_header: false,
            cancel_request: false,
        }
    }
}

/// Takes a lease on a backend that was not tried; also returns the full backends.
fn take_lease<'v>(
    snapshot: &'v PoolSnapshot,
    tried: &[u64],
    client: u64,
    now: Duration,
    mut random: impl FnMut() -> u64,
) -> (Full, Option<(&'v Choice, Lease)>) {
    let (mut full, mut excluded) = (Full::default(), None);
    loop {
        let args = PickArgs { excluded: excluded.as_deref().unwrap_or(tried), client, random: random(), now };
        let Some(chosen) = snapshot.choose(&args) else { return (full, None) };
        if let Some(lease) = chosen.backend.lease() {
            full.overloaded = snapshot.overloaded(&args, chosen).cloned();
            return (full, Some((chosen, lease)));
        }
        // Excludes all full backends at once: one by one, thousands would take long.
        (full, excluded) = Full::of(snapshot, tried);
        if excluded.is_none() {
            return (full, None);
        }
    }
}

/// Returns when a waiting client has left, with the reason. A client that has sent bytes and a FIN stays: it may have
/// half-closed and wait for the response, as `nc -N` does, and that cannot be distinguished from leaving. (HAProxy does
/// the same, except with `option abortonclose`.)
async fn left(client: &Stream, has_sent: bool) -> CloseReason {
    tokio::select! {
        biased;
        () = client.broken() => CloseReason::ClientReset,
        () = client.half_closed_without_data(), if !has_sent => CloseReason::ClientClosed,
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
