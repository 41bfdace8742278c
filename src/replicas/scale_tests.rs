use std::num::NonZeroU32;

use super::*;
use proptest::prelude::*;

fn settings(target: u32, step: u32) -> Autoscale {
    Autoscale { step: NonZeroU32::new(step).unwrap(), ..Autoscale::new(NonZeroU32::new(target).unwrap()) }
}

fn load(open: u64, replicas: u32) -> ReplicaLoad {
    ReplicaLoad { open, up: replicas, replicas, starting: false, leaving: false }
}

/// The first advice within some seconds of constant load, and the second at which it comes.
fn first_advice(
    scaler: &mut Scaler,
    load: ReplicaLoad,
    from: Instant,
    seconds: u64,
) -> Option<(u64, ScaleAdvice)> {
    (0..=seconds).find_map(|second| Some((second, scaler.on_load(load, from + Duration::from_secs(second))?)))
}

#[test]
fn a_load_above_the_target_for_long_enough_adds_the_needed_number() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 2, 10);
    assert_eq!(first_advice(&mut scaler, load(100, 2), now, 100), None, "exactly the target is fine");
    let (after, advice) = first_advice(&mut scaler, load(230, 2), now, 100).unwrap();
    assert_eq!((after, advice.to), (5, 5));
    assert_eq!(advice.cause, "230 open connections on 2 up for 5s, 50 each: 5 needed");
}

#[test]
fn an_interruption_restarts_the_time() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 2, 10);
    assert_eq!(first_advice(&mut scaler, load(230, 2), now, 4), None);
    assert_eq!(scaler.on_load(load(100, 2), now + Duration::from_secs(5)), None);
    assert_eq!(first_advice(&mut scaler, load(230, 2), now + Duration::from_secs(6), 4), None);
}

#[test]
fn the_step_the_maximum_and_the_minimum_limit_the_change_and_are_named() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(10, 2), 2, 5);
    let (_, advice) = first_advice(&mut scaler, load(100, 2), now, 5).unwrap();
    assert_eq!(advice.to, 4);
    assert!(advice.cause.ends_with("10 needed, 2 at a time"), "{}", advice.cause);
    let later = now + Duration::from_secs(100);
    let (_, advice) = first_advice(&mut scaler, load(100, 4), later, 5).unwrap();
    assert_eq!(advice.to, 5);
    assert!(advice.cause.ends_with("10 needed, 5 is the max"), "{}", advice.cause);
    // At the maximum this is reported once.
    let later = later + Duration::from_secs(100);
    let (_, advice) = first_advice(&mut scaler, load(100, 5), later, 5).unwrap();
    assert!(advice.report_only && advice.cause.ends_with("10 needed, but 5 is the max"), "{}", advice.cause);
    assert_eq!(first_advice(&mut scaler, load(100, 5), later + Duration::from_secs(6), 1000), None);
    let later = later + Duration::from_secs(2000);
    let (after, advice) = first_advice(&mut scaler, load(0, 3), later, 100).unwrap();
    assert_eq!((after, advice.to), (60, 2));
    assert!(advice.cause.ends_with("1 are enough, 2 is the min"), "{}", advice.cause);
}

#[test]
fn fewer_are_enough_only_if_they_stay_below_the_target_at_the_peak() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 1, 10);
    assert_eq!(
        first_advice(&mut scaler, load(100, 3), now, 1000),
        None,
        "two would be at the target, not below"
    );
    let mut at = now + Duration::from_secs(1000);
    let mut advices = Vec::new();
    for second in 0..60 {
        // One peak halfway.
        let open = if second == 30 { 149 } else { 40 };
        advices.extend(scaler.on_load(load(open, 5), at));
        at += Duration::from_secs(1);
    }
    assert_eq!(advices, []);
    let advice = scaler.on_load(load(40, 5), at).unwrap();
    assert_eq!(advice.to, 3);
    assert_eq!(advice.cause, "at most 149 open connections on 5 up for 1m, 50 each: 3 are enough");
}

#[test]
fn nothing_changes_during_and_shortly_after_another_change() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 1, 10);
    let (low, high) = (load(0, 5), load(1000, 5));
    for busy in [
        ReplicaLoad { starting: true, ..low },
        ReplicaLoad { leaving: true, ..low },
        ReplicaLoad { starting: true, ..high },
    ] {
        assert_eq!(first_advice(&mut scaler, busy, now, 200), None, "{busy:?}");
        scaler = Scaler::new(settings(50, 10), 1, 10);
    }
    // A high load is served even while other replicas are leaving.
    assert!(first_advice(&mut scaler, ReplicaLoad { leaving: true, ..high }, now, 5).is_some());
    let again = first_advice(&mut scaler, load(1000, 9), now + Duration::from_secs(5), 100).unwrap();
    assert_eq!(again.0, 10, "after the cool-down; the load was above for long enough meanwhile");
}

#[test]
fn while_no_backend_is_up_no_replica_is_added() {
    let mut scaler = Scaler::new(settings(50, 10), 1, 10);
    assert_eq!(first_advice(&mut scaler, ReplicaLoad { up: 0, ..load(1000, 5) }, Instant::now(), 1000), None);
}

