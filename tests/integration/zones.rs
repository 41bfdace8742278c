//! Pools that prefer the backends of one zone.

use std::net::TcpListener;

use crate::support::backend::Backend;
use crate::support::load::under_load;
use crate::support::peers::{accept_speaker, connect, is_reset, speaker};
use crate::support::{Lb, eventually, http_get, listen_alone};

/// Each result changes the state. A busy machine has a second to answer; a connection to a killed backend is refused at once.
const CHECKED: &str = "\n    health: {tcp: {}, every: 1s, timeout: 1s, rise: 1, fall: 1}";

/// Two backends in each of the zones a and b.
fn config(backends: &[Backend; 4], zone: &str) -> String {
    let [a1, a2, b1, b2] = backends.each_ref().map(|backend| backend.address);
    format!(
        "listeners: {{web: {{bind: 127.0.0.1:0, pool: web}}}}
pools:
  web:
    zone: {zone}
    discover:
      - static:
          - {{address: {a1}, name: a1, zone: a}}
          - {{address: {a2}, name: a2, zone: a}}
          - {{address: {b1}, name: b1, zone: b}}
          - {{address: {b2}, name: b2, zone: b}}"
    )
}

/// Which backends answer so many requests, each once.
fn answering(lb: &Lb, requests: usize) -> Vec<String> {
    let mut names: Vec<_> = (0..requests).map(|_| http_get(lb.address("web"), "/").unwrap().1).collect();
    names.sort();
    names.dedup();
    names
}

/// What `why` says of a backend.
fn why(lb: &Lb, backend: &str) -> String {
    lb.get(&format!("/api/v1/why?pool=web&backend={backend}")).1
}

#[test]
fn other_zones_serve_while_the_local_one_is_short_and_no_client_notices() {
    let mut backends = ["a1", "a2", "b1", "b2"].map(Backend::http);
    let lb = Lb::start(&(config(&backends, "a") + CHECKED));
    assert_eq!(answering(&lb, 8), ["a1", "a2"]);
    let line = lb.when_logged("skipped=\"b1: in zone b; b2: in zone b\"");
    assert!(line.contains("backend=a"), "{line}");
    let text = why(&lb, "b1");
    assert!(text.contains("it is in zone b, and enough are up in zone a (2 of 2)"), "{text}");
    assert_eq!(lb.status()["pools"][0]["zone"]["short"], false);

    // Between two loads, as requests that are open are lost with a killed backend. The clients find it before the checks do.
    let load = |work: &mut dyn FnMut()| {
        let seen = under_load(lb.address("web"), |clients| {
            clients.when_answered(20);
            work();
            clients.when_answered(40);
        });
        seen.without_errors();
    };
    backends[1].kill();
    load(&mut || _ = lb.when_logged("too few backends of the local zone are up"));
    assert_eq!(answering(&lb, 30), ["a1", "b1", "b2"], "the one that is left gets its share only");
    backends[0].kill();
    load(&mut || {
        eventually("both are down", || (lb.status()["pools"][0]["zone"]["up"] == 0).then_some(()));
    });
    assert_eq!(answering(&lb, 20), ["b1", "b2"]);
    load(&mut || {
        backends[0].revive();
        backends[1].revive();
        lb.when_logged("enough backends of the local zone are up");
    });
    assert_eq!(answering(&lb, 20), ["a1", "a2"]);
    let why = "1 of 2 up in zone a, so those of other zones are used too";
    assert!(!lb.logged(&["routed conn=", "backend=b1", why]).is_empty(), "{}", lb.log());
    assert!(!lb.log().contains("backup"), "no backend of another zone is called a backup: {}", lb.log());
}

#[test]
fn a_connection_that_fails_in_the_local_zone_is_retried_in_another() {
    let mut backends = ["a1", "a2", "b1", "b2"].map(Backend::http);
    // Without checks they stay up.
    let lb = Lb::start(&config(&backends, "a"));
    backends[0].kill();
    backends[1].kill();
    let (status, body) = http_get(lb.address("web"), "/").unwrap();
    assert!(status == 200 && body.starts_with('b'), "{status} {body}");
    let text = lb.get("/api/v1/why?client=127.0.0.1&limit=1").1;
    assert!(
        text.contains("they are of other zones, as those of the local zone had failed or were full"),
        "{text}"
    );
}

#[test]
fn a_reload_changes_the_zone_without_losing_a_connection() {
    let backends = ["a1", "a2", "b1", "b2"].map(Backend::http);
    let lb = &Lb::start(&config(&backends, "a"));
    let seen = under_load(lb.address("web"), |clients| {
        clients.when_answered(20);
        lb.reload(&config(&backends, "{name: b, min_up: 100%}"));
        // The other clients take turns in the rotation.
        assert!(answering(lb, 8).iter().all(|name| name.starts_with('b')));
        clients.when_answered(20);
        // The zones of the backends change, and each is the same backend as before.
        lb.reload(
            &config(&backends, "b")
                .replace("zone: a}", "zone: c}")
                .replace("zone: b}", "zone: a}")
                .replace("zone: c}", "zone: b}"),
        );
        assert!(answering(lb, 8).iter().all(|name| name.starts_with('a')));
        clients.when_answered(20);
    });
    seen.without_errors();
    assert!(lb.logged(&["backend gone"]).is_empty() && lb.logged(&["backend draining"]).is_empty());
}

#[test]
fn a_client_that_finds_the_local_zone_full_goes_to_another_at_once_and_waits_only_if_all_are_full() {
    let servers: [TcpListener; 2] = [(); 2].map(|()| listen_alone());
    let [here, there] = servers.each_ref().map(|server| server.local_addr().unwrap());
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}
pools:
  p:
    zone: a
    backup: {{when: down}}
    limits: {{connections: 1, queue: 1, queue_timeout: 1h}}
    discover: [{{static: [{{address: {here}, name: here, zone: a}}, {{address: {there}, name: there, zone: b}}]}}]"
    ));
    let (first, (_first, word)) = (speaker(&lb, 'a'), accept_speaker(&servers[0]));
    assert_eq!(word, 'a');
    let _second = (speaker(&lb, 'b'), accept_speaker(&servers[1]));
    let line = lb.when_logged_times(1, &["routed conn=", "backend=there"]).remove(0);
    assert!(line.contains("skipped=\"here: full\""), "{line}");
    assert_eq!(lb.metric("pointsman_connections_overflowed_total{pool=\"p\"}"), 0.0);
    // Both are full: as many wait as there are backends of both zones.
    let _waiting = ['c', 'd'].map(|word| speaker(&lb, word));
    eventually("two wait", || (lb.status()["pools"][0]["queue"] == 2).then_some(()));
    is_reset(&mut connect(&lb));
    drop((first, _first));
    let (_third, word) = accept_speaker(&servers[0]);
    assert!(['c', 'd'].contains(&word), "{word}");
}
