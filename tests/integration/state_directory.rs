//! The state directory (`runtime.state`): what outlives the process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::{Lb, eventually, http_get};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder that does not exist yet.
fn state() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    (folder, state)
}

/// A pool whose backends are eligible as soon as they are found.
fn config(state: &Path, backends: &[Backend]) -> String {
    let one = |(backend, name): (&Backend, &str)| format!("{{address: {}, name: {name}}}", backend.address);
    let list = backends.iter().zip(["a", "b", "c"]).map(one).collect::<Vec<_>>().join(", ");
    format!(
        "runtime: {{state: {}}}
listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools: {{web: {{balance: weighted, discover: [{{static: [{list}]}}]}}}}",
        state.display()
    )
}

fn three() -> [Backend; 3] {
    ["a", "b", "c"].map(Backend::http)
}

fn patch(lb: &Lb, backend: &str, change: &Value) {
    let (status, body) =
        lb.request("PATCH", &format!("/api/v1/pools/web/backends/{backend}"), &change.to_string());
    assert_eq!(status, 200, "{body}");
}

fn get(lb: &Lb, path: &str) -> Value {
    let (status, body) = lb.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The number of responses of each backend.
fn answers(lb: &Lb, requests: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..requests {
        *answers.entry(http_get(lb.address("web"), "/").unwrap().1).or_default() += 1;
    }
    answers
}

fn cause(lb: &Lb, name: &str) -> (String, String) {
    let backends = lb.backends();
    let (_, state, cause) = backends.into_iter().find(|backend| backend.0 == name).unwrap();
    (state, cause)
}

fn kinds(journal: &Value) -> Vec<&str> {
    journal["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

/// Ends it with SIGTERM.
fn stop(mut lb: Lb) {
    lb.signal("TERM");
    assert_eq!(lb.when_ended().code(), Some(0), "{}", lb.log());
}

#[test]
fn a_drained_listener_stays_closed_after_a_restart_until_it_is_up_or_removed() {
    let (_folder, state) = state();
    let backends = three();
    let alone = config(&state, &backends).replace("web: {bind", "other: {bind");
    let config = alone.replace("listeners: {", "listeners: {web: {bind: 127.0.0.1:0, pool: web}, ");
    let set = |lb: &Lb, state: &str| {
        let (status, body) =
            lb.request("PATCH", "/api/v1/listeners/web", &json!({"state": state}).to_string());
        assert_eq!(status, 200, "{body}");
    };
    let listens = |lb: &Lb| {
        let listening = !lb.logged(&["listening listener=web"]).is_empty();
        let drains = get(lb, "/api/v1/listeners/web")["state"] == "draining";
        assert_ne!(listening, drains, "{}", lb.log());
        http_get(lb.address("other"), "/").unwrap();
        listening
    };
    let lb = Lb::start(&config);
    assert!(listens(&lb));
    set(&lb, "draining");
    // As in a crash.
    drop(lb);
    let lb = Lb::start(&config);
    assert!(!listens(&lb));
    lb.when_logged("an operator has drained it: its addresses stay closed");
    set(&lb, "up");
    http_get(lb.address("web"), "/").unwrap();
    stop(lb);
    let lb = Lb::start(&config);
    assert!(listens(&lb));
    set(&lb, "draining");
    stop(lb);

    // Without it, the setting is forgotten.
    stop(Lb::start(&alone));
    assert!(listens(&Lb::start(&config)));
}

#[test]
fn a_drained_backend_gets_no_connection_after_a_crash_and_a_weight_stays_in_effect() {
    let (_folder, state) = state();
    let backends = three();
    let config = config(&state, &backends);
    let lb = Lb::start(&config);
    assert_eq!(answers(&lb, 3).len(), 3);
    patch(&lb, "a", &json!({"state": "draining"}));
    patch(&lb, "b", &json!({"weight": 3}));
    drop(lb); // SIGKILL

    let lb = Lb::launch(&config);
    // From the first connection on.
    assert_eq!(answers(&lb, 16), [("b".to_owned(), 12), ("c".to_owned(), 4)].into());
    let before = "drained by an operator at 127.0.0.1 before the restart, on 20";
    let (now, reason) = cause(&lb, "a");
    assert!(now == "draining" && reason.starts_with(before) && reason.ends_with(" UTC"), "{now}: {reason}");
    assert!(lb.logged(&["backend up", "backend=a"]).is_empty());
    assert_eq!(lb.logged(&["backend draining", "backend=a", before]).len(), 1);
    let why = get(&lb, "/api/v1/why?pool=web&backend=a");
    let sentences = why["sentences"].to_string();
    for told in ["set it to draining", "Pointsman 0.1.0 started", before] {
        assert!(sentences.contains(told), "no {told:?} in {sentences}");
    }
    let status = get(&lb, "/api/v1/pools/web/backends/a");
    assert_eq!((&status["connections"], &status["state"]), (&json!(0), &json!("draining")));

    // A restart keeps the state, too, and the name of the operator.
    stop(lb);
    let lb = Lb::start(&config);
    assert_eq!(cause(&lb, "a").1, reason);
    // What ends it at run time ends it for good.
    patch(&lb, "a", &json!({"state": "up"}));
    drop(lb);
    let lb = Lb::start(&config);
    assert_eq!(cause(&lb, "a").0, "up");
    assert_eq!(answers(&lb, 10), [("a", 2), ("b", 6), ("c", 2)].map(|(name, n)| (name.to_owned(), n)).into());
}

#[test]
fn settings_of_backends_and_pools_that_are_gone_are_dropped() {
    let (_folder, state) = state();
    let backends = three();
    let all = config(&state, &backends);
    let lb = Lb::start(&all);
    patch(&lb, "a", &json!({"state": "draining"}));
    patch(&lb, "c", &json!({"state": "maintenance"}));
    drop(lb);
    let lb = Lb::start(&config(&state, &backends[..2]));
    lb.when_logged_times(1, &["operator's setting dropped", "backend=c", "no source reports its backend"]);
    assert_eq!(cause(&lb, "a").0, "draining");
    stop(lb);
    let lb = Lb::start(&all);
    assert_eq!(cause(&lb, "c").0, "up");
    drop(lb);
    let lb = Lb::start(&all.replace("web: {balance", "other: {balance").replace("pool: web", "pool: other"));
    lb.when_logged_times(1, &["operator's setting dropped", "pool=web", "backend=a"]);
    stop(lb);
    assert_eq!(cause(&Lb::start(&all), "a").0, "up");
}

#[test]
fn events_and_the_history_continue_after_a_crash() {
    let (_folder, state) = state();
    let backends = three();
    let config = config(&state, &backends);
    let lb = Lb::start(&config);
    patch(&lb, "a", &json!({"state": "draining"}));
    let connections = |lb: &Lb| {
        let history = get(lb, "/api/v1/history?step=10");
        let column = history["pools"]["web"]["connections"].as_array().cloned().unwrap_or_default();
        column.iter().filter_map(Value::as_u64).sum::<u64>()
    };
    eventually("the history has begun", || {
        get(&lb, "/api/v1/history")["pools"]["web"].is_object().then_some(())
    });
    answers(&lb, 5);
    eventually("ten seconds are complete", || (connections(&lb) == 5).then_some(()));
    eventually("they are saved", || {
        fs::read_to_string(state.join("history-10s.jsonl"))
            .is_ok_and(|text| text.ends_with('\n'))
            .then_some(())
    });
    let before = get(&lb, "/api/v1/journal?limit=10000");
    drop(lb);

    let lb = Lb::start(&config);
    assert_eq!(connections(&lb), 5);
    let after = get(&lb, "/api/v1/journal?limit=10000");
    let (old, all) = (before["events"].as_array().unwrap(), after["events"].as_array().unwrap());
    assert_eq!(old[..], all[..old.len()]);
    assert_eq!(all[old.len()]["kind"], "started");
    assert_eq!(all[old.len()]["events"], old.len());
    let ids: Vec<_> = all.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    assert_eq!(kinds(&after).iter().filter(|kind| **kind == "started").count(), 2);
    // A page that was open gets what it has not received, and the present start.
    let story = get(&lb, "/api/v1/story?since=10m");
    let told = story["sentences"].to_string();
    assert_eq!(told.matches("Pointsman 0.1.0 started").count(), 2, "{told}");
    assert!(told.contains("counters cover the last"), "{told}");
}

#[test]
fn two_processes_never_use_the_same_folder() {
    let (_folder, state) = state();
    let backends = three();
    let config = config(&state, &backends);
    let lb = Lb::start(&config);
    let mut second = Lb::launch(&config);
    assert_eq!(second.when_ended().code(), Some(2));
    let line = second.when_logged("could not start");
    let reason =
        format!("the state cannot be kept in {} (runtime.state): another process uses it", state.display());
    assert!(line.contains(&reason), "{line}");
    answers(&lb, 1);
    stop(lb);
    stop(Lb::start(&config));
}

#[test]
fn a_folder_that_cannot_be_written_is_found_by_the_check_and_at_the_start() {
    let (folder, _) = state();
    fs::write(folder.path().join("occupied"), "a file").unwrap();
    let backends = three();
    let config = config(&folder.path().join("occupied/state"), &backends);
    let mut lb = Lb::launch(&config);
    assert_eq!(lb.when_ended().code(), Some(2));
    assert!(lb.when_logged("could not start").contains("(runtime.state): "), "{}", lb.log());
    let mut check = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let output = check.args(["check", "-c", "pointsman.yaml"]).current_dir(lb.folder()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("occupied/state (runtime.state): "), "{text}");
}

#[test]
fn damaged_files_prevent_no_start_and_are_set_aside() {
    let (_folder, state) = state();
    let backends = three();
    let config = config(&state, &backends);
    let lb = Lb::start(&config);
    patch(&lb, "a", &json!({"state": "draining"}));
    stop(lb);
    let events = fs::read_to_string(state.join("events.jsonl")).unwrap();
    fs::write(state.join("events.jsonl"), format!("damaged\n{events}{{\"id\":")).unwrap();
    fs::write(state.join("history-60s.jsonl"), b"\xff\n").unwrap();
    fs::write(state.join("operators.json"), "{").unwrap();
    let lb = Lb::start(&config);
    let files = ["events.jsonl", "history-60s.jsonl", "operators.json"];
    let lines = lb.when_logged_times(files.len(), &["ERROR", "damaged state file: set aside"]);
    for file in files {
        assert!(lines.iter().any(|line| line.contains(file)), "{file}: {lines:?}");
        assert!(state.join(format!("{file}.damaged")).exists(), "{file}");
    }
    assert_eq!(cause(&lb, "a").0, "up");
    let kept = get(&lb, "/api/v1/journal?limit=10000");
    assert!(kinds(&kept).contains(&"operator_change") && kinds(&kept).contains(&"drain_done"), "{kept}");
}

#[test]
fn another_folder_takes_effect_after_a_restart() {
    let (folder, state) = state();
    let backends = three();
    let lb = Lb::start(&config(&state, &backends));
    lb.reload(&config(&folder.path().join("other"), &backends));
    lb.when_logged_times(1, &["changed: takes effect after a restart", "part=\"runtime.state\""]);
    assert!(!folder.path().join("other").exists());
}

#[test]
fn a_full_disk_disturbs_nothing_and_is_reported_once() {
    let mount = ["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    if !Command::new("unshare").args(mount).output().is_ok_and(|out| out.status.success()) {
        return crate::support::skip(
            "",
            "mounting a small file system takes root and `unshare` of util-linux",
        );
    }
    let backends = three();
    let lb = Lb::start_after(
        &["unshare", "-m"],
        "mount -t tmpfs -o size=256k tmpfs state",
        &config(Path::new("state"), &backends),
        |folder| fs::create_dir(folder.join("state")).unwrap(),
    );
    let root = PathBuf::from(format!("/proc/{}/root", lb.pid()));
    let state = root.join(lb.folder().strip_prefix("/").unwrap()).join("state");
    answers(&lb, 3);
    let filler = state.join("filler");
    // More than there is room for.
    assert!(fs::write(&filler, vec![0; 256 * 1024]).is_err());
    for weight in 1..=100 {
        patch(&lb, "b", &json!({"weight": weight}));
    }
    patch(&lb, "a", &json!({"state": "draining"}));
    assert_eq!(answers(&lb, 3).get("a"), None);
    let lines = lb.when_logged_times(1, &["the state cannot be written"]);
    assert!(lines[0].contains("No space left on device"), "{lines:?}");
    let is_problem = || lb.get("/api/v1/problems").1.contains("the state directory cannot be written (");
    eventually("it is a problem", || is_problem().then_some(()));
    fs::remove_file(filler).unwrap();
    lb.when_logged("the state is written again");
    eventually("it is none any more", || (!is_problem()).then_some(()));
    let saved = fs::read_to_string(state.join("operators.json")).unwrap();
    assert!(saved.contains("draining") && saved.contains("100"), "{saved}");
    let events = fs::read_to_string(state.join("events.jsonl")).unwrap();
    let complete = events.lines().all(|line| serde_json::from_str::<Value>(line).is_ok());
    assert!(complete && events.ends_with('\n') && events.contains("\"weight\":100"), "{events}");
    assert_eq!(lb.logged(&["the state cannot be written"]).len(), 1);
}
