//! The load balancer itself, the load tester and the simulation: what has to be fast. The crate `pointsman` adds the command
//! line, the admin server and the supervisor; its front page lists all modules.
//!
//! It is a crate of its own for the sake of a first build (`cargo run --release`), which optimizes this crate only, and compiles
//! both at once.

pub mod backoff;
pub mod balance;
pub mod bench;
pub mod chart;
pub mod config;
pub mod discovery;
pub mod domain;
pub mod health;
pub mod http1;
pub mod humanize;
pub mod kernel_plane;
pub mod names;
pub mod netlink;
pub mod outgoing;
pub mod own;
pub mod pool;
pub mod protocol;
pub mod proxy;
pub mod sanitize;
pub mod simulate;
pub mod socket_diag;
pub mod socket_option;
pub mod state_directory;
pub mod sync;
pub mod task;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text_file;
pub mod tls;
pub mod zone;
