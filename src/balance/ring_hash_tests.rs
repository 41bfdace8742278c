use super::super::hash::by_name;
use super::super::laws::{candidates, client};
use super::super::{Algorithm, Candidate, PickArgs, Picker};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

fn picker(set: &[Candidate], virtual_nodes: Option<usize>) -> Picker {
    let virtual_nodes = virtual_nodes.and_then(NonZeroUsize::new);
    Picker::new(Algorithm::RingHash, &Hash { virtual_nodes, ..Hash::default() }, set.to_vec(), None)
}

/// The part of the ring that each backend has.
fn shares(ring: &RingHash, backends: usize) -> Vec<f64> {
    let mut shares = vec![0.0; backends];
    let before = ring.positions.iter().rev().take(1).chain(&ring.positions);
    for ((&position, &before), &owner) in ring.positions.iter().zip(before).zip(&ring.owners) {
        shares[owner as usize] += position.wrapping_sub(before) as f64 / 2f64.powi(64);
    }
    shares
}

#[test]
fn shares_are_off_by_eight_percent_with_160_virtual_nodes() {
    let mut squares = 0.0;
    for group in 0..50 {
        let mut set = candidates(&[1; 10]);
        for candidate in &mut set {
            candidate.name = format!("{group}-{}", candidate.key).into();
        }
        let shares = shares(&RingHash::new(&by_name(&set), &Hash::default()), 10);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(shares.iter().all(|share| (0.07..0.13).contains(share)), "{shares:?}");
        squares += shares.iter().map(|share| (share * 10.0 - 1.0).powi(2)).sum::<f64>();
    }
    let deviation = (squares / 500.0).sqrt();
    println!("one standard deviation: {deviation:.3}");
    assert!((0.06..0.09).contains(&deviation), "{deviation}");
}

#[test]
fn shares_follow_weights() {
    let set = candidates(&[1, 2, 3, 4]);
    let shares = shares(&RingHash::new(&by_name(&set), &Hash::default()), 4);
    assert!(
        shares.iter().zip([0.1, 0.2, 0.3, 0.4]).all(|(share, due)| (share / due - 1.0).abs() < 0.2),
        "{shares:?}"
    );
}

#[test]
fn the_number_of_virtual_nodes_depends_on_other_backends_only_at_the_limit() {
    let number = |weights: &[u32]| counts(&by_name(&candidates(weights)), 160);
    assert_eq!(number(&[1, 5, 256]), [160, 800, 40_960]);
    let many = number(&vec![256; 1_000]);
    assert!(many.iter().sum::<u64>() <= MAX_NODES && many.iter().all(|&count| count == 2_560));
    // Each has at least one, however many are configured.
    assert_eq!(counts(&by_name(&candidates(&[1, 256])), u64::MAX).iter().min(), Some(&2_097_151));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_leaving_backend_moves_only_its_own_clients_each_to_its_second_choice(
        weights in proptest::collection::vec(1u32..=6, 2..12), one in any::<usize>(), first in any::<u32>(),
    ) {
        let mut set = candidates(&weights);
        let before = picker(&set, Some(7));
        let gone = set.remove(one % weights.len());
        let after = picker(&set, Some(7));
        for nth in 0..100 {
            let args = PickArgs { client: client(u64::from(first) + nth), ..PickArgs::default() };
            let was = before.choose(&args).map(|index| before.candidates()[index].key);
            let second = before.choose(&PickArgs { excluded: &[gone.key], ..args });
            let second = second.map(|index| before.candidates()[index].key);
            let is = after.choose(&args).map(|index| after.candidates()[index].key);
            // Read backwards: a joining backend takes clients and moves none between the others.
            prop_assert_eq!(is, if was == Some(gone.key) { second } else { was });
        }
    }

    #[test]
    fn a_greater_weight_moves_clients_only_to_its_backend(
        weights in proptest::collection::vec(1u32..=6, 1..12), one in any::<usize>(), first in any::<u32>(),
    ) {
        let mut set = candidates(&weights);
        let before = picker(&set, Some(7));
        let grown = one % weights.len();
        set[grown].weight += 1;
        let after = picker(&set, Some(7));
        for nth in 0..100 {
            let args = PickArgs { client: client(u64::from(first) + nth), ..PickArgs::default() };
            let (was, is) = (before.choose(&args), after.choose(&args));
            prop_assert!(was == is || is == Some(grown));
        }
    }

    #[test]
    fn each_virtual_node_takes_the_next_free_slot(
        weights in proptest::collection::vec(1u32..=4, 1..12), slots in 1u64..200, virtual_nodes in 1usize..20,
    ) {
        let set = candidates(&weights);
        let named = by_name(&set);
        let hash = Hash {
            slots: NonZeroUsize::new(slots as usize),
            virtual_nodes: NonZeroUsize::new(virtual_nodes),
            ..Hash::default()
        };
        let ring = RingHash::new(&named, &hash);
        let wanted: u64 = weights.iter().map(|&weight| u64::from(weight) * virtual_nodes as u64).sum();
        prop_assert_eq!(ring.positions.len() as u64, wanted.min(slots));
        prop_assert!(ring.positions.windows(2).all(|two| two[0] < two[1]) && ring.positions.iter().all(|&p| p < slots));
        // The plain search, one step at a time.
        let mut taken = BTreeSet::new();
        let mut expected = Vec::new();
        for number in 0..virtual_nodes as u64 * 4 {
            for (owner, one) in named.iter().enumerate() {
                if number < u64::from(one.weight) * virtual_nodes as u64 && (taken.len() as u64) < slots {
                    let mut slot = one.hash(Purpose::Ring, number) % slots;
                    while !taken.insert(slot) { slot = (slot + 1) % slots; }
                    expected.push((slot, owner as u32));
                }
            }
        }
        expected.sort_unstable();
        prop_assert_eq!(ring.positions.iter().copied().zip(ring.owners.iter().copied()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_client_goes_to_the_first_virtual_node_from_its_position_on(
        weights in proptest::collection::vec(1u32..=4, 1..8), slots in proptest::option::of(1usize..100), client in any::<u64>(),
    ) {
        let set = candidates(&weights);
        let slots = slots.and_then(NonZeroUsize::new);
        let hash = Hash { virtual_nodes: NonZeroUsize::new(3), slots, ..Hash::default() };
        let ring = RingHash::new(&by_name(&set), &hash);
        let around = |position: u64| match slots {
            Some(slots) => (position + slots.get() as u64 - client % slots.get() as u64) % slots.get() as u64,
            None => position.wrapping_sub(client),
        };
        let nearest = (0..ring.positions.len()).min_by_key(|&node| around(ring.positions[node])).unwrap();
        prop_assert_eq!(ring.from(client).next(), Some(ring.owners[nearest] as usize));
        prop_assert_eq!(ring.from(client).count(), ring.positions.len());
    }
}
