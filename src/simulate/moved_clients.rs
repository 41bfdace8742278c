//! How many clients a change of the backends moves.

use std::sync::Arc;

use super::traffic::client_hash;
use crate::balance::{Candidate, PickArgs, Picker};
use crate::config::{Algorithm, Hash};

/// The effect of a change on the clients with earlier connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MovedClients {
    /// Clients seen before.
    pub(super) seen: u64,
    /// Those that have another backend now.
    pub(super) moved: u64,
}

/// How many of `clients` a change of the candidates moves. Compared are the backends of idle pools: a load factor sends
/// some clients elsewhere for a while, which is no move.
pub(super) fn moved(
    algorithm: Algorithm,
    hash: &Hash,
    before: &[Candidate],
    after: &[Candidate],
    clients: impl Iterator<Item = u32>,
) -> MovedClients {
    let idle = |candidates: &[Candidate]| {
        let idle = |candidate: &Candidate| Candidate { load: Arc::default(), ..candidate.clone() };
        Picker::new(algorithm, hash, candidates.iter().map(idle).collect(), None)
    };
    let (before, after) = (idle(before), idle(after));
    let backend_of = |picker: &Picker, client| {
        let args = PickArgs { client: client_hash(client, 0, hash.key), ..PickArgs::default() };
        picker.choose(&args).map(|index| picker.candidates()[index].key)
    };
    let mut result = MovedClients { seen: 0, moved: 0 };
    for client in clients {
        result.seen += 1;
        result.moved += u64::from(backend_of(&before, client) != backend_of(&after, client));
    }
    result
}

/// The least part of all clients that must move if all shares follow the weights before and after: the sum of what
/// shrinking backends lose.
pub(super) fn ideal(before: &[Candidate], after: &[Candidate]) -> f64 {
    let share = |candidates: &[Candidate], key: u64| {
        let all: u32 = candidates.iter().map(|candidate| candidate.weight).sum();
        let own =
            candidates.iter().find(|candidate| candidate.key == key).map_or(0, |candidate| candidate.weight);
        if own == 0 { 0.0 } else { f64::from(own) / f64::from(all) }
    };
    let lost = |candidate: &Candidate| share(before, candidate.key) - share(after, candidate.key);
    // Folded from zero: the sum of an empty iterator is -0.
    before.iter().map(lost).filter(|lost| *lost > 0.0).fold(0.0, |sum, lost| sum + lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::candidates;

    #[test]
    fn the_ideal_is_what_shrinking_backends_lose() {
        let four = candidates(&[1, 1, 1, 1]);
        for (after, part) in [
            (&four[..], 0.0),
            (&four[..3], 0.25),
            (&candidates(&[1, 1, 1, 1, 1]), 0.2),
            (&candidates(&[5, 1, 1, 1]), 0.375),
            (&[], 1.0),
        ] {
            assert!((ideal(&four, after) - part).abs() < 1e-9, "{after:?}");
        }
    }

    #[test]
    fn no_change_moves_no_client_and_an_empty_set_moves_all() {
        let four = candidates(&[1, 2, 1, 1]);
        for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.hashes()) {
            let moved = |after: &[Candidate]| moved(algorithm, &Hash::default(), &four, after, 0..1_000);
            assert_eq!(moved(&four), MovedClients { seen: 1_000, moved: 0 }, "{algorithm:?}");
            assert_eq!(moved(&[]), MovedClients { seen: 1_000, moved: 1_000 }, "{algorithm:?}");
        }
    }
}
