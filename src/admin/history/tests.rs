use proptest::prelude::*;
use serde_json::{Value, json};

use super::counts::HistoryCount;
use super::tier::NAMES;
use super::*;
use crate::telemetry::histogram::DurationHistogram;

/// The number of values of the finest tier.
const KEPT: usize = TIERS[0].1;

fn count(active: u64, connections: u64) -> HistoryCount {
    let totals = [connections, 10 * connections, 100 * connections, 0, 0, 0];
    HistoryCount { active, totals, ..HistoryCount::default() }
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
    serde_json::from_slice(&store.tiers[0].json()).unwrap()
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
    assert_eq!(store.tiers[0].backends.len(), NAMES);
    store.add(&counts(&[("web", 0)], &[("one more", count(0, 1))]), 1);
    assert_eq!(store.tiers[0].backends.len(), 1, "absent backends make room");
}

#[test]
fn the_coarser_tiers_have_the_growth_of_their_steps() {
    let mut store = HistoryStore::default();
    for second in 0..=130 {
        store.add(&counts(&[("web", second)], &[("a", count(0, 3 * second))]), 1);
    }
    let of = |store: &mut HistoryStore, step| -> Value {
        let tier = store.tiers.iter_mut().find(|tier| tier.step_seconds() == step).unwrap();
        serde_json::from_slice(&tier.json()).unwrap()
    };
    let tens = of(&mut store, 10);
    assert_eq!(tens["step_seconds"], 10);
    assert_eq!(tens["pools"]["p"]["connections"], json!(vec![30; 13]));
    assert_eq!(tens["listeners"]["web"]["active"][12], 130);
    let minutes = of(&mut store, 60);
    assert_eq!(minutes["backends"]["p"]["a"]["connections"], json!([180, 180]));
    // A process that was stopped for two minutes has two steps to add.
    store.add(&counts(&[("web", 0)], &[("a", count(0, 3 * 130 + 10))]), 120);
    assert_eq!(of(&mut store, 60)["pools"]["p"]["connections"], json!([180, 180, 20, 20]));
}

#[test]
fn each_coarse_step_has_the_percentiles_of_its_own_connections() {
    let mut store = HistoryStore::default();
    let (fast, slow) = (DurationHistogram::default(), DurationHistogram::default());
    let mut add = |seconds| {
        let mut counts = counts(&[("web", 0)], &[("fast", count(0, 1)), ("slow", count(0, 1))]);
        for (name, histogram) in [("fast", &fast), ("slow", &slow)] {
            counts.times.insert((Arc::from("p"), Arc::from(name)), Box::new([histogram.read(); 2]));
        }
        store.add(&counts, seconds);
    };
    add(1);
    (0..97).for_each(|_| fast.observe(Duration::from_millis(1)));
    (0..3).for_each(|_| slow.observe(Duration::from_millis(300)));
    add(10);
    slow.observe(Duration::from_millis(20));
    add(10);
    let json: Value = serde_json::from_slice(&store.tiers[1].json()).unwrap();
    let millis = |path: &str| -> Vec<Option<u64>> {
        let column = json.pointer(path).and_then(Value::as_array).unwrap();
        column.iter().map(|value| value.as_u64().map(|micros| micros.div_ceil(1000))).collect()
    };
    assert_eq!(millis("/backends/p/fast/first_byte/p50_us"), [Some(1), None]);
    let of_slow = millis("/backends/p/slow/first_byte/p50_us");
    assert!(matches!(of_slow[..], [Some(250..=300), Some(15..=20)]), "{of_slow:?}");
    // The pool's percentiles are those of all its connections, not a mean of its backends'.
    assert_eq!(millis("/pools/p/first_byte/p50_us")[0], Some(1));
    assert!(matches!(millis("/pools/p/connect/p99_us")[0], Some(250..=300)));
}

fn in_steps(store: &mut HistoryStore, step: u64) -> Value {
    let tier = store.tiers.iter_mut().find(|tier| tier.step_seconds() == step).unwrap();
    serde_json::from_slice(&tier.json()).unwrap()
}

/// A store with what the steps of another one had saved, `seconds` after that.
fn restored(steps: &[(StateFile, SavedStep)], seconds: u64) -> HistoryStore {
    let mut store = HistoryStore::default();
    for tier in &mut store.tiers {
        let Some(file) = file(tier.step_seconds()) else { continue };
        let of_file = steps.iter().filter(|(of, _)| *of == file);
        // As the file has them.
        let steps: Vec<_> = of_file.map(|(_, step)| SavedStep::parse(&step.line()).unwrap()).collect();
        tier.restore(&steps, SystemTime::now() + Duration::from_secs(seconds));
    }
    store
}

/// Adds seconds in which each has three connections.
fn run(store: &mut HistoryStore, seconds: u64, saved: &mut Vec<(StateFile, SavedStep)>) {
    for second in 0..=seconds {
        let counts = counts(&[("web", second)], &[("a", count(0, 3 * second))]);
        for (file, mut step) in store.add(&counts, 1) {
            // The test's time is not that of the clock.
            step.end = (SystemTime::now() - Duration::from_secs(seconds - second)).into();
            saved.push((file, step));
        }
    }
}

