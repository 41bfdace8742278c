//! The states that follow from several facts together: checks, ejections, operators, sources.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use super::tests::{SECOND, found, key_of, observed, states};
use super::*;
use crate::config::{Check, Eject, Health, Percent, Policy, Pool, Slow, Source};
use crate::discovery::{Fitness, Found, Observation, Outcome};
use crate::domain::{AdminState, CloseReason, EjectionReason, Ending, Failure};
use crate::own::Owner;
use crate::pool::snapshot::PoolSnapshot;

fn pool(checks: usize) -> Pool {
    let mut pool = Pool::new(vec![Source::Static(Vec::new())]);
    pool.health = vec![Health::new(Check::Tcp); checks];
    pool
}

/// A pool state with this number of backends, `a`, `b` and so on, all of them up.
fn all_up(config: Pool, backends: usize, now: Instant) -> PoolState {
    let checks = config.health.len();
    let mut pool_state = PoolState::new("web".into(), config, Arc::default());
    let names = (0..backends).map(|n| found(&letter(n), &format!("10.0.0.{}", n + 1)));
    pool_state.on(observed(SourceKey::Static, names.collect()), now);
    for n in 0..backends {
        (0..checks).for_each(|check| report_check(&mut pool_state, &letter(n), check, true, now));
    }
    assert!(pool_state.members().iter().all(|member| member.state == BackendState::Up));
    pool_state
}

fn letter(n: usize) -> String {
    char::from(b'a' + n as u8).to_string()
}

fn report_check(pool_state: &mut PoolState, name: &str, check: usize, passed: bool, now: Instant) {
    let result = if passed { Ok(()) } else { Err("no".to_owned().into()) };
    pool_state.on(Input::Checked(key_of(pool_state, name), check, result), now);
}

fn reset(pool_state: &mut PoolState, name: &str, in_a_row: u32, now: Instant) -> Vec<Effect> {
    pool_state.on(Input::Failed(key_of(pool_state, name), Failure::Reset, in_a_row), now)
}

fn send(pool_state: &mut PoolState, name: &str, command: Command, now: Instant) -> Vec<Effect> {
    pool_state.on(Input::Command(key_of(pool_state, name), command, "root".into()), now)
}

fn state(pool_state: &PoolState, name: &str) -> BackendState {
    pool_state.members().iter().find(|member| &*member.backend.name == name).unwrap().state
}

fn ejecting() -> Pool {
    Pool { eject: Some(Eject::default()), ..pool(0) }
}

#[test]
fn all_checks_must_pass_and_one_that_fails_is_enough() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), pool(2), Arc::default());
    pool_state.on(observed(SourceKey::Static, vec![found("a", "10.0.0.1")]), now);
    report_check(&mut pool_state, "a", 0, true, now);
    assert_eq!(state(&pool_state, "a"), BackendState::Joining);
    assert!(!pool_state.settled());
    report_check(&mut pool_state, "a", 1, true, now);
    assert_eq!(state(&pool_state, "a"), BackendState::Up);
    (0..3).for_each(|_| report_check(&mut pool_state, "a", 1, false, now));
    assert_eq!(state(&pool_state, "a"), BackendState::Down);
    report_check(&mut pool_state, "a", 0, true, now);
    assert_eq!(state(&pool_state, "a"), BackendState::Down);
    (0..2).for_each(|_| report_check(&mut pool_state, "a", 1, true, now));
    assert_eq!(state(&pool_state, "a"), BackendState::Up);
}

#[test]
fn failures_within_the_grace_period_do_not_count() {
    let mut config = pool(1);
    config.health[0].grace = 10 * SECOND;
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), config, Arc::default());
    pool_state.on(observed(SourceKey::Static, vec![found("a", "10.0.0.1"), found("b", "10.0.0.2")]), now);
    report_check(&mut pool_state, "a", 0, false, now);
    report_check(&mut pool_state, "b", 0, false, now + 9 * SECOND);
    assert_eq!(
        (state(&pool_state, "a"), state(&pool_state, "b")),
        (BackendState::Joining, BackendState::Joining)
    );
    assert!(pool_state.settled(), "the start does not wait for them");
    report_check(&mut pool_state, "a", 0, true, now + 9 * SECOND);
    report_check(&mut pool_state, "b", 0, false, now + 10 * SECOND);
    assert_eq!((state(&pool_state, "a"), state(&pool_state, "b")), (BackendState::Up, BackendState::Down));
}

