//! Properties of all algorithms, and of those that hash.

use super::*;
use crate::config::Factor;
use proptest::prelude::*;
use std::num::NonZeroUsize;

pub(crate) fn candidates(weights: &[u32]) -> Vec<Candidate> {
    let of = |(key, &weight): (usize, &u32)| Candidate {
        key: key as u64,
        name: format!("backend-{key}").into(),
        weight,
        load: Arc::default(),
    };
    weights.iter().enumerate().map(of).collect()
}

/// A picker of candidates with these weights.
pub(super) fn picker(algorithm: Algorithm, weights: &[u32], previous: Option<&Picker>) -> Picker {
    Picker::new(algorithm, &Hash::default(), candidates(weights), previous)
}

pub(super) fn passing(excluded: &[u64]) -> PickArgs<'_> {
    PickArgs { excluded, ..PickArgs::default() }
}

pub(super) fn sorted(mut keys: Vec<u64>) -> Vec<u64> {
    keys.sort_unstable();
    keys
}

/// The hash of the nth client.
pub(super) fn client(nth: u64) -> u64 {
    hash::rehash(0, nth)
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    proptest::sample::select(&Algorithm::ALL[..])
}

pub(super) const HASHES: [Algorithm; 3] = [Algorithm::SourceHash, Algorithm::RingHash, Algorithm::Maglev];

fn hashing() -> impl Strategy<Value = Algorithm> {
    proptest::sample::select(&HASHES[..])
}

/// Few virtual nodes: many take long to build.
fn hash() -> impl Strategy<Value = Hash> {
    let slots = proptest::option::of((1usize..600).prop_map(|n| NonZeroUsize::new(n).unwrap()));
    let virtual_nodes = (1usize..12).prop_map(NonZeroUsize::new);
    let load_factor = proptest::option::of((101u32..300).prop_map(Factor));
    (slots, virtual_nodes, load_factor).prop_map(|(slots, virtual_nodes, load_factor)| Hash {
        slots,
        virtual_nodes,
        load_factor,
        ..Hash::default()
    })
}

/// Mostly small weights: with large ones the ring takes long to build.
fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![15 => 1u32..=6, 1 => 1u32..=256]
}

