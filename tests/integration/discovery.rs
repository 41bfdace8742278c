//! Discovery by DNS, with a name server in the test and backends on loopback addresses.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::dns::Dns;
use crate::support::{Lb, connect_to, eventually, http_get};
use pointsman_core::zone::{AnswerMode, ServiceRecord, Zone};

/// A balancer that finds `backend` with this name server.
fn lb(dns: &Dns, port: u16, source: &str, pool: &str) -> Lb {
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools:\n  p:\n    discover:\n      \
         - dns: backend:{port}\n        server: {}\n        every: 1s\n{source}{pool}",
        dns.server.address
    ))
}

/// A timeout of one second for a busy machine, and a fast interval after a failure.
const CHECKS: &str = "    health: {http: /health, every: 1s, timeout: 1s, fast_every: 100ms}\n";

fn ip(n: u8) -> IpAddr {
    IpAddr::from([127, 0, 77, n])
}

/// HTTP backends at `127.0.77.n`, all on one port, as address records have none.
fn backends(names: &[(&str, u8)]) -> (u16, Vec<Backend>) {
    eventually("a port that is free at all addresses", || {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |n: u8| SocketAddr::new(ip(n), port);
        let all: io::Result<Vec<_>> = names.iter().map(|(name, n)| Backend::http_at(at(*n), name)).collect();
        all.ok().map(|backends| (port, backends))
    })
}

fn responder(lb: &Lb) -> String {
    http_get(lb.address("l"), "/").unwrap().1
}

#[test]
fn containers_join_and_leave_under_their_names() {
    let dns = Dns::start();
    let (port, _backends) = backends(&[("a", 1), ("b", 2), ("c", 3)]);
    dns.containers(&[("web-1.net", ip(1)), ("web-2.net", ip(2))]);
    let lb = lb(&dns, port, "        flap: 300ms\n", CHECKS);
    lb.when_up(vec!["web-1.net".into(), "web-2.net".into()]);
    assert_eq!((0..4).map(|_| responder(&lb)).collect::<BTreeSet<_>>().len(), 2);
    dns.containers(&[("web-1.net", ip(1)), ("web-2.net", ip(2)), ("web-3.net", ip(3))]);
    lb.when_up(vec!["web-1.net".into(), "web-2.net".into(), "web-3.net".into()]);
    dns.containers(&[("web-3.net", ip(3))]);
    lb.when_up(vec!["web-3.net".into()]);
    assert_eq!(responder(&lb), "c");
    assert!(lb.when_logged("backend gone").contains("no longer in dns backend:"));
}

#[test]
fn a_late_name_belongs_to_the_same_backend_and_one_of_several_names_stays() {
    let dns = Dns::start();
    let (port, _backends) = backends(&[("a", 5)]);
    dns.zone.set("backend", [ip(5)]);
    let lb = lb(&dns, port, "", CHECKS);
    lb.when_up(vec![format!("{}:{port}", ip(5))]);
    assert_eq!(responder(&lb), "a");
    dns.zone.name_owner(ip(5), "web-1.net");
    lb.when_logged("backend named pool=p backend=web-1.net");
    lb.when_up(vec!["web-1.net".into()]);
    assert_eq!(responder(&lb), "a");
    assert_eq!(lb.status()["pools"][0]["backends"][0]["connections"], 2, "it keeps its counters");
    assert_eq!(lb.logged(&["backend joining"]).len(), 1);
    assert_eq!(lb.logged(&["backend gone"]).len(), 0);
}

#[test]
fn an_invalid_name_in_dns_is_replaced_and_still_distinguishes_containers() {
    let dns = Dns::start();
    let (port, _backends) = backends(&[("a", 15)]);
    dns.containers(&[("web/1.net", ip(15))]);
    let lb = lb(&dns, port, "        flap: 1h\n", CHECKS);
    let line = lb.when_logged("backend name refused");
    assert!(line.contains("name=\"web\\\\/1.net\" backend=web__1.net-"), "{line}");
    eventually("it is up", || (lb.backends().first()?.1 == "up").then_some(()));
    assert!(lb.backends()[0].0.starts_with("web__1.net-"));
    assert_eq!(responder(&lb), "a");
    // Another container gets the address.
    dns.zone.name_owner(ip(15), "web/2.net");
    lb.when_logged("its address now belongs to web__2.net-");
    lb.when_logged("backend joining pool=p backend=web__2.net-");
    assert_eq!(lb.logged(&["backend name refused"]).len(), 2, "each is logged once");
}

#[test]
fn an_unknown_name_is_logged_and_does_not_prevent_the_start() {
    let dns = Dns::start();
    let (port, _backends) = backends(&[("a", 11)]);
    let lb = lb(&dns, port, "", CHECKS);
    assert!(lb.when_logged("NXDOMAIN").contains("resolve failed"));
    assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
    dns.containers(&[("web-1.net", ip(11))]);
    lb.when_logged("resolved again");
    lb.when_up(vec!["web-1.net".into()]);
    assert_eq!(responder(&lb), "a");
}

