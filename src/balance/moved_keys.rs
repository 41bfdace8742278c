//! How many clients lose their backend when the set changes: measured, printed as a table, and bounded.
//!
//! `cargo test --lib moved_keys -- --nocapture`

use std::num::NonZeroUsize;

use super::laws::{candidates, client};
use super::*;

const CLIENTS: u64 = 20_000;
/// The figures are means over this many leaving backends.
const LEAVERS: usize = 10;

/// Moved clients, in percent of all.
#[derive(Debug, Default)]
struct Moved {
    /// Those of the leaving backend, or those that go to the joining one.
    due: f64,
    /// All others.
    others: f64,
}

/// The name of each client's backend.
fn assignments(algorithm: Algorithm, hash: &Hash, set: &[Candidate]) -> Vec<Arc<str>> {
    let picker = Picker::new(algorithm, hash, set.to_vec(), None);
    let of = |nth| picker.choose(&PickArgs { client: client(nth), ..PickArgs::default() }).unwrap();
    (0..CLIENTS).map(|nth| Arc::clone(&set[of(nth)].name)).collect()
}

/// The clients that move between a set with `one` and the same set without it.
fn moved(with: &[Arc<str>], without: &[Arc<str>], one: &str) -> Moved {
    let percent = |count: usize| 100.0 * count as f64 / CLIENTS as f64;
    let others = with.iter().zip(without).filter(|(with, without)| &***with != one && with != without);
    Moved {
        due: percent(with.iter().filter(|name| &***name == one).count()),
        others: percent(others.count()),
    }
}

/// The clients that move when one of `n` leaves, and when one joins.
fn measure(algorithm: Algorithm, hash: &Hash, n: usize) -> [Moved; 2] {
    let all = candidates(&vec![1; n + 1]);
    let (before, joining) = (&all[..n], &all[n].name);
    let stay = assignments(algorithm, hash, before);
    let leavers = n.min(LEAVERS);
    let mut leaves = Moved::default();
    for leaver in 0..leavers {
        let mut rest = before.to_vec();
        let gone = rest.remove(leaver);
        let moved = moved(&stay, &assignments(algorithm, hash, &rest), &gone.name);
        leaves.due += moved.due / leavers as f64;
        leaves.others += moved.others / leavers as f64;
    }
    [leaves, moved(&assignments(algorithm, hash, &all), &stay, joining)]
}

#[test]
fn a_change_of_the_set_moves_no_more_clients_than_documented() {
    let textbook =
        Hash { slots: NonZeroUsize::new(512), virtual_nodes: NonZeroUsize::new(9), ..Hash::default() };
    // Bounds for the other clients that move, in percent of all.
    let cases = [
        (
            "source-hash",
            Algorithm::SourceHash,
            Hash::default(),
            vec![(3, 5.0..30.0), (10, 20.0..35.0), (100, 30.0..55.0)],
        ),
        (
            "ring-hash",
            Algorithm::RingHash,
            Hash::default(),
            vec![(3, 0.0..0.001), (10, 0.0..0.001), (100, 0.0..0.001)],
        ),
        // 50 backends have 450 virtual nodes; of the 900 of 100 backends, 512 fit.
        (
            "ring-hash, 512 / 9",
            Algorithm::RingHash,
            textbook,
            vec![(3, 0.0..0.5), (10, 0.0..1.0), (50, 0.0..9.0), (100, 0.0..15.0)],
        ),
        ("maglev", Algorithm::Maglev, Hash::default(), vec![(3, 0.0..1.0), (10, 0.0..1.0), (100, 0.0..2.0)]),
    ];
    println!(
        "| clients that move, in % | backends | one leaves: its own | others | one joins: its own | others |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (name, algorithm, hash, bounds) in cases {
        for (n, bound) in bounds {
            let [leaves, joins] = measure(algorithm, &hash, n);
            println!(
                "| {name} | {n} | {:.1} | {:.1} | {:.1} | {:.1} |",
                leaves.due, leaves.others, joins.due, joins.others
            );
            assert!(bound.contains(&leaves.others) && bound.contains(&joins.others), "{name}, {n} backends");
        }
    }
}