#[test]
fn failures_in_a_row_eject_a_backend_each_time_for_longer() {
    let mut now = Instant::now();
    let mut pool_state = all_up(ejecting(), 3, now);
    reset(&mut pool_state, "a", 4, now);
    assert_eq!(state(&pool_state, "a"), BackendState::Up);
    for times in 1..=3 {
        reset(&mut pool_state, "a", 5, now);
        assert_eq!(state(&pool_state, "a"), BackendState::Ejected);
        let out = 30 * SECOND * times;
        assert_eq!(pool_state.deadline(now), Some(now + out));
        pool_state.on(Input::Tick, now + out - Duration::from_millis(1));
        assert_eq!(state(&pool_state, "a"), BackendState::Ejected);
        now += out;
        pool_state.on(Input::Tick, now);
        assert_eq!(state(&pool_state, "a"), BackendState::Up);
    }
}

#[test]
fn no_more_backends_are_ejected_than_at_most() {
    let now = Instant::now();
    let mut pool_state = all_up(ejecting(), 5, now);
    for name in ["a", "b"] {
        reset(&mut pool_state, name, 5, now);
        assert_eq!(state(&pool_state, name), BackendState::Ejected);
    }
    let effects = reset(&mut pool_state, "c", 5, now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Report(Event::EjectionSuppressed { .. }))));
    assert_eq!(state(&pool_state, "c"), BackendState::Up);
    // Of fewer backends, fewer may be ejected: the ejection that ends first is lifted first.
    let three = ["a", "b", "c"].map(|name| found(name, &format!("10.0.0.{}", name.as_bytes()[0] - b'a' + 1)));
    pool_state.on(observed(SourceKey::Static, three.to_vec()), now + SECOND);
    let left = [("a", BackendState::Up), ("b", BackendState::Ejected), ("c", BackendState::Up)];
    assert_eq!(states(&pool_state), left.map(|(name, state)| (name.to_owned(), state)));
    let mut alone = all_up(ejecting(), 1, now);
    reset(&mut alone, "a", 100, now);
    assert_eq!(state(&alone, "a"), BackendState::Up, "the last one is never ejected");
}

#[test]
fn the_checks_override_an_ejection() {
    let now = Instant::now();
    let mut pool_state = all_up(Pool { eject: Some(Eject::default()), ..pool(1) }, 3, now);
    reset(&mut pool_state, "a", 5, now);
    (0..3).for_each(|_| report_check(&mut pool_state, "a", 0, false, now));
    assert_eq!(state(&pool_state, "a"), BackendState::Down);
    (0..2).for_each(|_| report_check(&mut pool_state, "a", 0, true, now));
    assert_eq!(state(&pool_state, "a"), BackendState::Up);
}

#[test]
fn a_backend_much_slower_than_the_others_is_ejected() {
    let now = Instant::now();
    let slow = Slow { every: 10 * SECOND, ..Slow::default() };
    let eject = Eject { slow: Some(slow), ..Eject::default() };
    let mut pool_state = all_up(Pool { eject: Some(eject), ..pool(0) }, 3, now);
    let answer = |pool_state: &PoolState, millis: [u64; 3], answers| {
        for (member, millis) in pool_state.members().iter().zip(millis) {
            (0..answers).for_each(|_| member.backend.answered(Duration::from_millis(millis)));
        }
    };
    let mut at = now;
    let mut after = |pool_state: &mut PoolState| {
        at += 10 * SECOND;
        pool_state.on(Input::Tick, at);
        pool_state.members().iter().map(|member| member.state == BackendState::Ejected).collect::<Vec<_>>()
    };
    answer(&pool_state, [10, 15, 400], 19);
    assert_eq!(after(&mut pool_state), [false; 3], "too few answers prove nothing");
    answer(&pool_state, [10, 15, 90], 20);
    assert_eq!(after(&mut pool_state), [false; 3], "below the floor, no backend is slow");
    answer(&pool_state, [200, 250, 500], 20);
    assert_eq!(after(&mut pool_state), [false; 3], "twice as slow is not much slower");
    answer(&pool_state, [10, 15, 400], 20);
    assert_eq!(after(&mut pool_state), [false, false, true]);
    let [median, others] = [400, 10].map(Duration::from_millis);
    let why = &pool_state.members()[2].reason;
    assert!(
        matches!(why, StateReason::Ejected { why: EjectionReason::Slow { median: of, others: usual }, .. }
            if of.abs_diff(median) < median / 4 && usual.abs_diff(others) < others / 4),
        "{why:?}"
    );
    // Of two backends, each is compared with the other.
    let mut two = all_up(Pool { eject: Some(Eject { slow: Some(slow), ..eject }), ..pool(0) }, 2, now);
    answer(&two, [10, 400, 0], 20);
    assert_eq!(after(&mut two), [false, true]);
}

