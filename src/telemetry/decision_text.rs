//! The sentence of a routing decision: made here once, for the API, the page, `top` and the demo.

use super::decisions::Decision;
use crate::config::Algorithm;
use crate::humanize::count;

impl Decision {
    /// The decision as a sentence.
    pub fn sentence(&self) -> String {
        let Self { conn, client, attempts, excluded, .. } = self;
        let excluded = if excluded.is_empty() { String::new() } else { format!("; excluded: {excluded}") };
        match &self.backend {
            Some(backend) => {
                let attempt = if *attempts > 1 { format!(", attempt {attempts}") } else { String::new() };
                format!("#{conn} {client} → {backend}: {}{attempt}{excluded}", reason(self.algorithm))
            }
            None if *attempts > 0 => {
                format!("#{conn} {client}: {} failed{excluded}", count((*attempts).into(), "attempt"))
            }
            None => format!("#{conn} {client}: no eligible backend{excluded}"),
        }
    }
}

/// Why an algorithm chooses a backend.
fn reason(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RoundRobin => "next in rotation",
        Algorithm::Weighted => "next in rotation by weight",
        Algorithm::LeastConnections => "fewest connections for its weight",
        Algorithm::RandomTwo => "the less loaded of two drawn at random",
        Algorithm::Ewma => "of two drawn at random, the one with less latency for its load",
        Algorithm::SourceHash => "by the hash of the client's address",
        Algorithm::RingHash => "the client's place on the hash ring",
        Algorithm::Maglev => "the client's entry in the lookup table",
    }
}
