use super::*;
use proptest::prelude::*;

fn settings(min: u32, max: u32) -> Settings {
    Settings { min, max, respawn: true }
}

fn sighting(id: &str, name: &str, life: Life) -> Sighting {
    Sighting { id: id.into(), name: name.into(), container: format!("web-{name}"), ours: true, life }
}

fn names(fleet: &Fleet) -> Vec<String> {
    fleet.slots().iter().map(|slot| slot.name.to_string()).collect()
}

fn start(name: &str) -> Action {
    Action::Start(name.into())
}

/// One whose minimum runs: `Server 1` as `a`, `Server 2` as `b` …
fn running(min: u32, max: u32, now: Instant) -> Fleet {
    let mut fleet = Fleet::new(settings(min, max));
    let starts = fleet.see(&[], now);
    for (index, action) in starts.into_iter().enumerate() {
        let Action::Start(name) = action else { panic!("{action:?}") };
        let id = char::from(b'a' + u8::try_from(index).unwrap()).to_string();
        assert_eq!(fleet.started(&name, id.as_str().into(), now), None);
    }
    fleet
}

#[test]
fn those_that_miss_to_the_minimum_are_started_once_the_engine_was_seen() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(2, 5));
    assert_eq!(fleet.due(now), []);
    assert_eq!(fleet.see(&[], now), [start("Server 1"), start("Server 2")]);
    assert!(fleet.is_starting());
    assert_eq!(fleet.see(&[], now), []);
}

#[test]
fn those_who_run_already_are_found_again_and_none_is_started_twice() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(2, 5));
    let list = [sighting("a", "Server 7", Life::Running), sighting("b", "x", Life::Running)];
    assert_eq!(fleet.see(&list, now), []);
    assert_eq!(names(&fleet), ["Server 7", "x"]);
    let mut one = Fleet::new(settings(2, 5));
    assert_eq!(one.see(&list[..1], now), [start("Server 1")]);
}

#[test]
fn one_that_died_is_replaced_by_one_of_its_name_and_counted() {
    let now = Instant::now();
    let mut fleet = running(2, 5, now);
    let list = [sighting("a", "Server 1", Life::Ended), sighting("b", "Server 2", Life::Running)];
    let bury = |again_in| Action::Bury { name: "Server 1".into(), id: "a".into(), ours: true, again_in };
    assert_eq!(fleet.see(&list, now), [bury(Some(Duration::ZERO)), start("Server 1")]);
    assert_eq!(names(&fleet), ["Server 1", "Server 2"]);
    assert_eq!(fleet.respawns(), 0);
    assert_eq!(fleet.started("Server 1", "c".into(), now), None);
    assert_eq!(fleet.respawns(), 1);
    // What is left of the old one is not its death once more.
    let list = [&list[..], &[sighting("c", "Server 1", Life::Running)]].concat();
    assert_eq!(fleet.see(&list, now), []);
    // One that vanishes from the list has died too.
    let actions = fleet.see(&list[1..2], now);
    assert!(
        matches!(&actions[..], [Action::Bury { again_in: Some(pause), .. }] if *pause == PAUSE.0),
        "{actions:?}"
    );
}

#[test]
fn one_that_dies_again_and_again_is_started_ever_more_rarely() {
    let mut now = Instant::now();
    let mut fleet = running(1, 5, now);
    let mut pauses = Vec::new();
    for n in 0..9 {
        let id = fleet.slots()[0].id().unwrap().to_string();
        fleet.see(&[sighting(&id, "Server 1", Life::Ended)], now);
        let until = fleet.deadline().unwrap_or(now);
        pauses.push((until - now).as_secs());
        assert_eq!(fleet.due(until - Duration::from_millis(1)), [], "not before");
        now = until;
        fleet.due(now);
        assert_eq!(fleet.started("Server 1", format!("n{n}").into(), now), None);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    // One that has lived for long is started at once again.
    now += STABLE;
    fleet.see(&[sighting("n8", "Server 1", Life::Ended)], now);
    assert!(fleet.is_starting());
}

#[test]
fn one_that_cannot_be_started_is_tried_again_later() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(1, 5));
    fleet.see(&[], now);
    assert_eq!(fleet.start_failed("Server 1", now), Some(PAUSE.0));
    assert_eq!(fleet.start_failed("Server 1", now), None, "nobody waits for it twice");
    assert_eq!(fleet.deadline(), Some(now + PAUSE.0));
    assert_eq!(fleet.due(now + PAUSE.0), [start("Server 1")]);
    assert_eq!(fleet.start_failed("Server 1", now), Some(PAUSE.0 * 2));
}