#[test]
fn the_health_that_a_source_reports_counts_at_once() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), pool(1), Arc::default());
    let report = |pool_state: &mut PoolState, fitness| {
        let one = Found { fitness, ..found("a", "10.0.0.1") };
        pool_state.on(observed(SourceKey::Static, vec![one]), now);
    };
    report(&mut pool_state, Fitness::Starting);
    report_check(&mut pool_state, "a", 0, true, now);
    assert_eq!(state(&pool_state, "a"), BackendState::Joining);
    assert!(pool_state.settled());
    report(&mut pool_state, Fitness::Healthy);
    assert_eq!(state(&pool_state, "a"), BackendState::Up);
    report(&mut pool_state, Fitness::Unhealthy("its HEALTHCHECK fails".into()));
    assert_eq!(state(&pool_state, "a"), BackendState::Down);
    assert_eq!(pool_state.members()[0].reason.to_string(), "its HEALTHCHECK fails");
}

#[test]
fn an_operator_drains_enables_and_disables_a_backend() {
    let now = Instant::now();
    let end = Policy::End { how: Ending::Close, after: Duration::ZERO, over: SECOND };
    let mut pool_state = all_up(Pool { on_drain: end, ..pool(1) }, 2, now);
    let backend = Arc::clone(&pool_state.members()[0].backend);
    send(&mut pool_state, "a", Command::SetAdminState(AdminState::Draining), now);
    assert_eq!(state(&pool_state, "a"), BackendState::Draining);
    assert_eq!(pool_state.members()[0].reason.to_string(), "drained by root");
    assert!(backend.directive().is_some_and(|directive| directive.reason == CloseReason::Operator));
    pool_state.on(Input::Tick, now + 100 * SECOND);
    assert_eq!(pool_state.members().len(), 2, "a backend that an operator drained stays");
    send(&mut pool_state, "a", Command::SetAdminState(AdminState::Up), now);
    assert_eq!((state(&pool_state, "a"), backend.directive()), (BackendState::Up, None));
    let effects = send(&mut pool_state, "a", Command::SetAdminState(AdminState::Maintenance), now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Uncheck(_))));
    let effects = send(&mut pool_state, "a", Command::SetAdminState(AdminState::Up), now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Check(_))));
    assert_eq!(state(&pool_state, "a"), BackendState::Joining, "it was not checked meanwhile");
    report_check(&mut pool_state, "a", 0, true, now);
    assert_eq!(state(&pool_state, "a"), BackendState::Up);
}

#[test]
fn an_operators_weight_holds_until_the_source_gives_another() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), pool(0), Arc::default());
    let report_weight = |pool_state: &mut PoolState, weight| {
        pool_state.on(observed(SourceKey::Static, vec![Found { weight, ..found("a", "10.0.0.1") }]), now);
        pool_state.members()[0].weight
    };
    assert_eq!(report_weight(&mut pool_state, 2), 2);
    let effects = send(&mut pool_state, "a", Command::SetWeight(0), now);
    let [saved, reported] = &effects[..] else { panic!("{effects:?}") };
    assert!(matches!(saved, Effect::SaveSettings), "{effects:?}");
    assert!(matches!(reported, Effect::Report(Event::WeightChanged { weight: 0, .. })), "{effects:?}");
    assert_eq!(report_weight(&mut pool_state, 2), 0);
    assert_eq!(report_weight(&mut pool_state, 3), 3);
}

#[test]
fn of_several_sources_the_first_that_reports_more_than_addresses_sets_the_options() {
    let now = Instant::now();
    let dns = config::Dns::new("backend".into(), 5000);
    let file = config::File::new("a".into());
    let discover = vec![Source::Dns(dns.clone()), Source::File(file), Source::Static(Vec::new())];
    let [dns, file, written] = [0, 1, 2].map(|n| SourceKey::from(&discover[n]));
    let reported = |name: &str, weight, backup| Found {
        weight,
        tier: backup,
        connections: NonZeroU32::new(weight),
        ..found(name, "10.0.0.1")
    };
    let answers = [
        (dns, Found { nameless: true, ..reported("10.0.0.1:5000", 1, 0) }),
        (file, reported("file", 5, 1)),
        (written, reported("static", 7, 0)),
    ];
    // The order of their answers does not matter.
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut pool_state = PoolState::new("web".into(), Pool::new(discover.clone()), Arc::default());
        for n in order {
            let (key, found) = answers[n].clone();
            pool_state.on(observed(key, vec![found]), now);
        }
        let member = &pool_state.members()[0];
        assert_eq!(pool_state.members().len(), 1);
        assert_eq!((&*member.backend.name, member.weight, member.tier), ("file", 5, 1));
        assert_eq!(member.connections, NonZeroU32::new(5));
    }
}

