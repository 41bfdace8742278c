use std::net::SocketAddr;

use proptest::prelude::*;

use super::tests::{SECOND, changes, found, key_of, observed, states};
use super::*;
use crate::config::{Algorithm, Check, Dns, Health, Pool, Source, StaticBackend};
use crate::discovery::{Observation, Outcome};
use crate::domain::Timestamp;
use crate::pool::snapshot::PoolSnapshot;
use crate::state_directory::{SavedState, SavedWeight};

/// How long a backend may be missing from the answers of a name server.
const FLAP: Duration = Duration::from_secs(3);
const AT: Timestamp = Timestamp(1_795_566_859.0);

fn dns() -> SourceKey {
    SourceKey::Dns("backend".into(), 5000)
}

/// A pool with two sources, and checks if `health`.
fn pool(health: bool) -> Pool {
    let listed = StaticBackend::new(SocketAddr::new([10, 0, 0, 9].into(), 5000).into());
    let sources = vec![Source::Dns(Dns::new("backend".into(), 5000)), Source::Static(vec![listed])];
    let health = health.then(|| Health::new(Check::Tcp)).into_iter().collect();
    Pool { health, balance: Algorithm::Weighted, ..Pool::new(sources) }
}

fn saved(name: &str, ip: &str, state: Option<AdminState>, weight: Option<(u32, u32)>) -> SavedBackend {
    let by = || Arc::from("root");
    SavedBackend {
        name: name.into(),
        nameless: false,
        address: SocketAddr::new(ip.parse().unwrap(), 5000).into(),
        state: state.map(|state| SavedState { state, by: by(), at: AT }),
        weight: weight.map(|(weight, by_source)| SavedWeight { weight, by_source, by: by(), at: AT }),
    }
}

fn restored(config: Pool, saved: Vec<SavedBackend>) -> PoolState {
    let mut pool_state = PoolState::new("web".into(), config, Arc::default());
    pool_state.restore(saved);
    pool_state
}

fn dropped(effects: &[Effect]) -> Vec<String> {
    let one = |effect: &Effect| match effect {
        Effect::DropSettings(saved, _) => Some(saved.name.to_string()),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

fn saves(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::SaveSettings))
}

fn listed() -> Input {
    observed(SourceKey::Static, vec![found("10.0.0.9:5000", "10.0.0.9")])
}

/// The names of the backends that can be chosen.
fn eligible(pool_state: &PoolState) -> Vec<String> {
    let snapshot = PoolSnapshot::new(&pool_state.config, pool_state.members(), None);
    snapshot.backends().map(|backend| backend.name.to_string()).collect()
}

#[test]
fn a_drained_backend_is_never_eligible_after_the_restart_and_its_reason_names_the_operator_and_the_time() {
    let now = Instant::now();
    let mut pool_state =
        restored(pool(false), vec![saved("a", "10.0.0.1", Some(AdminState::Draining), None)]);
    let effects = pool_state.on(observed(dns(), vec![found("a", "10.0.0.1"), found("b", "10.0.0.2")]), now);
    let entered: Vec<_> =
        changes(effects).into_iter().map(|(backend, _, to, _)| (backend.name.to_string(), to)).collect();
    assert!(!entered.contains(&("a".into(), BackendState::Up)), "{entered:?}");
    assert_eq!(eligible(&pool_state), ["b"]);
    let reason = &pool_state.members()[0].reason;
    let before =
        StateReason::SetBeforeRestart { state: AdminState::Draining, by: "root".into(), at: AT.into() };
    assert_eq!(*reason, before);
    // It is saved for the next restart, as it was set.
    assert_eq!(pool_state.settings(), [saved("a", "10.0.0.1", Some(AdminState::Draining), None)]);
    let key = key_of(&pool_state, "a");
    let effects =
        pool_state.on(Input::Command(key, Command::SetAdminState(AdminState::Up), "root".into()), now);
    assert!(saves(&effects) && pool_state.settings().is_empty());
    assert_eq!(states(&pool_state)[0], ("a".into(), BackendState::Up));
}

