//! Properties that hold for any sequence of inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::tests::{changes, observed};
use super::*;
use crate::balance::{Lease, PickArgs};
use crate::config::{Check, Dns, Eject, Health, Percent, Policy, Pool, Source, ZonePreference};
use crate::discovery::{Fitness, Found};
use crate::domain::{AdminState, CloseReason, Ending, Failure};
use crate::health::Verdict;
use crate::own::{OwnAddresses, Owner};
use crate::pool::member::Member;
use crate::pool::snapshot::PoolSnapshot;

/// The possible inputs of a pool state with two sources, static and DNS, that report the same six addresses.
#[derive(Clone, Debug)]
enum Happening {
    Answer { dns: bool, answer: Vec<Found> },
    Checked { member: usize, check: usize, passed: bool },
    Failed { member: usize, in_a_row: u32, reset: bool },
    Command { member: usize, command: Command },
    Added(Found),
    Withdrawn(usize),
    Reconfigured(Box<Pool>),
    Listens(Vec<u8>),
    Connected(usize),
    Disconnected(usize),
    Waited(Duration),
}

fn one_found() -> impl Strategy<Value = Found> {
    let fitness = prop_oneof![
        4 => Just(Fitness::Unknown),
        1 => Just(Fitness::Starting),
        1 => Just(Fitness::Healthy),
        1 => Just(Fitness::Unhealthy("it is ill".into())),
    ];
    let zone = proptest::option::of(prop_oneof![Just("a"), Just("b")]);
    (0u8..6, 0u8..3, 0u32..4, 0u16..3, proptest::option::of(1u32..4), fitness, zone).prop_map(
        |(address, name, weight, tier, connections, fitness, zone)| Found {
            weight,
            tier,
            zone: zone.map(Arc::from),
            connections: connections.and_then(NonZeroU32::new),
            fitness,
            ..Found::new(
                format!("web-{address}-{name}").into(),
                format!("10.0.0.{address}:80").parse().unwrap(),
            )
        },
    )
}

fn answer() -> impl Strategy<Value = Vec<Found>> {
    proptest::collection::vec(one_found(), 0..6).prop_map(|mut found| {
        let mut addresses = BTreeSet::new();
        found.retain(|one| addresses.insert(one.address.clone()));
        found
    })
}

fn pool() -> impl Strategy<Value = Pool> {
    let eject = proptest::option::of((1u32..4, 0u8..=100).prop_map(|(failures, at_most)| Eject {
        failures: NonZeroU32::new(failures),
        at_most: Percent(at_most),
        ..Eject::default()
    }));
    let policies = prop_oneof![
        Just(Policy::Keep),
        Just(Policy::End { how: Ending::Close, after: Duration::ZERO, over: Duration::ZERO }),
    ];
    let zone = proptest::option::of(Just(ZonePreference::new("a".into())));
    (0usize..3, eject, 0u8..=100, any::<bool>(), proptest::option::of(1u32..5), policies, zone).prop_map(
        |(checks, eject, panic, grace, limit, on_drain, zone)| {
            let mut dns = Dns::new("backend".into(), 80);
            dns.query.flap = Duration::from_secs(3);
            let mut pool = Pool::new(vec![Source::Dns(dns), Source::Static(Vec::new())]);
            // The ports distinguish two checks of one kind.
            let check = |n: usize| Health {
                port: u16::try_from(n + 1).ok(),
                grace: Duration::from_secs(u64::from(grace) * 3),
                ..Health::new(Check::Tcp)
            };
            pool.health = (0..checks).map(check).collect();
            (pool.eject, pool.panic, pool.on_drain, pool.zone) = (eject, Percent(panic), on_drain, zone);
            pool.on_down = Policy::End { how: Ending::Reset, after: Duration::ZERO, over: Duration::ZERO };
            pool.slow_start = Duration::from_secs(5);
            pool.limits.connections = limit.and_then(NonZeroU32::new);
            pool
        },
    )
}

fn happening() -> impl Strategy<Value = Happening> {
    let command = prop_oneof![
        2 => Just(Command::SetAdminState(AdminState::Up)),
        1 => Just(Command::SetAdminState(AdminState::Draining)),
        1 => Just(Command::SetAdminState(AdminState::Maintenance)),
        2 => (0u32..5).prop_map(Command::SetWeight),
    ];
    let member = 0usize..8;
    prop_oneof![
        4 => (any::<bool>(), answer()).prop_map(|(dns, answer)| Happening::Answer { dns, answer }),
        8 => (member.clone(), 0usize..3, prop::bool::weighted(0.6))
            .prop_map(|(member, check, passed)| Happening::Checked { member, check, passed }),
        4 => (member.clone(), 1u32..6, any::<bool>())
            .prop_map(|(member, in_a_row, reset)| Happening::Failed { member, in_a_row, reset }),
        3 => (member.clone(), command).prop_map(|(member, command)| Happening::Command { member, command }),
        1 => one_found().prop_map(Happening::Added),
        1 => member.clone().prop_map(Happening::Withdrawn),
        1 => pool().prop_map(Box::new).prop_map(Happening::Reconfigured),
        1 => proptest::collection::vec(0u8..6, 0..3).prop_map(Happening::Listens),
        1 => member.clone().prop_map(Happening::Connected),
        1 => member.prop_map(Happening::Disconnected),
        3 => (0u64..40_000).prop_map(|millis| Happening::Waited(Duration::from_millis(millis))),
    ]
}

