//! Of two candidates drawn at random, the one that is likely to answer sooner: the time to connect and that to the
//! first byte, both as averages that believe bad news at once (`latency.rs`), times the open connections and this one,
//! for its weight.
//!
//! Use it when backends differ in how fast they are, or when one becomes slow from time to time (another zone, a noisy
//! neighbour, garbage collection). Do not when the first byte says nothing of the backend: where clients connect long
//! before they ask (pools of database connections), where the backend speaks only after the client has thought, or
//! where failing is quick; a backend that refuses in no time looks fast until its checks or `eject` take it out.
//!
//! # What is not known
//!
//! A backend that nobody has asked yet, or not for long, is taken to be as fast as the one it was drawn with: then it
//! gets what [`random_two`](super::random_two) would give it, no flood and no famine. Finagle and linkerd have a
//! default for that, which is wrong for most services. Nor is what is known forgotten at some moment: it fades into the
//! mean of the two. A backend that was a hundred times as slow as the others is first chosen again over one that is
//! busy enough, then over others, and as soon as it is found to be slow still, over nobody.

use super::latency::Known;
use super::two::better_of_two;
use super::{Candidate, PickArgs};

pub(super) fn choose(candidates: &[Candidate], args: &PickArgs<'_>) -> Option<usize> {
    better_of_two(candidates, args, |one, other| {
        let latency = expected(one, other, args);
        cost(latency[0], one, other) < cost(latency[1], other, one)
    })
}

/// How long each of the two is likely to take, in microseconds.
fn expected(one: &Candidate, other: &Candidate, args: &PickArgs<'_>) -> [f64; 2] {
    let known = [one.load.latencies(args.now), other.load.latencies(args.now)];
    let connect = compared([known[0][0], known[1][0]]);
    let first_byte = compared([known[0][1], known[1][1]]);
    [connect[0] + first_byte[0], connect[1] + first_byte[1]]
}

/// Two latencies, each as far as it can be trusted and for the rest the mean of both.
fn compared(both: [Known; 2]) -> [f64; 2] {
    let trust = both[0].trust + both[1].trust;
    if trust == 0.0 {
        return [1.0; 2];
    }
    let mean = (both[0].micros * both[0].trust + both[1].micros * both[1].trust) / trust;
    both.map(|known| known.micros * known.trust + mean * (1.0 - known.trust))
}

/// Times the other's weight rather than divided by its own.
fn cost(latency: f64, of: &Candidate, by: &Candidate) -> f64 {
    latency * (f64::from(of.load.effective_load()) + 1.0) * f64::from(by.weight)
}

#[cfg(test)]
#[path = "ewma_tests.rs"]
mod tests;