#[test]
fn maintenance_is_restored_without_checks_and_ends_with_them() {
    let now = Instant::now();
    let mut pool_state =
        restored(pool(true), vec![saved("a", "10.0.0.1", Some(AdminState::Maintenance), None)]);
    let checks =
        |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Check(_))).count();
    let effects = pool_state.on(observed(dns(), vec![found("a", "10.0.0.1")]), now);
    assert_eq!((checks(&effects), states(&pool_state)), (0, vec![("a".into(), BackendState::Maintenance)]));
    let key = key_of(&pool_state, "a");
    let effects =
        pool_state.on(Input::Command(key, Command::SetAdminState(AdminState::Up), "root".into()), now);
    assert_eq!((checks(&effects), states(&pool_state)), (1, vec![("a".into(), BackendState::Joining)]));
}

#[test]
fn a_weight_is_restored_unless_the_source_has_changed_its_own() {
    let now = Instant::now();
    for (by_source, weight) in [(1, 7), (2, 1)] {
        let settings = vec![saved("a", "10.0.0.1", None, Some((7, by_source)))];
        let mut pool_state = restored(pool(false), settings);
        pool_state.on(observed(dns(), vec![found("a", "10.0.0.1")]), now);
        // The other source may be the one that sets the weight.
        assert_eq!(pool_state.members()[0].weight, 7);
        pool_state.on(listed(), now);
        assert_eq!(pool_state.deadline(now), Some(now + FLAP));
        let effects = pool_state.on(Input::Tick, now + FLAP);
        assert_eq!((pool_state.members()[0].weight, saves(&effects)), (weight, by_source == 2));
        assert_eq!(pool_state.deadline(now + FLAP), None);
        assert_eq!(pool_state.settings().len(), usize::from(by_source == 1));
    }
}

#[test]
fn settings_whose_backend_no_source_reports_are_dropped_after_conclusive_answers() {
    let now = Instant::now();
    let settings = || {
        vec![
            saved("a", "10.0.0.1", Some(AdminState::Draining), None),
            saved("b", "10.0.0.2", None, Some((3, 1))),
        ]
    };
    let mut pool_state = restored(pool(false), settings());
    let effects = pool_state.on(listed(), now);
    assert_eq!((dropped(&effects).len(), pool_state.settings()), (0, settings()));
    // No answer proves nothing.
    let silent = Observation { outcome: Outcome::Timeout("silence".into()), owners: HashMap::new() };
    let effects = pool_state.on(Input::Observed(dns(), silent), now + SECOND);
    assert_eq!((dropped(&effects).len(), pool_state.settings()), (0, settings()));
    // One that lacks it may not be complete.
    let now = now + 2 * SECOND;
    let effects = pool_state.on(observed(dns(), vec![found("b", "10.0.0.2")]), now);
    assert_eq!((dropped(&effects).len(), pool_state.settings().len()), (0, 2));
    let effects = pool_state.on(Input::Tick, now + FLAP);
    assert_eq!((dropped(&effects), saves(&effects)), (vec!["a".to_owned()], true));
    assert_eq!(pool_state.settings(), settings()[1..]);
    // A backend that is found later is another one.
    pool_state.on(observed(dns(), vec![found("a", "10.0.0.1")]), now + FLAP + SECOND);
    assert!(eligible(&pool_state).contains(&"a".to_owned()));
}

#[test]
fn settings_end_when_the_backend_leaves_or_its_address_has_another_name() {
    let now = Instant::now();
    let drained = || vec![saved("a", "10.0.0.1", Some(AdminState::Draining), None)];
    let mut pool_state = restored(pool(false), drained());
    pool_state.on(observed(dns(), vec![found("a", "10.0.0.1")]), now);
    let effects = pool_state.on(observed(dns(), vec![found("b", "10.0.0.1")]), now);
    assert!(saves(&effects) && pool_state.settings().is_empty());
    assert_eq!(eligible(&pool_state), ["b"]);

    let mut pool_state = restored(pool(false), drained());
    pool_state.on(listed(), now);
    pool_state.on(observed(dns(), vec![found("b", "10.0.0.1")]), now);
    let effects = pool_state.on(Input::Tick, now + FLAP);
    assert_eq!(dropped(&effects), ["a"]);
    assert!(eligible(&pool_state).contains(&"b".to_owned()));

    let mut pool_state = restored(pool(false), drained());
    let effects = pool_state.on(Input::Removed, now);
    assert_eq!(
        (dropped(&effects), saves(&effects), pool_state.settings().len()),
        (vec!["a".to_owned()], true, 0)
    );
}

