//! `why` and `story`: the routing of connections, and the states of backends.

use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::support::backend::Backend;
use crate::support::{ClosedPort, Lb, connect_to, eventually, http_get, http_get_on};
use serde_json::Value;

fn config(backends: &[(&str, SocketAddr)], settings: &str) -> String {
    let one = |(name, address): &(&str, SocketAddr)| format!("{{address: {address}, name: {name}}}");
    let list = backends.iter().map(one).collect::<Vec<_>>().join(", ");
    format!(
        "listeners: {{front: {{bind: 127.0.0.1:0, pool: web, no_backend: close}}}}
pools: {{web: {{discover: [{{static: [{list}]}}]{settings}}}}}"
    )
}

fn get(lb: &Lb, path: &str) -> Value {
    let (status, body) = lb.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn text(story: &Value) -> String {
    let sentences = story["sentences"].as_array().unwrap().iter();
    sentences.map(|sentence| sentence["text"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_connection_story_has_its_attempts_its_end_and_tcp_statistics() {
    let (b, gone) = (Backend::http("b"), ClosedPort::new());
    let lb = Lb::start(&config(&[("a", gone.address), ("b", b.address)], ""));
    let stream = connect_to(lb.address("front")).unwrap();
    let client = stream.local_addr().unwrap();
    assert_eq!(http_get_on(stream, "/").unwrap().1, "b");
    lb.when_idle();
    let story = eventually("its end is kept", || {
        let story = get(&lb, &format!("/api/v1/why?client={client}"));
        story["connections"][0]["ended"].is_object().then_some(story)
    });
    let sentences = text(&story);
    for words in [
        &*format!("from {client} was accepted by the listener front, for the pool web"),
        "the pool web had 2 backends, of which 2 could be chosen: a with 0 connections and b with 0",
        "the attempt at a failed after",
        ": connection refused",
        "round-robin: b was next in rotation; connected in",
        "the backend closed first, cleanly (backend_closed)",
        "client-side TCP statistics: a round trip of",
        "; backend-side TCP statistics: a round trip of",
        "0 retransmits",
    ] {
        assert!(sentences.contains(words), "{words:?} is not in\n{sentences}");
    }
    let connection = &story["connections"][0];
    assert_eq!(connection["decision"]["failed"][0]["backend"], "a", "{story:#}");
    assert_eq!(connection["decision"]["candidates"]["total"], 2, "{story:#}");
    assert!(connection["ended"]["kernel"]["backend"]["rtt_us"].as_u64().is_some(), "{story:#}");
    // The query by id, by address, and for an unknown client.
    let conn = &connection["conn"];
    assert_eq!(text(&get(&lb, &format!("/api/v1/why?conn={conn}"))), sentences);
    assert_eq!(text(&get(&lb, "/api/v1/why?client=127.0.0.1")), sentences);
    let unknown = text(&get(&lb, "/api/v1/why?client=192.0.2.1"));
    let beginning = "nothing is known of 192.0.2.1\nknown are the open connections, the last 1 decision";
    assert!(unknown.starts_with(beginning), "{unknown}");
}

#[test]
fn an_open_connection_has_its_current_state_and_a_reset_one_tcp_statistics() {
    let mut backend = Backend::echo();
    let lb = Lb::start(&config(&[("a", backend.address)], ""));
    let mut client = connect_to(lb.address("front")).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let path = format!("/api/v1/why?client={}", client.local_addr().unwrap());
    let sentences = eventually("the bytes are counted", || {
        let sentences = text(&get(&lb, &path));
        sentences.contains("5 bytes have gone to a and 5 bytes to the client").then_some(sentences)
    });
    assert!(sentences.contains("it is open, ") && !sentences.contains("closed after"), "{sentences}");
    backend.kill();
    let _ = client.read(&mut [0; 1]);
    eventually("its end is kept", || {
        let story = get(&lb, &path);
        let ended = &story["connections"][0]["ended"];
        (ended["kernel"]["client"].is_object()).then(|| assert_eq!(ended["backend"], "a"))
    });
}

#[test]
fn a_refused_client_has_a_reason() {
    let gone = ClosedPort::new();
    let lb = Lb::start(&config(&[("a", gone.address)], ", health: {tcp: {}, every: 250ms, timeout: 250ms}"));
    let mut client = connect_to(lb.address("front")).unwrap();
    let path = format!("/api/v1/why?client={}", client.local_addr().unwrap());
    let _ = client.read(&mut [0; 1]);
    let sentences = eventually("its end is kept", || {
        let sentences = text(&get(&lb, &path));
        sentences.contains("(no_backend)").then_some(sentences)
    });
    assert!(
        sentences.contains("the pool web had 1 backend, and none could be chosen; excluded: a: down"),
        "{sentences}"
    );
    assert!(sentences.contains("no backend was up, so the client was rejected"), "{sentences}");
}

#[test]
fn a_backend_story_covers_discovery_the_failure_and_the_condition_to_come_back() {
    let mut a = Backend::http("a");
    let b = Backend::http("b");
    let checked = ", health: {http: /health, every: 5s, timeout: 5s, fast_every: 50ms, rise: 40, fall: 2}";
    let lb = Lb::start(&config(&[("a", a.address), ("b", b.address)], checked));
    lb.when_up(vec!["a".into(), "b".into()]);
    let sentences = text(&get(&lb, "/api/v1/why?pool=web&backend=a"));
    for words in [
        "the configuration reported 2 endpoints, and it was new among them",
        "it joined: found in the configuration",
        "its http check passed in",
        "it came up (it was joining): its first check passed",
        "it has been up for",
        "it is one of 2 that can be chosen, by round-robin, with the weight 1",
        "its last http check, every 5s (50ms while its state may change), passed",
        "it has 0 connections open and was sent 0 so far; no attempt to connect to it failed",
    ] {
        assert!(sentences.contains(words), "{words:?} is not in\n{sentences}");
    }
    a.kill();
    let path = format!("/api/v1/why?pool=web&backend={}", a.address);
    // The state is visible a moment before the event is reported.
    let sentences = eventually("it is down, and the event is reported", || {
        Some(text(&get(&lb, &path))).filter(|sentences| sentences.contains("it went down"))
    });
    for words in [
        "it went down (it was up): 2 failures in a row",
        "not eligible: down",
        "it comes back after 40 more passed http checks in a row",
    ] {
        assert!(sentences.contains(words), "{words:?} is not in\n{sentences}");
    }
    a.revive();
    eventually("some of them have passed", || {
        let sentences = text(&get(&lb, &path));
        (sentences.contains("more passed http check") && !sentences.contains(" 40 more")).then_some(())
    });
}

#[test]
fn a_backend_that_is_gone_still_has_a_story() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let lb = Lb::start(&config(&[("a", a.address), ("b", b.address)], ", on_leave: reset"));
    lb.reload(&config(&[("b", b.address)], ", on_leave: reset"));
    let sentences = eventually("it is gone", || {
        let sentences = text(&get(&lb, "/api/v1/why?pool=web&backend=a"));
        sentences.contains("it is not in the pool web any longer").then_some(sentences)
    });
    assert!(
        sentences.contains("the configuration reported 1 endpoint, and it was no longer among them"),
        "{sentences}"
    );
    assert!(sentences.contains("it was gone: no longer in the configuration"), "{sentences}");
    for (path, status, words) in [
        (
            "/api/v1/why?pool=web&backend=nobody",
            404,
            "has no backend \\\"nobody\\\", and none is remembered; it has b",
        ),
        ("/api/v1/why?pool=other&backend=a", 404, "there is no pool \\\"other\\\"; there is web"),
        ("/api/v1/why", 400, "a client, a connection, or a pool and a backend must be given"),
        ("/api/v1/why?pool=web", 400, "a pool and a backend must be given together"),
        ("/api/v1/why?client=nonsense", 400, "a client is an IP address, with or without a port"),
        ("/api/v1/why?clinet=1.2.3.4", 400, "unknown field"),
    ] {
        let (got, body) = lb.get(path);
        assert!(got == status && body.contains(words), "{path}: {got} {body}");
    }
}

#[test]
fn the_story_of_a_backend_that_fails_under_traffic_is_short() {
    let mut a = Backend::http("a");
    let b = Backend::http("b");
    let lb = Lb::start(&config(&[("a", a.address), ("b", b.address)], ", eject: {failures: 2, for: 10s}"));
    a.kill();
    for _ in 0..6 {
        assert_eq!(http_get(lb.address("front"), "/").unwrap().1, "b");
    }
    a.revive();
    let story = eventually("it is told that it came back, and what clients met", || {
        let story = get(&lb, "/api/v1/story?since=10m");
        (text(&story).contains(" was up again ") && story["totals"]["connections"] == 6).then_some(story)
    });
    let sentences = text(&story);
    assert!(sentences.starts_with("Pointsman 0."), "{sentences}");
    assert!(sentences.contains("a and b joined (found in the configuration) and were up"), "{sentences}");
    let retried = story["totals"]["retried"].as_u64().unwrap();
    assert!(retried >= 2 && story["totals"]["seen"] == 0, "{story:#}");
    let words = format!("a refused {retried} connects, was ejected (2 failures in a row: ");
    assert!(sentences.contains(&words), "{words:?} is not in\n{sentences}");
    let words = format!("; {retried} connections were retried elsewhere, no client saw an error");
    assert!(sentences.contains(&words), "{words:?} is not in\n{sentences}");
    assert_eq!(text(&get(&lb, "/api/v1/story?since=10m&pool=web")), sentences);
    for (path, status) in [("?since=often", 400), ("?pool=other", 404), ("?until=1m", 400)] {
        assert_eq!(lb.get(&format!("/api/v1/story{path}")).0, status, "{path}");
    }
}

#[test]
fn shadow_algorithms_are_counted_and_their_connections_released() {
    let backends = ["a", "b", "c"].map(|_| Backend::echo());
    let named: Vec<_> =
        ["a", "b", "c"].into_iter().zip(backends.iter().map(|backend| backend.address)).collect();
    let with = |shadow: &str| config(&named, shadow);
    let lb = Lb::start(&with(", balance: source-hash, shadow: [round-robin, least-connections]"));
    let path = "/api/v1/pools/web/shadow";
    let open: Vec<_> = (0..9).map(|_| connect_to(lb.address("front")).unwrap()).collect();
    let shadows = eventually("all are routed", || {
        let shadows = get(&lb, path);
        (shadows["connections"] == 9).then_some(shadows)
    });
    let peaks = |shadows: &Value, nth: usize| -> Vec<u64> {
        let backends = shadows["algorithms"][nth]["backends"].as_array().unwrap().iter();
        let mut peaks: Vec<_> = backends.map(|backend| backend["peak"].as_u64().unwrap()).collect();
        peaks.sort_unstable();
        peaks
    };
    // The hash sends one client to one backend; the shadows spread it.
    assert_eq!([0, 1, 2].map(|nth| peaks(&shadows, nth)), [[0, 0, 9], [3, 3, 3], [3, 3, 3]], "{shadows:#}");
    assert_eq!(shadows["algorithms"][0]["is_actual"], true);
    assert!(text(&shadows).contains("round-robin would have kept "), "{shadows:#}");
    drop(open);
    lb.when_idle();
    eventually("none is left", || {
        let shadows = get(&lb, path);
        let all = shadows["algorithms"].as_array().unwrap().iter();
        let mut active =
            all.flat_map(|one| one["backends"].as_array().unwrap()).map(|backend| &backend["active"]);
        active.all(|active| *active == 0).then_some(())
    });
    // Other shadows start from zero; without shadows there are no counts.
    lb.reload(&with(", balance: source-hash, shadow: true"));
    let shadows = get(&lb, path);
    assert_eq!((&shadows["connections"], shadows["algorithms"].as_array().unwrap().len()), (&0.into(), 8));
    lb.reload(&with(", balance: source-hash"));
    assert_eq!(lb.get(path).0, 409);
    assert_eq!(lb.get("/api/v1/pools/other/shadow").0, 404);
}

#[test]
fn a_check_is_reported_under_the_current_name_of_its_backend() {
    let mut backend = Backend::http("a");
    let at = backend.address;
    let health = ", health: {tcp: {}, every: 250ms, timeout: 250ms, fall: 2}";
    let other = Backend::http("b");
    let lb = Lb::start(&config(&[("b", other.address)], health));
    let body = format!(r#"{{"address": "{at}"}}"#);
    let (status, answer) = lb.request("POST", "/api/v1/pools/web/backends", &body);
    assert_eq!(status, 201, "{answer}");
    lb.when_up(vec!["b".to_owned(), at.to_string()]);
    lb.reload(&config(&[("a", at), ("b", other.address)], health));
    lb.when_up(vec!["a".to_owned(), "b".to_owned()]);
    backend.kill();
    let sentences = eventually("it is down", || {
        let sentences = text(&get(&lb, "/api/v1/why?pool=web&backend=a"));
        sentences.contains("it went down").then_some(sentences)
    });
    assert!(sentences.contains("its tcp check failed after"), "{sentences}");
    let events = get(&lb, "/api/v1/journal");
    let is = |event: &&Value| event["kind"] == "check_result_changed" && event["address"] == at.to_string();
    let checks = events["events"].as_array().unwrap().iter().filter(is);
    let names: Vec<_> = checks.map(|event| event["backend"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, [at.to_string(), "a".to_owned()], "{events:#}");
}

#[test]
fn a_backend_taken_down_by_live_failures_returns_by_its_checks() {
    let (up, down) = (Backend::http("a"), ClosedPort::new());
    let health = format!(
        ", health: {{tcp: {{}}, port: {}, every: 1h, timeout: 30s, rise: 3, fall: 1}}",
        up.address.port()
    );
    let lb = Lb::start(&config(&[("a", down.address)], &health));
    lb.when_up(vec!["a".to_owned()]);
    let _ = connect_to(lb.address("front")).unwrap().read(&mut [0; 1]);
    let sentences = eventually("it is down", || {
        let sentences = text(&get(&lb, "/api/v1/why?pool=web&backend=a"));
        sentences.contains("it has been down").then_some(sentences)
    });
    assert!(
        sentences.contains("in a row") && !sentences.contains("comes back when its source"),
        "{sentences}"
    );
}

#[test]
fn a_removed_pool_still_has_a_story() {
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let pools = |second: &str| {
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: web}}}}\npools: {{web: {{discover: [{{static: [{}]}}]}}{second}}}",
            a.address
        )
    };
    let lb = Lb::start(&pools(&format!(", old: {{discover: [{{static: [{}]}}]}}", b.address)));
    let before = text(&get(&lb, "/api/v1/story?pool=old"));
    assert!(before.contains(&b.address.to_string()), "{before}");
    assert!(lb.reload(&pools("")).contains("applied"));
    let after = text(&get(&lb, "/api/v1/story?pool=old"));
    assert!(after.contains(&b.address.to_string()) && !after.contains(&a.address.to_string()), "{after}");
    assert_eq!(lb.get("/api/v1/story?pool=never").0, 404);
}
