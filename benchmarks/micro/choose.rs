//! One choice and its place in the backend's load, by algorithm and number of backends; and what a changed set costs,
//! which is paid outside of the workers.

use std::sync::Arc;

use divan::Bencher;
use pointsman::balance::{Ask, Candidate, Picker};
use pointsman::config::{Algorithm, Hash};

const BACKENDS: [usize; 5] = [3, 10, 100, 1_000, 10_000];

fn choose(bencher: Bencher<'_, '_>, algorithm: Algorithm, backends: usize, weight: impl Fn(usize) -> u32) {
    let candidate = |n: usize| Candidate {
        key: n as u64,
        name: n.to_string().into(),
        weight: weight(n),
        load: Arc::default(),
    };
    let picker = Picker::new(algorithm, &Hash::default(), (0..backends).map(candidate).collect(), None);
    // Everybody is busy with something, not with the same.
    let busy = |(n, c): (usize, &Candidate)| (0..n % 7).map(|_| c.load.lease()).collect::<Vec<_>>();
    let _leases: Vec<_> = picker.candidates().iter().enumerate().flat_map(busy).collect();
    bencher.bench_local(|| {
        let index = picker.choose(&Ask::default())?;
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

/// As many different weights as there can be.
#[divan::bench(args = BACKENDS)]
fn weighted_all_weights(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::Weighted, backends, |n| 1 + (n % 256) as u32);
}

#[divan::bench(args = BACKENDS)]
fn least_connections(bencher: Bencher<'_, '_>, backends: usize) {
    choose(bencher, Algorithm::LeastConnections, backends, |n| 1 + (n % 5) as u32);
}

#[divan::bench(args = [Algorithm::RoundRobin, Algorithm::Weighted, Algorithm::LeastConnections])]
fn changed_set_of_10_000(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let candidate = |n| Candidate {
        key: n,
        name: n.to_string().into(),
        weight: 1 + (n % 5) as u32,
        load: Arc::default(),
    };
    let set: Vec<_> = (0..10_000).map(candidate).collect();
    let picker = Picker::new(algorithm, &Hash::default(), set.clone(), None);
    bencher
        .with_inputs(|| set.clone())
        .bench_local_values(|set| Picker::new(algorithm, &Hash::default(), set, Some(&picker)));
}
