//! How a backend is chosen: `balance` and `hash`.

use std::num::NonZeroUsize;

use super::super::decode::Table;
use super::super::model::{Algorithm, Factor, Hash, HashKey, Pool, Source};
use super::super::scalar::{choice, factor, number};

/// A table that is looked into for each connection should fit into a cache.
const SLOTS: u64 = 1 << 20;
/// Even for one backend alone, more would not make shares any more equal that a person could tell.
const VIRTUAL_NODES: u64 = 10_000;
/// Below it a backend would be full as soon as it has its share; above it no backend ever is.
pub(super) const FACTORS: [Factor; 2] = [Factor(101), Factor(10_000)];

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
    let keys = [
        ("source-ip", HashKey::SourceIp),
        ("source-ip-port", HashKey::SourceIpPort),
        ("source-net", HashKey::SourceNet),
    ];
    let [least, most] = FACTORS;
    let hash = Hash {
        key: table.read("key", choice(&keys)).unwrap_or_default(),
        slots: table.read("slots", number(1..=SLOTS)).and_then(NonZeroUsize::new),
        virtual_nodes: table.read("virtual_nodes", number(1..=VIRTUAL_NODES)).and_then(NonZeroUsize::new),
        load_factor: table.read("load_factor", factor(least..=most)),
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
