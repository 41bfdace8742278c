use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::source_entries::REPLACEMENT_TIMEOUT;
use super::*;
use crate::config::{Check, Dns, Health, Policy, Pool, Source};
use crate::discovery::{Found, Observation, Outcome};
use crate::domain::{CloseReason, Ending, Failure};

pub(super) const SECOND: Duration = Duration::from_secs(1);

fn dns_pool(health: bool) -> Pool {
    let mut pool = Pool::new(vec![Source::Dns(Dns::new("backend".into(), 5000))]);
    pool.health = health.then(|| Health::new(Check::Tcp)).into_iter().collect();
    pool
}

fn key() -> SourceKey {
    SourceKey::Dns("backend".into(), 5000)
}

pub(super) fn found(name: &str, ip: &str) -> Found {
    let address = SocketAddr::new(ip.parse().unwrap(), 5000);
    Found::new(name.into(), address.into())
}

fn seen(backends: &[(&str, &str)]) -> Input {
    let owners = backends.iter().map(|(name, ip)| (ip.parse().unwrap(), (*name).into())).collect();
    let found: Vec<_> = backends.iter().map(|(name, ip)| found(name, ip)).collect();
    let outcome =
        if found.is_empty() { Outcome::NoSuchName("none".into()) } else { Outcome::Backends(found) };
    Input::Observed(key(), Observation { outcome, owners })
}

fn timeout() -> Input {
    Input::Observed(
        key(),
        Observation { outcome: Outcome::Timeout("silence".into()), owners: HashMap::new() },
    )
}

/// A source's answer.
pub(super) fn observed(key: SourceKey, found: Vec<Found>) -> Input {
    let outcome = if found.is_empty() { Outcome::Empty } else { Outcome::Backends(found) };
    Input::Observed(key, Observation { outcome, owners: HashMap::new() })
}

pub(super) fn states(pool_state: &PoolState) -> Vec<(String, BackendState)> {
    pool_state.members().iter().map(|m| (m.backend.name.to_string(), m.state)).collect()
}

/// The key of the only backend of that name that is not leaving.
pub(super) fn key_of(pool_state: &PoolState, name: &str) -> u64 {
    let mut members = pool_state.members().iter().filter(|m| &*m.backend.name == name && !m.leaving());
    members.next().unwrap().backend.key
}

fn up(pool_state: &mut PoolState, name: &str, now: Instant) {
    let key = key_of(pool_state, name);
    pool_state.on(Input::Checked(key, 0, Ok(())), now);
}

fn fail(pool_state: &mut PoolState, name: &str, now: Instant) {
    let key = key_of(pool_state, name);
    pool_state.on(Input::Checked(key, 0, Err("no".to_owned().into())), now);
}

/// The changes of state among the effects: each is reported, and then counted.
pub(super) fn changes(effects: Vec<Effect>) -> Vec<(Arc<Backend>, BackendState, BackendState, StateReason)> {
    let mut reported = None;
    let change = |effect| match effect {
        Effect::Report(Event::StateChanged { from, to, reason, .. }) => {
            reported = Some((from, to, reason));
            None
        }
        Effect::CountState(backend, entered) => {
            let (from, to, reason) = reported.take().expect("a change that is counted was reported");
            assert_eq!(entered, to);
            Some((backend, from, to, reason))
        }
        _ => None,
    };
    effects.into_iter().filter_map(change).collect()
}

#[test]
fn a_new_backend_is_up_after_its_first_success_and_down_after_its_first_failure() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), now);
    assert!(!pool_state.settled());
    up(&mut pool_state, "a", now);
    fail(&mut pool_state, "b", now);
    assert_eq!(states(&pool_state), [("a".into(), BackendState::Up), ("b".into(), BackendState::Down)]);
    assert!(pool_state.settled());
}

/// The same backends before their names are known.
fn seen_nameless(ips: &[&str], owners: &[(&str, &str)]) -> Input {
    let nameless = |ip: &&str| Found { nameless: true, ..found(&format!("{ip}:5000"), ip) };
    let outcome = match ips {
        [] => Outcome::Empty,
        ips => Outcome::Backends(ips.iter().map(nameless).collect()),
    };
    let owners = owners.iter().map(|(name, ip)| (ip.parse().unwrap(), (*name).into())).collect();
    Input::Observed(key(), Observation { outcome, owners })
}

