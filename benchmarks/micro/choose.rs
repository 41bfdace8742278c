//! One choice and its lease, by algorithm and number of backends; and the cost of a changed set, which the control plane
//! pays.

use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use pointsman_core::balance::shadow::{Shadow, ShadowCandidate};
use pointsman_core::balance::{Candidate, PickArgs, Picker};
use pointsman_core::config::{Algorithm, Factor, Hash};

const BACKENDS: [usize; 5] = [3, 10, 100, 1_000, 10_000];

fn choose(bencher: Bencher<'_, '_>, algorithm: Algorithm, backends: usize, weight: impl Fn(usize) -> u32) {
    choose_hashed(bencher, algorithm, &Hash::default(), backends, weight);
}

fn choose_hashed(
    bencher: Bencher<'_, '_>,
    algorithm: Algorithm,
    hash: &Hash,
    backends: usize,
    weight: impl Fn(usize) -> u32,
) {
    let candidate = |n: usize| Candidate {
        key: n as u64,
        name: n.to_string().into(),
        weight: weight(n),
        load: Arc::default(),
    };
    let picker = Picker::new(algorithm, hash, (0..backends).map(candidate).collect(), None);
    // Loads differ between the backends.
    let busy = |(n, c): (usize, &Candidate)| (0..n % 7).map(|_| c.load.lease()).collect::<Vec<_>>();
    let _leases: Vec<_> = picker.candidates().iter().enumerate().flat_map(busy).collect();
    let mut numbers = 1_u64..;
    bencher.bench_local(|| {
        // Spread over all 64 bits, as hashes and random numbers are.
        let any = numbers.next()?.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ask = PickArgs {
            client: any,
            random: any,
            now: Duration::from_micros(any >> 32),
            ..PickArgs::default()
        };
        let index = picker.choose(&ask)?;
        Some(picker.candidates()[index].load.lease())
    });
}

#[divan::bench(args = BACKENDS)]
fn round_robin(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::RoundRobin, backends, |_| 1);
}

#[divan::bench(args = BACKENDS)]
fn weighted(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::Weighted, backends, |n| 1 + (n % 5) as u32);
}

/// As many distinct weights as there can be.
#[divan::bench(args = BACKENDS)]
fn weighted_all_weights(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::Weighted, backends, |n| 1 + (n % 256) as u32);
}

#[divan::bench(args = BACKENDS)]
fn least_connections(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::LeastConnections, backends, |n| 1 + (n % 5) as u32);
}

#[divan::bench(args = BACKENDS)]
fn random(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::Random, backends, |n| 1 + (n % 5) as u32);
}

#[divan::bench(args = BACKENDS)]
fn random_two(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::RandomTwo, backends, |n| 1 + (n % 5) as u32);
}

#[divan::bench(args = BACKENDS)]
fn ewma(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::Ewma, backends, |n| 1 + (n % 5) as u32);
}

#[divan::bench(args = BACKENDS)]
fn source_hash(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::SourceHash, backends, |n| 1 + (n % 5) as u32);
}

#[divan::bench(args = BACKENDS)]
fn ring_hash(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::RingHash, backends, |_| 1);
}

/// The loads are so uneven that half of the choices go further around the ring.
#[divan::bench(args = BACKENDS)]
fn ring_hash_bounded(bencher: Bencher<'_, '_>, backends: usize) {
    let hash = Hash { load_factor: Some(Factor(125)), ..Hash::default() };
    choose_hashed(bencher, Algorithm::RingHash, &hash, backends, |_| 1);
}

#[divan::bench(args = BACKENDS)]
fn maglev(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::Maglev, backends, |_| 1);
}

#[divan::bench(args = Algorithm::ALL)]
fn changed_set_of_10_000(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let candidate = |n| Candidate {
        key: n,
        name: n.to_string().into(),
        weight: if algorithm.hashes() { 1 } else { 1 + (n % 5) as u32 },
        load: Arc::default(),
    };
    let set: Vec<_> = (0..10_000).map(candidate).collect();
    let picker = Picker::new(algorithm, &Hash::default(), set[1..].to_vec(), None);
    bencher
        .with_inputs(|| set.clone())
        .bench_local_values(|set| Picker::new(algorithm, &Hash::default(), set, Some(&picker)));
}

/// What a shadow costs a connection: one choice, counted and given back.
#[divan::bench(args = [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::RandomTwo, Algorithm::RingHash])]
fn shadow(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let candidate =
        |key: u64| ShadowCandidate { key, name: key.to_string().into(), weight: 1, counter: Arc::default() };
    let shadow = Shadow::new(algorithm, &Hash::default(), (0..10).map(candidate).collect(), None);
    let mut numbers = 1_u64..;
    bencher.bench_local(|| {
        let any = numbers.next()?.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        shadow.choose(&PickArgs { client: any, random: any, ..PickArgs::default() })
    });
}
