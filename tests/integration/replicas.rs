//! Replicas: the behavior of the API, and failures of the engine. The engine is a fake: the addresses of all its
//! containers lead to the test's server. `docker/replicas.rs` tests with a real engine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::backend::Backend;
use crate::support::engine::FakeEngine;
use crate::support::{Lb, connect_to, eventually};
use serde_json::{Value, json};

/// A server at every address of this machine. It sends the local address of the connection, and holds the connection.
pub(crate) fn server() -> Backend {
    let anywhere = "0.0.0.0:0".parse().unwrap();
    Backend::serving_at(anywhere, |mut stream| {
        let ip = stream.local_addr().unwrap().ip();
        let _ = writeln!(stream, "{ip}");
        let _ = stream.read(&mut [0]);
    })
    .unwrap()
}

/// A configuration with one pool whose replicas are at this engine; `more` has further keys.
pub(crate) fn config(engine: &FakeEngine, server: &Backend, more: &str) -> String {
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{replicas: {}}}}}",
        replicas(engine, server, more)
    )
}

fn replicas(engine: &FakeEngine, server: &Backend, more: &str) -> String {
    let port = server.address.port();
    format!("{{image: web, port: {port}, engine: \"{}\", {more}}}", engine.address())
}

pub(crate) fn listed(lb: &Lb) -> Vec<String> {
    let (status, body) = lb.get("/rep");
    assert_eq!(status, 200, "{body}");
    names(&body)
}

pub(crate) fn names(body: &str) -> Vec<String> {
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["status"], "successful", "{body}");
    let names: Vec<String> = serde_json::from_value(body["message"]["replicas"].clone()).unwrap();
    assert_eq!(body["message"]["N"], names.len());
    names
}

/// The status and the message of a refusal.
fn refused(answer: &(u16, String)) -> (u16, String) {
    let body: Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!((&body["status"], body.as_object().unwrap().len()), (&json!("failure"), 2), "{body}");
    (answer.0, body["message"].as_str().unwrap().to_owned())
}

pub(crate) fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Connects; returns the connection and the address of its server.
fn connect(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = connect_to(address).unwrap();
    let (mut line, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" && stream.read(&mut byte).unwrap() > 0 {
        line.extend(byte);
    }
    (stream, String::from_utf8(line).unwrap().trim().to_owned())
}

