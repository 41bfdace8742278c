//! The beginning of a connection's life: its listener admits it, reads its preface and chooses its pool, or rejects it.

use std::sync::Arc;
use std::time::Duration;

use super::super::client_limits::ClientSlot;
use super::super::clock::Moment;
use super::super::hello::{self, Beginning, Hello};
use super::super::listener::Admitted;
use super::super::preface::{ExpectedHeader, NotRead, Preface};
use super::super::routing::Assignment;
use super::super::{no_backend, sockets};
use super::{Closed, Connection, carry_out};
use crate::domain::{CloseReason, LimitReached, PrefaceError, PrefaceKind, Rejection};
use crate::pool::Pool;
use crate::protocol::client_hello::Protocols;
use crate::protocol::postgres::cancel_request;

impl Connection {
    /// Rejects a peer that is not a trusted proxy, where a PROXY header is expected, or not an allowed client.
    pub(super) fn check_peer(&self) -> Result<(), Closed> {
        let peer = self.progress.client.get();
        match &self.settings.proxy_protocol {
            Some(expected) if !expected.trusts(peer) => {
                let error = Rejection::Preface(PrefaceError::Untrusted);
                Err(self.rejected(CloseReason::PrefaceInvalid, Some(error)))
            }
            Some(_) => Ok(()),
            None => self.check_access(),
        }
    }

    /// Rejects a client that the listener does not allow.
    fn check_access(&self) -> Result<(), Closed> {
        let allowed = self.settings.access.admits(self.progress.client.get());
        if allowed { Ok(()) } else { Err(self.rejected(CloseReason::Denied, Some(Rejection::Address))) }
    }

    /// Counts it among the connections of its listener, unless there are too many.
    pub(super) fn admit(&self) -> Result<Admitted, Closed> {
        let admitted = self.progress.listener.admit(self.settings.max_connections);
        admitted.ok_or_else(|| {
            let limit = Rejection::Limit(LimitReached::Listener);
            Closed { admitted: true, ..self.rejected(CloseReason::Limited, Some(limit)) }
        })
    }

    /// Reads the PROXY header, which has the client's address.
    pub(super) async fn read_header(&self, expected: &ExpectedHeader) -> Result<Preface, Closed> {
        let peer = self.progress.client.get();
        let mut preface = self.read(expected.read(&self.client, &self.context.buffers)).await?;
        if let Some(client) = preface.client() {
            self.progress.client.set(client);
            preface.proxy = Some(peer);
        }
        self.check_access()?;
        Ok(preface)
    }

    /// Reads the ClientHello, which follows in `preface`, and chooses the pool by it.
    pub(super) async fn choose_pool_by_hello(
        &self,
        preface: &mut Preface,
        limit: Duration,
    ) -> Result<&Pool, Closed> {
        let (bytes, postgres) = (&mut preface.rest, self.settings.postgres);
        let reading = hello::read(&self.client, &self.context.buffers, bytes, postgres, limit);
        let mut hello = match self.read(reading).await? {
            Beginning::Tls(hello) => hello,
            Beginning::Other | Beginning::Silence if self.settings.routing.has_default() => {
                return self.choose_pool(None);
            }
            // The request names no server, so it may be for any of them.
            Beginning::Other if postgres && cancel_request(&preface.rest).is_some() => {
                return self.choose_first_pool();
            }
            Beginning::Other => {
                let error = Rejection::Preface(PrefaceError::Missing(PrefaceKind::Tls));
                return Err(self.rejected(CloseReason::PrefaceInvalid, Some(error)));
            }
            Beginning::Silence => {
                let timeout = Rejection::Timeout(PrefaceKind::Tls);
                return Err(self.rejected(CloseReason::PrefaceTimeout, Some(timeout)));
            }
        };
        let pool = self.choose_pool(Some(&hello));
        if pool.is_err() {
            // An alert tells the client more than a reset.
            let alert = no_backend::alert(&self.client, hello.alert(), &self.context.buffers);
            if let Err(request) = self.unless_closing(alert).await {
                carry_out(request, &[&self.client]);
            }
        }
        // There may be many of them.
        hello.protocols = Protocols::default();
        preface.hello = Some(Box::new(hello));
        pool
    }

    /// The part of the preface that `reading` reads, or the end of the connection without it.
    async fn read<T>(&self, reading: impl Future<Output = Result<T, NotRead>>) -> Result<T, Closed> {
        match self.unless_closing(reading).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(NotRead::Left(reason))) => Err(Closed { admitted: false, ..self.closed(reason, None) }),
            Ok(Err(NotRead::TimedOut(kind))) => {
                Err(self.rejected(CloseReason::PrefaceTimeout, Some(Rejection::Timeout(kind))))
            }
            Ok(Err(NotRead::Invalid(error))) => {
                Err(self.rejected(CloseReason::PrefaceInvalid, Some(Rejection::Preface(error))))
            }
            Err(request) => Err(self.closed(carry_out(request, &[&self.client]), None)),
        }
    }

    /// Chooses the pool, or rejects a client that no rule of the listener matches: by a reset if it sent no ClientHello.
    pub(super) fn choose_pool(&self, hello: Option<&Hello>) -> Result<&Pool, Closed> {
        // A reload may have changed the rules while the client sent its first bytes.
        let assign = || {
            let settings = self.progress.listener.settings.load();
            settings.routing.assign(self.progress.client.get(), hello)
        };
        match &self.progress.assignment.get_or_init(assign).pool {
            Some(pool) => Ok(pool),
            None if hello.is_some() => {
                let rejection = Some(Rejection::NoRule);
                Err(Closed { rejection, admitted: false, ..self.closed(CloseReason::Denied, None) })
            }
            None => Err(self.rejected(CloseReason::Denied, Some(Rejection::NoRule))),
        }
    }

    /// Chooses any pool of the listener.
    fn choose_first_pool(&self) -> Result<&Pool, Closed> {
        let pool = self.settings.routing.pools().first().map(|pool| Arc::clone(pool));
        let assigned = self.progress.assignment.get_or_init(|| Arc::new(Assignment { pool, matched: None }));
        let no_rule = || self.rejected(CloseReason::Denied, Some(Rejection::NoRule));
        assigned.pool.as_deref().ok_or_else(no_rule)
    }

    /// Counts it among the connections of its client, unless there are too many.
    pub(super) fn admit_client(&self) -> Result<Option<Box<ClientSlot>>, Closed> {
        let Some(limits) = &self.settings.per_client else { return Ok(None) };
        let now = Moment::now().since_origin();
        let slot = self.progress.listener.clients.admit(self.progress.client.get(), limits, now);
        let slot =
            slot.map_err(|limit| self.rejected(CloseReason::Limited, Some(Rejection::Limit(limit))))?;
        Ok(slot.map(Box::new))
    }

    /// The end of a connection that its listener does not admit: a reset.
    fn rejected(&self, reason: CloseReason, rejection: Option<Rejection>) -> Closed {
        sockets::reset_on_close(&self.client);
        Closed { reason, rejection, admitted: false, kernel: None }
    }
}
