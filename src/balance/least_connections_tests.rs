use super::super::laws::{candidates, passing};
use super::super::{Method, PickArgs, Picker};
use super::*;
use crate::config::{Algorithm, Hash};
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The expected choice: the first minimum of a plain search from `start`, once around.
fn search(candidates: &[Candidate], start: usize, tried: &[u64]) -> Option<usize> {
    let n = candidates.len();
    let mut best: Option<usize> = None;
    for index in (start % n..n).chain(0..start % n) {
        let cost =
            |of: usize, by: usize| u64::from(candidates[of].load.open()) * u64::from(candidates[by].weight);
        let fewer = |best: usize| cost(index, best) < cost(best, index);
        if !tried.contains(&candidates[index].key) && best.is_none_or(fewer) {
            best = Some(index);
        }
    }
    best
}

fn least_connections(picker: &Picker) -> &LeastConnections {
    match &picker.method {
        Method::LeastConnections(method) => method,
        other => panic!("{other:?}"),
    }
}

fn start(picker: &Picker) -> usize {
    least_connections(picker).next.load(Ordering::Relaxed)
}

/// Whether the picker knows the current loads; no other thread may change one.
fn knows_every_load(picker: &Picker) -> bool {
    let state = least_connections(picker).state.lock().unwrap();
    let mut each = picker.candidates.iter().enumerate();
    each.all(|(index, candidate)| state.tournament.load(index) == candidate.load.open())
}

