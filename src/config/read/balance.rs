//! How a backend is chosen: `balance` and `hash`.

use std::num::NonZeroUsize;

use super::super::decode::{Table, describe};
use super::super::model::{Algorithm, Factor, Hash, HashKey, Pool, Source};
use super::super::scalar::{boolean, choice, factor, number};
use super::super::tree::Value;

/// The algorithm; `None` if what is written there is none.
pub(super) fn balance(pool: &Table<'_>) -> Option<Algorithm> {
    if pool.get("balance").is_none() {
        return Some(Algorithm::RoundRobin);
    }
    pool.read("balance", choice(&Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm))))
}

/// What it hashes. Without the algorithm, what depends on it is not judged.
pub(super) fn hash(pool: &Table<'_>, balance: Option<Algorithm>) -> Hash {
    let Some(table) = pool.table("hash") else { return Hash::default() };
    let keys = HashKey::ALL.map(|key| (key.name(), key));
    let (slots, nodes) = (number(1..=Hash::MOST_SLOTS), number(1..=Hash::MOST_VIRTUAL_NODES));
    let hash = Hash {
        key: table.read("key", choice(&keys)).unwrap_or_default(),
        slots: table.read("slots", slots).and_then(NonZeroUsize::new),
        virtual_nodes: table.read("virtual_nodes", nodes).and_then(NonZeroUsize::new),
        load_factor: table.read("load_factor", factor(Factor::RANGE)),
    };
    match balance {
        Some(Algorithm::RingHash) | None => {}
        Some(other) if other.hashes() => {
            for key in table.present(&["slots", "virtual_nodes"]) {
                let message = format!("{key:?} in {} does nothing: {} has no ring", table.what, other.name());
                pool.decoder.problem(table.place(key), message);
            }
        }
        Some(other) => {
            let message = format!(
                "{} does nothing: {} does not hash; source-hash, ring-hash and maglev do",
                table.what,
                other.name()
            );
            pool.decoder.problem(pool.place("hash"), message);
        }
    }
    hash
}

/// The algorithms that are to be compared with the one that balances, which is not among them.
pub(super) fn shadow(pool: &Table<'_>, balance: Algorithm) -> Vec<Algorithm> {
    let Some(node) = pool.get("shadow") else { return Vec::new() };
    let can_be = || Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != Algorithm::Ewma);
    let mut all: Vec<Algorithm> = Vec::new();
    match &node.value {
        Value::List(items) => {
            let words: Vec<_> = can_be().map(|algorithm| (algorithm.name(), algorithm)).collect();
            for item in items {
                match choice(&words)(item) {
                    Ok(algorithm) => all.push(algorithm),
                    Err(_) if matches!(&item.value, Value::Scalar(word) if *word == Algorithm::Ewma.name()) =>
                    {
                        let message =
                            "ewma goes by how backends answer to what it sends them: it cannot be a shadow";
                        pool.decoder.problem(item.at, message.to_owned());
                    }
                    Err(error) => {
                        let message = format!("an algorithm in \"shadow\" {error}, not {}", describe(item));
                        pool.decoder.problem(item.at, message);
                    }
                }
            }
        }
        _ => match boolean(node) {
            Ok(true) => all.extend(can_be()),
            Ok(false) => {}
            Err(_) => {
                let message = format!(
                    "\"shadow\" in {} must be a list of algorithms, true for all of them, or false, not {}",
                    pool.what,
                    describe(node)
                );
                pool.decoder.problem(node.at, message);
            }
        },
    }
    all.retain(|algorithm| *algorithm != balance);
    let mut seen = Vec::new();
    all.retain(|algorithm| {
        !seen.contains(algorithm) && {
            seen.push(*algorithm);
            true
        }
    });
    all
}

/// That the ring is too small for the backends that are written down is a problem.
pub(super) fn check_slots(table: &Table<'_>, pool: &Pool) {
    let Some(slots) = pool.hash.slots else { return };
    let each = pool.hash.virtual_nodes.map_or(1, NonZeroUsize::get);
    let written = pool.discover.iter().flat_map(|source| match source {
        Source::Static(backends) => &backends[..],
        _ => &[],
    });
    let weights = written.filter(|backend| !backend.backup).map(|backend| backend.weight as usize);
    let nodes = weights.sum::<usize>().saturating_mul(each);
    if nodes > slots.get() {
        let message = format!(
            "{} has {slots} slots, but its backends have {nodes} virtual nodes to stand on them",
            table.what
        );
        table.decoder.problem(table.place("hash"), message);
    }
}
