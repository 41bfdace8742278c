use super::*;
use proptest::prelude::*;

const FIRST_DELAY: Duration = Duration::from_secs(1);

fn limits(min: u32, max: u32) -> FleetLimits {
    FleetLimits { min, max, respawn: true }
}

fn container(id: &str, name: &str, state: RunState) -> ReplicaContainer {
    ReplicaContainer { id: id.into(), name: name.into(), container: format!("web-{name}"), ours: true, state }
}

fn names(fleet: &Fleet) -> Vec<String> {
    fleet.slots().iter().map(|slot| slot.name.to_string()).collect()
}

fn start(name: &str) -> FleetAction {
    FleetAction::Start(name.into())
}

/// A fleet whose minimum runs: `Server 1` as `a`, `Server 2` as `b` …
fn running(min: u32, max: u32, now: Instant) -> Fleet {
    let mut fleet = Fleet::new(limits(min, max));
    let starts = fleet.on_list(&[], now);
    for (index, action) in starts.into_iter().enumerate() {
        let FleetAction::Start(name) = action else { panic!("{action:?}") };
        let id = char::from(b'a' + u8::try_from(index).unwrap()).to_string();
        assert_eq!(fleet.started(&name, id.as_str().into(), now), None);
    }
    fleet
}

#[test]
fn replicas_up_to_the_minimum_start_after_the_first_list() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(2, 5));
    assert_eq!(fleet.due(now), []);
    assert_eq!(fleet.on_list(&[], now), [start("Server 1"), start("Server 2")]);
    assert!(fleet.is_starting());
    assert_eq!(fleet.on_list(&[], now), []);
}

#[test]
fn running_replicas_are_found_again_and_none_is_started_twice() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(2, 5));
    let list = [container("a", "Server 7", RunState::Running), container("b", "x", RunState::Running)];
    assert_eq!(fleet.on_list(&list, now), []);
    assert_eq!(names(&fleet), ["Server 7", "x"]);
    let mut one = Fleet::new(limits(2, 5));
    assert_eq!(one.on_list(&list[..1], now), [start("Server 1")]);
}

#[test]
fn a_replica_that_exits_is_replaced_under_its_name_and_counted() {
    let now = Instant::now();
    let mut fleet = running(2, 5, now);
    let list = [container("a", "Server 1", RunState::Ended), container("b", "Server 2", RunState::Running)];
    let exit =
        |again_in| FleetAction::ReportExit { name: "Server 1".into(), id: "a".into(), ours: true, again_in };
    assert_eq!(fleet.on_list(&list, now), [exit(Some(Duration::ZERO)), start("Server 1")]);
    assert_eq!(names(&fleet), ["Server 1", "Server 2"]);
    assert_eq!(fleet.respawns(), 0);
    assert_eq!(fleet.started("Server 1", "c".into(), now), None);
    assert_eq!(fleet.respawns(), 1);
    // The leftover container is not another exit.
    let list = [&list[..], &[container("c", "Server 1", RunState::Running)]].concat();
    assert_eq!(fleet.on_list(&list, now), []);
    // A container that vanishes from the list has exited, too.
    let actions = fleet.on_list(&list[1..2], now);
    assert!(
        matches!(&actions[..], [FleetAction::ReportExit { again_in: Some(pause), .. }] if *pause == FIRST_DELAY),
        "{actions:?}"
    );
}