#[test]
fn a_reused_address_is_another_backend_within_one_interval() {
    let dns = Dns::start();
    let (port, _backends) = backends(&[("a", 21), ("b", 22)]);
    dns.containers(&[("web-1.net", ip(21)), ("web-2.net", ip(22))]);
    // Only the name changes: the address stays in the answer.
    let lb = lb(&dns, port, "        flap: 1h\n", CHECKS);
    lb.when_up(vec!["web-1.net".into(), "web-2.net".into()]);
    let mut client = connect_to(lb.address("l")).unwrap();
    eventually("routed", || lb.logged(&["routed"]).pop());
    dns.zone.name_owner(ip(21), "web-9.net");
    lb.when_up(vec!["web-9.net".into(), "web-2.net".into()]);
    let left = lb.when_logged("its address now belongs to web-9.net");
    assert!(left.contains("backend=web-1.net"), "{left}");
    lb.when_logged("backend joining pool=p backend=web-9.net");
    // The old backend's connection stays open.
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with('a') || answer.ends_with('b'));
}

/// alpha restarts with another address, and beta gets its old one and passes the check, too. This happens right after a
/// query for `after`.
fn an_address_is_reused(after: &str) {
    let dns = Dns::start();
    let (port, _backends) = backends(&[("ours", 31), ("moved", 32)]);
    dns.containers(&[("alpha.net", ip(31))]);
    let lb = lb(&dns, port, "        flap: 1h\n        family: 4\n", CHECKS);
    lb.when_up(vec!["alpha.net".into()]);
    dns.zone.after_next_answer(after, |zone| {
        zone.name_owner(ip(31), "beta.net");
        zone.name_owner(ip(32), "alpha.net");
        zone.set("backend", [ip(32)]);
    });
    lb.when_logged("its address now belongs to beta.net");
    eventually("the moved one is asked", || {
        http_get(lb.address("l"), "/").ok().filter(|(_, body)| body == "moved")
    });
    for _ in 0..50 {
        assert_eq!(responder(&lb), "moved");
    }
    assert_eq!(lb.logged(&["backend=beta.net"]), Vec::<String>::new());
}

#[test]
fn the_backends_of_a_name_run_in_the_zone_of_the_source_which_a_reload_changes() {
    let dns = Dns::start();
    let (port, _backends) = backends(&[("one", 51), ("two", 52)]);
    dns.zone.set("one", [ip(51)]);
    dns.zone.set("two", [ip(52)]);
    let record = ServiceRecord { priority: 0, weight: 1, port, target: "two".to_owned() };
    dns.zone.set_services("_two._tcp.test", [record]);
    let sources = [format!("dns: one:{port}"), "srv: _two._tcp.test".to_owned()];
    let config = |zones: [&str; 2]| {
        let source = |(source, zone): (&String, &str)| {
            format!("      - {{{source}, server: {}, every: 1s, zone: {zone}}}\n", dns.server.address)
        };
        let sources: String = sources.iter().zip(zones).map(source).collect();
        let listener = "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\n";
        format!("{listener}pools:\n  p:\n    zone: a\n    discover:\n{sources}")
    };
    let answering = |lb: &Lb| (0..4).map(|_| responder(lb)).collect::<BTreeSet<_>>();
    let lb = Lb::start(&config(["a", "b"]));
    eventually("both are up", || {
        let up = lb.backends().into_iter().filter(|backend| backend.1 == "up").count();
        (up == 2).then_some(())
    });
    assert_eq!(answering(&lb), BTreeSet::from(["one".to_owned()]));
    lb.reload(&config(["b", "a"]));
    eventually("only the other one is used", || {
        (answering(&lb) == BTreeSet::from(["two".to_owned()])).then_some(())
    });
    assert!(lb.logged(&["backend gone"]).is_empty(), "they are the same backends");
}

#[test]
fn no_connection_reaches_a_container_that_reused_an_address() {
    an_address_is_reused("31.77.0.127.in-addr.arpa");
}

#[test]
fn no_connection_reaches_a_container_that_reused_an_address_during_reverse_lookups() {
    an_address_is_reused("backend");
}

#[test]
fn containers_that_join_during_reverse_lookups_have_their_names_from_the_start() {
    /// Adds a container right after each answer, so that the answer is outdated.
    fn join_next(zone: &Zone, n: u8) {
        zone.after_next_answer("backend", move |zone| {
            zone.name_owner(ip(n), &format!("web-{n}.net"));
            zone.add("backend", ip(n));
            if n < 95 {
                join_next(zone, n + 1);
            }
        });
    }
    let dns = Dns::start();
    let all = ["a", "b", "c", "d", "e", "f"].into_iter().zip(90..).collect::<Vec<_>>();
    let (port, _backends) = backends(&all);
    dns.containers(&[("web-90.net", ip(90))]);
    let lb = lb(&dns, port, "        family: 4\n", CHECKS);
    lb.when_up(vec!["web-90.net".into()]);
    join_next(&dns.zone, 91);
    lb.when_up((90..=95).map(|n| format!("web-{n}.net")).collect());
    assert_eq!(lb.logged(&["backend=127.0.77."]), Vec::<String>::new());
}

