//! What can be known of the program from outside: log, metrics, decisions.

pub mod connect_error;
pub mod decisions;
pub mod flow;
pub mod log;
pub mod process;
pub mod reason;

pub use connect_error::{ConnectError, not_with_itself};
pub use reason::CloseReason;

/// The target of the lines that `log.connections` switches off: one for each routing decision and one for each
/// closed connection.
pub const CONNECTIONS: &str = "pointsman::connection";
