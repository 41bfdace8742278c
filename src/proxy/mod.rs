//! The data plane: from an accepted connection to its record. [`connection`] is the place to begin reading.

pub mod admit;
mod autopsy;
pub mod busy_poll;
mod clock;
pub mod connect;
pub mod connection;
pub mod files;
mod ghosts;
mod handshake;
pub mod listener;
mod no_backend;
pub mod open;
pub mod progress;
mod quiet;
pub mod relay;
pub mod sockets;
pub mod splice;
pub mod stream;
pub mod table;
mod turn;
pub mod unix_socket;
pub mod worker;
