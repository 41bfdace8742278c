//! The sentence of a routing decision: made here once, for the API, the page, `top` and the demo.

use crate::domain::{Algorithm, ConnectionRecord};
use crate::humanize::count;

impl ConnectionRecord {
    /// How it was routed, as a sentence; `None`: the record has no route.
    pub fn sentence(&self) -> Option<String> {
        let Self { conn, client, .. } = self;
        let route = self.route.as_ref()?;
        let excluded =
            if route.has_skipped() { format!("; excluded: {}", route.skipped()) } else { String::new() };
        Some(match (&self.backend, route.attempts) {
            (Some(backend), attempts) => {
                let attempt = if attempts > 1 { format!(", attempt {attempts}") } else { String::new() };
                format!("#{conn} {client} → {}: {}{attempt}{excluded}", backend.name, reason(route.algorithm))
            }
            (None, 0) => format!("#{conn} {client}: no eligible backend{excluded}"),
            (None, attempts) => {
                format!("#{conn} {client}: {} failed{excluded}", count(attempts.into(), "attempt"))
            }
        })
    }
}

/// Why an algorithm chooses a backend.
fn reason(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RoundRobin => "next in rotation",
        Algorithm::Weighted => "next in rotation by weight",
        Algorithm::LeastConnections => "fewest connections for its weight",
        Algorithm::Random => "drawn at random",
        Algorithm::RandomTwo => "the less loaded of two drawn at random",
        Algorithm::Ewma => "of two drawn at random, the one with less latency for its load",
        Algorithm::SourceHash => "by the hash of the client's address",
        Algorithm::RingHash => "the client's position on the hash ring",
        Algorithm::Maglev => "the client's entry in the lookup table",
    }
}
