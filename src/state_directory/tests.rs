use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::domain::{AdminState, Timestamp};

fn number(line: &str) -> Result<u64, LineError> {
    line.parse().map_err(|_| LineError::of(line))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(folder: &TempDir) -> StateDirectory {
    StateDirectory::open(&folder.path().join("state"), None).unwrap()
}

fn events(folder: &TempDir) -> PathBuf {
    folder.path().join("state").join(StateFile::Events.name())
}

fn drained(name: &str) -> SavedBackend {
    SavedBackend {
        name: name.into(),
        nameless: false,
        address: "10.0.0.1:80".parse().unwrap(),
        state: Some(SavedState { state: AdminState::Draining, by: "root".into(), at: Timestamp(1.5) }),
        weight: None,
    }
}

/// Saves settings and waits for the reply.
fn save(settings: &SavedSettings, backends: Vec<SavedBackend>) {
    let (done, when_done) = mpsc::channel();
    settings.save(backends, vec![Box::new(move || done.send(()).unwrap())]);
    when_done.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn lines_and_settings_are_there_for_the_next_process() {
    let folder = folder();
    let state = open(&folder);
    assert_eq!(state.read(StateFile::Events, number), (vec![], 0));
    (1..=3).for_each(|n: u64| state.append(StateFile::Events, n.to_string()));
    let (web, restored) = state.pool(&"web".into());
    assert_eq!(restored, []);
    save(&web, vec![drained("a")]);
    state.close();
    drop((state, web));

    let state = open(&folder);
    assert_eq!(state.read(StateFile::Events, number), (vec![1, 2, 3], 0));
    assert_eq!(state.read(StateFile::Minutes, number), (vec![], 0));
    let (web, restored) = state.pool(&"web".into());
    assert_eq!(restored, [drained("a")]);
    // Only once: a pool that was removed and comes back begins without settings.
    let (again, restored) = state.pool(&"web".into());
    assert_eq!(restored, []);
    save(&again, vec![drained("b")]);
    // The removed one ends later, and overwrites nothing.
    save(&web, Vec::new());
    drop((state, web, again));
    assert_eq!(open(&folder).pool(&"web".into()).1, [drained("b")]);
}

#[test]
fn a_drained_listener_is_drained_for_the_next_process() {
    let folder = folder();
    let set = |state: &StateDirectory, name: &str, drained| {
        let (done, when_done) = mpsc::channel();
        state.save_listener(name, drained, Box::new(move || done.send(()).unwrap()));
        when_done.recv_timeout(Duration::from_secs(20)).unwrap();
    };
    let drained = |name: &str| SavedListener { listener: name.into(), by: "root".into(), at: Timestamp(1.5) };
    let state = open(&folder);
    assert_eq!(state.drained_listeners(), []);
    ["a", "b", "a"].into_iter().for_each(|name| set(&state, name, Some(drained(name))));
    drop(state);
    let state = open(&folder);
    assert_eq!(state.drained_listeners(), ["b", "a"].map(drained));
    set(&state, "b", None);
    drop(state);
    assert_eq!(open(&folder).drained_listeners(), [drained("a")]);
    set(&StateDirectory::default(), "a", Some(drained("a")));
}

#[test]
fn replies_come_even_when_nothing_is_written_any_longer() {
    let folder = folder();
    let state = open(&folder);
    let (web, _) = state.pool(&"web".into());
    state.close();
    save(&web, vec![drained("a")]);
}

#[test]
fn settings_of_pools_that_the_configuration_no_longer_has_are_dropped() {
    let folder = folder();
    let state = open(&folder);
    for pool in ["web", "old"] {
        save(&state.pool(&pool.into()).0, vec![drained(pool)]);
    }
    drop(state);
    let state = open(&folder);
    assert_eq!(state.pool(&"web".into()).1, [drained("web")]);
    state.drop_other_pools();
    drop(state);
    let state = open(&folder);
    assert_eq!((state.pool(&"old".into()).1, state.pool(&"web".into()).1), (vec![], vec![drained("web")]));
}

#[test]
fn only_one_process_at_a_time_uses_the_folder() {
    let folder = folder();
    let state = open(&folder);
    let second = StateDirectory::open(&folder.path().join("state"), None);
    assert!(matches!(second, Err(OpenError::InUse)), "{second:?}");
    drop(state);
    open(&folder);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let folder = folder();
    std::fs::write(folder.path().join("state"), "a file").unwrap();
    let opened = StateDirectory::open(&folder.path().join("state"), None);
    assert!(matches!(opened, Err(OpenError::Io(_))), "{opened:?}");
}

#[test]
fn only_its_user_can_read_the_folder() {
    let folder = folder();
    let state = open(&folder);
    state.append(StateFile::Events, "1".to_owned());
    save(&state.pool(&"web".into()).0, vec![drained("a")]);
    drop(state);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let path = folder.path().join("state");
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[test]
fn a_torn_last_line_is_removed_before_the_next_one() {
    let folder = folder();
    drop(open(&folder));
    std::fs::write(events(&folder), "1\n2\n3").unwrap();
    let state = open(&folder);
    assert_eq!(state.read(StateFile::Events, number), (vec![1, 2], 0));
    state.append(StateFile::Events, "4".to_owned());
    drop(state);
    assert_eq!(std::fs::read_to_string(events(&folder)).unwrap(), "1\n2\n4\n");
}

#[test]
fn lines_of_another_version_are_skipped_and_counted() {
    let folder = folder();
    drop(open(&folder));
    std::fs::write(events(&folder), "1\n{\"kind\":\"from the future\"}\n3\n").unwrap();
    let state = open(&folder);
    assert_eq!(state.read(StateFile::Events, number), (vec![1, 3], 1));
    drop(state);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("state")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_damaged_file_is_set_aside_and_its_other_lines_are_kept() {
    let folder = folder();
    drop(open(&folder));
    std::fs::write(events(&folder), b"1\n\0\0\0\n\xff\n4\n").unwrap();
    std::fs::write(folder.path().join("state/operators.json"), "{\"pools\": [").unwrap();
    let state = open(&folder);
    assert_eq!(state.read(StateFile::Events, number), (vec![1, 4], 0));
    assert_eq!(state.pool(&"web".into()).1, []);
    state.append(StateFile::Events, "5".to_owned());
    drop(state);
    assert_eq!(std::fs::read_to_string(events(&folder)).unwrap(), "1\n4\n5\n");
    for aside in ["events.jsonl.damaged", "operators.json.damaged"] {
        assert!(folder.path().join("state").join(aside).exists(), "{aside}");
    }
}

#[test]
fn a_file_never_has_more_than_twice_the_lines_that_are_kept() {
    let folder = folder();
    let kept = StateFile::TenSeconds.kept();
    let file = folder.path().join("state").join(StateFile::TenSeconds.name());
    let most = 5 * kept as u64;
    for from in (0..most).step_by(kept / 2) {
        let state = open(&folder);
        (from..from + kept as u64 / 2).for_each(|n| state.append(StateFile::TenSeconds, n.to_string()));
        drop(state);
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines < 2 * kept, "{lines}");
    }
    let (numbers, _) = open(&folder).read(StateFile::TenSeconds, number);
    assert_eq!(numbers, (most - kept as u64..most).collect::<Vec<_>>());
}

#[test]
fn a_failure_to_write_is_survived_and_nothing_is_lost_when_it_ends() {
    let folder = folder();
    let state = open(&folder);
    let (web, _) = state.pool(&"web".into());
    // Neither path can be opened for writing.
    let path = folder.path().join("state");
    std::os::unix::fs::symlink("missing/file", path.join("events.jsonl")).unwrap();
    std::fs::create_dir(path.join("operators.new")).unwrap();
    state.append(StateFile::Events, "1".to_owned());
    save(&web, vec![drained("a")]); // the operator gets a reply all the same
    std::fs::remove_file(path.join("events.jsonl")).unwrap();
    std::fs::remove_dir(path.join("operators.new")).unwrap();
    state.append(StateFile::Events, "2".to_owned());
    drop((state, web));
    let state = open(&folder);
    assert_eq!(state.read(StateFile::Events, number).0, [1, 2]);
    assert_eq!(state.pool(&"web".into()).1, [drained("a")]);
}

#[test]
fn without_a_folder_nothing_is_kept_and_replies_come_at_once() {
    let state = StateDirectory::default();
    state.append(StateFile::Events, "1".to_owned());
    assert_eq!(state.read(StateFile::Events, number), (vec![], 0));
    let (settings, restored) = state.pool(&"web".into());
    assert!(restored.is_empty() && !state.is_configured());
    save(&settings, vec![drained("a")]);
}

fn any_backend() -> impl Strategy<Value = SavedBackend> {
    let at = || (0u64..4_000_000_000_000).prop_map(|millis| Timestamp(millis as f64 / 1e3));
    let states = prop::sample::select(vec![AdminState::Up, AdminState::Draining, AdminState::Maintenance]);
    let state = (states, ".{0,9}", at()).prop_map(|(state, by, at)| SavedState { state, by: by.into(), at });
    let weight = (0u32..300, 0u32..300, ".{0,9}", at()).prop_map(|(weight, by_source, by, at)| SavedWeight {
        weight,
        by_source,
        by: by.into(),
        at,
    });
    let (state, weight) = (prop::option::of(state), prop::option::of(weight));
    (".{0,9}", any::<bool>(), any::<(std::net::IpAddr, u16)>(), state, weight).prop_map(
        |(name, nameless, address, state, weight)| SavedBackend {
            name: name.into(),
            nameless,
            address: std::net::SocketAddr::from(address).into(),
            state,
            weight,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn settings_are_read_as_they_were_written(
        pools in prop::collection::vec(("[a-z]{1,4}", prop::collection::vec(any_backend(), 1..4)), 0..4),
        listeners in prop::collection::vec(("[a-z]{1,4}", ".{0,9}", 0u32..), 0..3),
    ) {
        let folder = folder();
        let pools: Vec<_> = pools.into_iter().map(|(pool, backends)| SavedPool { pool: pool.into(), backends }).collect();
        let listeners = listeners.into_iter().map(|(listener, by, at)| {
            SavedListener { listener: listener.into(), by: by.into(), at: Timestamp(at.into()) }
        });
        let listeners = listeners.collect();
        let settings = Settings { pools, listeners };
        line_file::replace(&saved::path(folder.path()), &settings.in_json()).unwrap();
        prop_assert_eq!(Settings::read(folder.path()), settings);
    }
}
