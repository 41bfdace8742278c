//! Where clients are at home, and how many a change of the backends moves.

use std::sync::Arc;

use super::traffic::client_hash;
use crate::balance::{Candidate, PickArgs, Picker};
use crate::config::{Algorithm, Hash};

/// What a change did to those who came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// Clients that had come.
    pub(super) seen: u64,
    /// Those of them that have another home now.
    pub(super) moved: u64,
}

/// How many of `clients` a change of the candidates moves. A client's home is where it is sent while nobody is busy:
/// who bounds the load sends some elsewhere for a while, which is no move.
pub(super) fn moved(
    algorithm: Algorithm,
    hash: &Hash,
    before: &[Candidate],
    after: &[Candidate],
    clients: impl Iterator<Item = u32>,
) -> Keys {
    let idle = |candidates: &[Candidate]| {
        let idle = |candidate: &Candidate| Candidate { load: Arc::default(), ..candidate.clone() };
        Picker::new(algorithm, hash, candidates.iter().map(idle).collect(), None)
    };
    let (before, after) = (idle(before), idle(after));
    let home = |picker: &Picker, client| {
        let ask = PickArgs { client: client_hash(client, 0, hash.key), ..PickArgs::default() };
        picker.choose(&ask).map(|index| picker.candidates()[index].key)
    };
    let mut keys = Keys { seen: 0, moved: 0 };
    for client in clients {
        keys.seen += 1;
        keys.moved += u64::from(home(&before, client) != home(&after, client));
    }
    keys
}

/// The part of all clients that has to move for everybody to have their share before and after: what those lose that
/// lose some.
pub(super) fn ideal(before: &[Candidate], after: &[Candidate]) -> f64 {
    let share = |candidates: &[Candidate], key: u64| {
        let all: u32 = candidates.iter().map(|candidate| candidate.weight).sum();
        let own =
            candidates.iter().find(|candidate| candidate.key == key).map_or(0, |candidate| candidate.weight);
        if own == 0 { 0.0 } else { f64::from(own) / f64::from(all) }
    };
    let lost = |candidate: &Candidate| share(before, candidate.key) - share(after, candidate.key);
    // From zero up: the sum of none is -0.
    before.iter().map(lost).filter(|lost| *lost > 0.0).fold(0.0, |sum, lost| sum + lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::candidates;

    #[test]
    fn what_has_to_move_is_what_somebody_loses() {
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
    fn without_a_change_nobody_moves_and_without_backends_everybody() {
        let four = candidates(&[1, 2, 1, 1]);
        for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.hashes()) {
            let moved = |after: &[Candidate]| moved(algorithm, &Hash::default(), &four, after, 0..1_000);
            assert_eq!(moved(&four), Keys { seen: 1_000, moved: 0 }, "{algorithm:?}");
            assert_eq!(moved(&[]), Keys { seen: 1_000, moved: 1_000 }, "{algorithm:?}");
        }
    }
}
