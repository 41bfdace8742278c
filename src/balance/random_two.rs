//! Of two candidates drawn at random, the one with fewer open connections for its weight.
//!
//! Use it where [`least_connections`](super::least_connections) would do and several balancers send to the same
//! backends: each of them knows only its own connections, and those that choose the least loaded all choose the same
//! one. It takes no lock. Do not with two or three backends, where `least-connections` is exact for the same price,
//! or when weights are far apart: everybody is drawn as often, and a light backend that is drawn with another
//! light one gets the connection however idle the heavy ones are.

use super::two::better_of_two;
use super::{Ask, Candidate};

pub(super) fn choose(candidates: &[Candidate], ask: &Ask<'_>) -> Option<usize> {
    better_of_two(candidates, ask, fewer)
}

/// Whether it has fewer connections for its weight than the other, without dividing.
fn fewer(one: &Candidate, other: &Candidate) -> bool {
    let cost = |of: &Candidate, by: &Candidate| u64::from(of.load.busy()) * u64::from(by.weight);
    cost(one, other) < cost(other, one)
}
