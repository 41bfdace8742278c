//! The data plane: from an accepted connection to its record. [`connection`] is the place to begin reading.
//!
//! Each file uses only those below it:
//!
//! - [`worker`] runs one thread: accept loops, and commands from other threads
//! - [`accept`] accepts the connections of one socket
//! - [`connection`] is the life of a connection; its stages are [`connect`], `no_backend` and [`relay`]
//! - `context` is what the connections of a worker share; [`table`] lists them and ticks
//! - `record` makes the record of a connection from its state, [`progress`]; `idle_timer` decides when it is idle
//! - [`admit`] limits the process's connections, [`listener`] holds the settings and the count of a listener
//! - `idle_probe`, `tcp_info`, `handshake`, [`stream`], [`splice`], [`unix_socket`], [`sockets`] are the kernel's part
//! - `turn`, [`busy_poll`], `failure_penalty`, [`files`], [`clock`] stand alone

pub mod accept;
pub mod admit;
pub mod busy_poll;
pub mod clock;
pub mod connect;
pub mod connection;
pub mod context;
mod failure_penalty;
pub mod files;
mod handshake;
mod idle_probe;
mod idle_timer;
pub mod listener;
mod no_backend;
pub mod progress;
mod record;
pub mod relay;
pub mod sockets;
pub mod splice;
pub mod stream;
pub mod table;
mod tcp_info;
mod turn;
pub mod unix_socket;
pub mod worker;
