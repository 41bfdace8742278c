//! Discovery by SRV records, with a name server in the test and backends on loopback ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::support::backend::Backend;
use crate::support::dns::Dns;
use crate::support::{Lb, eventually, http_get};
use pointsman_core::zone::{AnswerMode, ServiceRecord};

const NAME: &str = "_web._tcp.shop.test";
/// A timeout of one second for a busy machine, and a fast interval after a failure.
const CHECKS: &str = "    health: {http: /health, every: 1s, timeout: 1s, fast_every: 100ms}\n";

/// A balancer that uses this name server, with more settings for the source and for the pool.
fn lb(dns: &Dns, source: &str, pool: &str) -> Lb {
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p, no_backend: http-503}}}}\npools:\n  p:\n    balance: weighted\n    \
         discover:\n      - srv: {NAME}\n        server: {}\n        every: 1s\n{source}{pool}",
        dns.server.address
    ))
}

fn service(priority: u16, weight: u16, port: u16, target: &str) -> ServiceRecord {
    ServiceRecord { priority, weight, port, target: target.to_owned() }
}

/// A name server with the hosts a.test, b.test and c.test, all on this machine.
fn dns() -> Dns {
    let dns = Dns::start();
    for host in ["a.test", "b.test", "c.test"] {
        dns.zone.set(host, [IpAddr::from([127, 0, 0, 1])]);
    }
    dns
}

/// The number of responses of each backend to `times` requests.
fn responses(lb: &Lb, times: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        *answers.entry(http_get(lb.address("l"), "/").unwrap().1).or_default() += 1;
    }
    answers
}