#[test]
fn an_unreadable_file_removes_no_backend() {
    let now = Instant::now();
    let file = Source::File(config::File::new("backends.yaml".into()));
    let key = SourceKey::from(&file);
    let mut config = Pool::new(vec![file]);
    config.health = vec![Health::new(Check::Tcp)];
    let mut pool_state = PoolState::new("web".into(), config, Arc::default());
    pool_state.on(observed(key.clone(), vec![found("a", "10.0.0.1")]), now);
    report_check(&mut pool_state, "a", 0, false, now);
    let broken = Observation { outcome: Outcome::ServerFailure("broken".into()), owners: HashMap::new() };
    pool_state.on(Input::Observed(key, broken), now);
    pool_state.on(Input::Tick, now + 1_000_000 * SECOND);
    assert_eq!(states(&pool_state), [("a".to_owned(), BackendState::Down)]);
}

#[test]
fn a_backend_that_came_up_gets_its_share_step_by_step() {
    let now = Instant::now();
    let mut pool_state = all_up(Pool { slow_start: 10 * SECOND, ..pool(0) }, 1, now);
    let mut at = now;
    for step in 1..=10 {
        assert_eq!(pool_state.members()[0].step, step);
        let next = pool_state.deadline(at);
        assert_eq!(next, (step < 10).then(|| now + SECOND * step).or(Some(now + 10 * SECOND)));
        at = next.unwrap();
        let effects = pool_state.on(Input::Tick, at);
        assert_eq!(effects.iter().any(|effect| matches!(effect, Effect::Reshape)), step < 10);
    }
    assert_eq!(pool_state.deadline(at), None);
}

#[test]
fn a_close_directive_can_leave_time_to_recover() {
    let now = Instant::now();
    let end = Policy::End { how: Ending::Close, after: 10 * SECOND, over: SECOND };
    let mut pool_state = all_up(Pool { on_down: end, ..pool(1) }, 1, now);
    let backend = Arc::clone(&pool_state.members()[0].backend);
    (0..3).for_each(|_| report_check(&mut pool_state, "a", 0, false, now));
    assert_eq!(
        backend.directive().map(|directive| (directive.at, directive.over)),
        Some((now + 10 * SECOND, SECOND))
    );
    (0..2).for_each(|_| report_check(&mut pool_state, "a", 0, true, now));
    assert_eq!(backend.directive(), None);
}

#[test]
fn the_checks_of_a_drained_backend_may_fail_while_its_connections_finish() {
    let now = Instant::now();
    let end = |how| Policy::End { how, after: Duration::ZERO, over: SECOND };
    let config = Pool { on_down: end(Ending::Reset), on_drain: end(Ending::Close), ..pool(1) };
    let mut pool_state = all_up(config, 1, now);
    let backend = Arc::clone(&pool_state.members()[0].backend);
    send(&mut pool_state, "a", Command::SetAdminState(AdminState::Draining), now);
    (0..3).for_each(|_| report_check(&mut pool_state, "a", 0, false, now));
    assert!(backend.directive().is_some_and(|directive| directive.reason == CloseReason::Operator));
    assert_eq!(state(&pool_state, "a"), BackendState::Draining);
    send(&mut pool_state, "a", Command::SetAdminState(AdminState::Up), now);
    assert!(backend.directive().is_some_and(|directive| directive.reason == CloseReason::BackendDown));
}

/// A machine that has the address 10.0.0.1.
fn machine(address: SocketAddr) -> bool {
    address.ip() == IpAddr::from([10, 0, 0, 1])
}

/// The numbers of checks that these effects start and stop.
fn checks(effects: &[Effect]) -> (usize, usize) {
    let count = |is: fn(&Effect) -> bool| effects.iter().filter(|effect| is(effect)).count();
    (count(|e| matches!(e, Effect::Check(_))), count(|e| matches!(e, Effect::Uncheck(_))))
}