#[test]
fn a_replica_that_keeps_exiting_is_started_with_back_off() {
    let mut now = Instant::now();
    let mut fleet = running(1, 5, now);
    let mut pauses = Vec::new();
    for n in 0..9 {
        let id = fleet.slots()[0].id().unwrap().to_string();
        fleet.on_list(&[container(&id, "Server 1", RunState::Ended)], now);
        let until = fleet.deadline().unwrap_or(now);
        pauses.push((until - now).as_secs());
        assert_eq!(fleet.due(until - Duration::from_millis(1)), [], "not before");
        now = until;
        fleet.due(now);
        assert_eq!(fleet.started("Server 1", format!("n{n}").into(), now), None);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    // After a long run it is started at once again.
    now += STABLE;
    fleet.on_list(&[container("n8", "Server 1", RunState::Ended)], now);
    assert!(fleet.is_starting());
}

#[test]
fn a_failed_start_is_retried_later() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(1, 5));
    fleet.on_list(&[], now);
    assert_eq!(fleet.start_failed("Server 1", now), Some(FIRST_DELAY));
    assert_eq!(fleet.start_failed("Server 1", now), None, "it waits already");
    assert_eq!(fleet.deadline(), Some(now + FIRST_DELAY));
    assert_eq!(fleet.due(now + FIRST_DELAY), [start("Server 1")]);
    assert_eq!(fleet.start_failed("Server 1", now), Some(FIRST_DELAY * 2));
}

#[test]
fn without_respawn_a_replica_that_exits_is_not_replaced() {
    let now = Instant::now();
    let mut fleet = running(2, 5, now);
    fleet.reconfigure(FleetLimits { respawn: false, ..limits(2, 5) });
    let both = [container("a", "Server 1", RunState::Running), container("b", "Server 2", RunState::Running)];
    assert_eq!(fleet.on_list(&both, now), []);
    let actions = fleet.on_list(&both[1..], now);
    assert!(matches!(&actions[..], [FleetAction::ReportExit { again_in: None, .. }]), "{actions:?}");
    assert_eq!(names(&fleet), ["Server 2"]);
    assert_eq!(fleet.due(now + Duration::from_secs(3600)), []);
}

#[test]
fn a_list_from_before_a_start_is_no_exit() {
    let now = Instant::now();
    let mut fleet = running(1, 5, now);
    assert_eq!(fleet.on_list(&[], now + Duration::from_secs(1)), []);
    assert_eq!(names(&fleet), ["Server 1"]);
    assert!(!fleet.on_list(&[], now + UNLISTED * 2).is_empty());
}

#[test]
fn a_replica_that_exited_while_pointsman_was_down_is_replaced() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(1, 5));
    let list = [
        container("a", "A", RunState::Ended),
        ReplicaContainer { ours: false, ..container("c", "C", RunState::Ended) },
    ];
    let actions = fleet.on_list(&list, now);
    let again_in = Some(Duration::ZERO);
    let exit = FleetAction::ReportExit { name: "A".into(), id: "a".into(), ours: true, again_in };
    assert_eq!(actions, [exit, start("A")]);
    // Later, an ended container is only a leftover.
    assert_eq!(
        fleet.on_list(&[container("d", "D", RunState::Ended)], now),
        [FleetAction::RemoveContainer("d".into())]
    );
}

#[test]
fn a_container_of_another_pointsman_is_removed_only_if_it_is_never_started() {
    let began = Instant::now();
    let mut fleet = running(1, 5, began);
    let with = |id: &str, state| [container("a", "Server 1", RunState::Running), container(id, "x", state)];
    assert_eq!(fleet.on_list(&with("b", RunState::Created), began), []);
    assert_eq!(fleet.on_list(&with("b", RunState::Running), began + UNSTARTED), []);
    assert_eq!(names(&fleet), ["Server 1", "x"]);
    // A process created it and ended before it could start it.
    let mut fleet = running(1, 5, began);
    assert_eq!(fleet.on_list(&with("c", RunState::Created), began), []);
    assert_eq!(fleet.on_list(&with("c", RunState::Created), began + UNSTARTED - Duration::from_secs(1)), []);
    assert_eq!(
        fleet.on_list(&with("c", RunState::Created), began + UNSTARTED),
        [FleetAction::RemoveContainer("c".into())]
    );
    assert_eq!(fleet.on_list(&with("c", RunState::Created), began + UNSTARTED * 2), []);
}

