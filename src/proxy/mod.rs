//! The data plane: from an accepted connection to its record. [`connection`] is the place to begin reading.

pub mod admit;
pub mod busy_poll;
mod clock;
pub mod connect;
pub mod connection;
mod failure_penalty;
pub mod files;
mod handshake;
mod idle;
pub mod listener;
mod no_backend;
pub mod open;
pub mod progress;
pub mod relay;
pub mod sockets;
pub mod splice;
pub mod stream;
pub mod table;
mod tcp_info;
mod turn;
pub mod unix_socket;
pub mod worker;