#[test]
fn a_backend_at_an_own_address_is_refused_with_the_cause_until_nothing_listens_there() {
    let now = Instant::now();
    let listener = vec![("0.0.0.0:5000".parse().unwrap(), Owner::Listener("web".into()))];
    let mut config = pool(1);
    config.panic = Percent(100);
    let own = Arc::new(OwnAddresses::on_a_machine(listener, machine));
    let mut pool_state = PoolState::new("web".into(), config.clone(), own);
    let source = config.discover.first().map(SourceKey::from).unwrap();
    let answer = || observed(source.clone(), vec![found("own", "10.0.0.1"), found("other", "10.0.0.2")]);
    let effects = pool_state.on(answer(), now);
    assert_eq!(checks(&effects), (1, 0), "no check goes to an own address");
    let member = &pool_state.members()[0];
    assert_eq!((&*member.backend.name, member.state), ("own", BackendState::Down));
    assert_eq!(member.reason.to_string(), "refused: 10.0.0.1:5000 is this balancer's own listener \"web\"");
    // Checks, panic and operators cannot put it in service.
    let (own, other) = (key_of(&pool_state, "own"), key_of(&pool_state, "other"));
    pool_state.on(Input::Checked(own, 0, Ok(())), now);
    pool_state.on(Input::Checked(other, 0, Err("no".to_owned().into())), now);
    pool_state.on(Input::Command(own, Command::SetAdminState(AdminState::Maintenance), "root".into()), now);
    let effects =
        pool_state.on(Input::Command(own, Command::SetAdminState(AdminState::Up), "root".into()), now);
    assert_eq!(checks(&effects), (0, 0));
    assert_eq!(pool_state.members()[0].state, BackendState::Down);
    let snapshot = PoolSnapshot::new(&config, pool_state.members(), None);
    assert!(snapshot.panic);
    assert_eq!(snapshot.backends().map(|backend| backend.key).collect::<Vec<_>>(), [other]);
    // Once the address is free, the backend is like any other.
    let effects = pool_state.on(Input::OwnAddresses(Arc::default()), now);
    assert_eq!((checks(&effects), pool_state.members()[0].state), ((1, 0), BackendState::Joining));
    pool_state.on(Input::Checked(own, 0, Ok(())), now);
    assert_eq!(pool_state.members()[0].state, BackendState::Up);
    // It is refused again, and its connections are closed, when a listener binds the address.
    let admin = vec![("10.0.0.1:5000".parse().unwrap(), Owner::Admin)];
    let effects = pool_state.on(Input::OwnAddresses(Arc::new(OwnAddresses::new(admin))), now);
    assert_eq!((checks(&effects), pool_state.members()[0].state), ((0, 1), BackendState::Down));
    let refused = "refused: 10.0.0.1:5000 is this balancer's own admin server";
    assert_eq!(pool_state.members()[0].reason.to_string(), refused);
    let directive = pool_state.members()[0].backend.directive().unwrap();
    assert_eq!(
        (directive.how, directive.at, directive.reason),
        (Ending::Reset, now, CloseReason::BackendDown)
    );
}

#[test]
fn an_address_that_this_machine_gets_while_it_runs_is_noticed_within_a_second() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static HAS_IT: AtomicBool = AtomicBool::new(false);
    let now = Instant::now();
    let bound = vec![("0.0.0.0:5000".parse().unwrap(), Owner::Admin)];
    let own = Arc::new(OwnAddresses::on_a_machine(bound, |_| HAS_IT.load(Ordering::Relaxed)));
    let config = pool(0);
    let mut pool_state = PoolState::new("web".into(), config.clone(), own);
    let source = config.discover.first().map(SourceKey::from).unwrap();
    pool_state.on(observed(source, vec![found("a", "10.0.0.1")]), now);
    assert_eq!(pool_state.members()[0].state, BackendState::Up);
    HAS_IT.store(true, Ordering::Relaxed);
    let due = pool_state.deadline(now).unwrap();
    assert!(due > now && due <= now + SECOND, "{:?}", due - now);
    pool_state.on(Input::Tick, due - Duration::from_millis(1));
    assert_eq!(pool_state.members()[0].state, BackendState::Up);
    pool_state.on(Input::Tick, due);
    assert_eq!(pool_state.members()[0].state, BackendState::Down);
    HAS_IT.store(false, Ordering::Relaxed);
    pool_state.on(Input::Tick, due + SECOND);
    assert_eq!(pool_state.members()[0].state, BackendState::Up);
}
