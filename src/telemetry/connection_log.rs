//! The log lines of a connection: one when it is routed or rejected, and one at its end.

use tracing::{info, warn};

use super::{CONNECTIONS, millis};
use crate::domain::{CloseReason, ConnectedBackend, ConnectionEnd, ConnectionRecord, Route};

impl ConnectionRecord {
    /// Logs that it was routed by `route` to `backend`.
    pub fn log_routed(&self, backend: &ConnectedBackend, route: &Route) {
        info!(
            target: CONNECTIONS,
            conn = self.conn,
            client = %self.client,
            proxy = route.proxy.map(display),
            listener = %self.listener,
            pool = self.pool.as_ref().map(display),
            rule = self.rule().map(display),
            server_name = self.server_name().map(display),
            backend = %backend.name,
            address = %backend.address,
            algorithm = %route.algorithm.name(),
            skipped = %route.skipped(),
            attempts = route.attempts,
            queued_ms = route.queued.map(millis),
            source = route.source.map(display),
            connect_ms = backend.connect.map(millis),
            "routed"
        );
    }

    /// Logs that it was rejected for that reason.
    pub fn log_rejected(&self, route: &Route, reason: CloseReason) {
        warn!(
            target: CONNECTIONS,
            conn = self.conn,
            client = %self.client,
            listener = %self.listener,
            pool = self.pool.as_ref().map(display),
            rule = self.rule().map(display),
            server_name = self.server_name().map(display),
            algorithm = %route.algorithm.name(),
            skipped = %route.skipped(),
            attempts = route.attempts,
            queued_ms = route.queued.map(millis),
            reason = %reason.name(),
            "no backend"
        );
    }

    /// Logs its end.
    pub fn log_closed(&self, end: &ConnectionEnd) {
        info!(
            target: CONNECTIONS,
            conn = self.conn,
            client = %self.client,
            listener = %self.listener,
            pool = self.pool.as_ref().map(display),
            rule = self.rule().map(display),
            server_name = self.server_name().map(display),
            backend = self.backend.as_ref().map(|backend| display(&backend.name)),
            address = self.backend.as_ref().map(|backend| display(&backend.address)),
            reason = %end.reason.name(),
            cause = end.rejection.map(display),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            throttled = self.throttled.then_some(true),
            connect_ms = self.connect().map(millis),
            first_byte_ms = self.first_byte.map(millis),
            duration_ms = millis(self.age),
            "closed"
        );
    }
}
