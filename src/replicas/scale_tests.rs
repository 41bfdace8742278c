use std::num::NonZeroU32;

use super::*;
use proptest::prelude::*;

fn settings(target: u32, step: u32) -> Autoscale {
    Autoscale { step: NonZeroU32::new(step).unwrap(), ..Autoscale::new(NonZeroU32::new(target).unwrap()) }
}

fn load(open: u64, replicas: u32) -> Load {
    Load { open, up: replicas, replicas, starting: false, leaving: false }
}

/// What it says in so many seconds of the same load, and when.
fn says(scaler: &mut Scaler, load: Load, from: Instant, seconds: u64) -> Option<(u64, Verdict)> {
    (0..=seconds).find_map(|second| Some((second, scaler.weigh(load, from + Duration::from_secs(second))?)))
}

#[test]
fn more_than_the_target_for_long_enough_adds_as_many_as_are_needed() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 2, 10);
    assert_eq!(says(&mut scaler, load(100, 2), now, 100), None, "just the target is well");
    let (after, verdict) = says(&mut scaler, load(230, 2), now, 100).unwrap();
    assert_eq!((after, verdict.to), (5, 5));
    assert_eq!(verdict.cause, "230 open connections on 2 up for 5s, 50 each: 5 needed");
}

#[test]
fn a_break_begins_the_time_anew() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 2, 10);
    assert_eq!(says(&mut scaler, load(230, 2), now, 4), None);
    assert_eq!(scaler.weigh(load(100, 2), now + Duration::from_secs(5)), None);
    assert_eq!(says(&mut scaler, load(230, 2), now + Duration::from_secs(6), 4), None);
}

#[test]
fn a_step_the_maximum_and_the_minimum_bound_it_and_it_says_so() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(10, 2), 2, 5);
    let (_, verdict) = says(&mut scaler, load(100, 2), now, 5).unwrap();
    assert_eq!(verdict.to, 4);
    assert!(verdict.cause.ends_with("10 needed, 2 at a time"), "{}", verdict.cause);
    let later = now + Duration::from_secs(100);
    let (_, verdict) = says(&mut scaler, load(100, 4), later, 5).unwrap();
    assert_eq!(verdict.to, 5);
    assert!(verdict.cause.ends_with("10 needed, 5 is the max"), "{}", verdict.cause);
    // At the maximum that is told once.
    let later = later + Duration::from_secs(100);
    let (_, verdict) = says(&mut scaler, load(100, 5), later, 5).unwrap();
    assert!(verdict.only_told && verdict.cause.ends_with("10 needed, but 5 is the max"), "{}", verdict.cause);
    assert_eq!(says(&mut scaler, load(100, 5), later + Duration::from_secs(6), 1000), None);
    let later = later + Duration::from_secs(2000);
    let (after, verdict) = says(&mut scaler, load(0, 3), later, 100).unwrap();
    assert_eq!((after, verdict.to), (60, 2));
    assert!(verdict.cause.ends_with("1 are enough, 2 is the min"), "{}", verdict.cause);
}

#[test]
fn fewer_are_enough_only_if_they_would_still_be_below_the_target_at_the_highest_load() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 1, 10);
    assert_eq!(says(&mut scaler, load(100, 3), now, 1000), None, "two would be at the target, not below");
    let mut at = now + Duration::from_secs(1000);
    let mut said = Vec::new();
    for second in 0..60 {
        // One peak in the midst of the time.
        let open = if second == 30 { 149 } else { 40 };
        said.extend(scaler.weigh(load(open, 5), at));
        at += Duration::from_secs(1);
    }
    assert_eq!(said, []);
    let verdict = scaler.weigh(load(40, 5), at).unwrap();
    assert_eq!(verdict.to, 3);
    assert_eq!(verdict.cause, "at most 149 open connections on 5 up for 1m, 50 each: 3 are enough");
}

#[test]
fn nothing_is_changed_while_a_change_is_under_way_or_has_just_been() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 1, 10);
    let (low, high) = (load(0, 5), load(1000, 5));
    for busy in
        [Load { starting: true, ..low }, Load { leaving: true, ..low }, Load { starting: true, ..high }]
    {
        assert_eq!(says(&mut scaler, busy, now, 200), None, "{busy:?}");
        scaler = Scaler::new(settings(50, 10), 1, 10);
    }
    // Clients that come are served, also while others are leaving.
    assert!(says(&mut scaler, Load { leaving: true, ..high }, now, 5).is_some());
    let again = says(&mut scaler, load(1000, 9), now + Duration::from_secs(5), 100).unwrap();
    assert_eq!(again.0, 10, "the cool-down, and then what was above for long enough meanwhile");
}

#[test]
fn while_nobody_is_up_more_of_the_same_would_not_help() {
    let mut scaler = Scaler::new(settings(50, 10), 1, 10);
    assert_eq!(says(&mut scaler, Load { up: 0, ..load(1000, 5) }, Instant::now(), 1000), None);
}

#[test]
fn those_that_are_not_up_do_not_count_and_those_of_others_do() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 1, 20);
    let (_, verdict) = says(&mut scaler, Load { up: 3, ..load(200, 5) }, now, 5).unwrap();
    assert_eq!(verdict.to, 6, "one more than there are, for those that are not up");
    let mut scaler = Scaler::new(settings(50, 10), 1, 20);
    let (_, verdict) = says(&mut scaler, Load { up: 7, ..load(400, 5) }, now, 5).unwrap();
    assert_eq!(verdict.to, 6, "two are somebody else's");
}

