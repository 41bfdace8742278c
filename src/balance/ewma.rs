//! Of two candidates drawn at random, the one likely to answer sooner. Its cost is the sum of connect and first-byte
//! latency, both as peak EWMA (`latency.rs`), times its open connections plus this one, divided by its weight.
//!
//! Use it when backends differ in speed, or when one becomes slow from time to time (another zone, a noisy neighbor,
//! garbage collection). Do not use it when the first byte is no measure of the backend: when clients connect long
//! before they send a request (pools of database connections), or when failing is quick: a backend that refuses at
//! once looks fast until its checks or `eject` take it out.
//!
//! # Unknown latency
//!
//! A backend without recent samples counts as fast as the one it is compared with. Then it gets what
//! [`random_two`](super::random_two) would give it: neither a flood nor nothing. (Finagle and linkerd assume a default
//! latency, which is wrong for most services.) Old samples are not dropped at once: they decay to the mean of the two.
//! So a backend that was a hundred times slower is first chosen over a busy one, then over others; if it is still slow,
//! that stops with its first sample.

use super::latency::LatencyEstimate;
use super::two::better_of_two;
use super::{Candidate, PickArgs};

pub(super) fn choose(candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
    better_of_two(candidates, args, |one, other| {
        let latency = expected(one, other, args);
        cost(latency[0], one, other) < cost(latency[1], other, one)
    })
}

/// The expected latency of the two, in microseconds.
fn expected(one: &Candidate, other: &Candidate, args: &PickArgs<'_>) -> [f64; 2] {
    let latencies = [one.load.latencies(args.now), other.load.latencies(args.now)];
    let connect = compared([latencies[0][0], latencies[1][0]]);
    let first_byte = compared([latencies[0][1], latencies[1][1]]);
    [connect[0] + first_byte[0], connect[1] + first_byte[1]]
}

/// Two latencies, each weighted by its confidence; the rest is the mean of both.
fn compared(both: [LatencyEstimate; 2]) -> [f64; 2] {
    let sum = both[0].confidence + both[1].confidence;
    if sum == 0.0 {
        return [1.0; 2];
    }
    let mean = (both[0].micros * both[0].confidence + both[1].micros * both[1].confidence) / sum;
    both.map(|one| one.micros * one.confidence + mean * (1.0 - one.confidence))
}

/// The cost is multiplied by the other's weight rather than divided by its own.
fn cost(latency: f64, of: &Candidate, by: &Candidate) -> f64 {
    latency * (f64::from(of.load.effective_load()) + 1.0) * f64::from(by.weight)
}

#[cfg(test)]
#[path = "ewma_tests.rs"]
mod tests;