#[test]
fn a_backend_whose_name_becomes_known_keeps_its_state_and_its_connections() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen_nameless(&["10.0.0.1"], &[]), now);
    up(&mut pool_state, "10.0.0.1:5000", now);
    let before = Arc::clone(&pool_state.members()[0].backend);
    let _lease = before.load.lease();
    let effects = pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    let named = |effect: &Effect| matches!(effect, Effect::Report(Event::BackendNamed { .. }));
    assert!(effects.len() == 1 && named(&effects[0]), "{effects:?}");
    assert_eq!(pool_state.members()[0].backend.key, before.key);
    assert_eq!(states(&pool_state), [("a".into(), BackendState::Up)]);
    assert_eq!(pool_state.members()[0].backend.load.open(), 1);
    // From now on another name is another backend.
    pool_state.on(seen(&[("b", "10.0.0.1")]), now);
    assert_eq!(
        states(&pool_state),
        [("a".into(), BackendState::Draining), ("b".into(), BackendState::Joining)]
    );
}

#[test]
fn a_missing_nameless_backend_does_not_get_the_name_of_the_new_owner_of_its_address() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(false), Arc::default());
    pool_state.on(seen_nameless(&["10.0.0.1"], &[]), now);
    let _lease = pool_state.members()[0].backend.load.lease();
    pool_state.on(seen_nameless(&[], &[("stranger", "10.0.0.1")]), now);
    assert_eq!(states(&pool_state), [("10.0.0.1:5000".into(), BackendState::Draining)]);
}

#[test]
fn backends_removed_from_the_configuration_stay_until_their_replacements_are_checked() {
    let now = Instant::now();
    let listed = |ips: &[&str]| {
        let list = ips
            .iter()
            .map(|ip| config::StaticBackend::new(SocketAddr::new(ip.parse().unwrap(), 5000).into()));
        let mut pool = Pool::new(vec![Source::Static(list.collect())]);
        pool.health = vec![Health::new(Check::Tcp)];
        let found = ips.iter().map(|ip| found(&format!("{ip}:5000"), ip)).collect();
        let outcome = Outcome::Backends(found);
        (pool, Input::Observed(SourceKey::Static, Observation { outcome, owners: HashMap::new() }))
    };
    let (config, observed) = listed(&["10.0.0.1"]);
    let mut pool_state = PoolState::new("web".into(), config, Arc::default());
    pool_state.on(observed, now);
    up(&mut pool_state, "10.0.0.1:5000", now);
    let (config, observed) = listed(&["10.0.0.2"]);
    pool_state.on(Input::Reconfigured(Box::new(config.clone())), now);
    assert!(!pool_state.settled(), "the new list was not looked at yet");
    pool_state.on(observed, now);
    let both =
        [("10.0.0.1:5000".to_owned(), BackendState::Up), ("10.0.0.2:5000".to_owned(), BackendState::Joining)];
    assert_eq!(states(&pool_state), both);
    up(&mut pool_state, "10.0.0.2:5000", now);
    assert_eq!(states(&pool_state), [("10.0.0.2:5000".into(), BackendState::Up)]);
    // The wait for replacements is bounded.
    pool_state.on(Input::Reconfigured(Box::new(dns_pool(true))), now);
    assert_eq!(pool_state.deadline(now), Some(now + REPLACEMENT_TIMEOUT));
    pool_state.on(Input::Tick, now + REPLACEMENT_TIMEOUT);
    assert_eq!(states(&pool_state), []);
}