#[test]
fn equal_backends_take_turns() {
    let picker = Picker::new(Algorithm::LeastConnections, &Hash::default(), candidates(&[1, 1, 1]), None);
    let chosen: Vec<_> = (0..6).filter_map(|_| picker.choose(&PickArgs::default())).collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_replaced_picker_does_not_send_all_to_the_backend_that_was_idle() {
    let set = candidates(&[1; 3]);
    let _busy: Vec<_> = (0..20).map(|n| set[n % 2].load.lease()).collect();
    let old = Picker::new(Algorithm::LeastConnections, &Hash::default(), set.clone(), None);
    let _new = Picker::new(Algorithm::LeastConnections, &Hash::default(), set.clone(), Some(&old));
    let leases: Vec<_> =
        (0..10).map(|_| set[old.choose(&PickArgs::default()).unwrap()].load.lease()).collect();
    assert!(leases.len() == 10 && set[2].load.open() == 10);
    let _leases: Vec<_> =
        (0..30).map(|_| set[old.choose(&PickArgs::default()).unwrap()].load.lease()).collect();
    assert!(set.iter().all(|candidate| candidate.load.open() == 20));
}

#[derive(Clone, Debug)]
enum LeaseStep {
    /// Chooses repeatedly, each time excluding the choices before, and takes leases or not.
    Choose {
        tried: usize,
        lease: bool,
    },
    /// A connection that this picker has not chosen.
    Lease(usize),
    End(usize),
    /// A new set: some candidates leave, others join, all have new weights.
    Change {
        leave: Vec<bool>,
        join: usize,
        weights: Vec<u32>,
    },
}

fn step() -> impl Strategy<Value = LeaseStep> {
    let weight = prop_oneof![Just(1u32), 1u32..4, 1u32..=256];
    let change =
        (proptest::collection::vec(any::<bool>(), 200), 0usize..100, proptest::collection::vec(weight, 300));
    prop_oneof![
        20 => (prop_oneof![3 => Just(0usize), 1 => 0usize..8], any::<bool>())
            .prop_map(|(tried, lease)| LeaseStep::Choose { tried, lease }),
        5 => any::<usize>().prop_map(LeaseStep::Lease),
        10 => any::<usize>().prop_map(LeaseStep::End),
        1 => change.prop_map(|(leave, join, weights)| LeaseStep::Change { leave, join, weights }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_choice_is_that_of_the_plain_search(
        weights in proptest::collection::vec(1u32..=5, 1..150), steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut picker = Picker::new(Algorithm::LeastConnections, &Hash::default(), candidates(&weights), None);
        let (mut leases, mut next_key) = (Vec::new(), 1_000);
        for step in steps {
            match step {
                LeaseStep::Choose { tried, lease } => {
                    let mut keys = Vec::new();
                    for _ in 0..=tried {
                        let expected = search(&picker.candidates, start(&picker), &keys);
                        let chosen = picker.choose(&passing(&keys));
                        prop_assert_eq!(chosen, expected);
                        prop_assert!(knows_every_load(&picker));
                        let Some(index) = chosen else { break };
                        keys.push(picker.candidates[index].key);
                        keys.sort_unstable();
                        if lease { leases.push(picker.candidates[index].load.lease()); }
                    }
                }
                LeaseStep::Lease(any) => {
                    leases.push(picker.candidates[any % picker.candidates.len()].load.lease());
                }
                LeaseStep::End(any) if !leases.is_empty() => drop(leases.swap_remove(any % leases.len())),
                LeaseStep::End(_) => {}
                LeaseStep::Change { leave, join, weights } => {
                    let stay = picker.candidates.iter().zip(leave).filter(|(_, leave)| !leave).map(|(c, _)| c.clone());
                    let mut set: Vec<_> = stay.collect();
                    for _ in 0..join.max(usize::from(set.is_empty())) {
                        set.push(Candidate { key: next_key, ..candidates(&[1]).remove(0) });
                        next_key += 1;
                    }
                    for (candidate, weight) in set.iter_mut().zip(weights) { candidate.weight = weight; }
                    picker = Picker::new(Algorithm::LeastConnections, &Hash::default(), set, Some(&picker));
                }
            }
        }
        drop(leases);
        prop_assert!(picker.candidates.iter().all(|candidate| candidate.load.open() == 0));
        prop_assert_eq!(picker.choose(&PickArgs::default()).map(|_| knows_every_load(&picker)), Some(true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_candidate_has_strictly_fewer_per_weight(
        members in proptest::collection::vec((1u32..=256, 0usize..40), 1..20), choices in 1usize..30,
    ) {
        let weights: Vec<_> = members.iter().map(|m| m.0).collect();
        let set = candidates(&weights);
        let _leases: Vec<_> =
            set.iter().zip(&members).flat_map(|(c, m)| (0..m.1).map(|_| c.load.lease())).collect();
        let picker = Picker::new(Algorithm::LeastConnections, &Hash::default(), set, None);
        for _ in 0..choices {
            let chosen = picker.choose(&PickArgs::default()).unwrap();
            let cost = |i: usize| members[i].1 as f64 / f64::from(members[i].0);
            prop_assert!((0..members.len()).all(|other| cost(other) >= cost(chosen) - 1e-9));
        }
    }
}

/// Workers choose, lease and drop concurrently; with `replace`, new pickers of the same loads replace each other.
fn at_once(backends: usize, replace: bool) {
    let set: Vec<_> = candidates(&vec![1; backends]);
    let first = Picker::new(Algorithm::LeastConnections, &Hash::default(), set.clone(), None);
    let picker = arc_swap::ArcSwap::from_pointee(first);
    let (over, until) = (AtomicBool::new(false), Instant::now() + Duration::from_millis(150));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (picker, over) = (&picker, &over);
            scope.spawn(move || {
                let (mut held, mut random) = (Vec::new(), worker + 1_u64);
                while !over.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let picker = picker.load();
                    let tried = [random >> 33 & 7];
                    let index = picker.choose(&passing(&tried)).unwrap();
                    assert!(!tried.contains(&picker.candidates[index].key));
                    held.push(picker.candidates[index].load.lease());
                    if held.len() > (random >> 40 & 63) as usize {
                        held.swap_remove((random >> 48) as usize % held.len());
                        held.pop();
                    }
                }
            });
        }
        while Instant::now() < until {
            if replace {
                let new = Picker::new(
                    Algorithm::LeastConnections,
                    &Hash::default(),
                    set.clone(),
                    Some(&picker.load()),
                );
                picker.store(Arc::new(new));
            }
            std::thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
    });
    let picker = picker.load();
    assert!(set.iter().all(|candidate| candidate.load.open() == 0));
    for _ in 0..2 * backends {
        let expected = search(&set, start(&picker), &[]);
        assert_eq!(picker.choose(&PickArgs::default()), expected);
        assert!(knows_every_load(&picker));
    }
}

#[test]
fn no_change_is_lost_among_many_workers() {
    for backends in [2, 10, 200] {
        at_once(backends, false);
    }
}

#[test]
fn no_change_is_lost_while_the_set_is_replaced() {
    for backends in [2, 10, 200] {
        at_once(backends, true);
    }
}

#[test]
fn a_connection_that_ends_while_a_picker_is_built_is_counted_as_ended() {
    for _ in 0..100 {
        let set = candidates(&[1; 500]);
        let old = Picker::new(Algorithm::LeastConnections, &Hash::default(), set.clone(), None);
        let leases: Vec<_> = set.iter().map(|candidate| candidate.load.lease()).collect();
        let new = std::thread::scope(|scope| {
            scope.spawn(|| leases.into_iter().for_each(drop));
            Picker::new(Algorithm::LeastConnections, &Hash::default(), set, Some(&old))
        });
        assert!(new.choose(&PickArgs::default()).is_some() && knows_every_load(&new));
    }
}
