//! A load tester: many requests at once, how they went, and who answered them.
//!
//! Each request is made on a connection of its own, unless they are to be kept: to a layer-4 balancer each connection
//! is one decision, so that the answers show how it decides.
//!
//! # Closed and open loop
//!
//! Without a rate, each client sends its next request when it has the answer to the one before (a *closed loop*). That
//! finds out how much can be done; but when the server stalls, so do the clients, and the requests that others would
//! have sent in that time are never measured. A test of ten seconds of which the server sleeps five has one slow
//! request for each client, and a fine 99th percentile. Gil Tene calls that *coordinated omission* ("How NOT to Measure
//! Latency", 2013).
//!
//! With a rate, request `k` is due at `k / rate` (an *open loop*), and its latency counts from that moment, also when
//! no client was free to send it: what a user would have waited who came then. The report tells both: from when it was
//! due, and from when it was sent.
//!
//! # How it is made
//!
//! [`run`] starts a thread for each core, each with a runtime and its part of the clients; they take tickets
//! (`tickets.rs`), send (`client.rs`), and write into the book of their thread (`tally.rs`). The books are put together
//! to the [`Report`].

mod admin;
mod client;
mod drawing;
mod failure;
mod progress;
mod report;
mod schedule;
mod speak_first;
mod table;
mod tally;
mod target;
mod tickets;
mod who;
mod work;

use std::num::NonZeroUsize;
use std::time::Duration;

pub use failure::Failure;
pub use progress::{Meter, Progress};
pub use report::{Backends, FailureCount, Late, Percentiles, Report, Share};
pub use target::{Address, Exchange, Place, Request, Target, TcpUntil, header_field};
pub use tickets::Until;
pub use who::By;
pub use work::{Error, run};

/// A test.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked.
    pub target: Target,
    /// How often.
    pub until: Until,
    /// How many clients there are: so many requests are under way at once, at most.
    pub concurrent: NonZeroUsize,
    /// Requests a second, due at fixed moments; `None`: as fast as the answers come.
    pub rate: Option<f64>,
    /// How long a request may take from when it is sent.
    pub timeout: Duration,
    /// Whether a client's next request takes the same connection. Only for HTTP: elsewhere nobody knows where an
    /// answer ends.
    pub keep_alive: bool,
    /// By what a backend is known.
    pub by: By,
}

#[cfg(test)]
mod tests;
