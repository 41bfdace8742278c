//! Replicas and containers that another program started: adopted ones, those of a former group, and those of another
//! Pointsman with the same group.

use crate::replicas::{config, listed, names, server, strings};
use crate::support::engine::FakeEngine;
use crate::support::{Lb, eventually};
use serde_json::{Value, json};

#[test]
fn matching_containers_are_adopted() {
    let (engine, server) = (FakeEngine::start(), server());
    engine.run("server_1", json!({}));
    engine.run("other", json!({}));
    let lb = Lb::start(&config(&engine, &server, "min: 0, adopt: server_*"));
    lb.when_up(strings(&["server_1"]));
    engine.run("server_2", json!({}));
    lb.when_up(strings(&["server_1", "server_2"]));
    eventually("both are listed", || (listed(&lb) == strings(&["server_1", "server_2"])).then_some(()));
    lb.request("POST", "/add", r#"{"n": 1}"#);
    let (status, body) = lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["server_1"]}"#);
    assert_eq!((status, names(&body)), (200, strings(&["server_2", "Server 1"])));
    eventually("it is removed", || {
        (engine.names("running") == ["other", "p-Server-1", "server_2"]).then_some(())
    });
    // An adopted container that exits is replaced; the old one stays.
    engine.kill("server_2");
    eventually("the replacement runs", || {
        engine.names("running").contains(&"p-server-2".to_owned()).then_some(())
    });
    lb.when_up(strings(&["Server 1", "server_2"]));
    assert_eq!(engine.names("exited"), ["server_2"]);
    // The same holds for a replica of another group.
    engine.run("server_3", json!({"pointsman.replicas": "other"}));
    lb.when_up(strings(&["Server 1", "server_2", "server_3"]));
    // Discovery and the replicas detect it separately.
    eventually("it is adopted", || listed(&lb).contains(&"server_3".to_owned()).then_some(()));
    engine.kill("server_3");
    eventually("the replacement runs", || {
        engine.names("running").contains(&"p-server-3".to_owned()).then_some(())
    });
    lb.when_up(strings(&["Server 1", "server_2", "server_3"]));
    assert_eq!(engine.names("exited"), ["server_2", "server_3"]);
    // A label selects them, too.
    let labelled = Lb::start(&config(&engine, &server, "min: 0, group: g, adopt: {label: app=web}"));
    engine.run("x", json!({"app": "web"}));
    engine.run("y", json!({"app": "db"}));
    labelled.when_up(strings(&["x"]));
}

/// The status of the pool's replicas.
fn replicas_of(lb: &Lb) -> Value {
    let body: Value = serde_json::from_str(&lb.get("/api/v1/replicas").1).unwrap();
    body["pools"]["p"].clone()
}

#[test]
fn an_adopted_container_that_is_restarted_is_not_replaced() {
    let (engine, server) = (FakeEngine::start(), server());
    engine.run("server_1", json!({}));
    let lb = Lb::start(&config(&engine, &server, "min: 0, adopt: server_*"));
    lb.when_up(strings(&["server_1"]));
    let stage = |stage: &str| {
        eventually(stage, || (replicas_of(&lb)["replicas"][0]["stage"] == stage).then_some(()));
    };
    // Discovery and the replicas detect it separately.
    stage("running");
    // By the engine, by its restart policy.
    engine.crash("server_1");
    stage("restarting");
    let line = lb.when_logged("replica exited; the engine restarts it");
    assert!(line.contains("exit code 3"), "{line}");
    assert_eq!((listed(&lb), replicas_of(&lb)["running"].clone()), (strings(&["server_1"]), json!(0)));
    engine.restart("server_1", "restarting");
    lb.when_up(strings(&["server_1"]));
    stage("running");
    // By an operator, who stops it first.
    engine.kill("server_1");
    stage("waiting");
    engine.restart("server_1", "exited");
    lb.when_up(strings(&["server_1"]));
    stage("running");
    assert_eq!(listed(&lb), strings(&["server_1"]));
    assert!(engine.state().created.is_empty(), "{:?}", engine.state().created);
}

#[test]
fn containers_of_a_former_group_are_reported() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 1, group: old"));
    lb.when_up(strings(&["Server 1"]));
    assert!(lb.reload(&config(&engine, &server, "min: 1, group: new")).contains("applied"));
    let line = lb.when_logged("replicas: group or engine changed");
    assert!(line.contains("group=old left=1") && line.contains("label=pointsman.replicas=old"), "{line}");
    eventually("both run", || (engine.names("running") == ["new-Server-1", "old-Server-1"]).then_some(()));
    eventually("it is shown", || (replicas_of(&lb)["former"] == json!(["old-Server-1"])).then_some(()));
    engine.kill("Server 1");
    assert_eq!(lb.request("POST", "/add", r#"{"n": 1}"#).0, 200);
    eventually("only what runs is shown", || (replicas_of(&lb)["former"] == json!([])).then_some(()));
}

#[test]
fn two_pointsmans_of_one_group_are_reported() {
    let (engine, server) = (FakeEngine::start(), server());
    let config = config(&engine, &server, "min: 1, max: 5");
    let one = Lb::start(&config);
    one.when_up(strings(&["Server 1"]));
    let two = Lb::start(&config);
    two.when_up(strings(&["Server 1"]));
    assert_eq!(
        (replicas_of(&one)["rivals"].clone(), replicas_of(&two)["rivals"].clone()),
        (json!([]), json!([]))
    );
    assert_eq!(two.request("POST", "/add", r#"{"n": 1, "hostnames": ["x"]}"#).0, 200);
    let line = one.when_logged("replicas: another Pointsman uses the same group");
    assert!(line.contains("container=\"p-x\"") && line.contains("a `group` of its own"), "{line}");
    eventually("it is shown", || (replicas_of(&one)["rivals"] == json!(["p-x"])).then_some(()));
    assert_eq!(replicas_of(&two)["rivals"], json!([]));
}

#[test]
fn autoscaling_removes_no_adopted_container() {
    let (engine, server) = (FakeEngine::start(), server());
    let scale = "autoscale: {connections_per_backend: 10, down_after: 300ms, cooldown: 100ms, step: 9}";
    let lb = Lb::start(&config(&engine, &server, &format!("min: 2, max: 9, adopt: server_*, {scale}")));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    engine.run("server_3", json!({}));
    engine.run("server_4", json!({}));
    eventually("the adopted ones stay", || {
        (engine.names("running") == ["server_3", "server_4"]).then_some(())
    });
    eventually("the own replicas are removed", || (engine.count() == 2).then_some(()));
}
