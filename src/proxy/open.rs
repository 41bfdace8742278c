//! An open connection as other threads see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::progress::Progress;
use crate::domain::Client;
use crate::telemetry::decisions::unix_seconds;
use crate::telemetry::millis;

/// An open connection at one moment.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "Connection"))]
pub struct Open {
    /// Its number, unique within the process.
    pub conn: u64,
    /// Its client.
    pub client: Client,
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// The pool that it is for.
    pub pool: Arc<str>,
    /// When it was accepted, in seconds since the epoch.
    #[serde(serialize_with = "unix_seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub since: SystemTime,
    /// The name of its backend; `None`: it has none yet.
    pub backend: Option<Arc<str>>,
    /// Its backend's address.
    pub address: Option<SocketAddr>,
    /// How long connecting to the backend took, in milliseconds.
    pub connect_ms: Option<f64>,
    /// Time from the routing decision to the backend's first byte, in milliseconds; `None`: none has come.
    pub first_byte_ms: Option<f64>,
    /// How old it is, in milliseconds.
    pub age_ms: f64,
    /// Bytes from the client that were written to the backend.
    pub bytes_in: u64,
    /// Bytes from the backend that were written to the client.
    pub bytes_out: u64,
}

impl Open {
    pub(super) fn of(progress: &Progress) -> Self {
        let relayed = progress.relayed();
        let relayed = relayed.as_deref();
        let age = progress.accepted.elapsed();
        let first_byte = relayed.and_then(|relayed| progress.first_byte(relayed));
        let pool = match relayed {
            Some(relayed) => Arc::clone(&relayed.listener.pool.name),
            None => Arc::clone(&progress.listener.settings.load().pool.name),
        };
        Self {
            conn: progress.conn,
            client: progress.client,
            listener: Arc::clone(&progress.listener.name),
            pool,
            since: SystemTime::now() - age,
            backend: relayed.map(|relayed| Arc::clone(&relayed.backend.name)),
            address: relayed.map(|relayed| relayed.backend.address),
            connect_ms: relayed.map(|relayed| millis(relayed.connect)),
            first_byte_ms: first_byte.map(millis),
            age_ms: millis(age),
            bytes_in: progress.bytes_in.get(),
            bytes_out: progress.bytes_out.get(),
        }
    }
}
