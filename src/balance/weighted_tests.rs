use super::super::laws::{candidates, passing};
use super::super::{Method, PickArgs, Picker};
use super::*;
use crate::config::{Algorithm, Hash};
use proptest::prelude::*;

/// nginx's loop over all candidates, which gives the expected sequence.
struct Reference {
    weights: Vec<i64>,
    credit: Vec<i64>,
}

impl Reference {
    fn new(weights: &[u32]) -> Self {
        let weights: Vec<_> = weights.iter().map(|&weight| i64::from(weight)).collect();
        Self { credit: vec![0; weights.len()], weights }
    }

    fn choose(&mut self) -> usize {
        let mut best = 0;
        for (index, weight) in self.weights.iter().enumerate() {
            self.credit[index] += weight;
            if self.credit[index] > self.credit[best] {
                best = index;
            }
        }
        self.credit[best] -= self.weights.iter().sum::<i64>();
        best
    }

    /// The first `staying` old candidates, then new ones.
    fn carried_over(&self, staying: usize, weights: &[u32]) -> Self {
        let mut new = Self::new(weights);
        let (before, after): (i64, i64) = (self.weights.iter().sum(), new.weights.iter().sum());
        for (new, old) in new.credit.iter_mut().zip(&self.credit).take(staying) {
            *new = old * after / before;
        }
        new
    }
}

fn weighted(picker: &Picker) -> &Weighted {
    match &picker.method {
        Method::Weighted(weighted) => weighted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn five_one_one_is_spread_out() {
    let picker = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&[5, 1, 1]), None);
    let chosen: String =
        (0..14).map(|_| ["a", "b", "c"][picker.choose(&PickArgs::default()).unwrap()]).collect();
    assert_eq!(chosen, "aabacaaaabacaa");
}

#[test]
fn a_changed_set_does_not_restart_the_cycle() {
    let old = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&[5, 1, 1]), None);
    for _ in 0..3 {
        old.choose(&PickArgs::default());
    }
    let new = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&[5, 1, 1]), Some(&old));
    let rest: String = (0..4).map(|_| ["a", "b", "c"][new.choose(&PickArgs::default()).unwrap()]).collect();
    assert_eq!(rest, "acaa");
}

#[test]
fn credit_is_scaled_with_the_sum_of_the_weights() {
    let heavy = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&[100, 100]), None);
    heavy.choose(&PickArgs::default());
    let light = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&[1, 1]), Some(&heavy));
    let chosen: Vec<_> = (0..4).filter_map(|_| light.choose(&PickArgs::default())).collect();
    assert_eq!(chosen, [1, 0, 1, 0]);
}

#[test]
fn a_thousand_years_of_turns_do_not_overflow() {
    let picker = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&[256, 1, 256]), None);
    let before: Vec<_> = (0..513).filter_map(|_| picker.choose(&PickArgs::default())).collect();
    {
        let mut credits = weighted(&picker).credits.lock().unwrap();
        let years = 1_000 * 365 * 24 * 3_600 * 1_000_000;
        credits.turns += years;
        for class in &mut credits.classes {
            let (weight, members) = (class.weight, std::mem::take(&mut class.members).into_iter());
            class.members = members.map(|a| BaseCredit { base: a.base - weight * years, ..a }).collect();
        }
    }
    let after: Vec<_> = (0..513).filter_map(|_| picker.choose(&PickArgs::default())).collect();
    assert_eq!(before, after);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_full_cycle_gives_each_exactly_its_share(
        weights in proptest::collection::vec(1u32..=40, 1..12), cycles in 1usize..4,
    ) {
        let picker = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&weights), None);
        let cycle: u32 = weights.iter().sum();
        for _ in 0..cycles {
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..cycle { counts[picker.choose(&PickArgs::default()).unwrap()] += 1; }
            prop_assert_eq!(&counts, &weights);
        }
    }

    #[test]
    fn the_sequence_is_that_of_nginx_across_changes_of_the_set(
        sets in proptest::collection::vec((proptest::collection::vec(1u32..=256, 1..20), 1usize..4, 0usize..50), 1..4),
        few_weights in any::<bool>(),
    ) {
        let mut previous: Option<(Picker, Reference)> = None;
        for (mut weights, cycles, more) in sets {
            if few_weights { for weight in &mut weights { *weight %= 3; *weight += 1; } }
            // The key of a candidate is its index: the first ones stay.
            let picker = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&weights), previous.as_ref().map(|p| &p.0));
            let mut reference = match &previous {
                Some((_, old)) => old.carried_over(weights.len(), &weights),
                None => Reference::new(&weights),
            };
            for _ in 0..cycles * weights.iter().sum::<u32>() as usize + more {
                prop_assert_eq!(picker.choose(&PickArgs::default()), Some(reference.choose()));
            }
            previous = Some((picker, reference));
        }
    }

    #[test]
    fn credit_is_neither_made_nor_lost_with_excluded_candidates(
        weights in proptest::collection::vec(1u32..=256, 1..12),
        turns in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 12), 1..60),
    ) {
        let picker = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&weights), None);
        for excluded in turns {
            let excluded: Vec<u64> = (0..weights.len()).filter(|&i| excluded[i]).map(|i| i as u64).collect();
            let chosen = picker.choose(&passing(&excluded));
            prop_assert_eq!(chosen.is_none(), excluded.len() == weights.len());
            prop_assert!(chosen.is_none_or(|index| !excluded.contains(&(index as u64))));
            let credits = weighted(&picker).credits.lock().unwrap();
            prop_assert!(credits.set_aside.is_empty());
            prop_assert_eq!(credits.each().count(), weights.len());
            prop_assert_eq!(credits.each().map(|(_, credit)| credit).sum::<i64>(), 0);
        }
    }

    /// Two full cycles; the following ones repeat them.
    #[test]
    fn no_candidate_is_a_whole_turn_ahead_or_waits_twice_its_interval(
        weights in proptest::collection::vec(prop_oneof![4 => 1u32..=8, 1 => 1u32..=256], 1..12),
    ) {
        let picker = Picker::new(Algorithm::Weighted, &Hash::default(), candidates(&weights), None);
        let sum: u32 = weights.iter().sum();
        let (mut counts, mut last) = (vec![0; weights.len()], vec![0; weights.len()]);
        for turn in 1..=2 * sum {
            let chosen = picker.choose(&PickArgs::default()).unwrap();
            counts[chosen] += 1;
            // Its fair count is turn × weight / sum,
            prop_assert!((counts[chosen] - 1) * sum < turn * weights[chosen]);
            // its interval sum / weight turns.
            prop_assert!((turn - last[chosen]) * weights[chosen] < 2 * sum);
            last[chosen] = turn;
        }
    }
}