#[test]
fn a_backend_without_a_name_keeps_its_settings_until_it_has_another_name() {
    let now = Instant::now();
    let nameless = || Found { nameless: true, ..found("10.0.0.1:5000", "10.0.0.1") };
    for (name, state) in [("a", BackendState::Draining), ("b", BackendState::Up)] {
        let settings = vec![saved("a", "10.0.0.1", Some(AdminState::Draining), None)];
        let mut pool_state = restored(pool(false), settings.clone());
        pool_state.on(listed(), now);
        pool_state.on(observed(dns(), vec![nameless()]), now);
        assert_eq!((eligible(&pool_state).len(), pool_state.settings()), (1, settings.clone()));
        pool_state.on(observed(dns(), vec![found(name, "10.0.0.1")]), now);
        let last = states(&pool_state).pop().unwrap();
        assert_eq!(last, (name.into(), state));
        assert_eq!(pool_state.settings(), if name == "a" { settings } else { Vec::new() });
    }
    // A backend that had no name before may have one now.
    let settings = SavedBackend {
        nameless: true,
        ..saved("10.0.0.1:5000", "10.0.0.1", Some(AdminState::Draining), None)
    };
    let mut pool_state = restored(pool(false), vec![settings]);
    pool_state.on(observed(dns(), vec![found("a", "10.0.0.1")]), now);
    assert!(eligible(&pool_state).is_empty());
    assert_eq!(pool_state.settings(), [saved("a", "10.0.0.1", Some(AdminState::Draining), None)]);
}

#[test]
fn the_drain_of_a_replica_that_is_being_removed_is_not_saved() {
    let now = Instant::now();
    let mut pool_state = PoolState::new("web".into(), pool(false), Arc::default());
    pool_state.on(observed(dns(), vec![found("a", "10.0.0.1")]), now);
    let key = key_of(&pool_state, "a");
    let drain = Command::SetAdminState(AdminState::Draining);
    pool_state.on(Input::Command(key, drain, "root".into()), now);
    assert_eq!(pool_state.settings().len(), 1);
    let effects = pool_state.on(Input::Command(key, drain, SetBy::removal()), now);
    assert!(saves(&effects) && pool_state.settings().is_empty() && eligible(&pool_state).is_empty());
}

proptest! {
    /// Whatever operators set, a pool that is restored from it has the same settings, and chooses from the same backends.
    #[test]
    fn settings_survive_any_restart(
        commands in prop::collection::vec((0usize..4, prop_oneof![
            prop::sample::select(vec![AdminState::Up, AdminState::Draining, AdminState::Maintenance])
                .prop_map(Command::SetAdminState),
            (0u32..5).prop_map(Command::SetWeight),
        ]), 0..12),
    ) {
        let now = Instant::now();
        let names = ["a", "b", "c", "d"];
        let all = || names.iter().zip(1..).map(|(name, n)| found(name, &format!("10.0.0.{n}"))).collect::<Vec<_>>();
        let mut before = PoolState::new("web".into(), pool(false), Arc::default());
        before.on(listed(), now);
        before.on(observed(dns(), all()), now);
        for (index, command) in commands {
            let key = key_of(&before, names[index]);
            let effects = before.on(Input::Command(key, command, "root".into()), now);
            prop_assert!(saves(&effects));
        }
        let json = serde_json::to_string(&before.settings()).unwrap();
        let mut after = restored(pool(false), serde_json::from_str(&json).unwrap());
        after.on(listed(), now);
        after.on(observed(dns(), all()), now);
        prop_assert_eq!(before.settings(), after.settings());
        let set = |pool_state: &PoolState| {
            let mut set: Vec<_> = pool_state.members().iter().map(|m| (m.backend.name.clone(), m.weight, m.state)).collect();
            set.sort();
            set
        };
        prop_assert_eq!(set(&before), set(&after));
    }
}