/// The visible properties of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: Arc<str>,
    state: BackendState,
    weight: u32,
    tier: u16,
    zone: Option<Arc<str>>,
    connections: Option<NonZeroU32>,
    close_reason: Option<CloseReason>,
}

fn seen(pool_state: &PoolState) -> BTreeMap<String, Seen> {
    let living = pool_state.members().iter().filter(|member| !member.leaving());
    living
        .map(|member| {
            let seen = Seen {
                name: Arc::clone(&member.backend.name),
                state: member.state,
                weight: member.weight,
                tier: member.tier,
                zone: member.zone.clone(),
                connections: member.connections,
                close_reason: member.backend.directive().map(|directive| directive.reason),
            };
            (member.backend.address.to_string(), seen)
        })
        .collect()
}

/// A new pool state with only the last answers and the facts of `other`.
fn rebuilt(other: &PoolState, answers: &BTreeMap<SourceKey, Vec<Found>>, now: Instant) -> PoolState {
    let mut pool_state =
        PoolState::new(Arc::clone(&other.name), other.config.clone(), Arc::clone(&other.own));
    let missing = |key: &SourceKey| {
        let living = other.members().iter().filter_map(|member| member.sources.get(key)).cloned();
        living.filter(|entry| entry.missing.is_some()).map(|entry| entry.found).collect::<Vec<_>>()
    };
    let long_ago = now - Duration::from_secs(3600);
    for (key, answer) in answers {
        pool_state.on(observed(key.clone(), [&answer[..], &missing(key)].concat()), long_ago);
    }
    for (key, answer) in answers {
        pool_state.on(observed(key.clone(), answer.clone()), now);
    }
    let twin = |pool_state: &PoolState, member: &Member| {
        let same = |m: &&Member| m.backend.address == member.backend.address && !m.leaving();
        pool_state.members().iter().find(same).map(|twin| twin.backend.key)
    };
    for member in other.members().iter().filter(|member| !member.leaving()) {
        let Some(key) = twin(&pool_state, member) else { continue };
        for (check, results) in member.results.iter().enumerate() {
            let result = match results.rise_fall.verdict() {
                Verdict::Unchecked => continue,
                Verdict::Passing => Ok(()),
                Verdict::Failing => Err("no".to_owned().into()),
            };
            pool_state.on(Input::Checked(key, check, result), now);
        }
        if let Some((admin_state, _)) = &member.admin_state {
            pool_state.on(Input::Command(key, Command::SetAdminState(*admin_state), "root".into()), now);
        }
        if let Some(OperatorWeight { weight, .. }) = member.operator_weight {
            pool_state.on(Input::Command(key, Command::SetWeight(weight), "root".into()), now);
        }
    }
    for member in other.members().iter().filter(|member| member.state == BackendState::Ejected) {
        if let Some(key) = twin(&pool_state, member) {
            pool_state.on(Input::Failed(key, Failure::Reset, 100), now);
        }
    }
    pool_state
}

