//! A load tester: sends many concurrent requests and reports latency, failures and which backend answered.
//!
//! Each request has its own connection unless connections are kept alive: a layer-4 balancer decides once per
//! connection, so the responses show its decisions.
//!
//! # Closed and open loop
//!
//! Without a rate, each client sends its next request after the response to the last one (a *closed loop*). That
//! measures throughput; but when the server stalls, so do the clients, and the requests that other users would have
//! sent in that time are not measured. A test of ten seconds in which the server sleeps for five has one slow request
//! per client, and a good 99th percentile. Gil Tene calls that *coordinated omission* ("How NOT to Measure Latency",
//! 2013).
//!
//! With a rate, request `k` is due at `k / rate` (an *open loop*), and its latency counts from that time, also when no
//! client was free to send it: what a user arriving then would have waited. The report shows both latencies, from when
//! the request was due and from when it was sent.
//!
//! # Structure
//!
//! [`run()`] starts a thread per core, each with a runtime and its part of the clients; they take permits (`pacing.rs`),
//! send (`client.rs`) and record into the statistics of their thread (`stats.rs`), which are merged into the
//! [`BenchReport`].

mod admin;
mod attribution;
mod chart;
mod client;
mod pacing;
mod progress;
mod report;
mod request_error;
mod run;
mod schedule;
mod speak_first;
mod stats;
mod table;
mod target;

use std::num::NonZeroUsize;
use std::time::Duration;

pub use admin::{BackendCounters, BackendCounts, Querying};
pub use attribution::By;
pub use pacing::Until;
pub use progress::{BenchProgress, Meter};
pub use report::BenchReport;
pub use request_error::RequestError;
pub use run::{Error, run};
pub use target::{BenchTarget, Request, TargetUrl, TcpExchange, TcpUntil, header_field};

/// A test.
#[derive(Clone, Debug)]
pub struct BenchPlan {
    /// The target and its request.
    pub target: BenchTarget,
    /// When the test ends.
    pub until: Until,
    /// The number of clients, which is the most concurrent requests.
    pub concurrent: NonZeroUsize,
    /// Requests a second (an open loop); `None`: as fast as responses come (a closed loop).
    pub rate: Option<f64>,
    /// The time limit of a request, from when it is sent.
    pub timeout: Duration,
    /// Whether a client reuses its connection. Only for HTTP: other responses have no known end.
    pub keep_alive: bool,
    /// How a response is attributed to a backend.
    pub by: By,
}

#[cfg(test)]
mod tests;