fn counts(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Waits for this many more successful DNS answers.
fn more_answers(lb: &Lb, more: f64) {
    let answers = || lb.metric("pointsman_resolutions_total{pool=\"p\",result=\"ok\"}");
    let before = answers();
    eventually("DNS is asked again", || (answers() >= before + more).then_some(()));
}

fn weights(lb: &Lb) -> BTreeMap<String, u64> {
    let status = lb.status();
    let backends = status["pools"][0]["backends"].as_array().unwrap();
    backends.iter().map(|b| (b["name"].as_str().unwrap().to_owned(), b["weight"].as_u64().unwrap())).collect()
}

#[test]
fn port_weight_and_priority_are_taken_from_the_records() {
    let dns = dns();
    let (mut a, mut b, c) = (Backend::http("a"), Backend::http("b"), Backend::http("c"));
    let (name_a, name_b) = (format!("a.test:{}", a.address.port()), format!("b.test:{}", b.address.port()));
    let name_c = format!("c.test:{}", c.address.port());
    dns.zone.set_services(
        NAME,
        [
            service(10, 1, a.address.port(), "a.test"),
            service(10, 3, b.address.port(), "b.test"),
            service(20, 9, c.address.port(), "c.test"),
        ],
    );
    let lb = lb(&dns, "", CHECKS);
    lb.when_up(vec![name_a.clone(), name_b.clone(), name_c.clone()]);
    assert_eq!(responses(&lb, 40), counts(&[("a", 10), ("b", 30)]));
    // The larger number is used when no backend of the smaller one is left.
    a.kill();
    lb.when_up(vec![name_b, name_c.clone()]);
    assert_eq!(responses(&lb, 4), counts(&[("b", 4)]));
    b.kill();
    lb.when_up(vec![name_c.clone()]);
    assert_eq!(responses(&lb, 4), counts(&[("c", 4)]));
    a.revive();
    lb.when_up(vec![name_a, name_c]);
    assert_eq!(responses(&lb, 4), counts(&[("a", 4)]));
}

#[test]
fn added_removed_and_changed_records_are_followed() {
    let dns = dns();
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let (port_a, port_b) = (a.address.port(), b.address.port());
    // Both on one host, as with an orchestrator.
    let (name_a, name_b) = (format!("a.test:{port_a}"), format!("a.test:{port_b}"));
    dns.zone.set_services(NAME, [service(0, 1, port_a, "a.test")]);
    let lb = lb(&dns, "        flap: 300ms\n", CHECKS);
    lb.when_up(vec![name_a.clone()]);
    dns.zone.set_services(NAME, [service(0, 1, port_a, "a.test"), service(0, 1, port_b, "a.test")]);
    lb.when_up(vec![name_a.clone(), name_b.clone()]);
    dns.zone.set_services(NAME, [service(0, 4, port_a, "a.test"), service(0, 1, port_b, "a.test")]);
    eventually("the weight is taken over", || (weights(&lb)[&name_a] == 4).then_some(()));
    assert_eq!(responses(&lb, 10), counts(&[("a", 8), ("b", 2)]));
    assert!(lb.logged(&["backend gone"]).is_empty(), "both are the same backends as before");
    dns.zone.set_services(NAME, [service(0, 1, port_b, "a.test")]);
    lb.when_up(vec![name_b]);
    let gone = lb.when_logged("backend gone");
    assert!(gone.contains(&name_a) && gone.contains("no longer in srv _web._tcp.shop.test"), "{gone}");
}

#[test]
fn a_target_that_cannot_be_resolved_keeps_its_addresses_while_its_record_stays() {
    for mode in [AnswerMode::ServFail, AnswerMode::Silent] {
        let dns = dns();
        let (a, b) = (Backend::http("a"), Backend::http("b"));
        let (service_a, service_b) =
            (service(0, 1, a.address.port(), "a.test"), service(0, 1, b.address.port(), "b.test"));
        let (name_a, name_b) =
            (format!("a.test:{}", a.address.port()), format!("b.test:{}", b.address.port()));
        dns.zone.set_services(NAME, [service_a.clone(), service_b.clone()]);
        let lb = lb(&dns, "        flap: 0s\n        hold: 0s\n", CHECKS);
        lb.when_up(vec![name_a.clone(), name_b.clone()]);
        dns.zone.set_mode_of("b.test", mode);
        let line = lb.when_logged("target=b.test");
        assert!(line.contains("resolve failed") && line.contains("stays in use"), "{line}");
        more_answers(&lb, 3.0);
        lb.when_up(vec![name_a.clone(), name_b]);
        assert_eq!(lb.logged(&["resolve failed", "target=b.test"]).len(), 1, "logged once");
        dns.zone.set_mode_of("b.test", AnswerMode::Answer);
        lb.when_logged("resolved again source=\"srv _web._tcp.shop.test\" target=b.test");
        // A target leaves if it does not exist, or if its record is removed.
        dns.zone.forget("b.test");
        lb.when_up(vec![name_a.clone()]);
        dns.zone.set("b.test", [IpAddr::from([127, 0, 0, 1])]);
        dns.zone.set_services(NAME, [service_a.clone(), service_b]);
        eventually("it is back", || (lb.backends().len() == 2).then_some(()));
        let again = lb.logged(&["stays in use", "target=b.test"]).len() + 1;
        dns.zone.set_mode_of("b.test", mode);
        eventually("told again", || {
            (lb.logged(&["stays in use", "target=b.test"]).len() >= again).then_some(())
        });
        dns.zone.set_services(NAME, [service_a]);
        lb.when_up(vec![name_a]);
    }
}

#[test]
fn each_kind_of_failed_resolution_is_reported() {
    let dns = dns();
    let lb = lb(&dns, "", "");
    let eventually_counted = |result: &str| {
        let series = format!("pointsman_resolutions_total{{pool=\"p\",result=\"{result}\"}}");
        let before = lb.metric(&series);
        eventually(result, || (lb.metric(&series) > before).then_some(()));
    };
    eventually_counted("nxdomain");
    eventually("it is logged", || lb.logged(&["resolve failed", "NXDOMAIN"]).pop());
    dns.zone.set_services(NAME, []);
    eventually_counted("empty");
    dns.zone.set_mode(AnswerMode::ServFail);
    eventually_counted("server_failure");
    dns.zone.set_mode(AnswerMode::Silent);
    eventually_counted("timeout");
    dns.zone.set_mode(AnswerMode::Answer);
    // "The service is decidedly not available at this domain."
    dns.zone.set_services(NAME, [service(0, 0, 0, ".")]);
    eventually_counted("empty");
    // The targets are known, but not their addresses.
    dns.zone.set_services(NAME, [service(0, 0, 5000, "a.test")]);
    dns.zone.set_mode_of("a.test", AnswerMode::ServFail);
    eventually_counted("server_failure");
    dns.zone.set_mode_of("a.test", AnswerMode::Answer);
    eventually_counted("ok");
}

#[test]
fn a_truncated_answer_is_retried_over_tcp() {
    let dns = dns();
    dns.zone.set_services(NAME, (0..200).map(|n| service(0, 1, 5000 + n, "a.test")));
    dns.zone.limit_udp(Some(512));
    let lb = lb(&dns, "", "");
    eventually("all are found", || (lb.backends().len() == 200).then_some(()));
    assert!(dns.zone.queries().tcp > 0);
    more_answers(&lb, 3.0);
    assert!(lb.logged(&["backend gone"]).is_empty(), "none of them flaps");
}

#[test]
fn additional_addresses_are_not_queried() {
    let dns = dns();
    dns.zone.set_additionals(true);
    dns.zone.set_services(NAME, [service(0, 1, 5000, "a.test"), service(0, 1, 5000, "b.test")]);
    // Any query for these names fails.
    for host in ["a.test", "b.test"] {
        dns.zone.set_mode_of(host, AnswerMode::ServFail);
    }
    let lb = lb(&dns, "        family: 4\n", "");
    // Both are 127.0.0.1:5000, so they are one backend with both weights.
    lb.when_up(vec!["a.test:5000".into()]);
    assert_eq!(weights(&lb)["a.test:5000"], 2);
    more_answers(&lb, 3.0);
    assert!(lb.logged(&["server_failure"]).is_empty());
}

#[test]
fn an_alias_of_the_service_and_one_of_a_target_are_followed() {
    let dns = dns();
    dns.zone.set_alias(NAME, "_web._tcp.elsewhere.test");
    dns.zone.set_services("_web._tcp.elsewhere.test", [service(0, 1, 5000, "alias.test")]);
    dns.zone.set_alias("alias.test", "a.test");
    let lb = lb(&dns, "", "");
    lb.when_up(vec!["alias.test:5000".into()]);
}