#[test]
fn replicas_that_are_down_do_not_count_and_other_backends_do() {
    let now = Instant::now();
    let mut scaler = Scaler::new(settings(50, 10), 1, 20);
    let (_, advice) = first_advice(&mut scaler, ReplicaLoad { up: 3, ..load(200, 5) }, now, 5).unwrap();
    assert_eq!(advice.to, 6, "one more than there are, as two are not up");
    let mut scaler = Scaler::new(settings(50, 10), 1, 20);
    let (_, advice) = first_advice(&mut scaler, ReplicaLoad { up: 7, ..load(400, 5) }, now, 5).unwrap();
    assert_eq!(advice.to, 6, "two are no replicas");
}

#[test]
fn a_dry_run_reports_each_advice_once() {
    let now = Instant::now();
    let mut scaler = Scaler::new(Autoscale { dry_run: true, ..settings(50, 10) }, 1, 10);
    let (after, advice) = first_advice(&mut scaler, load(230, 2), now, 100).unwrap();
    assert!(after == 5 && advice.report_only && advice.to == 5, "{advice:?}");
    assert_eq!(first_advice(&mut scaler, load(230, 2), now + Duration::from_secs(6), 1000), None);
    assert_eq!(
        first_advice(&mut scaler, load(300, 2), now + Duration::from_secs(2000), 1000).unwrap().1.to,
        6
    );
}

/// A pool in virtual time, whose new replicas are up after `boot` ticks.
struct ScaledPool {
    scaler: Scaler,
    replicas: u32,
    starting: Vec<u32>,
    boot: u32,
}

impl ScaledPool {
    /// One tick of a quarter of a second; the change of the number, if any.
    fn tick(&mut self, tick: u32, open: u64, now: Instant) -> Option<(u32, u32)> {
        self.starting.retain(|ready| *ready > tick);
        let starting = u32::try_from(self.starting.len()).unwrap();
        let load = ReplicaLoad {
            open,
            up: self.replicas - starting,
            replicas: self.replicas,
            starting: starting > 0,
            leaving: false,
        };
        let advice = self.scaler.on_load(load, now)?;
        if advice.report_only {
            return None;
        }
        let from = std::mem::replace(&mut self.replicas, advice.to);
        let added = advice.to.saturating_sub(from);
        self.starting.extend((0..added).map(|_| tick + self.boot));
        Some((from, advice.to))
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
    fn under_any_load_the_number_keeps_its_limits_and_does_not_flap(
        shape in shape(), target in 1..200_u32, step in 1..5_u32, min in 1..4_u32, more in 0..10_u32,
        boot in 0..80_u32, cooldown in 0..60_u64,
    ) {
        let max = min + more;
        let settings = Autoscale { cooldown: Duration::from_secs(cooldown), ..settings(target, step) };
        let scaler = Scaler::new(settings, min, max);
        let mut pool = ScaledPool { scaler, replicas: min, starting: Vec::new(), boot };
        let began = Instant::now();
        let mut last: Option<(Instant, u32, u32)> = None;
        for tick in 0..TICKS {
            let now = began + Duration::from_millis(250) * tick;
            let Some((from, to)) = pool.tick(tick, shape.at(tick), now) else { continue };
            prop_assert!((min..=max).contains(&to), "{to}");
            prop_assert!(from != to && from.abs_diff(to) <= step, "{from} to {to}");
            if let Some((at, before, after)) = last {
                prop_assert!(now - at >= settings.cooldown, "{:?} after another one", now - at);
                // After an addition, a removal needs the whole `down_after`.
                let turned = (before < after) && to < from;
                prop_assert!(!turned || now - at >= settings.down_after);
            }
            last = Some((now, from, to));
        }
    }

    #[test]
    fn a_constant_load_settles_at_enough_replicas(
        open in 0..2000_u64, target in 1..200_u32, step in 1..5_u32, min in 1..4_u32, more in 0..10_u32,
        first in 0..10_u32, boot in 0..80_u32,
    ) {
        let max = min + more;
        let scaler = Scaler::new(settings(target, step), min, max);
        let mut pool = ScaledPool { scaler, replicas: (min + first).min(max), starting: Vec::new(), boot };
        let began = Instant::now();
        let mut changes = Vec::new();
        for tick in 0..TICKS {
            changes.extend(pool.tick(tick, open, began + Duration::from_millis(250) * tick));
        }
        prop_assert!(changes.len() <= 12, "{changes:?}");
        let (ups, downs): (Vec<_>, Vec<_>) = changes.iter().copied().partition(|(from, to): &(u32, u32)| to > from);
        prop_assert!(ups.is_empty() || downs.is_empty(), "it reversed: {changes:?}");
        // At most one more than enough: that one prevents alternation.
        let enough = u32::try_from(open.div_ceil(u64::from(target))).unwrap().clamp(min, max);
        prop_assert!((enough..=(enough + 1).min(max)).contains(&pool.replicas), "{} for {enough}", pool.replicas);
    }
}