#[test]
fn without_respawn_one_that_died_is_missing() {
    let now = Instant::now();
    let mut fleet = running(2, 5, now);
    fleet.reconfigure(Settings { respawn: false, ..settings(2, 5) });
    let both = [sighting("a", "Server 1", Life::Running), sighting("b", "Server 2", Life::Running)];
    assert_eq!(fleet.see(&both, now), []);
    let actions = fleet.see(&both[1..], now);
    assert!(matches!(&actions[..], [Action::Bury { again_in: None, .. }]), "{actions:?}");
    assert_eq!(names(&fleet), ["Server 2"]);
    assert_eq!(fleet.due(now + Duration::from_secs(3600)), []);
}

#[test]
fn a_list_from_before_a_start_does_not_make_it_a_death() {
    let now = Instant::now();
    let mut fleet = running(1, 5, now);
    assert_eq!(fleet.see(&[], now + Duration::from_secs(1)), []);
    assert_eq!(names(&fleet), ["Server 1"]);
    assert!(!fleet.see(&[], now + UNSEEN * 2).is_empty());
}

#[test]
fn a_replica_that_died_unwatched_is_replaced() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(1, 5));
    let list = [sighting("a", "A", Life::Ended), Sighting { ours: false, ..sighting("c", "C", Life::Ended) }];
    let actions = fleet.see(&list, now);
    let again_in = Some(Duration::ZERO);
    let bury = Action::Bury { name: "A".into(), id: "a".into(), ours: true, again_in };
    assert_eq!(actions, [bury, start("A")]);
    // Later, what is left of one is only that.
    assert_eq!(fleet.see(&[sighting("d", "D", Life::Ended)], now), [Action::Remove("d".into())]);
}

#[test]
fn a_container_of_another_pointsman_is_removed_only_if_it_is_never_started() {
    let began = Instant::now();
    let mut fleet = running(1, 5, began);
    let with = |id: &str, life| [sighting("a", "Server 1", Life::Running), sighting(id, "x", life)];
    assert_eq!(fleet.see(&with("b", Life::Created), began), []);
    assert_eq!(fleet.see(&with("b", Life::Running), began + UNSTARTED), []);
    assert_eq!(names(&fleet), ["Server 1", "x"]);
    // A process created it and ended before it could start it.
    let mut fleet = running(1, 5, began);
    assert_eq!(fleet.see(&with("c", Life::Created), began), []);
    assert_eq!(fleet.see(&with("c", Life::Created), began + UNSTARTED - Duration::from_secs(1)), []);
    assert_eq!(fleet.see(&with("c", Life::Created), began + UNSTARTED), [Action::Remove("c".into())]);
    assert_eq!(fleet.see(&with("c", Life::Created), began + UNSTARTED * 2), []);
}

#[test]
fn somebody_who_was_just_leaving_goes_on_leaving() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(0, 5));
    let marked = Sighting { container: format!("web-x{LEAVING}"), ..sighting("a", "A", Life::Running) };
    let leave = Action::Leave { name: "A".into(), id: "a".into(), ours: true };
    assert_eq!(fleet.see(std::slice::from_ref(&marked), now), [leave]);
    assert_eq!(fleet.see(std::slice::from_ref(&marked), now), []);
    assert!(names(&fleet).is_empty());
    assert_eq!(fleet.add(1, &["A".to_owned()]), Err(Refusal::StillLeaving("A".to_owned())));
    // And one that had ended before it was removed is not replaced.
    let mut anew = Fleet::new(settings(0, 5));
    let ended = Sighting { life: Life::Ended, ..marked };
    assert_eq!(anew.see(&[ended], now), [Action::Remove("a".into())]);
}

