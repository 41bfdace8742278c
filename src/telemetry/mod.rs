//! Observability: the log, metrics, records of connections, and the journal of events.

pub(crate) mod connect_error;
mod connection_log;
mod decision_text;
mod event_log;
mod event_text;
pub(crate) mod filter;
pub(crate) mod flow;
pub(crate) mod histogram;
pub(crate) mod journal;
mod lines;
pub(crate) mod log;
pub(crate) mod log_fields;
mod log_files;
pub(crate) mod process;
pub(crate) mod records;
#[cfg(test)]
mod reference_tests;
mod saved_event;
pub(crate) mod shortage;
pub(crate) mod tail;

use std::time::Duration;

pub(crate) use connect_error::ConnectError;

/// The target of the lines that `log.connections` switches off: one for each routing decision and one for each
/// closed connection.
pub(crate) const CONNECTIONS: &str = "pointsman::connection";

/// Milliseconds with three digits after the decimal point.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