/// A chosen backend is up, or the pool is in panic; one of the standby is up, and of another zone or a higher tier; a backup
/// is chosen only if no primary is up, and one of another zone only if the local one is short.
fn choices_are_valid(config: &Pool, members: &[Member]) -> Result<(), TestCaseError> {
    let snapshot = PoolSnapshot::new(config, members, None);
    let in_use = |member: &&Member| member.weight > 0 && member.state == BackendState::Up;
    let lowest = members.iter().filter(in_use).map(|member| member.tier).min();
    for random in 0..4 {
        let Some(chosen) = snapshot.choose(&PickArgs { random, client: random, ..PickArgs::default() })
        else {
            prop_assert!(lowest.is_none(), "a backend is up, but none is chosen");
            return Ok(());
        };
        let member = members.iter().find(|member| member.backend.key == chosen.backend.key).unwrap();
        prop_assert!(member.weight > 0 && !member.leaving() && member.admin_state.is_none());
        prop_assert!(member.refused.is_none(), "one of our own addresses is chosen");
        prop_assert_eq!(snapshot.panic || member.state == BackendState::Up, true);
        prop_assert!(lowest.is_none_or(|lowest| member.tier == lowest), "a backup while a primary is up");
        prop_assert!(!snapshot.panic || config.panic > Percent(0));
        let is_local =
            |member: &Member| config.zone.as_ref().is_none_or(|zone| zone.is_local(member.zone.as_ref()));
        let short = snapshot.local_zone.as_ref().is_none_or(|zone| zone.short);
        prop_assert!(short || is_local(member), "another zone while the local one is not short");
        let standby = snapshot
            .standby
            .as_ref()
            .and_then(|snapshot| snapshot.choose(&PickArgs { random, ..PickArgs::default() }));
        let standby =
            standby.map(|spare| members.iter().find(|m| m.backend.key == spare.backend.key).unwrap());
        let comes_next = |spare: &Member| {
            let is_after = (spare.tier, !is_local(spare)) > (member.tier, !is_local(member) || short);
            spare.state == BackendState::Up && is_after
        };
        prop_assert!(standby.is_none_or(comes_next), "{standby:?} after {member:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn after_any_sequence_of_inputs_a_pool_state_equals_one_rebuilt_from_its_facts(
        config in pool(),
        happenings in proptest::collection::vec(happening(), 1..50),
    ) {
        let mut now = Instant::now() + Duration::from_secs(7200);
        let mut pool_state = PoolState::new("web".into(), config, Arc::default());
        let mut leases: Vec<Lease> = Vec::new();
        let mut reported: BTreeMap<u64, BackendState> = BTreeMap::new();
        let mut answers: BTreeMap<SourceKey, Vec<Found>> = BTreeMap::new();
        for happening in happenings {
            let picked = |index: usize| {
                let members = pool_state.members();
                members.get(index % members.len().max(1)).map(|member| Arc::clone(&member.backend))
            };
            let event = match happening {
                Happening::Answer { dns, answer } => {
                    let source = pool_state.config.discover.iter().find(|s| matches!(s, Source::Dns(_)) == dns);
                    let key = SourceKey::from(source.unwrap());
                    answers.insert(key.clone(), answer.clone());
                    observed(key, answer)
                }
                Happening::Checked { member, check, passed } => match picked(member) {
                    Some(backend) => {
                        let result = if passed { Ok(()) } else { Err("no".to_owned().into()) };
                        Input::Checked(backend.key, check, result)
                    }
                    None => continue,
                },
                Happening::Failed { member, in_a_row, reset } => match picked(member) {
                    Some(backend) => {
                        let failure = if reset { Failure::Reset } else { Failure::Connect("refused".into()) };
                        Input::Failed(backend.key, failure, in_a_row)
                    }
                    None => continue,
                },
                Happening::Command { member, command } => match picked(member) {
                    Some(backend) => Input::Command(backend.key, command, "root".into()),
                    None => continue,
                },
                Happening::Added(mut found) => {
                    found.fitness = Fitness::Unknown; // operators do not report health
                    if pool_state.addable(&found).is_err() {
                        continue;
                    }
                    answers.entry(SourceKey::Operator).or_default().push(found.clone());
                    Input::Added(found)
                }
                Happening::Withdrawn(member) => {
                    let Some(Ok(address)) = picked(member).map(|backend| pool_state.removable(backend.key)) else {
                        continue;
                    };
                    answers.entry(SourceKey::Operator).or_default().retain(|one| one.address != address);
                    Input::Withdrawn(address, "root".into())
                }
                Happening::Reconfigured(config) => Input::Reconfigured(config),
                Happening::Listens(hosts) => {
                    let bound = |host| (format!("10.0.0.{host}:80").parse().unwrap(), Owner::Admin);
                    Input::OwnAddresses(Arc::new(OwnAddresses::new(hosts.into_iter().map(bound).collect())))
                }
                Happening::Connected(member) => {
                    leases.extend(picked(member).map(|backend| backend.load.lease()));
                    Input::Tick
                }
                Happening::Disconnected(index) => {
                    let n = leases.len().max(1);
                    (!leases.is_empty()).then(|| leases.swap_remove(index % n));
                    Input::Tick
                }
                Happening::Waited(time) => { now += time; Input::Tick }
            };
            for (backend, from, to, reason) in changes(pool_state.on(event, now)) {
                let before = match to {
                    BackendState::Gone => reported.remove(&backend.key),
                    to => reported.insert(backend.key, to),
                };
                prop_assert_eq!(before.unwrap_or(BackendState::Gone), from, "each change begins where the last ended");
                prop_assert!(!reason.text().is_empty(), "{from:?} to {to:?} without a reason");
            }
            for member in pool_state.members().iter().filter(|member| !member.leaving()) {
                prop_assert_eq!(member.refused.is_some(), pool_state.own.owner(&member.backend.address).is_some());
            }
            for member in pool_state.members() {
                prop_assert_eq!(reported.get(&member.backend.key), Some(&member.state));
                prop_assert!(!member.leaving() || member.backend.load.open() > 0);
            }
            let (out, sound) = pool_state.ejected();
            prop_assert!(out <= pool_state.config.eject.map_or(0, |eject| eject.at_most.of(sound)), "{out} of {sound}");
            prop_assert_eq!(seen(&pool_state), seen(&rebuilt(&pool_state, &answers, now)));
            choices_are_valid(&pool_state.config, pool_state.members())?;
        }
        drop(leases);
        pool_state.on(Input::Removed, now);
        prop_assert!(pool_state.members().is_empty());
    }
}
