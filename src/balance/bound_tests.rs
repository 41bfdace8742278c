use super::super::laws::{HASHES, candidates, client, sorted};
use super::super::{PickArgs, Picker};
use super::*;
use crate::config::Hash;
use proptest::prelude::*;

fn bounded(factor: u32) -> Hash {
    Hash { load_factor: Some(Factor(factor)), ..Hash::default() }
}

/// The most connections that one candidate may have, by the plain definition.
fn most(factor: u32, set: &[Candidate], excluded: &[u64], weight: u32) -> u64 {
    let left = || set.iter().filter(|candidate| !excluded.contains(&candidate.key));
    let sum: u64 = left().map(|candidate| u64::from(candidate.load.effective_load())).sum();
    let weights: u64 = left().map(|candidate| u64::from(candidate.weight)).sum();
    (u64::from(factor) * (sum + 1) * u64::from(weight)).div_ceil(100 * weights)
}

#[test]
fn clients_of_one_address_are_spread_over_all() {
    for algorithm in HASHES {
        let set = candidates(&[1; 10]);
        let picker = Picker::new(algorithm, &bounded(125), set.clone(), None);
        let choose = || picker.choose(&PickArgs { client: client(7), ..PickArgs::default() }).unwrap();
        let _leases: Vec<_> = (0..100).map(|_| set[choose()].load.lease()).collect();
        assert_eq!(set.iter().map(|candidate| candidate.load.open()).max(), Some(13), "{algorithm:?}");
    }
}

#[test]
fn clients_go_to_their_first_choice_within_its_bound() {
    for algorithm in HASHES {
        let set = candidates(&[1; 10]);
        let free = Picker::new(algorithm, &Hash::default(), set.clone(), None);
        let picker = Picker::new(algorithm, &bounded(10_000), set.clone(), None);
        for nth in 0..200 {
            let args = PickArgs { client: client(nth), ..PickArgs::default() };
            assert_eq!(picker.choose(&args), free.choose(&args), "{algorithm:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum BoundStep {
    Choose { client: u64, excluded: Vec<u64> },
    End(usize),
    Penalize(usize),
    DropPenalty,
    Replace,
}

fn step() -> impl Strategy<Value = BoundStep> {
    prop_oneof![
        12 => (0u64..4).prop_map(|client| BoundStep::Choose { client, excluded: Vec::new() }),
        4 => (any::<u64>(), proptest::collection::vec(0u64..14, 0..4))
            .prop_map(|(client, excluded)| BoundStep::Choose { client, excluded: sorted(excluded) }),
        6 => any::<usize>().prop_map(BoundStep::End),
        1 => any::<usize>().prop_map(BoundStep::Penalize),
        1 => Just(BoundStep::DropPenalty),
        1 => Just(BoundStep::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_backend_gets_a_connection_above_its_bound(
        algorithm in proptest::sample::select(&HASHES[..2]), factor in 101u32..300,
        weights in proptest::collection::vec(1u32..=6, 1..12), steps in proptest::collection::vec(step(), 1..120),
    ) {
        let hash = Hash { virtual_nodes: std::num::NonZeroUsize::new(5), ..bounded(factor) };
        let set = candidates(&weights);
        let mut picker = Picker::new(algorithm, &hash, set.clone(), None);
        let (mut leases, mut penalties) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                BoundStep::Choose { client: nth, excluded } => {
                    let chosen = picker.choose(&PickArgs { client: client(nth), excluded: &excluded, ..PickArgs::default() });
                    let all_excluded = set.iter().all(|candidate| excluded.contains(&candidate.key));
                    prop_assert_eq!(chosen.is_none(), all_excluded);
                    let Some(chosen) = chosen.map(|index| &set[index]) else { continue };
                    let most = most(factor, &set, &excluded, chosen.weight);
                    leases.push(chosen.load.lease());
                    prop_assert!(u64::from(chosen.load.effective_load()) <= most);
                }
                BoundStep::End(any) if !leases.is_empty() => drop(leases.swap_remove(any % leases.len())),
                BoundStep::End(_) => {}
                BoundStep::Penalize(any) => penalties.push(set[any % set.len()].load.penalize()),
                BoundStep::DropPenalty => drop(penalties.pop()),
                BoundStep::Replace => picker = Picker::new(algorithm, &hash, set.clone(), Some(&picker)),
            }
        }
        drop((leases, penalties));
        prop_assert!(set.iter().all(|candidate| candidate.load.effective_load() == 0));
        let bound = LoadBound::new(Factor(factor), &set);
        prop_assert_eq!(bound.limit(&set, &[]).sum, 0);
    }
}

#[test]
fn no_change_is_lost_among_many_workers() {
    let set = candidates(&[1; 70]);
    let bound = LoadBound::new(Factor(125), &set);
    let held: u64 = std::thread::scope(|scope| {
        let work = |worker: u64| {
            let (set, bound) = (&set, &bound);
            scope.spawn(move || {
                let mut held = Vec::new();
                for nth in 0..20_000 {
                    let random = client(worker << 32 | nth);
                    held.push(set[random as usize % 70].load.lease());
                    if held.len() > 50 {
                        held.swap_remove((random >> 32) as usize % 50);
                    }
                    bound.limit(set, &[random >> 56]);
                }
                // They outlast the worker.
                held.into_iter().map(std::mem::forget).count() as u64
            })
        };
        let workers: Vec<_> = (0..4).map(work).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(bound.limit(&set, &[]).sum, held);
    assert_eq!(bound.limit(&set, &[3, 3, 999]).sum, held - u64::from(set[3].load.effective_load()));
}
