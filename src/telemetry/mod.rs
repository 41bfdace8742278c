//! Observability: the log, metrics, records of connections, and the journal of events.

pub mod connect_error;
mod connection_log;
mod decision_text;
mod event_log;
mod event_text;
pub mod filter;
pub mod flow;
pub mod histogram;
pub mod journal;
mod lines;
pub mod log;
pub mod log_fields;
mod log_files;
pub mod process;
pub mod records;
#[cfg(test)]
mod reference_tests;
mod saved_event;
pub mod shortage;
pub mod tail;

use std::time::Duration;

pub use connect_error::ConnectError;

/// The target of the lines that `log.connections` switches off: one for each routing decision and one for each
/// closed connection.
pub const CONNECTIONS: &str = "pointsman::connection";

/// Milliseconds with three digits after the decimal point.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
