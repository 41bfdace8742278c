//! The data plane: from an accepted connection to its record. Start reading at [`connection`].
//!
//! Each file uses only those below it:
//!
//! - [`worker`] runs one thread: accept loops, and commands from other threads
//! - [`accept`] accepts the connections of one socket
//! - [`connection`] is the life of a connection; its stages are [`connect`] with `attempt`, `full`, `no_backend`, `cancel`
//!   and [`relay`]
//! - `context` has the state that the connections of a worker share; [`table`] lists them and ticks
//! - `record` makes the record of a connection from its state, [`progress`]; `idle_timer` decides when it is idle
//! - [`admit`] limits the process's connections, [`listener`] holds the settings and the count of a listener, and
//!   `routing` its pools
//! - `throttle` applies the bandwidth limits of a listener to a connection; `replay` keeps what a client has sent while another
//!   backend could get it
//! - `preface` reads and writes the PROXY headers of connections, `hello` reads the ClientHello of TLS
//! - `idle_probe`, `tcp_info`, `handshake`, [`stream`], [`splice`], [`unix_socket`] and [`sockets`] use the kernel's
//!   interfaces
//! - `visits` says which connections a tick concerns
//! - [`access_list`], [`client_limits`], `bandwidth`, `turn`, [`busy_poll`], `failure_penalty`, [`files`] and [`clock`] use
//!   none of the others

pub mod accept;
pub mod access_list;
pub mod admit;
mod attempt;
mod bandwidth;
pub mod busy_poll;
mod cancel;
pub mod client_limits;
pub mod clock;
pub mod connect;
pub mod connection;
pub mod context;
mod failure_penalty;
pub mod files;
mod full;
mod handshake;
mod hello;
mod idle_probe;
mod idle_timer;
pub mod listener;
mod no_backend;
mod preface;
pub mod progress;
mod record;
pub mod relay;
mod replay;
mod routing;
pub mod sockets;
pub mod splice;
pub mod stream;
pub mod table;
mod tcp_info;
mod throttle;
mod turn;
pub mod unix_socket;
mod unsent;
mod visits;
pub mod worker;