#[test]
fn replicas_are_listed_added_and_removed_in_the_documented_shapes() {
    let (engine, server) = (FakeEngine::start(), server());
    let more = "min: 2, max: 6, network: n, env: {MODE: fast, SERVER_ID: mine}, command: [serve, --now]";
    let lb = Lb::start(&config(&engine, &server, more));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    assert_eq!(listed(&lb), strings(&["Server 1", "Server 2"]));
    let (status, body) = lb.request("POST", "/add", r#"{"n": 2, "hostnames": ["Büro 4"]}"#);
    assert_eq!(status, 200, "{body}");
    assert_eq!(names(&body), strings(&["Server 1", "Server 2", "Büro 4", "Server 3"]));
    lb.when_up(strings(&["Server 1", "Server 2", "Büro 4", "Server 3"]));
    assert_eq!(engine.names("running"), ["p-B-ro-4", "p-Server-1", "p-Server-2", "p-Server-3"]);
    let created = engine.state().created.clone();
    let body = created.iter().find(|body| body["Hostname"] == "B-ro-4").unwrap();
    assert_eq!(body["Image"], "web");
    assert_eq!(body["Cmd"], json!(["serve", "--now"]));
    assert_eq!(body["Env"], json!(["SERVER_NAME=Büro 4", "MODE=fast", "SERVER_ID=mine"]));
    assert_eq!(body["Labels"]["pointsman.replicas"], "p");
    assert_eq!(body["Labels"]["pointsman.name"], "Büro 4");
    assert_eq!(body["Labels"]["pointsman.instance"], created[0]["Labels"]["pointsman.instance"]);
    assert_eq!(body["HostConfig"]["NetworkMode"], "n");
    assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["n"]["Aliases"], json!(["B-ro-4"]));
    let (status, body) = lb.request("DELETE", "/rm", r#"{"n": 2, "hostnames": ["Büro 4"]}"#);
    assert_eq!(status, 200, "{body}");
    let left = names(&body);
    assert_eq!((left.len(), left.contains(&"Büro 4".to_owned())), (2, false), "{left:?}");
    assert_eq!(listed(&lb), left);
    eventually("two are removed", || (engine.count() == 2).then_some(()));
    lb.when_up(left);
    assert_eq!(lb.get("/heartbeat").0, 200);
    assert_eq!(lb.metric("pointsman_replicas{pool=\"p\"}"), 2.0);
    assert_eq!(lb.metric("pointsman_replicas_wanted{pool=\"p\"}"), 2.0);
    let decisions =
        &serde_json::from_str::<Value>(&lb.get("/api/v1/replicas").1).unwrap()["pools"]["p"]["decisions"];
    let change = |n: usize| (decisions[n]["from"].as_u64(), decisions[n]["to"].as_u64());
    assert_eq!((change(0), change(1)), ((Some(2), Some(4)), (Some(4), Some(2))), "{decisions}");
}

#[test]
fn an_invalid_request_is_refused_in_one_shape_and_changes_nothing() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 2, max: 4"));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    let longer = "<Error> Length of hostname list is more than";
    for (method, path, body, status, message) in [
        (
            "POST",
            "/add",
            r#"{"n": 1, "hostnames": ["a", "b"]}"#,
            400,
            &*format!("{longer} newly added instances"),
        ),
        (
            "DELETE",
            "/rm",
            r#"{"n": 1, "hostnames": ["a", "b"]}"#,
            400,
            &format!("{longer} removable instances"),
        ),
        ("POST", "/add", r#"{"n": 0}"#, 400, "<Error> n must be"),
        ("POST", "/add", r#"{"n": -1}"#, 400, "<Error> n must be"),
        ("DELETE", "/rm", r#"{"n": 0}"#, 400, "<Error> n must be"),
        ("POST", "/add", r#"{"n": 1.5}"#, 400, "<Error> "),
        ("POST", "/add", r#"{"hostnames": ["a"]}"#, 400, "<Error> "),
        ("POST", "/add", r#"{"n": 1, "hostname": ["a"]}"#, 400, "<Error> "),
        ("POST", "/add", r#"{"n": 1, "#, 400, "<Error> "),
        ("POST", "/add", "", 400, "<Error> "),
        ("POST", "/add", "[1]", 400, "<Error> "),
        ("POST", "/add?pol=p", r#"{"n": 1}"#, 400, "<Error> "),
        ("DELETE", "/rm?pol=p", r#"{"n": 1}"#, 400, "<Error> "),
        (
            "POST",
            "/add",
            r#"{"n": 2, "hostnames": ["a", "a"]}"#,
            400,
            "<Error> the hostname \"a\" is given twice",
        ),
        ("POST", "/add", r#"{"n": 1, "hostnames": [" "]}"#, 400, "<Error> a hostname is empty"),
        (
            "POST",
            "/add",
            r#"{"n": 1, "hostnames": ["Server 1"]}"#,
            409,
            "<Error> replica \"Server 1\" already exists",
        ),
        ("POST", "/add", r#"{"n": 3}"#, 409, "<Error> cannot add 3: there are 2, and the max is 4"),
        ("DELETE", "/rm", r#"{"n": 1}"#, 409, "<Error> cannot remove 1: there are 2, and the min is 2"),
        (
            "DELETE",
            "/rm",
            r#"{"n": 1, "hostnames": ["x"]}"#,
            404,
            "<Error> there is no replica \"x\"; there is Server 1, Server 2",
        ),
        (
            "POST",
            "/add?pool=q",
            r#"{"n": 1}"#,
            404,
            "<Error> there is no pool \"q\" with replicas; there is p",
        ),
        ("GET", "/rep?pool=q", "", 404, "<Error> there is no pool \"q\" with replicas; there is p"),
    ] {
        let answer = refused(&lb.request(method, path, body));
        assert!(answer.0 == status && answer.1.starts_with(message), "{method} {path} {body}: {answer:?}");
    }
    assert_eq!(listed(&lb), strings(&["Server 1", "Server 2"]));
    assert_eq!(engine.state().created.len(), 2);
}

#[test]
fn an_addition_that_fails_half_way_is_undone() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 1, max: 9"));
    lb.when_up(strings(&["Server 1"]));
    engine.state().starts_left = Some(2);
    let (status, message) = refused(&lb.request("POST", "/add", r#"{"n": 3, "hostnames": ["a"]}"#));
    assert_eq!(status, 502, "{message}");
    assert!(message.contains("the disk is full; nothing was added"), "{message}");
    // It is undone before the reply.
    assert_eq!(engine.names("running"), ["p-Server-1"]);
    assert_eq!(engine.count(), 1);
    assert_eq!(listed(&lb), strings(&["Server 1"]));
    // Another attempt succeeds.
    engine.state().starts_left = None;
    let (status, body) = lb.request("POST", "/add", r#"{"n": 3, "hostnames": ["a"]}"#);
    assert_eq!((status, names(&body)), (200, strings(&["Server 1", "a", "Server 2", "Server 3"])));
    lb.when_up(strings(&["Server 1", "a", "Server 2", "Server 3"]));
    // A missing image is the client's mistake.
    engine.state().missing.push("web".to_owned());
    let (status, message) = refused(&lb.request("POST", "/add", r#"{"n": 2}"#));
    assert_eq!(status, 404);
    assert_eq!(message, "<Error> the engine has no image \"web\": build or pull it first");
    assert_eq!((listed(&lb).len(), engine.count()), (4, 4));
}

#[test]
fn a_replica_that_runs_although_its_start_failed_is_removed() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 1, max: 9"));
    lb.when_up(strings(&["Server 1"]));
    (engine.state().unsure, engine.state().removals_fail) = (true, 1);
    let (status, message) = refused(&lb.request("POST", "/add", r#"{"n": 1}"#));
    assert!(status == 502 && message.contains("nothing was added"), "{status} {message}");
    eventually("it is removed", || {
        assert_eq!(listed(&lb), strings(&["Server 1"]));
        (engine.count() == 1).then_some(())
    });
}

#[test]
fn a_command_is_dropped_when_its_client_has_disconnected() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 1, max: 9"));
    lb.when_up(strings(&["Server 1"]));
    engine.state().busy = true;
    std::thread::scope(|scope| {
        scope.spawn(|| lb.request("POST", "/add", r#"{"n": 1, "hostnames": ["first"]}"#));
        eventually("the first start is in progress", || (engine.count() == 2).then_some(()));
        let body = r#"{"n": 1, "hostnames": ["second"]}"#;
        let mut gone = connect_to(lb.admin()).unwrap();
        write!(
            gone,
            "POST /add HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Expect: 100-continue\r\n\r\n",
            lb.admin(),
            body.len()
        )
        .unwrap();
        gone.read_exact(&mut [0; "HTTP/1.1 100 Continue\r\n\r\n".len()]).unwrap();
        gone.write_all(body.as_bytes()).unwrap();
        gone.shutdown(std::net::Shutdown::Write).unwrap();
        // The server has noticed the disconnect when it closes the connection, too.
        assert_eq!(gone.read(&mut [0]).unwrap(), 0);
        engine.state().busy = false;
    });
    let (status, body) = lb.request("POST", "/add", r#"{"n": 1, "hostnames": ["third"]}"#);
    assert_eq!((status, names(&body)), (200, strings(&["Server 1", "first", "third"])));
}

#[test]
fn a_removed_replica_finishes_its_connections_first() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 1, max: 9"));
    lb.when_up(strings(&["Server 1"]));
    lb.request("POST", "/add", r#"{"n": 2, "hostnames": ["Server 2", "Server 3"]}"#);
    lb.when_up(strings(&["Server 1", "Server 2", "Server 3"]));
    let second = engine.address_of("Server 2");
    let held = (0..3).map(|_| connect(lb.address("l"))).find(|(_, at)| *at == second).unwrap().0;
    let (status, body) = lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["Server 2"]}"#);
    assert_eq!((status, names(&body)), (200, strings(&["Server 1", "Server 3"])));
    for _ in 0..4 {
        assert_ne!(connect(lb.address("l")).1, second, "no new connections");
    }
    // Its name is free only after the removal.
    let (status, message) = refused(&lb.request("POST", "/add", r#"{"n": 1, "hostnames": ["Server 2"]}"#));
    assert!(status == 409 && message.contains("is being removed"), "{status} {message}");
    // A replica without connections is gone sooner, even if it is removed later.
    lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["Server 3"]}"#);
    lb.when_logged("replica removed pool=p replica=\"Server 3\"");
    assert_eq!(engine.address_of("Server 2"), second, "it keeps running");
    drop(held);
    eventually("it is removed", || (engine.count() == 1).then_some(()));
    lb.when_logged("replica removed pool=p replica=\"Server 2\"");
}

#[test]
fn a_replica_that_exceeds_its_drain_timeout_is_stopped() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 0, max: 9, drain: 700ms"));
    lb.request("POST", "/add", r#"{"n": 1}"#);
    lb.when_up(strings(&["Server 1"]));
    let _held = connect(lb.address("l"));
    lb.request("DELETE", "/rm", r#"{"n": 1}"#);
    let line = lb.when_logged("replica drain timed out");
    assert!(line.contains("open=1"), "{line}");
    eventually("it is removed", || (engine.count() == 0).then_some(()));
}

#[test]
fn a_replica_that_exits_is_replaced_under_its_name_and_counted() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 2, max: 4"));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    let before = engine.address_of("Server 1");
    // The event arrives before the list shows the exit.
    engine.state().lag = 12;
    engine.kill("Server 1");
    eventually("another one runs", || {
        let address = engine.address_of("Server 1");
        (address != before && !address.is_empty()).then_some(())
    });
    lb.when_up(strings(&["Server 1", "Server 2"]));
    assert_eq!(listed(&lb), strings(&["Server 1", "Server 2"]));
    eventually("it is counted", || {
        (lb.metric("pointsman_replica_respawns_total{pool=\"p\"}") == 1.0).then_some(())
    });
    let line = lb.when_logged("replica exited");
    assert!(line.contains("replica=\"Server 1\"") && line.contains("exit code 3"), "{line}");
    eventually("the old container is removed", || (engine.count() == 2).then_some(()));
    // It exits again at once: the next start is delayed.
    engine.kill("Server 1");
    eventually("the delay is logged", || lb.logged(&["replica exited", "again_in=\"1s\""]).pop());
    // Discovery may notice the exit later.
    eventually("it is counted again", || {
        let status = lb.status()["pools"][0]["replicas"].take();
        assert_eq!(status["wanted"], 2, "{status}");
        (status["respawns"] == 2).then_some(())
    });
    lb.when_up(strings(&["Server 1", "Server 2"]));
}

#[test]
fn replicas_outlive_pointsman_and_are_found_again() {
    let (engine, server) = (FakeEngine::start(), server());
    let config = config(&engine, &server, "min: 1, max: 4");
    let mut lb = Lb::start(&config);
    lb.request("POST", "/add", r#"{"n": 2, "hostnames": ["a", "b"]}"#);
    lb.when_up(strings(&["Server 1", "a", "b"]));
    // A removal is in progress when Pointsman stops.
    let (address, leaving) = (lb.address("l"), engine.address_of("b"));
    let held = (0..3).map(|_| connect(address)).find(|(_, at)| *at == leaving).unwrap().0;
    lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["b"]}"#);
    eventually("it is marked", || {
        engine.names("running").iter().any(|name| name.ends_with("-leaving")).then_some(())
    });
    drop(held);
    lb.signal("INT");
    lb.signal("INT");
    lb.when_ended();
    let there = engine.names("running").len();
    assert!((2..=3).contains(&there), "{there}");
    // Another one exits while Pointsman is stopped.
    engine.kill("a");
    let lb = Lb::start(&config);
    lb.when_up(strings(&["Server 1", "a"]));
    eventually("nothing else is left", || (engine.count() == 2).then_some(()));
    assert_eq!(listed(&lb), strings(&["Server 1", "a"]));
    assert_eq!(engine.state().created.len(), 4, "only the replica that had died was restarted");
}

#[test]
fn without_an_engine_errors_have_advice_and_the_rest_works() {
    let (engine, server) = (FakeEngine::unreachable(), server());
    let replicas = replicas(&engine, &server, "min: 1, max: 4");
    let config = format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}, m: {{bind: 127.0.0.1:0, pool: q}}}}\n\
         pools: {{p: {{replicas: {replicas}}}, q: {{discover: [{{static: [127.0.0.1:{}]}}]}}}}",
        server.address.port()
    );
    let lb = Lb::start(&config);
    assert_eq!(connect(lb.address("m")).1, "127.0.0.1");
    let advice = "-v /var/run/docker.sock";
    for (method, path, body) in
        [("GET", "/rep", ""), ("POST", "/add", r#"{"n": 1}"#), ("DELETE", "/rm", r#"{"n": 1}"#)]
    {
        let (status, message) = refused(&lb.request(method, path, body));
        assert!(status == 503 && message.contains(advice), "{method} {path}: {status} {message}");
    }
    assert!(lb.when_logged("replicas: engine unavailable").contains(advice));
    // It is retried, and not logged each time.
    engine.listen();
    lb.when_logged("replicas: engine available again");
    eventually("the minimum runs", || (engine.names("running").len() == 1).then_some(()));
    assert_eq!(lb.logged(&["engine unavailable"]).len(), 1);
    assert_eq!(listed(&lb), strings(&["Server 1"]));
}

#[test]
fn concurrent_commands_are_executed_one_after_the_other() {
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 0, max: 5"));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let add = || lb.request("POST", "/add", r#"{"n": 2}"#).0;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 2, "{statuses:?}");
    let mut names = listed(&lb);
    names.sort();
    assert_eq!(names, strings(&["Server 1", "Server 2", "Server 3", "Server 4"]));
    assert_eq!(engine.count(), 4);
}

#[test]
fn with_several_pools_the_request_must_name_one() {
    let (engine, server) = (FakeEngine::start(), server());
    let (one, two) =
        (replicas(&engine, &server, "min: 1"), replicas(&engine, &server, "min: 1, group: other"));
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{replicas: {one}}}, q: {{replicas: {two}}}}}"
    ));
    let (status, message) = refused(&lb.get("/rep"));
    assert_eq!(
        (status, &*message),
        (400, "<Error> several pools have replicas: say which with ?pool=, one of p, q")
    );
    let (status, body) = lb.request("POST", "/add?pool=q", r#"{"n": 1, "hostnames": ["x"]}"#);
    assert_eq!((status, names(&body)), (200, strings(&["Server 1", "x"])));
    assert_eq!(names(&lb.get("/rep?pool=p").1), strings(&["Server 1"]));
    assert_eq!(engine.names("running"), ["other-Server-1", "other-x", "p-Server-1"]);
    let none = Lb::start(
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\npools: {p: {discover: [{static: [127.0.0.1:9]}]}}",
    );
    let (status, message) = refused(&none.get("/rep"));
    assert!(status == 404 && message.contains("replicas: {image: NAME, port: 5000}"), "{status} {message}");
}

#[test]
fn a_reload_changes_limits_at_once_and_the_image_for_later_starts() {
    let (engine, server) = (FakeEngine::start(), server());
    let with = |more: &str| config(&engine, &server, more);
    let lb = Lb::start(&with("min: 1, max: 2"));
    lb.when_up(strings(&["Server 1"]));
    assert_eq!(refused(&lb.request("POST", "/add", r#"{"n": 2}"#)).0, 409);
    assert!(lb.reload(&with("min: 3, max: 5")).contains("applied"));
    lb.when_up(strings(&["Server 1", "Server 2", "Server 3"]));
    assert!(lb.reload(&with("min: 1, max: 2").replace("image: web", "image: web:2")).contains("applied"));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["Server 2"]}"#);
    assert_eq!(lb.request("POST", "/add", r#"{"n": 1, "hostnames": ["new"]}"#).0, 200);
    assert_eq!(engine.state().created.last().unwrap()["Image"], "web:2");
    let gone =
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\npools: {p: {discover: [{static: [127.0.0.1:9]}]}}";
    let unmanaged = "no longer managed; containers keep running";
    assert!(lb.logged(&[unmanaged]).is_empty());
    assert!(lb.reload(gone).contains("applied"));
    assert_eq!(refused(&lb.get("/rep")).0, 404);
    lb.when_logged(unmanaged);
    eventually("the removal finishes, the others keep running", || {
        (engine.names("running") == ["p-Server-1", "p-new"] && engine.count() == 2).then_some(())
    });
}

#[test]
fn event_streams_are_read_or_closed_while_a_replica_drains() {
    /// Far more than the buffers of both sockets hold.
    const BYTES: usize = 8 << 20;
    let (engine, server) = (FakeEngine::start(), server());
    let lb = Lb::start(&config(&engine, &server, "min: 1, max: 2"));
    assert_eq!(lb.request("POST", "/add", r#"{"n": 1}"#).0, 200);
    lb.when_up(strings(&["Server 1", "Server 2"]));
    let second = engine.address_of("Server 2");
    let held = (0..2).map(|_| connect(lb.address("l"))).find(|(_, at)| *at == second).unwrap().0;
    let (status, body) = lb.request("DELETE", "/rm", r#"{"n": 1, "hostnames": ["Server 2"]}"#);
    assert_eq!((status, names(&body)), (200, strings(&["Server 1"])));
    let all_written = || (engine.state().events.unwritten() == 0).then_some(());
    engine.send_other_events(BYTES);
    eventually("the pool reads the events while a replica drains", all_written);
    let without =
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\npools: {p: {discover: [{static: [127.0.0.1:9]}]}}";
    assert!(lb.reload(without).contains("applied"));
    engine.send_other_events(BYTES);
    eventually("a pool without replicas leaves no event unread", all_written);
    assert_eq!(engine.address_of("Server 2"), second, "it is still draining");
    drop(held);
    eventually("it is removed", || (engine.count() == 1).then_some(()));
}

#[test]
fn the_number_follows_the_load_and_a_dry_run_only_reports() {
    let (engine, server) = (FakeEngine::start(), server());
    let autoscale = |more: &str| {
        let times = "up_after: 200ms, down_after: 500ms, cooldown: 100ms";
        format!("min: 2, max: 5, autoscale: {{connections_per_backend: 10, {times}, step: 9{more}}}")
    };
    let lb = Lb::start(&config(&engine, &server, &autoscale("")));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    let held: Vec<_> = (0..45).map(|_| connect(lb.address("l"))).collect();
    // It may decide before all connections are open.
    let line = eventually("five are wanted", || lb.logged(&[" scale pool=p", " to=5"]).pop());
    assert!(line.contains("10 each: 5 needed") && !line.contains("dry_run"), "{line}");
    let all = strings(&["Server 1", "Server 2", "Server 3", "Server 4", "Server 5"]);
    lb.when_up(all);
    assert_eq!(lb.status()["pools"][0]["replicas"]["last_decision"]["to"], 5);
    drop(held);
    eventually("two are wanted", || lb.logged(&[" scale pool=p", " to=2"]).pop());
    eventually("two are left", || (engine.count() == 2).then_some(()));
    let decisions: Value = serde_json::from_str(&lb.get("/api/v1/replicas").1).unwrap();
    let ups: Vec<_> = crate::support::monitoring::array(&decisions["pools"]["p"]["decisions"])
        .iter()
        .map(|decision| decision["to"].as_u64() > decision["from"].as_u64())
        .collect();
    assert!(ups.is_sorted_by(|before, after| before >= after), "it does not flap: {decisions}");
    let (engine, lb) = (FakeEngine::start(), lb);
    drop(lb);
    let lb = Lb::start(&config(&engine, &server, &autoscale(", dry_run: true")));
    lb.when_up(strings(&["Server 1", "Server 2"]));
    let held: Vec<_> = (0..45).map(|_| connect(lb.address("l"))).collect();
    let line = eventually("five would be wanted", || lb.logged(&[" scale pool=p from=2 to=5"]).pop());
    assert!(line.contains("dry_run=true"), "{line}");
    drop(held);
    assert_eq!((listed(&lb).len(), engine.count()), (2, 2));
    let decisions: Value = serde_json::from_str(&lb.get("/api/v1/replicas").1).unwrap();
    assert_eq!(decisions["pools"]["p"]["decisions"][0]["only_told"], true, "{decisions}");
}