#[test]
fn without_checks_a_backend_is_up_as_soon_as_it_is_found() {
    let mut pool_state = PoolState::new("web".into(), dns_pool(false), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1")]), Instant::now());
    assert_eq!(states(&pool_state), [("a".into(), BackendState::Up)]);
}

#[test]
fn a_name_that_vanishes_leaves_after_flap_and_not_before() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), now);
    up(&mut pool_state, "a", now);
    up(&mut pool_state, "b", now);
    pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    assert_eq!(pool_state.deadline(now), Some(now + 3 * SECOND));
    pool_state.on(Input::Tick, now + 3 * SECOND - Duration::from_millis(1));
    assert_eq!(pool_state.members().len(), 2);
    // It is back in time: nothing has happened.
    pool_state.on(seen(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), now + 2 * SECOND);
    pool_state.on(Input::Tick, now + 10 * SECOND);
    assert_eq!(pool_state.members().len(), 2);
    pool_state.on(seen(&[]), now + 11 * SECOND);
    pool_state.on(Input::Tick, now + 14 * SECOND);
    assert!(pool_state.members().is_empty());
}

#[test]
fn a_missing_backend_is_down_after_one_failed_check() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), now);
    up(&mut pool_state, "b", now);
    fail(&mut pool_state, "b", now);
    assert_eq!(states(&pool_state)[1].1, BackendState::Up, "one failure is not enough");
    let effects = pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::CheckNow(_))));
    fail(&mut pool_state, "b", now);
    assert_eq!(states(&pool_state)[1].1, BackendState::Down);
}

#[test]
fn dns_timeouts_never_empty_the_pool_but_a_failing_backend_leaves_after_hold() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), now);
    up(&mut pool_state, "a", now);
    fail(&mut pool_state, "b", now);
    pool_state.on(timeout(), now);
    assert_eq!(pool_state.deadline(now), Some(now + 10 * SECOND));
    pool_state.on(Input::Tick, now + 9 * SECOND);
    assert_eq!(pool_state.members().len(), 2);
    pool_state.on(timeout(), now + 10 * SECOND);
    assert_eq!(states(&pool_state), [("a".into(), BackendState::Up)]);
    pool_state.on(timeout(), now + 1000 * SECOND);
    assert_eq!(states(&pool_state), [("a".into(), BackendState::Up)]);
}

#[test]
fn an_address_that_goes_to_another_name_is_another_backend_at_once() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen(&[("a.net", "10.0.0.1")]), now);
    up(&mut pool_state, "a.net", now);
    let old = Arc::clone(&pool_state.members()[0].backend);
    let lease = old.load.lease();
    let effects = pool_state.on(seen(&[("b.net", "10.0.0.1")]), now);
    assert_eq!(
        states(&pool_state),
        [("a.net".into(), BackendState::Draining), ("b.net".into(), BackendState::Joining)]
    );
    assert_eq!(pool_state.members()[0].reason, StateReason::AddressTaken { by: "b.net".into() });
    assert!(old.directive().is_some_and(|directive| directive.reason == CloseReason::BackendLeft));
    assert!(effects.iter().any(|e| matches!(e, Effect::Check(backend) if &*backend.name == "b.net")));
    assert_eq!(pool_state.members()[1].backend.load.open(), 0, "it inherits nothing");
    // A late result of the old one's check has no effect.
    pool_state.on(Input::Checked(old.key, 0, Ok(())), now);
    assert_eq!(states(&pool_state)[1].1, BackendState::Joining);
    drop(lease);
    pool_state.on(Input::Tick, now);
    assert_eq!(states(&pool_state), [("b.net".into(), BackendState::Joining)]);
}

#[test]
fn a_missing_backend_whose_address_has_a_new_owner_leaves_at_once_even_after_a_dns_timeout() {
    for answer in [Outcome::NoSuchName("none".into()), Outcome::Timeout("silence".into())] {
        let now = Instant::now();
        let mut pool_state = PoolState::new("web".into(), dns_pool(false), Arc::default());
        pool_state.on(seen(&[("alpha.net", "10.0.0.4")]), now);
        let owners = HashMap::from([("10.0.0.4".parse::<IpAddr>().unwrap(), "beta.net".into())]);
        pool_state.on(Input::Observed(key(), Observation { outcome: answer, owners }), now);
        assert!(pool_state.members().is_empty());
    }
}