#[test]
fn without_an_answer_the_last_one_stays_in_use_and_checks_continue() {
    for (mode, word) in [(AnswerMode::Silent, "timeout"), (AnswerMode::ServFail, "server_failure")] {
        let dns = Dns::start();
        let (port, mut servers) = backends(&[("a", 41), ("b", 42)]);
        dns.containers(&[("web-1.net", ip(41)), ("web-2.net", ip(42))]);
        let lb = lb(&dns, port, "        hold: 500ms\n", CHECKS);
        lb.when_up(vec!["web-1.net".into(), "web-2.net".into()]);
        dns.zone.set_mode(mode);
        assert!(lb.when_logged(&format!("result={word}")).contains("resolve failed"));
        servers[0].kill();
        eventually("the one whose checks fail leaves", || (lb.backends().len() == 1).then_some(()));
        lb.when_up(vec!["web-2.net".into()]);
        assert_eq!(responder(&lb), "b");
        dns.zone.set_mode(AnswerMode::Answer);
        lb.when_logged("resolved again");
        servers[0].revive();
        lb.when_up(vec!["web-1.net".into(), "web-2.net".into()]);
    }
}

#[test]
fn each_kind_of_failed_resolution_is_counted() {
    let dns = Dns::start();
    let lb = lb(&dns, 5000, "", "");
    let count =
        |result: &str| lb.metric(&format!("pointsman_resolutions_total{{pool=\"p\",result=\"{result}\"}}"));
    eventually("nxdomain", || (count("nxdomain") > 0.0).then_some(()));
    dns.zone.set("backend", []);
    eventually("empty", || (count("empty") > 0.0).then_some(()));
    dns.zone.set_mode(AnswerMode::ServFail);
    eventually("server_failure", || (count("server_failure") > 0.0).then_some(()));
    dns.zone.set_mode(AnswerMode::Silent);
    eventually("timeout", || (count("timeout") > 0.0).then_some(()));
}

#[test]
fn a_truncated_answer_is_retried_over_tcp() {
    let dns = Dns::start();
    let all: Vec<_> = (1..=70).map(|n| (format!("web-{n}.net"), IpAddr::from([127, 0, 78, n]))).collect();
    dns.containers(&all.iter().map(|(name, ip)| (&**name, *ip)).collect::<Vec<_>>());
    dns.zone.limit_udp(Some(512));
    let lb = lb(&dns, 5000, "", "");
    eventually("all seventy are found", || (lb.backends().len() == 70).then_some(()));
    assert!(dns.zone.queries().tcp > 0);
    // No backend flaps.
    assert!(lb.logged(&["backend gone"]).is_empty());
}

#[test]
fn a_container_with_an_ipv4_and_an_ipv6_address_is_one_backend() {
    let dns = Dns::start();
    let v6: IpAddr = "fd00::7".parse().unwrap();
    let v4 = ip(51);
    for address in [v4, v6] {
        dns.zone.name_owner(address, "web-1.net");
    }
    dns.zone.set("backend", [v4, v6]);
    let lb = lb(&dns, 5000, "", "");
    lb.when_up(vec!["web-1.net".into()]);
    let backend = &lb.status()["pools"][0]["backends"][0];
    assert_eq!(backend["address"], "127.0.77.51:5000");
    assert_eq!(backend["also"][0], "[fd00::7]:5000");
}

#[test]
fn a_failed_connection_triggers_a_query() {
    let dns = Dns::start();
    let (port, mut servers) = backends(&[("a", 61), ("b", 62)]);
    dns.containers(&[("web-1.net", ip(61))]);
    let address = dns.server.address;
    // The next regular round is a minute away.
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools:\n  p:\n    discover:\n      \
         - {{dns: \"backend:{port}\", server: \"{address}\", every: 60s, hold: 60s}}\n"
    ));
    assert_eq!(responder(&lb), "a");
    servers[0].kill();
    dns.zone.name_owner(ip(61), "stranger.net");
    dns.containers(&[("web-1.net", ip(62))]);
    eventually("the moved one is found", || {
        http_get(lb.address("l"), "/").ok().filter(|(_, body)| body == "b")
    });
}

#[test]
fn failed_connections_trigger_no_queries_at_a_failing_server() {
    let dns = Dns::start();
    let (port, mut servers) = backends(&[("a", 71)]);
    dns.containers(&[("web-1.net", ip(71))]);
    let lb = lb(&dns, port, "        hold: 1h\n", "");
    assert_eq!(responder(&lb), "a");
    servers[0].kill();
    dns.zone.set_mode(AnswerMode::ServFail);
    lb.when_logged("resolve failed");
    let (before, began) = (dns.zone.queries(), Instant::now());
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(http_get(lb.address("l"), "/").unwrap().0, 503);
    }
    let queries = dns.zone.queries().udp + dns.zone.queries().tcp - before.udp - before.tcp;
    // At most ten rounds a second of two queries and a reverse lookup, each perhaps over both transports.
    let took = began.elapsed().as_secs_f64();
    assert!((queries as f64) < 120.0 * took, "{queries} questions in {took} s");
}
