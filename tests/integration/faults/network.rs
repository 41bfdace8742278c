//! Faults of the network, made by nftables in a network namespace of the test's own.

use std::time::Duration;

use super::scene::Scene;
use crate::support::backend::Backend;
use crate::support::network::{is_inside, sh};

/// A table whose rules drop packets, and with it the namespace.
const TABLE: &str =
    "nft add table ip faults && nft 'add chain ip faults input { type filter hook input priority 0; }'";

/// Drops the packets that match while `during` runs.
fn dropping(rules: &[String], during: impl FnOnce()) {
    for rule in rules {
        sh(&format!("nft 'add rule ip faults input {rule} drop'"));
    }
    during();
    sh("nft flush chain ip faults input");
}

#[test]
fn lost_packets_cost_time_and_no_request() {
    if !is_inside("faults::network::lost_packets_cost_time_and_no_request", "nftables", TABLE) {
        return;
    }
    let backends = [Backend::http("a"), Backend::http("b")];
    // A SYN is sent again after a second, within the attempt.
    let scene = Scene::start(backends.each_ref().map(|one| one.address), "", "connect: {timeout: 1500ms}");
    let rule = "meta l4proto tcp numgen random mod 100 < 2".to_owned();
    let seen = scene.during(|| {
        dropping(&[rule], || {
            scene.during(|| {}).without_errors();
        });
    });
    seen.without_errors();
    scene.is_as_before();
}

#[test]
fn a_backend_that_is_cut_off_and_comes_back_costs_no_request() {
    if !is_inside(
        "faults::network::a_backend_that_is_cut_off_and_comes_back_costs_no_request",
        "nftables",
        TABLE,
    ) {
        return;
    }
    let backends = [Backend::http("a"), Backend::http("b")];
    let scene = Scene::start(backends.each_ref().map(|one| one.address), "", "connect: {timeout: 300ms}");
    let port = backends[0].address.port();
    let both_ways = [format!("tcp dport {port}"), format!("tcp sport {port}")];
    let seen = scene.during(|| {
        dropping(&both_ways, || {
            scene.lb.when_logged("backend down pool=web backend=a");
            scene.during(|| {}).without_errors();
        });
        scene.lb.when_up(vec!["a".to_owned(), "b".to_owned()]);
    });
    // Requests that were on their way are answered when packets are sent again.
    seen.without_errors();
    assert!(seen.slowest < Duration::from_secs(20), "{seen:?}");
    scene.is_as_before();
}