#[test]
fn the_status_of_a_source_is_reported_when_it_changes_and_each_mistake_once() {
    let now = Instant::now();
    let key = SourceKey::File("backends.yaml".into());
    let mut pool_state = PoolState::new(
        "web".into(),
        Pool::new(vec![Source::File(config::File::new("backends.yaml".into()))]),
        Arc::default(),
    );
    let good = || Outcome::Backends(vec![found("a", "10.0.0.1")]);
    let invalid = |reason: &str| Outcome::Invalid(reason.into());
    let check = |(answer, expected): (Outcome, bool)| {
        let observation = Observation { outcome: answer.clone(), owners: HashMap::new() };
        let effects = pool_state.on(Input::Observed(key.clone(), observation), now);
        let reported = effects
            .iter()
            .any(|effect| matches!(effect, Effect::Report(Event::ResolverStatusChanged { .. })));
        assert_eq!(reported, expected, "{answer:?}");
        assert_eq!(states(&pool_state), [("a".into(), BackendState::Up)]);
    };
    let answers = [
        (good(), false),
        (good(), false),
        (invalid("one"), true),
        (invalid("one"), false),
        (invalid("two"), true),
        (good(), true),
        // The texts of these differ each time.
        (Outcome::Timeout("one".into()), true),
        (Outcome::Timeout("two".into()), false),
    ];
    answers.into_iter().for_each(check);
}

#[test]
fn a_failed_connection_counts_and_queries_the_sources() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    up(&mut pool_state, "a", now);
    let key = key_of(&pool_state, "a");
    for n in 1..=3 {
        assert_eq!(states(&pool_state)[0].1, BackendState::Up);
        let effects = pool_state.on(Input::Failed(key, Failure::Connect("refused".into()), 1), now);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::QueryNow)), "{n}");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::CheckSoon(_, 0))), "{n}");
    }
    assert_eq!(states(&pool_state)[0].1, BackendState::Down);
    let cause = "3 failures in a row: a client's connection failed: refused";
    assert_eq!(pool_state.members()[0].reason.to_string(), cause, "no check has failed");
    // More failures must not delay the recovery of a backend that is already down.
    for _ in 0..10 {
        pool_state.on(Input::Failed(key, Failure::Connect("refused".into()), 1), now);
    }
    up(&mut pool_state, "a", now);
    up(&mut pool_state, "a", now);
    assert_eq!(states(&pool_state)[0].1, BackendState::Up);
}