#[test]
fn a_dry_run_tells_each_thing_once() {
    let now = Instant::now();
    let mut scaler = Scaler::new(Autoscale { dry_run: true, ..settings(50, 10) }, 1, 10);
    let (after, verdict) = says(&mut scaler, load(230, 2), now, 100).unwrap();
    assert!(after == 5 && verdict.only_told && verdict.to == 5, "{verdict:?}");
    assert_eq!(says(&mut scaler, load(230, 2), now + Duration::from_secs(6), 1000), None);
    assert_eq!(says(&mut scaler, load(300, 2), now + Duration::from_secs(2000), 1000).unwrap().1.to, 6);
}

/// A pool in virtual time: replicas that are added are up after a while, and its load is what `open` says.
struct Pool {
    scaler: Scaler,
    replicas: u32,
    starting: Vec<u32>,
    boot: u32,
}

impl Pool {
    /// One tick, of a quarter of a second; a change, if there is one.
    fn tick(&mut self, tick: u32, open: u64, now: Instant) -> Option<(u32, u32)> {
        self.starting.retain(|ready| *ready > tick);
        let starting = u32::try_from(self.starting.len()).unwrap();
        let load = Load {
            open,
            up: self.replicas - starting,
            replicas: self.replicas,
            starting: starting > 0,
            leaving: false,
        };
        let verdict = self.scaler.weigh(load, now)?;
        if verdict.only_told {
            return None;
        }
        let from = std::mem::replace(&mut self.replicas, verdict.to);
        let added = verdict.to.saturating_sub(from);
        self.starting.extend((0..added).map(|_| tick + self.boot));
        Some((from, verdict.to))
    }
}

#[derive(Clone, Debug)]
enum Shape {
    Constant(u64),
    Jump(u64, u64, u32),
    Ramp(u64),
    Saw(u64, u32),
    Noise(Vec<u64>),
}

impl Shape {
    fn at(&self, tick: u32) -> u64 {
        match self {
            Self::Constant(load) => *load,
            Self::Jump(before, after, at) => {
                if tick < *at {
                    *before
                } else {
                    *after
                }
            }
            Self::Ramp(top) => top * u64::from(tick) / u64::from(TICKS),
            Self::Saw(top, period) => top * u64::from(tick % period) / u64::from(*period),
            Self::Noise(loads) => loads[tick as usize % loads.len()],
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let load = || 0..2000_u64;
    prop_oneof![
        load().prop_map(Shape::Constant),
        (load(), load(), 0..TICKS).prop_map(|(before, after, at)| Shape::Jump(before, after, at)),
        load().prop_map(Shape::Ramp),
        (load(), 1..2000_u32).prop_map(|(top, period)| Shape::Saw(top, period)),
        prop::collection::vec(load(), 1..500).prop_map(Shape::Noise),
    ]
}

/// Half an hour.
const TICKS: u32 = 7200;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn under_any_load_it_keeps_within_its_limits_and_does_not_flap(
        shape in shape(), target in 1..200_u32, step in 1..5_u32, min in 1..4_u32, more in 0..10_u32,
        boot in 0..80_u32, cooldown in 0..60_u64,
    ) {
        let max = min + more;
        let settings = Autoscale { cooldown: Duration::from_secs(cooldown), ..settings(target, step) };
        let scaler = Scaler::new(settings, min, max);
        let mut pool = Pool { scaler, replicas: min, starting: Vec::new(), boot };
        let began = Instant::now();
        let mut last: Option<(Instant, u32, u32)> = None;
        for tick in 0..TICKS {
            let now = began + Duration::from_millis(250) * tick;
            let Some((from, to)) = pool.tick(tick, shape.at(tick), now) else { continue };
            prop_assert!((min..=max).contains(&to), "{to}");
            prop_assert!(from != to && from.abs_diff(to) <= step, "{from} to {to}");
            if let Some((at, before, after)) = last {
                prop_assert!(now - at >= settings.cooldown, "{:?} after another one", now - at);
                // Who has just added takes out only after the whole time that fewer must have been enough for.
                let turned = (before < after) && to < from;
                prop_assert!(!turned || now - at >= settings.down_after);
            }
            last = Some((now, from, to));
        }
    }

    #[test]
    fn a_load_that_stands_still_comes_to_rest_at_enough(
        open in 0..2000_u64, target in 1..200_u32, step in 1..5_u32, min in 1..4_u32, more in 0..10_u32,
        first in 0..10_u32, boot in 0..80_u32,
    ) {
        let max = min + more;
        let scaler = Scaler::new(settings(target, step), min, max);
        let mut pool = Pool { scaler, replicas: (min + first).min(max), starting: Vec::new(), boot };
        let began = Instant::now();
        let mut changes = Vec::new();
        for tick in 0..TICKS {
            changes.extend(pool.tick(tick, open, began + Duration::from_millis(250) * tick));
        }
        prop_assert!(changes.len() <= 12, "{changes:?}");
        let (ups, downs): (Vec<_>, Vec<_>) = changes.iter().copied().partition(|(from, to): &(u32, u32)| to > from);
        prop_assert!(ups.is_empty() || downs.is_empty(), "it turned: {changes:?}");
        // Enough, and at most one more than enough: that one keeps it from turning.
        let enough = u32::try_from(open.div_ceil(u64::from(target))).unwrap().clamp(min, max);
        prop_assert!((enough..=(enough + 1).min(max)).contains(&pool.replicas), "{} for {enough}", pool.replicas);
    }
}