#[test]
fn a_removal_that_was_in_progress_continues_after_a_restart() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(0, 5));
    let marked =
        ReplicaContainer { container: format!("web-x{LEAVING}"), ..container("a", "A", RunState::Running) };
    let leave = FleetAction::RemoveReplica { name: "A".into(), id: "a".into(), ours: true };
    assert_eq!(fleet.on_list(std::slice::from_ref(&marked), now), [leave]);
    assert_eq!(fleet.on_list(std::slice::from_ref(&marked), now), []);
    assert!(names(&fleet).is_empty());
    assert_eq!(fleet.add(1, &["A".to_owned()]), Err(Refusal::StillLeaving("A".to_owned())));
    // A container that ended before its removal is not replaced.
    let mut restarted = Fleet::new(limits(0, 5));
    let ended = ReplicaContainer { state: RunState::Ended, ..marked };
    assert_eq!(restarted.on_list(&[ended], now), [FleetAction::RemoveContainer("a".into())]);
}

#[test]
fn adopted_containers_that_exit_are_replaced_but_not_removed() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(0, 5));
    let theirs = ReplicaContainer { ours: false, ..container("a", "server_1", RunState::Running) };
    assert_eq!(fleet.on_list(std::slice::from_ref(&theirs), now), []);
    assert_eq!(names(&fleet), ["server_1"]);
    let ended = ReplicaContainer { state: RunState::Ended, ..theirs.clone() };
    let actions = fleet.on_list(std::slice::from_ref(&ended), now);
    let exit = FleetAction::ReportExit {
        name: "server_1".into(),
        id: "a".into(),
        ours: false,
        again_in: Some(ADOPTED_RESTART),
    };
    assert_eq!(actions, [exit]);
    assert_eq!(fleet.due(now + ADOPTED_RESTART), [start("server_1")]);
    assert_eq!(fleet.started("server_1", "b".into(), now), None);
    // If the adopted one runs again, both stay, under different names.
    let both = [theirs, container("b", "server_1", RunState::Running)];
    assert_eq!(fleet.on_list(&both, now), []);
    assert_eq!(names(&fleet), ["server_1", "server_1 (a)"]);
}

#[test]
fn an_adopted_container_that_is_restarted_is_not_replaced() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(0, 5));
    let theirs = |state| [ReplicaContainer { ours: false, ..container("a", "server_1", state) }];
    assert_eq!(fleet.on_list(&theirs(RunState::Running), now), []);
    // By its engine: that is reported once.
    let restart = FleetAction::ReportRestart { name: "server_1".into(), id: "a".into() };
    assert_eq!(fleet.on_list(&theirs(RunState::Restarting), now), [restart]);
    assert_eq!(fleet.on_list(&theirs(RunState::Restarting), now), []);
    assert_eq!((names(&fleet), fleet.running()), (vec!["server_1".to_owned()], 0));
    assert_eq!(fleet.on_list(&theirs(RunState::Running), now), []);
    assert_eq!(fleet.running(), 1);
    // By its owner, a moment later.
    assert_eq!(fleet.on_list(&theirs(RunState::Ended), now).len(), 1);
    assert_eq!(fleet.on_list(&theirs(RunState::Running), now + ADOPTED_RESTART / 2), []);
    assert_eq!((fleet.due(now + ADOPTED_RESTART), fleet.running(), fleet.respawns()), (vec![], 1, 0));
    assert_eq!(names(&fleet), ["server_1"]);
}

