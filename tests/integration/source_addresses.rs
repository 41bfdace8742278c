//! The addresses of this machine that connections to backends come from (`connect.source`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::access_lists::is_served;
use crate::support::backend::{self, Backend};
use crate::support::network::is_inside;
use crate::support::{Lb, connect_to, eventually, http_get, static_list};

/// An HTTP server that responds with the address of its client, and keeps the addresses of the checks' connections.
fn tells_its_client() -> (Backend, Arc<Mutex<BTreeSet<IpAddr>>>) {
    let clients = Arc::<Mutex<BTreeSet<IpAddr>>>::default();
    let kept = Arc::clone(&clients);
    let backend = Backend::serving(move |stream| {
        let ip = stream.peer_addr().unwrap().ip();
        kept.lock().unwrap().insert(ip);
        backend::http(stream, &ip.to_string());
    });
    (backend, clients)
}

fn balancer(backend: &Backend, settings: &str) -> Lb {
    Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}{settings}}}}}\n",
        static_list(&[backend.address])
    ))
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn connections_come_from_all_addresses_and_checks_from_the_first() {
    let (backend, clients) = tells_its_client();
    // The IPv6 address is not for this backend.
    let lb = balancer(
        &backend,
        ", connect: {source: ['::1', 127.0.3.1, 127.0.3.2]}, health: {http: /health, every: 1s}",
    );
    lb.when_up(vec![backend.address.to_string()]);
    assert_eq!(*clients.lock().unwrap(), ips(&["127.0.3.1"]));
    let mut seen = BTreeSet::new();
    eventually("both addresses are used", || {
        seen.insert(http_get(lb.address("l"), "/").unwrap().1);
        (seen.len() == 2).then_some(())
    });
    assert_eq!(
        seen.iter().map(|ip| ip.parse().unwrap()).collect::<BTreeSet<IpAddr>>(),
        ips(&["127.0.3.1", "127.0.3.2"])
    );
    let routed = lb.when_logged("source=127.0.3.2");
    let conn = routed.split_once("conn=").unwrap().1.split(' ').next().unwrap();
    let why = lb.get(&format!("/api/v1/why?conn={conn}")).1;
    assert!(why.contains(" from 127.0.3.2"), "{why}");
}

#[test]
fn an_address_that_is_not_ours_is_reported_and_is_no_failure_of_the_backend() {
    let (backend, _) = tells_its_client();
    let lb = balancer(&backend, ", connect: {source: 192.0.2.77}, eject: {failures: 1, for: 1h}");
    http_get(lb.address("l"), "/").unwrap_err();
    let line = lb.when_logged("the source address 192.0.2.77 (connect.source) is not one of this machine's");
    assert!(line.contains(&backend.address.to_string()), "{line}");
    assert_eq!(lb.backends()[0].1, "up");
}

#[test]
fn one_address_has_all_ports_for_each_backend() {
    let test = "source_addresses::one_address_has_all_ports_for_each_backend";
    if !is_inside(test, "the tool ip", "true") {
        return;
    }
    let backends = [Backend::echo(), Backend::echo(), Backend::echo()];
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let start = |listener: &str, health: &str| {
        Lb::start(&format!(
            "listeners: {{l: {{bind: {listener}:0, pool: p}}}}\n\
             pools: {{p: {{discover: {}, connect: {{source: 127.0.3.1}}{health}}}}}\n",
            static_list(&addresses)
        ))
    };
    // The clients have as few ports towards one listener.
    let balancers = [
        start("127.0.0.1", ", health: {tcp: {}, every: 500ms, timeout: 500ms}"),
        start("127.0.0.2", ""),
        start("127.0.0.3", ""),
    ];
    balancers[0].when_up(addresses.iter().map(ToString::to_string).collect());
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40019").unwrap();
    // Eighteen to each backend, from one address with twenty ports: together they have all of them.
    let _open: Vec<_> = (0..54)
        .map(|n| {
            let mut client = connect_to(balancers[n % 3].address("l")).unwrap();
            is_served(&mut client);
            client
        })
        .collect();
    for address in addresses {
        let labels = format!("pool=\"p\",backend=\"{address}\",result=\"pass\"");
        let passed = || balancers[0].metric(&format!("pointsman_health_checks_total{{{labels}}}"));
        let before = passed();
        eventually("checks find a port, too", || (passed() >= before + 2.0).then_some(()));
    }
}