#[test]
fn containers_of_others_are_replicas_and_are_replaced_but_not_removed_when_they_die() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(0, 5));
    let theirs = Sighting { ours: false, ..sighting("a", "server_1", Life::Running) };
    assert_eq!(fleet.see(std::slice::from_ref(&theirs), now), []);
    assert_eq!(names(&fleet), ["server_1"]);
    let ended = Sighting { life: Life::Ended, ..theirs.clone() };
    let actions = fleet.see(std::slice::from_ref(&ended), now);
    let bury = Action::Bury { name: "server_1".into(), id: "a".into(), ours: false, again_in: Some(RETURN) };
    assert_eq!(actions, [bury]);
    assert_eq!(fleet.due(now + RETURN), [start("server_1")]);
    assert_eq!(fleet.started("server_1", "b".into(), now), None);
    // If theirs comes back, both are there, by names that differ.
    let both = [theirs, sighting("b", "server_1", Life::Running)];
    assert_eq!(fleet.see(&both, now), []);
    assert_eq!(names(&fleet), ["server_1", "server_1 (a)"]);
}

#[test]
fn one_of_others_that_is_restarted_is_not_replaced() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(0, 5));
    let theirs = |life| [Sighting { ours: false, ..sighting("a", "server_1", life) }];
    assert_eq!(fleet.see(&theirs(Life::Running), now), []);
    // By its engine: that is told once.
    let mourn = Action::Mourn { name: "server_1".into(), id: "a".into() };
    assert_eq!(fleet.see(&theirs(Life::Restarting), now), [mourn]);
    assert_eq!(fleet.see(&theirs(Life::Restarting), now), []);
    assert_eq!((names(&fleet), fleet.running()), (vec!["server_1".to_owned()], 0));
    assert_eq!(fleet.see(&theirs(Life::Running), now), []);
    assert_eq!(fleet.running(), 1);
    // By somebody else, in a moment.
    assert_eq!(fleet.see(&theirs(Life::Ended), now).len(), 1);
    assert_eq!(fleet.see(&theirs(Life::Running), now + RETURN / 2), []);
    assert_eq!((fleet.due(now + RETURN), fleet.running(), fleet.respawns()), (vec![], 1, 0));
    assert_eq!(names(&fleet), ["server_1"]);
}