#[test]
fn names_are_unique_and_limits_hold() {
    let now = Instant::now();
    let mut fleet = running(2, 4, now);
    let given = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(fleet.add(1, &given(&["a", "b"])), Err(Refusal::MoreNamesThanAdded));
    assert_eq!(fleet.add(1, &given(&["Server 1"])), Err(Refusal::Taken("Server 1".to_owned())));
    assert!(matches!(fleet.add(2, &given(&["a", "a"])), Err(Refusal::Invalid(_))));
    assert!(matches!(fleet.add(1, &given(&["a\n"])), Err(Refusal::Invalid(_))));
    assert!(matches!(fleet.add(0, &[]), Err(Refusal::Invalid(_))));
    assert_eq!(fleet.add(3, &[]), Err(Refusal::AboveMax { now: 2, n: 3, max: 4 }));
    assert_eq!(names(&fleet), ["Server 1", "Server 2"]);
    let added = fleet.add(2, &given(&["Server 3"])).unwrap();
    assert_eq!(added.iter().map(|name| &**name).collect::<Vec<_>>(), ["Server 3", "Server 4"]);
    assert_eq!(fleet.choose(1, &given(&["a", "b"]), |_| 0), Err(Refusal::MoreNamesThanRemovable));
    assert_eq!(fleet.choose(3, &[], |_| 0), Err(Refusal::BelowMin { now: 4, n: 3, min: 2 }));
    let chosen = fleet.choose(2, &given(&["Server 2"]), |_| 0).unwrap();
    assert_eq!(chosen[0], "Server 2".into());
    assert_eq!(chosen.len(), 2);
    assert!(matches!(fleet.choose(1, &given(&["x"]), |_| 0), Err(Refusal::Unknown { .. })));
}

#[test]
fn a_replica_removed_while_it_starts_is_removed_after_its_start() {
    let now = Instant::now();
    let mut fleet = running(0, 5, now);
    let added = fleet.add(1, &[]).unwrap();
    assert_eq!(fleet.remove(&added), []);
    assert_eq!(fleet.on_list(&[container("z", "Server 1", RunState::Running)], now), []);
    assert!(fleet.slots().is_empty());
    assert_eq!(fleet.add(1, &["Server 1".to_owned()]), Err(Refusal::StillLeaving("Server 1".to_owned())));
    let leave = FleetAction::RemoveReplica { name: "Server 1".into(), id: "z".into(), ours: true };
    assert_eq!(fleet.started("Server 1", "z".into(), now), Some(leave));
    assert_eq!(fleet.on_list(&[container("z", "Server 1", RunState::Running)], now), []);
    fleet.removed(&"z".into());
    assert_eq!(fleet.on_list(&[container("z", "Server 1", RunState::Running)], now), [], "an old list");
    assert!(fleet.slots().is_empty());
}

#[test]
fn above_a_smaller_maximum_the_newest_own_replicas_are_removed() {
    let now = Instant::now();
    let mut fleet = Fleet::new(limits(1, 5));
    let theirs = ReplicaContainer { ours: false, ..container("t", "theirs", RunState::Running) };
    let list = [container("a", "A", RunState::Running), container("b", "B", RunState::Running), theirs];
    fleet.on_list(&list, now);
    fleet.reconfigure(limits(1, 2));
    let leave = FleetAction::RemoveReplica { name: "B".into(), id: "b".into(), ours: true };
    assert_eq!(fleet.due(now), [leave]);
    assert_eq!(names(&fleet), ["A", "theirs"]);
}

/// An engine that acts late, and whose containers exit.
#[derive(Default)]
struct FakeEngine {
    containers: Vec<ReplicaContainer>,
    starting: Vec<Arc<str>>,
    leaving: Vec<Arc<str>>,
    next: u32,
}

impl FakeEngine {
    fn carry_out(&mut self, actions: Vec<FleetAction>) {
        for action in actions {
            match action {
                FleetAction::Start(name) => self.starting.push(name),
                FleetAction::ReportExit { id, ours: true, .. } | FleetAction::RemoveContainer(id) => {
                    self.containers.retain(|container| container.id != id);
                }
                FleetAction::ReportExit { .. } => {}
                FleetAction::RemoveReplica { id, .. } => self.leaving.push(id),
                FleetAction::ReportRestart { .. } => {}
            }
        }
    }
}