/// Candidates with random weights, some of the same name, some with open connections.
fn any_candidates() -> impl Strategy<Value = (Vec<Candidate>, Vec<Lease>)> {
    let name = prop_oneof![3 => Just(None), 1 => (0usize..3).prop_map(Some)];
    let one = (weight(), name, 0usize..9);
    proptest::collection::vec(one, 0..20).prop_map(|all| {
        let of = |(key, (weight, name, _)): (usize, &(u32, Option<usize>, usize))| Candidate {
            key: key as u64,
            name: format!("backend-{}", name.unwrap_or(key + 3)).into(),
            weight: *weight,
            load: Arc::default(),
        };
        let set: Vec<_> = all.iter().enumerate().map(of).collect();
        let leases = set.iter().zip(&all).flat_map(|(c, (.., busy))| (0..*busy).map(|_| c.load.lease()));
        let leases = leases.collect();
        (set, leases)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_excluded_candidate_is_never_chosen_and_all_others_are(
        algorithm in algorithm(), hash in hash(), (set, _leases) in any_candidates(),
        first in proptest::collection::vec(0u64..25, 0..4), warm_up in 0usize..50,
        (client, random, now) in (any::<u64>(), any::<u64>(), any::<u32>()),
    ) {
        let picker = Picker::new(algorithm, &hash, set.clone(), None);
        for _ in 0..warm_up { picker.choose(&PickArgs::default()); }
        let mut excluded = sorted(first);
        let before = set.iter().filter(|candidate| excluded.contains(&candidate.key)).count();
        let mut chosen = 0;
        let now = Duration::from_millis(now.into());
        while let Some(index) = picker.choose(&PickArgs { excluded: &excluded, client, random, now }) {
            let key = picker.candidates()[index].key;
            prop_assert!(!excluded.contains(&key));
            excluded = sorted([excluded, vec![key]].concat());
            chosen += 1;
        }
        prop_assert_eq!(before + chosen, set.len());
    }

    #[test]
    fn a_changed_set_takes_effect_at_once(
        algorithm in algorithm(), hash in hash(), client in any::<u64>(),
        before in proptest::collection::vec(1u32..=9, 0..10),
        after in proptest::collection::vec(1u32..=9, 1..10),
        rounds in 0usize..40,
    ) {
        let old = Picker::new(algorithm, &hash, candidates(&before), None);
        for _ in 0..rounds { old.choose(&PickArgs::default()); }
        let new = Picker::new(algorithm, &hash, candidates(&after), Some(&old));
        for random in 0..rounds as u64 {
            let args = PickArgs { client, random, ..PickArgs::default() };
            prop_assert!(new.choose(&args).is_some_and(|index| index < after.len()));
        }
    }

    #[test]
    fn hashes_depend_neither_on_the_order_of_candidates_nor_on_their_keys(
        algorithm in hashing(), hash in hash(), client in any::<u64>(),
        (weights, order) in proptest::collection::vec(weight(), 1..20)
            .prop_flat_map(|weights| (Just(weights.clone()), Just((0..weights.len()).collect::<Vec<_>>()).prop_shuffle())),
    ) {
        let set = candidates(&weights);
        let shuffled = order.iter().enumerate().map(|(key, &index)| {
            Candidate { key: 1_000 + key as u64, load: Arc::default(), ..set[index].clone() }
        });
        let pickers = [
            Picker::new(algorithm, &hash, set.clone(), None),
            Picker::new(algorithm, &hash, shuffled.collect(), None),
        ];
        // This includes the second choice, and all after it.
        let mut excluded = [Vec::new(), Vec::new()];
        for _ in 0..weights.len() {
            let names = [0, 1].map(|n| {
                let args = PickArgs { client, excluded: &excluded[n], ..PickArgs::default() };
                let chosen = &pickers[n].candidates()[pickers[n].choose(&args).unwrap()];
                excluded[n].push(chosen.key);
                excluded[n].sort_unstable();
                Arc::clone(&chosen.name)
            });
            prop_assert_eq!(&names[0], &names[1]);
        }
    }

    #[test]
    fn hashes_do_not_depend_on_earlier_sets(
        hash in hash(), sets in proptest::collection::vec(
            (hashing(), proptest::collection::vec(1u32..=2, 1..4), any::<bool>()), 2..6),
        client in any::<u64>(),
    ) {
        let mut previous: Option<Picker> = None;
        for (algorithm, weights, renamed) in sets {
            let mut set = candidates(&weights);
            if renamed { set[0].name = "renamed".into(); }
            let picker = Picker::new(algorithm, &hash, set.clone(), previous.as_ref());
            let args = PickArgs { client, ..PickArgs::default() };
            prop_assert_eq!(picker.choose(&args), Picker::new(algorithm, &hash, set, None).choose(&args));
            previous = Some(picker);
        }
    }

    #[test]
    fn a_client_keeps_its_backend_while_the_set_is_unchanged(
        algorithm in hashing(), client in any::<u64>(), weights in proptest::collection::vec(1u32..=9, 1..10),
        randoms in proptest::collection::vec(any::<u64>(), 1..20),
    ) {
        let picker = picker(algorithm, &weights, None);
        let first = picker.choose(&PickArgs { client, ..PickArgs::default() });
        let mut leases = Vec::new();
        for random in randoms {
            let chosen = picker.choose(&PickArgs { client, random, now: Duration::from_millis(random), ..PickArgs::default() });
            prop_assert_eq!(chosen, first);
            leases.push(picker.candidates()[chosen.unwrap()].load.lease());
        }
    }
}

/// Never change these: after an upgrade, clients would lose their backends. (A second implementation, in another
/// language, computed them.)
#[test]
fn clients_keep_their_backends_across_releases() {
    let clients = [
        "192.0.2.1",
        "192.0.2.2",
        "198.51.100.7",
        "203.0.113.99",
        "10.0.0.1",
        "2001:db8::1",
        "fd00::2",
        "::1",
    ];
    let hash_of = |ip: &&str| hash::client(ip.parse().unwrap(), 0, crate::config::HashKey::SourceIp);
    let textbook =
        Hash { slots: NonZeroUsize::new(512), virtual_nodes: NonZeroUsize::new(9), ..Hash::default() };
    let set: Vec<_> = [("a", 1), ("b", 2), ("c", 1), ("d", 3), ("e", 1)]
        .iter()
        .zip(0..)
        .map(|(&(name, weight), key)| Candidate { key, name: name.into(), weight, load: Arc::default() })
        .collect();
    let went = |algorithm, hash: &Hash, nth: usize| -> String {
        let picker = Picker::new(algorithm, hash, set.clone(), None);
        let choice = |ip: &&str| {
            let mut excluded = Vec::new();
            let chosen = (0..=nth).map(|_| {
                let index = picker
                    .choose(&PickArgs { excluded: &excluded, client: hash_of(ip), ..PickArgs::default() })
                    .unwrap();
                excluded.push(set[index].key);
                excluded.sort_unstable();
                &*set[index].name
            });
            chosen.last().unwrap().to_owned()
        };
        clients.iter().map(choice).collect()
    };
    assert_eq!(went(Algorithm::SourceHash, &Hash::default(), 0), "bbedbeba");
    assert_eq!(went(Algorithm::RingHash, &Hash::default(), 0), "dedeaeed");
    assert_eq!(went(Algorithm::RingHash, &textbook, 0), "dbbedbbd");
    assert_eq!(went(Algorithm::Maglev, &Hash::default(), 0), "eddcdbbb");
    // Their second choice.
    assert_eq!(went(Algorithm::SourceHash, &Hash::default(), 1), "cedbaadc");
    assert_eq!(went(Algorithm::RingHash, &Hash::default(), 1), "cdcddace");
    assert_eq!(went(Algorithm::RingHash, &textbook, 1), "eddbbdda");
    assert_eq!(went(Algorithm::Maglev, &Hash::default(), 1), "dcbbcccd");
}
