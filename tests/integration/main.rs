//! Pointsman as its users run it: real processes, sockets and signals. A file per subject; the tests that need a Docker
//! engine are a separate program, `tests/docker`.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

/// The time limit of a condition, on a busy machine.
pub const TIME_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

mod access_lists;
mod admin;
mod admin_limits;
mod adoption;
mod api;
mod bandwidth;
mod bench;
mod book;
mod buffers;
mod bytes;
mod cancel;
mod cli;
mod client_limits;
mod compose_files;
mod conf;
mod config_errors;
mod consul;
mod dashboard;
mod database_checks;
mod demo;
mod discovery;
mod doctor;
mod drain;
mod endings;
mod endpoint_slices;
mod engine;
mod etcd;
mod events;
mod failover;
mod failure_penalty;
mod faults;
mod file;
mod files;
mod hand_over;
mod health;
mod interoperability;
mod kernel_plane;
mod kubernetes;
mod limits;
mod log_files;
mod metrics;
mod modules;
mod monitoring;
mod openapi;
mod operator;
mod operator_backends;
mod options;
mod order;
mod overflow;
mod own_addresses;
mod preflight;
mod proxy_protocol;
mod rebalance;
mod records;
mod reference;
mod relay;
mod reload;
mod remote;
mod replay;
mod replicas;
mod routing;
mod service_manager;
mod shortage;
mod simulate;
mod soak;
mod source_addresses;
mod srv;
mod standby;
mod start;
mod state_directory;
mod time_limits;
mod tls_checks;
mod top;
mod transparent;
mod two_machines;
mod unix_backends;
mod unix_sockets;
mod why;
mod wiring;
mod zones;
