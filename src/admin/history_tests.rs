use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn count(active: u64, connections: u64) -> HistoryCount {
    HistoryCount { active, totals: [connections, 10 * connections, 100 * connections, 0, 0, 0] }
}

fn counts(listeners: &[(&str, u64)], backends: &[(&str, HistoryCount)]) -> HistoryCounts {
    let mut counts = HistoryCounts::default();
    for (name, active) in listeners {
        counts.listeners.insert(Arc::from(*name), *active);
    }
    let mut all = HistoryCount::default();
    for (name, count) in backends {
        counts.backends.insert((Arc::from("p"), Arc::from(*name)), *count);
        all.active += count.active;
        all.totals.iter_mut().zip(count.totals).for_each(|(sum, n)| *sum += n);
    }
    counts.pools.insert(Arc::from("p"), all);
    counts.by_listener.insert((Arc::from("web"), Arc::from("p")), all);
    counts
}

fn written(store: &mut HistoryStore) -> Value {
    serde_json::from_slice(&store.json()).unwrap()
}

#[test]
fn each_second_has_its_growth() {
    let mut store = HistoryStore::default();
    // The counts before the first reading belong to no second.
    store.add(&counts(&[("web", 2)], &[("a", count(2, 70))]), 1);
    store.add(&counts(&[("web", 1)], &[("a", count(1, 73))]), 1);
    store.add(&counts(&[("web", 0)], &[("a", count(0, 73)), ("b", count(0, 2))]), 1);
    let json = written(&mut store);
    assert_eq!(json["step_seconds"], 1);
    assert_eq!(json["listeners"]["web"]["active"], json!([2, 1, 0]));
    assert_eq!(json["listeners"]["web"]["connections"], json!([0, 3, 2]));
    assert_eq!(json["pools"]["p"]["bytes_in"], json!([0, 30, 20]));
    assert_eq!(json["pools"]["p"]["unserved"], json!([0, 0, 0]));
    assert_eq!(json["backends"]["p"]["a"]["connections"], json!([0, 3, 0]));
    assert_eq!(json["backends"]["p"]["b"]["connections"], json!([null, null, 2]));
    assert_eq!(json["backends"]["p"]["a"].get("unserved"), None);
}

#[test]
fn a_backend_that_comes_back_starts_at_zero() {
    let mut store = HistoryStore::default();
    for one in [Some(50), Some(52), None, Some(1), Some(0), Some(4)] {
        let backends: Vec<_> = one.map(|n| ("a", count(0, n))).into_iter().collect();
        store.add(&counts(&[("web", 0)], &backends), 1);
    }
    let json = written(&mut store);
    assert_eq!(json["backends"]["p"]["a"]["connections"], json!([0, 2, null, 1, 0, 4]));
}

#[test]
fn old_seconds_and_names_without_values_are_removed() {
    let mut store = HistoryStore::default();
    store.add(&counts(&[("web", 0), ("old", 0)], &[("a", count(0, 1))]), 1);
    for n in 0..KEPT as u64 {
        assert!(written(&mut store)["listeners"].get("old").is_some(), "{n}");
        store.add(&counts(&[("web", 0)], &[]), 1);
    }
    let json = written(&mut store);
    assert_eq!(json["listeners"]["web"]["active"].as_array().unwrap().len(), KEPT);
    assert!(json["listeners"].get("old").is_none() && json["backends"]["p"].get("a").is_none());
}

#[test]
fn however_many_names_come_and_go_memory_is_bounded() {
    let mut store = HistoryStore::default();
    let names: Vec<_> = (0..NAMES).map(|n| format!("container-{n}")).collect();
    for half in names.chunks(NAMES / 2) {
        let backends: Vec<_> = half.iter().map(|name| (name.as_str(), count(0, 1))).collect();
        store.add(&counts(&[("web", 0)], &backends), 1);
    }
    assert_eq!(store.backends.len(), NAMES);
    store.add(&counts(&[("web", 0)], &[("one more", count(0, 1))]), 1);
    assert_eq!(store.backends.len(), 1, "absent backends make room");
}

proptest! {
    #[test]
    fn nothing_is_lost_or_negative_and_all_are_equally_long(
        steps in prop::collection::vec((prop::collection::vec(prop::option::of(0u64..9), 3), 1usize..5), 1..40),
    ) {
        let mut store = HistoryStore::default();
        let names = ["a", "b", "c"];
        let mut totals = [0u64; 3];
        let mut expected = [0u64; 3];
        let mut there = [false; 3];
        for (index, (grown, seconds)) in steps.iter().enumerate() {
            let mut backends = Vec::new();
            for (n, grown) in grown.iter().enumerate() {
                match grown {
                    Some(grown) => {
                        totals[n] = if there[n] { totals[n] + grown } else { *grown };
                        expected[n] += if index == 0 { 0 } else { *grown };
                        backends.push((names[n], count(0, totals[n])));
                    }
                    None => totals[n] = 0,
                }
                there[n] = grown.is_some();
            }
            store.add(&counts(&[("web", 0)], &backends), *seconds);
        }
        let length = steps.iter().map(|(_, seconds)| seconds).sum::<usize>().min(KEPT);
        let json = written(&mut store);
        prop_assert_eq!(json["listeners"]["web"]["active"].as_array().unwrap().len(), length);
        for (name, expected) in names.into_iter().zip(expected) {
            let Some(track) = json["backends"]["p"].get(name) else { continue };
            for column in track.as_object().unwrap().values() {
                prop_assert_eq!(column.as_array().unwrap().len(), length);
            }
            let sum: u64 = track["connections"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
            prop_assert_eq!(sum, expected);
        }
    }
}