#[test]
fn a_name_is_given_once_and_limits_hold() {
    let now = Instant::now();
    let mut fleet = running(2, 4, now);
    let given = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(fleet.add(1, &given(&["a", "b"])), Err(Refusal::MoreNamesThanAdded));
    assert_eq!(fleet.add(1, &given(&["Server 1"])), Err(Refusal::Taken("Server 1".to_owned())));
    assert!(matches!(fleet.add(2, &given(&["a", "a"])), Err(Refusal::Wrong(_))));
    assert!(matches!(fleet.add(1, &given(&["a\n"])), Err(Refusal::Wrong(_))));
    assert!(matches!(fleet.add(0, &[]), Err(Refusal::Wrong(_))));
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
fn one_that_is_taken_out_while_it_starts_leaves_when_it_has_started() {
    let now = Instant::now();
    let mut fleet = running(0, 5, now);
    let added = fleet.add(1, &[]).unwrap();
    assert_eq!(fleet.leave(&added), []);
    assert_eq!(fleet.see(&[sighting("z", "Server 1", Life::Running)], now), []);
    assert!(fleet.slots().is_empty());
    assert_eq!(fleet.add(1, &["Server 1".to_owned()]), Err(Refusal::StillLeaving("Server 1".to_owned())));
    let leave = Action::Leave { name: "Server 1".into(), id: "z".into(), ours: true };
    assert_eq!(fleet.started("Server 1", "z".into(), now), Some(leave));
    assert_eq!(fleet.see(&[sighting("z", "Server 1", Life::Running)], now), []);
    fleet.left(&"z".into());
    assert_eq!(fleet.see(&[sighting("z", "Server 1", Life::Running)], now), [], "an old list");
    assert!(fleet.slots().is_empty());
}

#[test]
fn above_a_smaller_maximum_the_newest_of_ours_leave() {
    let now = Instant::now();
    let mut fleet = Fleet::new(settings(1, 5));
    let theirs = Sighting { ours: false, ..sighting("t", "theirs", Life::Running) };
    let list = [sighting("a", "A", Life::Running), sighting("b", "B", Life::Running), theirs];
    fleet.see(&list, now);
    fleet.reconfigure(settings(1, 2));
    let leave = Action::Leave { name: "B".into(), id: "b".into(), ours: true };
    assert_eq!(fleet.due(now), [leave]);
    assert_eq!(names(&fleet), ["A", "theirs"]);
}

/// An engine that does what it is told, late, and whose containers die.
#[derive(Default)]
struct World {
    containers: Vec<Sighting>,
    starting: Vec<Arc<str>>,
    leaving: Vec<Arc<str>>,
    next: u32,
}

impl World {
    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start(name) => self.starting.push(name),
                Action::Bury { id, ours: true, .. } | Action::Remove(id) => {
                    self.containers.retain(|container| container.id != id);
                }
                Action::Bury { .. } => {}
                Action::Leave { id, .. } => self.leaving.push(id),
                Action::Mourn { .. } => {}
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    See,
    Wait(u8),
    StartEnds(bool),
    Dies(u8),
    Leaves,
    Add(u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::See),
        1 => any::<u8>().prop_map(Step::Wait),
        3 => prop::bool::weighted(0.8).prop_map(Step::StartEnds),
        1 => any::<u8>().prop_map(Step::Dies),
        1 => Just(Step::Leaves),
        1 => (1..4_u8).prop_map(Step::Add),
        1 => (1..4_u8).prop_map(Step::Remove),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_in_the_end_there_are_as_many_as_there_are_to_be(
        min in 0..4_u32, more in 0..4_u32, steps in prop::collection::vec(step(), 0..60)
    ) {
        let max = min + more.max(1);
        let (mut now, mut fleet, mut world) = (Instant::now(), Fleet::new(settings(min, max)), World::default());
        let start_ends = |world: &mut World, fleet: &mut Fleet, well: bool, now| {
            let Some(name) = world.starting.pop() else { return };
            if !well {
                fleet.start_failed(&name, now);
                return;
            }
            world.next += 1;
            let container = sighting(&world.next.to_string(), &name, Life::Running);
            world.containers.push(container.clone());
            let unwanted = fleet.started(&name, container.id, now);
            world.carry_out(unwanted.into_iter().collect());
        };
        let leaves = |world: &mut World, fleet: &mut Fleet| {
            let Some(id) = world.leaving.pop() else { return };
            world.containers.retain(|container| container.id != id);
            fleet.left(&id);
        };
        for step in steps {
            now += Duration::from_millis(10);
            match step {
                Step::See => {
                    let actions = fleet.see(&world.containers.clone(), now);
                    world.carry_out(actions);
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                Step::StartEnds(well) => start_ends(&mut world, &mut fleet, well, now),
                Step::Dies(which) if !world.containers.is_empty() => {
                    let index = usize::from(which) % world.containers.len();
                    world.containers[index].life = Life::Ended;
                }
                Step::Dies(_) => {}
                Step::Leaves => leaves(&mut world, &mut fleet),
                // Nothing is ordered before the engine was seen, as in the task.
                Step::Add(n) if fleet.known() => {
                    if let Ok(names) = fleet.add(n.into(), &[]) {
                        world.starting.extend(names);
                    }
                }
                Step::Remove(n) if fleet.known() => {
                    if let Ok(names) = fleet.choose(n.into(), &[], |below| below / 2) {
                        let actions = fleet.leave(&names);
                        world.carry_out(actions);
                    }
                }
                Step::Add(_) | Step::Remove(_) => {}
            }
            let names: BTreeSet<_> = fleet.slots().iter().map(|slot| &slot.name).collect();
            prop_assert_eq!(names.len(), fleet.slots().len(), "a name twice");
            prop_assert!(fleet.slots().len() <= max as usize);
            prop_assert!(!fleet.known() || fleet.slots().len() >= min as usize);
        }
        // Left alone, it comes to rest: all that there are to be run, and nothing else is left.
        for _ in 0..200 {
            now += Duration::from_secs(61);
            let actions = fleet.see(&world.containers.clone(), now);
            world.carry_out(actions);
            start_ends(&mut world, &mut fleet, true, now);
            leaves(&mut world, &mut fleet);
        }
        let mut wanted = names(&fleet);
        let mut found: Vec<_> = world.containers.iter().map(|container| container.name.to_string()).collect();
        wanted.sort();
        found.sort();
        prop_assert_eq!(&wanted, &found);
        prop_assert_eq!(fleet.running(), wanted.len());
        prop_assert!(world.containers.iter().all(|container| container.life == Life::Running));
    }
}