#[test]
fn a_backend_that_comes_up_again_withdraws_its_close_directive() {
    let now = Instant::now();
    let mut pool = dns_pool(true);
    pool.on_down = Policy::End { how: Ending::Reset, after: Duration::ZERO, over: SECOND };
    let mut pool_state = PoolState::new("web".into(), pool, Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    up(&mut pool_state, "a", now);
    (0..3).for_each(|_| fail(&mut pool_state, "a", now));
    let backend = Arc::clone(&pool_state.members()[0].backend);
    assert!(backend.directive().is_some());
    (0..2).for_each(|_| up(&mut pool_state, "a", now));
    assert!(backend.directive().is_none());
    assert_eq!(backend.directives(), 2, "connections see that something has changed");
}

#[test]
fn one_address_in_two_sources_is_one_backend() {
    let now = Instant::now();
    let mut pool = dns_pool(false);
    pool.discover.push(Source::Static(Vec::new()));
    let mut pool_state = PoolState::new("web".into(), pool, Arc::default());
    pool_state.on(observed(SourceKey::Static, vec![found("big", "10.0.0.1")]), now);
    pool_state.on(seen(&[("a.net", "10.0.0.1")]), now);
    assert_eq!(pool_state.members().len(), 1);
    // It stays while one of them reports it.
    pool_state.on(seen(&[]), now);
    pool_state.on(Input::Tick, now + 10 * SECOND);
    assert_eq!(pool_state.members().len(), 1);
}

#[derive(Clone, Debug)]
enum Happening {
    Seen(BTreeSet<u8>, u8),
    Timeout,
    Checked(usize, bool),
    ConnectFailed(usize),
    Wait(u64),
    Connect(usize),
    Disconnect(usize),
    Health(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (proptest::collection::btree_set(0u8..6, 0..6), 0u8..3).prop_map(|(set, name)| Happening::Seen(set, name)),
        1 => Just(Happening::Timeout),
        6 => (0usize..8, any::<bool>()).prop_map(|(index, ok)| Happening::Checked(index, ok)),
        2 => (0usize..8).prop_map(Happening::ConnectFailed),
        2 => (0u64..8000).prop_map(Happening::Wait),
        2 => (0usize..8).prop_map(Happening::Connect),
        2 => (0usize..8).prop_map(Happening::Disconnect),
        1 => any::<bool>().prop_map(Happening::Health),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// For any sequence of inputs: no two live backends have one address; a backend that is up was found and, where
    /// there are checks, has passed one; a backend that has left and has no connection is gone; each reported change
    /// begins with the last reported state; and without further inputs, exactly the backends of the last conclusive
    /// answer remain.
    #[test]
    fn after_any_sequence_of_inputs_the_pool_state_is_valid(happenings in proptest::collection::vec(happening(), 1..60)) {
        let mut now = Instant::now();
        let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
        let mut leases: Vec<crate::balance::Lease> = Vec::new();
        let mut reported: BTreeMap<u64, BackendState> = BTreeMap::new();
        let mut checked: BTreeSet<u64> = BTreeSet::new();
        let mut last: BTreeSet<(String, String)> = BTreeSet::new();
        let mut health = true;
        let pick = |pool_state: &PoolState, index: usize| pool_state.members().get(index).map(|m| Arc::clone(&m.backend));
        for happening in happenings {
            let event = match happening {
                Happening::Seen(set, name) => {
                    last = set.iter().map(|n| (format!("web-{n}-{}", n % 3 + name), format!("10.0.0.{}", n + 1))).collect();
                    let backends: Vec<_> = last.iter().map(|(name, ip)| (&**name, &**ip)).collect();
                    seen(&backends)
                }
                Happening::Timeout => timeout(),
                Happening::Checked(index, ok) => match pick(&pool_state, index) {
                    Some(backend) => {
                        if ok { checked.insert(backend.key); }
                        Input::Checked(backend.key, 0, ok.then_some(()).ok_or_else(|| "no".to_owned().into()))
                    }
                    None => continue,
                },
                Happening::ConnectFailed(index) => match pick(&pool_state, index) {
                    Some(backend) => Input::Failed(backend.key, Failure::Connect("refused".into()), 1),
                    None => continue,
                },
                Happening::Wait(millis) => { now += Duration::from_millis(millis); Input::Tick }
                Happening::Connect(index) => {
                    leases.extend(pick(&pool_state, index).map(|backend| backend.load.lease()));
                    Input::Tick
                }
                Happening::Disconnect(index) => {
                    if !leases.is_empty() { let n = leases.len(); leases.swap_remove(index % n); }
                    Input::Tick
                }
                Happening::Health(on) => { health = on; Input::Reconfigured(Box::new(dns_pool(on))) }
            };
            for (backend, from, to, _) in changes(pool_state.on(event, now)) {
                let before = if to == BackendState::Gone { reported.remove(&backend.key) } else { reported.insert(backend.key, to) };
                prop_assert_eq!(before.unwrap_or(BackendState::Gone), from);
                if to == BackendState::Up && !health { checked.insert(backend.key); }
            }
            let mut addresses = BTreeSet::new();
            for member in pool_state.members() {
                prop_assert_eq!(reported.get(&member.backend.key), Some(&member.state));
                if member.leaving() {
                    prop_assert!(member.backend.load.open() > 0);
                    continue;
                }
                prop_assert!(addresses.insert(member.backend.address.clone()), "two backends at one address");
                if member.state == BackendState::Up {
                    prop_assert!(checked.contains(&member.backend.key), "up without a check");
                }
            }
        }
        drop(leases);
        let backends: Vec<_> = last.iter().map(|(name, ip)| (&**name, &**ip)).collect();
        pool_state.on(seen(&backends), now);
        now += Duration::from_secs(60);
        pool_state.on(seen(&backends), now);
        let left: BTreeSet<_> = pool_state.members().iter()
            .map(|m| (m.backend.name.to_string(), m.backend.address.ip().unwrap().to_string())).collect();
        prop_assert_eq!(left, last);
    }
}

#[test]
fn a_removed_pool_ignores_later_observations() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(true), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    pool_state.on(Input::Removed, now);
    let effects = pool_state.on(seen(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), now);
    assert!(pool_state.members().is_empty() && effects.is_empty(), "{effects:?}");
}

#[test]
fn a_backend_that_is_reported_again_without_its_name_is_the_same() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(false), Arc::default());
    pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    let key = key_of(&pool_state, "a");
    let effects = pool_state.on(seen_nameless(&["10.0.0.1"], &[]), now);
    assert!(effects.is_empty(), "{effects:?}");
    pool_state.on(seen(&[("a", "10.0.0.1")]), now);
    assert_eq!(key_of(&pool_state, "a"), key);
    // Another name is still another backend.
    pool_state.on(seen_nameless(&["10.0.0.1"], &[]), now);
    pool_state.on(seen(&[("b", "10.0.0.1")]), now);
    assert_ne!(key_of(&pool_state, "b"), key);
}