#[test]
fn the_coarser_tiers_continue_after_a_restart_with_a_gap_for_the_time_between() {
    let mut saved = Vec::new();
    run(&mut HistoryStore::default(), 130, &mut saved);
    assert_eq!(saved.len(), 13 + 2);
    let mut store = restored(&saved, 35);
    assert_eq!(in_steps(&mut store, 1)["listeners"], json!({}));
    run(&mut store, 125, &mut Vec::new());
    let tens = in_steps(&mut store, 10);
    let expected = [vec![json!(30); 13], vec![json!(null); 4], vec![json!(30); 12]].concat();
    // The gap is 35 seconds: three steps or four.
    let connections = tens["pools"]["p"]["connections"].as_array().unwrap();
    let shorter = [&expected[..13], &expected[14..]].concat();
    assert!(*connections == expected || *connections == shorter, "{connections:?}");
    // The last minute had ended 45 seconds before.
    let minutes = in_steps(&mut store, 60);
    assert_eq!(minutes["backends"]["p"]["a"]["connections"], json!([180, 180, null, 180, 180]));
}

#[test]
fn a_quick_restart_leaves_no_gap_and_no_spike() {
    let mut saved = Vec::new();
    run(&mut HistoryStore::default(), 120, &mut saved);
    let mut store = restored(&saved, 2);
    run(&mut store, 60, &mut Vec::new());
    assert_eq!(in_steps(&mut store, 10)["pools"]["p"]["connections"], json!(vec![30; 18]));
    assert_eq!(in_steps(&mut store, 60)["pools"]["p"]["connections"], json!([180, 180, 180]));
}

#[test]
fn steps_that_are_too_old_are_left_out_and_a_clock_that_was_set_back_does_no_harm() {
    let mut saved = Vec::new();
    run(&mut HistoryStore::default(), 120, &mut saved);
    assert_eq!(in_steps(&mut restored(&saved, 2 * 86_400), 60)["pools"], json!({}));
    for (_, step) in &mut saved {
        step.end.0 += 3600.0;
    }
    assert_eq!(in_steps(&mut restored(&saved, 0), 60)["pools"]["p"]["connections"], json!([180, 180]));
    saved.reverse();
    assert_eq!(in_steps(&mut restored(&saved, 0), 60)["pools"]["p"]["connections"], json!([180, 180]));
}

#[test]
fn steps_of_an_inexact_clock_are_neighbors_and_what_restarts_cost_adds_up() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let steps = |apart: f64, n: u64| -> Vec<SavedStep> {
        let end = |k: u64| crate::domain::Timestamp(2e9 - apart * (n - 1 - k) as f64);
        (0..n).map(|k| SavedStep { end: end(k), ..SavedStep::default() }).collect()
    };
    let (places, last) = saved::places(&steps(10.003, 360), 10, now);
    assert_eq!((places, last), ((0..360).collect(), 359));
    // Restarts every 14 seconds: each has one complete step of ten.
    let (places, last) = saved::places(&steps(14.0, 100), 10, now);
    assert!(places.windows(2).all(|pair| (1..=2).contains(&(pair[1] - pair[0]))), "{places:?}");
    assert!((137..=140).contains(&last), "{last}");
    assert_eq!(saved::places(&[], 10, now), (vec![], 0));
}

#[test]
fn however_many_names_were_saved_memory_is_bounded() {
    let step = |n: usize| {
        let backends = (0..100).map(|k| (("p".into(), format!("{n}-{k}").into()), count(0, 1))).collect();
        let end = (SystemTime::now() - Duration::from_secs(60 * (100 - n as u64))).into();
        (StateFile::Minutes, SavedStep { end, backends, ..SavedStep::default() })
    };
    let store = restored(&(0..100).map(step).collect::<Vec<_>>(), 0);
    let names = &store.tiers[2].backends;
    assert_eq!(names.len(), NAMES);
    assert!(names.contains_key(&("p".into(), "99-0".into())), "the newest are kept");
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
            store.add(&counts(&[("web", 0)], &backends), *seconds as u64);
        }
        let length = steps.iter().map(|(_, seconds)| seconds).sum::<usize>().min(KEPT);
        let json = written(&mut store);
        prop_assert_eq!(json["listeners"]["web"]["active"].as_array().unwrap().len(), length);
        for (name, expected) in names.into_iter().zip(expected) {
            let Some(track) = json["backends"]["p"].get(name) else { continue };
            let latency = track["first_byte"].as_object().unwrap().values();
            for column in track.as_object().unwrap().values().filter(|column| column.is_array()).chain(latency) {
                prop_assert_eq!(column.as_array().unwrap().len(), length);
            }
            let sum: u64 = track["connections"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
            prop_assert_eq!(sum, expected);
        }
    }
}
