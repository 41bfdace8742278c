use super::super::laws::candidates;
use super::super::{Lease, Picker};
use super::*;
use crate::config::{Algorithm, Hash};
use proptest::prelude::*;
use std::time::Duration;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn picker(backends: usize) -> Picker {
    Picker::new(Algorithm::Ewma, &Hash::default(), candidates(&vec![1; backends]), None)
}

/// One connection per millisecond, which ends with its first byte.
struct SimulatedTraffic {
    picker: Picker,
    now: u64,
    /// In milliseconds.
    answers_in: Vec<u64>,
    /// When each is answered, and the index of its backend.
    open: Vec<(u64, usize, Lease)>,
}

impl SimulatedTraffic {
    fn new(answers_in: &[u64]) -> Self {
        Self { picker: picker(answers_in.len()), now: 0, answers_in: answers_in.to_vec(), open: Vec::new() }
    }

    /// The connections of each backend in this many seconds.
    fn run(&mut self, seconds: u64) -> Vec<u64> {
        let mut counts = vec![0; self.answers_in.len()];
        for _ in 0..1_000 * seconds {
            self.now += 1;
            let now = millis(self.now);
            for (at, index, _lease) in self.open.extract_if(.., |(at, ..)| *at <= self.now) {
                assert!(at <= self.now);
                self.picker.candidates()[index].load.answered(millis(self.answers_in[index]), now);
            }
            let index =
                self.picker.choose(&PickArgs { random: self.now, now, ..PickArgs::default() }).unwrap();
            let load = &self.picker.candidates()[index].load;
            load.connected(Duration::from_micros(200), now);
            self.open.push((self.now + self.answers_in[index], index, load.lease()));
            counts[index] += 1;
        }
        counts
    }
}

#[test]
fn a_slow_backend_gets_less_and_its_share_back_when_it_is_fast_again() {
    let mut traffic = SimulatedTraffic::new(&[20; 4]);
    let even = |counts: &[u64]| counts.iter().all(|count| (4_000..6_000).contains(count));
    let counts = traffic.run(20);
    assert!(even(&counts), "{counts:?}");
    traffic.answers_in[0] = 500;
    traffic.run(1);
    let counts = traffic.run(20);
    assert!(counts[0] < 500, "{counts:?}");
    assert!(counts[0] > 0, "never chosen again: {counts:?}");
    traffic.answers_in[0] = 20;
    traffic.run(60);
    let counts = traffic.run(20);
    assert!(even(&counts), "{counts:?}");
}

#[test]
fn a_new_backend_is_neither_flooded_nor_starved() {
    let picker = picker(4);
    let candidates = picker.candidates();
    let mut leases = Vec::new();
    for candidate in &candidates[..3] {
        candidate.load.connected(millis(1), millis(1_000));
        candidate.load.answered(millis(30), millis(1_000));
        leases.extend((0..50).map(|_| candidate.load.lease()));
    }
    // There is no answer in the meantime: the new backend connects fast, its first-byte latency is unknown.
    for random in 0..250 {
        let index = picker.choose(&PickArgs { random, now: millis(1_000), ..PickArgs::default() }).unwrap();
        candidates[index].load.connected(millis(1), millis(1_000));
        leases.push(candidates[index].load.lease());
    }
    let active: Vec<_> = candidates.iter().map(|candidate| candidate.load.open()).collect();
    assert!(active.iter().all(|active| active.abs_diff(100) <= 5), "{active:?}");
}

#[test]
fn old_latencies_decide_no_more() {
    let picker = picker(2);
    let candidates = picker.candidates();
    candidates[0].load.answered(millis(5_000), millis(0));
    candidates[1].load.answered(millis(5), millis(40));
    let _one = candidates[1].load.lease();
    let choose = |now| picker.choose(&PickArgs { now, ..PickArgs::default() });
    assert_eq!(choose(millis(50)), Some(1));
    assert_eq!(choose(Duration::from_secs(3_600)), Some(0));
    assert_eq!(choose(Duration::from_secs(86_400)), Some(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn with_recent_samples_the_lower_latency_times_connections_per_weight_wins(
        members in proptest::array::uniform2((1u64..100_000, 1u64..100_000, 0u32..20, 1u32..=256)), random in any::<u64>(),
    ) {
        let set = candidates(&members.map(|m| m.3));
        let mut leases = Vec::new();
        for (candidate, (connect, first_byte, busy, _)) in set.iter().zip(members) {
            candidate.load.connected(Duration::from_micros(connect), millis(7));
            candidate.load.answered(Duration::from_micros(first_byte), millis(7));
            leases.extend((0..busy).map(|_| candidate.load.lease()));
        }
        let picker = Picker::new(Algorithm::Ewma, &Hash::default(), set, None);
        let chosen = picker.choose(&PickArgs { random, now: millis(7), ..PickArgs::default() }).unwrap();
        let cost = |(connect, first_byte, busy, _): (u64, u64, u32, u32), other: u32| {
            (connect + first_byte) * u64::from(busy + 1) * u64::from(other)
        };
        prop_assert!(cost(members[chosen], members[1 - chosen].3) <= cost(members[1 - chosen], members[chosen].3));
    }

    #[test]
    fn without_samples_fewer_connections_per_weight_win(
        members in proptest::array::uniform2((0u32..20, 1u32..=256)), random in any::<u64>(),
    ) {
        let set = candidates(&members.map(|m| m.1));
        let _leases: Vec<_> = set.iter().zip(members).flat_map(|(c, m)| (0..m.0).map(|_| c.load.lease())).collect();
        let picker = Picker::new(Algorithm::Ewma, &Hash::default(), set, None);
        let chosen = picker.choose(&PickArgs { random, now: millis(7), ..PickArgs::default() }).unwrap();
        let (chosen, other) = (members[chosen], members[1 - chosen]);
        prop_assert!((chosen.0 + 1) * other.1 <= (other.0 + 1) * chosen.1);
    }
}