#[derive(Clone, Debug)]
enum FleetStep {
    List,
    Wait(u8),
    StartEnds(bool),
    Dies(u8),
    Leaves,
    Add(u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = FleetStep> {
    prop_oneof![
        3 => Just(FleetStep::List),
        1 => any::<u8>().prop_map(FleetStep::Wait),
        3 => prop::bool::weighted(0.8).prop_map(FleetStep::StartEnds),
        1 => any::<u8>().prop_map(FleetStep::Dies),
        1 => Just(FleetStep::Leaves),
        1 => (1..4_u8).prop_map(FleetStep::Add),
        1 => (1..4_u8).prop_map(FleetStep::Remove),
    ]
}

proptest! {
    #[test]
    fn after_any_history_the_wanted_replicas_run(
        min in 0..4_u32, more in 0..4_u32, steps in prop::collection::vec(step(), 0..60)
    ) {
        let max = min + more.max(1);
        let (mut now, mut fleet, mut engine) = (Instant::now(), Fleet::new(limits(min, max)), FakeEngine::default());
        let start_ends = |engine: &mut FakeEngine, fleet: &mut Fleet, well: bool, now| {
            let Some(name) = engine.starting.pop() else { return };
            if !well {
                fleet.start_failed(&name, now);
                return;
            }
            engine.next += 1;
            let container = container(&engine.next.to_string(), &name, RunState::Running);
            engine.containers.push(container.clone());
            let unwanted = fleet.started(&name, container.id, now);
            engine.carry_out(unwanted.into_iter().collect());
        };
        let leaves = |engine: &mut FakeEngine, fleet: &mut Fleet| {
            let Some(id) = engine.leaving.pop() else { return };
            engine.containers.retain(|container| container.id != id);
            fleet.removed(&id);
        };
        for step in steps {
            now += Duration::from_millis(10);
            match step {
                FleetStep::List => {
                    let actions = fleet.on_list(&engine.containers.clone(), now);
                    engine.carry_out(actions);
                }
                FleetStep::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                FleetStep::StartEnds(well) => start_ends(&mut engine, &mut fleet, well, now),
                FleetStep::Dies(which) if !engine.containers.is_empty() => {
                    let index = usize::from(which) % engine.containers.len();
                    engine.containers[index].state = RunState::Ended;
                }
                FleetStep::Dies(_) => {}
                FleetStep::Leaves => leaves(&mut engine, &mut fleet),
                // The manager accepts no commands before the first list.
                FleetStep::Add(n) if fleet.known() => {
                    if let Ok(names) = fleet.add(n.into(), &[]) {
                        engine.starting.extend(names);
                    }
                }
                FleetStep::Remove(n) if fleet.known() => {
                    if let Ok(names) = fleet.choose(n.into(), &[], |below| below / 2) {
                        let actions = fleet.remove(&names);
                        engine.carry_out(actions);
                    }
                }
                FleetStep::Add(_) | FleetStep::Remove(_) => {}
            }
            let names: BTreeSet<_> = fleet.slots().iter().map(|slot| &slot.name).collect();
            prop_assert_eq!(names.len(), fleet.slots().len(), "a name twice");
            prop_assert!(fleet.slots().len() <= max as usize);
            prop_assert!(!fleet.known() || fleet.slots().len() >= min as usize);
        }
        // Left alone, it settles: all wanted replicas run, and nothing else is left.
        for _ in 0..200 {
            now += Duration::from_secs(61);
            let actions = fleet.on_list(&engine.containers.clone(), now);
            engine.carry_out(actions);
            start_ends(&mut engine, &mut fleet, true, now);
            leaves(&mut engine, &mut fleet);
        }
        let mut wanted = names(&fleet);
        let mut found: Vec<_> = engine.containers.iter().map(|container| container.name.to_string()).collect();
        wanted.sort();
        found.sort();
        prop_assert_eq!(&wanted, &found);
        prop_assert_eq!(fleet.running(), wanted.len());
        prop_assert!(engine.containers.iter().all(|container| container.state == RunState::Running));
    }
}
