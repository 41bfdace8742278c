use super::*;
use crate::balance::PickArgs;
use crate::config::{Algorithm, Percent, Pool, SourceKey};
use crate::discovery::Found;
use crate::domain::{Event, Excluded, RouteTier, ServingTier, StateReason};
use crate::pool::PoolSnapshot;
use crate::pool::backend::Backend;
use crate::pool::input::Input;
use crate::pool::state_machine::PoolState;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::time::Instant;

/// A pool that prefers the zone `a`.
fn pool() -> Pool {
    Pool { zone: Some(ZonePreference::new("a".into())), ..Pool::new(Vec::new()) }
}

fn member(key: u64, name: &str, zone: Option<&str>, state: BackendState) -> Member {
    let address = format!("10.0.0.{key}:80").parse().unwrap();
    let backend = Arc::new(Backend::new(key, &Found::new(name.into(), address)));
    let mut member = Member::new(backend, StateReason::FoundUnchecked, 0, Instant::now());
    member.state = state;
    member.zone = zone.map(Arc::from);
    member
}

/// Backends such as `a1` (up, in the zone a), `a2!` (down), `b1?` (joining), `_1` (no zone) and `B1` (a backup in b).
fn members(names: &str) -> Vec<Member> {
    let one = |(index, text): (usize, &str)| {
        let name = text.trim_end_matches(['!', '?']);
        let zone = name[..1].to_lowercase();
        let state = match text.chars().last() {
            Some('!') => BackendState::Down,
            Some('?') => BackendState::Joining,
            _ => BackendState::Up,
        };
        let zone = Some(&*zone).filter(|zone| *zone != "_");
        let mut member = member(index as u64 + 1, name, zone, state);
        member.tier = u16::from(name.starts_with(char::is_uppercase));
        member
    };
    names.split(' ').enumerate().map(one).collect()
}

