//! Overflow: backups take the connections that find all other backends full.

use std::net::{TcpListener, TcpStream};

use serde_json::Value;

use crate::support::peers::{accept_speaker, connect, is_reset, speaker};
use crate::support::{Lb, eventually, listen_alone};

/// The words of a routing decision for the backup.
const SPARE: &[&str] = &["routed conn=", "backend=spare"];
const OVERFLOWED: &str = "pointsman_connections_overflowed_total{pool=\"p\"}";

/// The primaries one and two with one connection each, and a backup with as many as `limit`.
fn config(servers: &[TcpListener; 3], limit: u32, limits: &str, settings: &str) -> String {
    let [one, two, spare] = servers.each_ref().map(|server| server.local_addr().unwrap());
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools:\n  p:\n    discover:\n      - static: [{{address: \
         {one}, name: one}}, {{address: {two}, name: two}}, {{address: {spare}, name: spare, backup: true, connections: \
         {limit}}}]\n    limits: {{connections: 1{limits}}}\n{settings}"
    )
}

fn servers() -> [TcpListener; 3] {
    [(); 3].map(|()| listen_alone())
}

/// Takes the only place at each primary: the clients' ends and the servers'.
fn fill(lb: &Lb, [one, two, _]: &[TcpListener; 3]) -> [(TcpStream, TcpStream); 2] {
    [one, two].map(|server| (speaker(lb, 'x'), accept_speaker(server).0))
}

const WHEN_DOWN: &str = "    backup: {when: down}\n";

#[test]
fn a_connection_that_finds_all_primaries_full_goes_to_a_backup() {
    let servers @ [one, two, spare] = &servers();
    let lb = Lb::start(&config(servers, 1, "", ""));
    let first = (speaker(&lb, 'a'), accept_speaker(one));
    let _second = (speaker(&lb, 'b'), accept_speaker(two));
    let third = (speaker(&lb, 'c'), accept_speaker(spare));
    assert_eq!([first.1.1, third.1.1], ['a', 'c']);
    let line = lb.when_logged_times(1, SPARE).remove(0);
    assert!(line.contains("skipped=\"one: full; two: full\""), "{line}");
    assert_eq!(lb.metric(OVERFLOWED), 1.0);
    assert_eq!(lb.status()["pools"][0]["overflowed"], 1);
    let decisions: Value = serde_json::from_str(&lb.get("/api/v1/decisions").1).unwrap();
    let decision = &decisions["decisions"][0];
    assert_eq!([&decision["backend"], &decision["tier"]], ["spare", "overflow"], "{decision}");
    let why = lb.get("/api/v1/why?client=127.0.0.1&limit=1").1;
    assert!(why.contains("they are backups, as no other backend had room"), "{why}");
    let why = lb.get("/api/v1/why?pool=p&backend=spare").1;
    assert!(why.contains("it gets connections that find the lower tiers full"), "{why}");

    // The backup is full too.
    is_reset(&mut connect(&lb));
    let line = lb.when_logged("no backend");
    assert!(line.contains("spare: backup; one: full; two: full"), "{line}");

    // A primary that has room again comes first.
    drop(first);
    eventually("one place is free", || (lb.status()["pools"][0]["backends"][0]["active"] == 0).then_some(()));
    let _fourth = speaker(&lb, 'd');
    assert_eq!(accept_speaker(one).1, 'd');
    assert_eq!(lb.metric(OVERFLOWED), 1.0);
}

#[test]
fn with_when_down_a_full_pool_refuses_although_a_backup_is_idle() {
    let servers = &servers();
    let lb = Lb::start(&config(servers, 1, "", WHEN_DOWN));
    let _open = fill(&lb, servers);
    is_reset(&mut connect(&lb));
    let line = lb.when_logged("no backend");
    assert!(line.contains("spare: backup; one: full; two: full"), "{line}");
    let why = lb.get("/api/v1/why?pool=p&backend=spare").1;
    assert!(why.contains("a lower tier is up") && !why.contains("full"), "{why}");
    assert_eq!(lb.metric(OVERFLOWED), 0.0);
}

#[test]
fn clients_wait_in_the_queue_first_and_go_to_a_backup_without_a_place_or_after_the_timeout() {
    let servers @ [_, _, spare] = &servers();
    let lb = Lb::start(&config(servers, 5, ", queue: 1, queue_timeout: 8s", ""));
    let _open = fill(&lb, servers);
    let _waiting = ['c', 'd'].map(|word| speaker(&lb, word));
    eventually("two wait", || (lb.status()["pools"][0]["queue"] == 2).then_some(()));
    let _without_a_place = speaker(&lb, 'e');
    let (_e, word) = accept_speaker(spare);
    assert_eq!(word, 'e', "it does not wait");
    let line = lb.when_logged_times(1, SPARE).remove(0);
    assert!(line.contains("skipped=\"one: full; two: full; queue full: 2 waiting\""), "{line}");
    let mut words = [(); 2].map(|()| accept_speaker(spare)).map(|(_stream, word)| word);
    words.sort_unstable();
    assert_eq!(words, ['c', 'd']);
    let line = lb.when_logged_times(3, SPARE).pop().unwrap();
    assert!(line.contains("skipped=\"one: full; two: full\""), "{line}");
    assert_eq!(lb.metric(OVERFLOWED), 3.0);
}

#[test]
fn a_reload_changes_when_backups_are_used() {
    let servers @ [_, _, spare] = &servers();
    let lb = Lb::start(&config(servers, 5, "", WHEN_DOWN));
    let _open = fill(&lb, servers);
    is_reset(&mut connect(&lb));
    lb.reload(&config(servers, 5, "", ""));
    let _third = speaker(&lb, 'c');
    assert_eq!(accept_speaker(spare).1, 'c');
}
