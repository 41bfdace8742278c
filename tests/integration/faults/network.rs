//! Faults of the network, made by nftables or by a device of the test's own, in a network namespace of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use super::scene::Scene;
use crate::support::backend::Backend;
use crate::support::late_network::{DEVICE, LateNetwork, SERVER};
use crate::support::network::{is_inside, sh};
use crate::support::{Lb, TIME_LIMIT, connect_to, static_list};

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

#[test]
fn late_packets_in_another_order_cost_time_and_no_request() {
    if !is_inside(
        "faults::network::late_packets_in_another_order_cost_time_and_no_request",
        "the tool ip and /dev/net/tun",
        DEVICE,
    ) {
        return;
    }
    let network = LateNetwork::start();
    let backends = ["a", "b"].map(|name| Backend::http_at(SocketAddr::new(SERVER, 0), name).unwrap());
    let remote = backends.each_ref().map(|backend| network.remote(backend.address));
    let scene = Scene::start(remote, "", "connect: {timeout: 1500ms}");
    let seen = scene.during(|| {
        // A round trip takes 40 to 160 ms, and packets that are sent together arrive in any order.
        network.delay(20..=80);
        let slow = scene.during(|| {});
        slow.without_errors();
        assert!(slow.slowest >= Duration::from_millis(80), "{slow:?}");
        network.delay(0..=0);
    });
    seen.without_errors();
    assert_eq!(scene.lb.logged(&["backend down"]), Vec::<String>::new());
    scene.is_as_before();
}

#[test]
fn bytes_of_late_packets_arrive_whole_and_in_order() {
    if !is_inside(
        "faults::network::bytes_of_late_packets_arrive_whole_and_in_order",
        "the tool ip and /dev/net/tun",
        DEVICE,
    ) {
        return;
    }
    let network = LateNetwork::start();
    let echo = Backend::echo_at(SocketAddr::new(SERVER, 0)).unwrap();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}",
        static_list(&[network.remote(echo.address)])
    ));
    network.delay(1..=30);
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    let mut client = connect_to(lb.address("l")).unwrap();
    let mut writing = client.try_clone().unwrap();
    let received = std::thread::scope(|scope| {
        scope.spawn(|| {
            writing.write_all(&sent).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        client.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} of {} bytes came back, or others", received.len(), sent.len());
}