/// The backends of each snapshot in the order in which a connection uses them, each with its kind.
fn order(config: &Pool, members: &[Member]) -> Vec<(String, RouteTier)> {
    let snapshot = Arc::new(PoolSnapshot::new(config, members, None));
    let chain = std::iter::successors(Some(snapshot), |snapshot| snapshot.standby.clone());
    let names = |snapshot: &PoolSnapshot| {
        snapshot.backends().map(|one| one.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    chain.map(|snapshot| (names(&snapshot), snapshot.kind())).collect()
}

fn of(config: &Pool, names: &str) -> Vec<(String, RouteTier)> {
    order(config, &members(names))
}

fn expected(all: &[(&str, RouteTier)]) -> Vec<(String, RouteTier)> {
    all.iter().map(|(names, kind)| ((*names).to_owned(), *kind)).collect()
}

/// Why backends are not eligible, and why others are.
fn reasons(snapshot: &PoolSnapshot) -> String {
    let ineligible = Arc::clone(&snapshot.ineligible);
    Excluded { ineligible, ..Excluded::default() }.to_string()
}

#[test]
fn local_primaries_come_first_then_those_of_other_zones_then_backups_in_the_same_order() {
    use RouteTier::{OtherZones, Primaries, Standby};
    let all = of(&pool(), "b1 a1 B1 a2 A1 c1");
    let order = [("a1 a2", Primaries), ("b1 c1", OtherZones), ("A1", Standby), ("B1", OtherZones)];
    assert_eq!(all, expected(&order));
    let any = of(&Pool::new(Vec::new()), "b1 a1 B1 a2 A1 c1");
    assert_eq!(any, expected(&[("b1 a1 a2 c1", Primaries), ("B1 A1", Standby)]));
}

#[test]
fn while_the_local_zone_is_short_all_zones_serve() {
    use RouteTier::{AllZones, Backups, OtherZones, Primaries, Standby};
    // Of four, one may be down (70 %); of three, none.
    assert_eq!(of(&pool(), "a1 a2 a3 a4! b1"), expected(&[("a1 a2 a3", Primaries), ("b1", OtherZones)]));
    assert_eq!(of(&pool(), "a1 a2 a3! b1 B1"), expected(&[("a1 a2 b1", AllZones), ("B1", Standby)]));
    assert_eq!(of(&pool(), "a1! b1 b2"), expected(&[("b1 b2", AllZones)]));
    assert_eq!(of(&pool(), "b1 b2"), expected(&[("b1 b2", AllZones)]));
    // No other zone can help.
    assert_eq!(of(&pool(), "a1 a2! b1!"), expected(&[("a1", Primaries)]));
    assert_eq!(of(&pool(), "a1! b1! A1 B1"), expected(&[("A1", Backups), ("B1", OtherZones)]));
    assert_eq!(of(&pool(), "a1! b1! A1! B1"), expected(&[("B1", Backups)]));
}

#[test]
fn the_weights_of_the_local_backends_count() {
    let mut members = members("a1 a2! b1");
    (members[0].weight, members[1].weight) = (7, 3);
    assert_eq!(order(&pool(), &members)[0], ("a1".into(), RouteTier::Primaries));
    members[1].weight = 4;
    assert_eq!(order(&pool(), &members)[0], ("a1 b1".into(), RouteTier::AllZones));
    // One that gets no connections does not count.
    members[1].weight = 0;
    assert_eq!(order(&pool(), &members)[0], ("a1".into(), RouteTier::Primaries));
    let mut config = pool();
    config.zone.as_mut().unwrap().min_up = Percent(50);
    (members[0].weight, members[1].weight) = (1, 1);
    assert_eq!(order(&config, &members)[0], ("a1".into(), RouteTier::Primaries));
}

#[test]
fn backends_that_leave_do_not_count_and_too_few_are_short() {
    let mut members = members("a1 a2 a3 b1");
    members[1].left = Some(StateReason::PoolRemoved);
    members[1].state = BackendState::Draining;
    members[2].left = Some(StateReason::PoolRemoved);
    members[2].state = BackendState::Draining;
    assert_eq!(order(&pool(), &members)[0], ("a1".into(), RouteTier::Primaries));
    let mut config = pool();
    config.zone.as_mut().unwrap().min_backends = NonZeroU32::new(2).unwrap();
    assert_eq!(order(&config, &members)[0], ("a1 b1".into(), RouteTier::AllZones));
    let snapshot = PoolSnapshot::new(&config, &members, None);
    assert_eq!(snapshot.local_zone.unwrap().supply(), "only 1 in zone a");
}

#[test]
fn one_that_is_joining_is_not_up_yet() {
    assert_eq!(of(&pool(), "a1 a2? b1")[0], ("a1 b1".into(), RouteTier::AllZones));
}

#[test]
fn an_unknown_zone_counts_as_the_local_one() {
    assert_eq!(of(&pool(), "_1 b1")[0], ("_1".into(), RouteTier::Primaries));
    assert_eq!(of(&pool(), "a1 _1! b1")[0], ("a1 b1".into(), RouteTier::AllZones));
}

#[test]
fn panic_looks_at_the_zones_that_serve() {
    use RouteTier::{All, AllZones, Primaries};
    let config = |panic| Pool { panic: Percent(panic), ..pool() };
    // Most are down, but those of the local zone serve.
    assert_eq!(of(&config(50), "a1 a2 b1! b2! b3!")[0], ("a1 a2".into(), Primaries));
    // Other zones help before panic begins.
    assert_eq!(of(&config(50), "a1 a2! a3! b1 b2")[0], ("a1 b1 b2".into(), AllZones));
    assert_eq!(of(&config(90), "a1 a2 a3 a4! b1 b2 b3 b4 b5 b6")[0].1, AllZones);
    assert_eq!(of(&config(50), "a1 a2! a3! b1 b2! b3!")[0], ("a1 a2 a3 b1 b2 b3".into(), All));
    assert_eq!(of(&config(50), "a1! b1!")[0], ("a1 b1".into(), All));
}

#[test]
fn a_connection_learns_why_a_backend_of_another_zone_is_used_or_not() {
    let text = |names: &str| {
        let config = Pool { panic: Percent(20), ..pool() };
        reasons(&PoolSnapshot::new(&config, &members(names), None))
    };
    assert_eq!(text("a1 b1 c1 B1 A1"), "b1: in zone b; c1: in zone c; B1: backup; A1: backup");
    let short = text("a1 a2! b1");
    assert!(short.starts_with("a2: down ("), "{short}");
    assert!(short.ends_with("; 1 of 2 up in zone a, so those of other zones are used too"), "{short}");
    assert_eq!(text("b1"), "no backend in zone a, so those of other zones are used too");
    let panic = text("a1! b1!");
    assert!(panic.ends_with("too few are up, so all are used"), "{panic}");
    // The local ones are listed as failed or full by the connection itself.
    let snapshot = PoolSnapshot::new(&pool(), &members("a1 b1 B1"), None);
    assert_eq!(reasons(snapshot.other_zones().unwrap()), "B1: backup");
}

#[test]
fn the_kernel_gets_the_backends_of_the_zones_in_use() {
    for balance in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::Maglev] {
        let config = Pool { balance, ..pool() };
        let owners = |names: &str| {
            let snapshot = PoolSnapshot::new(&config, &members(names), None);
            let slots = snapshot.slots(&config.hash, |_| true).unwrap();
            let all: Vec<_> = snapshot.backends().map(|one| one.name.to_string()).collect();
            let used: BTreeSet<_> = slots.owners.iter().map(|owner| all[*owner as usize].clone()).collect();
            used.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(owners("a1 a2 b1 B1"), "a1 a2", "{balance:?}");
        assert_eq!(owners("a1 a2! b1 B1"), "a1 b1", "{balance:?}");
        assert_eq!(owners("a1! a2! b1 B1"), "b1", "{balance:?}");
    }
}

#[test]
fn a_client_of_a_hash_keeps_its_backend_when_another_zone_changes() {
    let config = Pool { balance: Algorithm::Maglev, ..pool() };
    let chosen = |names: &str| {
        let snapshot = PoolSnapshot::new(&config, &members(names), None);
        let one = |client| {
            let args = PickArgs { client, ..PickArgs::default() };
            snapshot.choose(&args).unwrap().backend.name.to_string()
        };
        (0..50).map(one).collect::<Vec<_>>()
    };
    assert_eq!(chosen("a1 a2 a3 a4 b1 b2"), chosen("a1 a2 a3 a4 b1! b2"));
}

/// A zone is a fact like the weight: a source and a reload change it without another change of the backend.
#[test]
fn a_source_and_a_reload_change_the_zones_and_no_backend_leaves() {
    let now = Instant::now();
    let found = |name: &str, last: u8, zone: &str| Found {
        zone: Some(zone.into()),
        ..Found::new(name.into(), format!("10.0.0.{last}:80").parse().unwrap())
    };
    let mut config = pool();
    config.discover = vec![crate::config::Source::Static(Vec::new())];
    let mut pool_state = PoolState::new("web".into(), config.clone(), Arc::default());
    let answer = |found: Vec<Found>| {
        let outcome = crate::discovery::Outcome::Backends(found);
        let seen = crate::discovery::Observation { outcome, owners: HashMap::new() };
        Input::Observed(SourceKey::Static, seen)
    };
    pool_state.on(answer(vec![found("x", 1, "a"), found("y", 2, "b")]), now);
    let used = |config: &Pool, pool_state: &PoolState| order(config, pool_state.members())[0].0.clone();
    assert_eq!(used(&config, &pool_state), "x");
    let keys = |pool_state: &PoolState| {
        pool_state.members().iter().map(|member| member.backend.key).collect::<Vec<_>>()
    };
    let before = keys(&pool_state);
    let effects = pool_state.on(answer(vec![found("x", 1, "b"), found("y", 2, "a")]), now);
    assert!(effects.iter().any(crate::pool::input::Effect::shows), "it makes a new snapshot");
    let is_report = |effect: &crate::pool::input::Effect| {
        matches!(effect, crate::pool::input::Effect::Report(Event::StateChanged { .. }))
    };
    assert!(!effects.iter().any(is_report));
    assert_eq!((used(&config, &pool_state), keys(&pool_state)), ("y".to_owned(), before.clone()));
    config.zone = Some(ZonePreference::new("b".into()));
    pool_state.on(Input::Reconfigured(Box::new(config.clone())), now);
    assert_eq!((used(&config, &pool_state), keys(&pool_state)), ("x".to_owned(), before.clone()));
    config.zone = None;
    pool_state.on(Input::Reconfigured(Box::new(config.clone())), now);
    assert_eq!((used(&config, &pool_state), keys(&pool_state)), ("x y".to_owned(), before));
}

/// Zone, state and tier of backends.
fn any_members() -> impl Strategy<Value = Vec<Member>> {
    let state = prop_oneof![
        4 => Just(BackendState::Up),
        2 => Just(BackendState::Down),
        1 => Just(BackendState::Joining),
        1 => Just(BackendState::Maintenance),
    ];
    let zone = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("c"))];
    prop::collection::vec((zone, state, 0u32..4, 0u16..2), 0..9).prop_map(|all| {
        let one = |(index, (zone, state, weight, tier)): (usize, (Option<&str>, BackendState, u32, u16))| {
            let mut member = member(index as u64, &format!("n{index}"), zone, state);
            (member.weight, member.tier) = (weight, tier);
            member
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn other_zones_serve_exactly_while_the_local_one_is_short(
        members in any_members(),
        min_up in 0u8..=100,
        min_backends in 1u32..4,
    ) {
        let min_backends = NonZeroU32::new(min_backends).unwrap();
        let zone = ZonePreference { min_up: Percent(min_up), min_backends, ..ZonePreference::new("a".into()) };
        let config = Pool { zone: Some(zone), ..Pool::new(Vec::new()) };
        let snapshot = PoolSnapshot::new(&config, &members, None);
        let by_key: BTreeMap<u64, &Member> = members.iter().map(|one| (one.backend.key, one)).collect();
        let is_local = |member: &Member| matches!(member.zone.as_deref(), None | Some("a"));
        let up = |member: &&Member| member.state == BackendState::Up && member.weight > 0;
        let Some(tier) = members.iter().filter(up).map(|member| member.tier).min() else {
            prop_assert!(snapshot.is_empty() && snapshot.standby.is_none());
            prop_assert_eq!(snapshot.serving_tier(), ServingTier::None);
            return Ok(());
        };
        let of_tier = || members.iter().filter(|member| member.tier == tier && member.weight > 0);
        let local = || of_tier().filter(|member| is_local(member));
        let weight = |all: &mut dyn Iterator<Item = &Member>| all.map(|one| one.weight).sum::<u32>();
        let [all, left] = [weight(&mut local()), weight(&mut local().filter(up))];
        let too_few = (local().filter(up).count() as u32) < min_backends.get() || left * 100 < all * u32::from(min_up);
        let help = too_few && of_tier().filter(up).any(|member| !is_local(member));
        let used: BTreeSet<u64> = snapshot.backends().map(|backend| backend.key).collect();
        let expected = of_tier().filter(up).filter(|member| help || is_local(member));
        prop_assert_eq!(&used, &expected.map(|member| member.backend.key).collect());
        prop_assert_eq!(snapshot.local_zone.as_ref().unwrap().short, help);
        let kind = snapshot.kind();
        prop_assert_eq!(kind == RouteTier::AllZones, help && !snapshot.backups);
        for random in 0..4 {
            let chosen = snapshot.choose(&PickArgs { random, client: random, ..PickArgs::default() }).unwrap();
            prop_assert!(used.contains(&chosen.backend.key));
        }
        // Each backend that is up is in exactly one snapshot, and the order is by tier and then by zone.
        let mut seen = BTreeSet::new();
        let mut last = None;
        let mut next = Some(&snapshot);
        while let Some(snapshot) = next {
            prop_assert!(!snapshot.is_empty());
            let ranks = snapshot.backends().map(|backend| {
                let member = by_key[&backend.key];
                (member.tier, snapshot.kind() == RouteTier::OtherZones)
            });
            let ranks: BTreeSet<_> = ranks.collect();
            prop_assert_eq!(ranks.len(), 1);
            prop_assert!(last < ranks.first().copied());
            last = ranks.first().copied();
            for backend in snapshot.backends() {
                prop_assert!(seen.insert(backend.key));
            }
            next = snapshot.standby.as_deref();
        }
        prop_assert_eq!(seen.len(), members.iter().filter(up).count());
    }
}