#[test]
fn the_report_of_another_source_outlives_a_new_owner_of_the_address() {
    let now = Instant::now();
    let mut pool = dns_pool(false);
    pool.discover.push(Source::Static(Vec::new()));
    let mut pool_state = PoolState::new("web".into(), pool, Arc::default());
    let big = Found { weight: 3, ..found("big", "10.0.0.1") };
    pool_state.on(observed(SourceKey::Static, vec![big]), now);
    pool_state.on(seen(&[("a.net", "10.0.0.1")]), now);
    pool_state.on(seen(&[("b.net", "10.0.0.1")]), now);
    let weights: Vec<_> = pool_state.members().iter().map(|member| member.weight).collect();
    assert_eq!(weights, [3], "the weight in the list is unchanged");
    pool_state.on(seen(&[]), now);
    pool_state.on(Input::Tick, now + 10 * SECOND);
    assert_eq!(states(&pool_state), [("big".to_owned(), BackendState::Up)]);
}

#[test]
fn backends_of_one_name_that_serve_together_have_series_of_their_own() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(false), Arc::default());
    let series = |pool_state: &PoolState| {
        pool_state.members().iter().map(|member| member.backend.series().to_string()).collect::<Vec<_>>()
    };
    let [first, second, third] = ["10.0.0.1", "10.0.0.2", "10.0.0.4"].map(|address| found("a", address));
    let other = found("b", "10.0.0.3");
    let answer = |all: &[&Found]| observed(key(), all.iter().map(|one| (*one).clone()).collect());
    pool_state.on(answer(&[&first, &second, &other]), now);
    assert_eq!(series(&pool_state), ["a", "a@10.0.0.2:5000", "b"]);
    // They keep their series, and one that replaces another continues those of its name.
    pool_state.on(answer(&[&second, &other]), now);
    pool_state.on(answer(&[&second, &other, &third]), now);
    assert_eq!(series(&pool_state), ["a", "a@10.0.0.2:5000", "b", "a"]);
    // Should the first one return, they share them: with others, its counters would begin anew.
    pool_state.on(answer(&[&first, &second, &other, &third]), now);
    assert_eq!(series(&pool_state), ["a", "a@10.0.0.2:5000", "b", "a"]);
}

#[test]
fn a_backend_whose_name_becomes_known_gets_the_series_of_that_name_unless_they_are_in_use() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), dns_pool(false), Arc::default());
    let nameless = Found { nameless: true, ..found("10.0.0.1:5000", "10.0.0.1") };
    pool_state.on(observed(key(), vec![nameless, found("a", "10.0.0.2")]), now);
    pool_state.on(observed(key(), vec![found("a", "10.0.0.1"), found("a", "10.0.0.2")]), now);
    let series: Vec<_> =
        pool_state.members().iter().map(|member| member.backend.series().to_string()).collect();
    assert_eq!(series, ["a@10.0.0.1:5000", "a"]);
}
