//! The limits of each client of a listener (`per_client`).

use std::net::TcpStream;

use crate::access_lists::{config, connect_from, is_served};
use crate::support::backend::Backend;
use crate::support::peers::is_reset;
use crate::support::{Lb, eventually};

fn balancer(backend: &Backend, limits: &str) -> Lb {
    Lb::start(&settings(backend, limits))
}

fn settings(backend: &Backend, limits: &str) -> String {
    config(backend, "127.0.0.1:0", &format!(", per_client: {{{limits}}}"))
}

fn over_limit(lb: &Lb, limit: &str, result: &str) -> f64 {
    lb.metric(&format!(
        "pointsman_listener_connections_over_client_limit_total{{listener=\"l\",limit=\"{limit}\",result=\"{result}\"}}"
    ))
}

/// A connection that is served.
fn served(lb: &Lb, source: &str) -> TcpStream {
    let mut client = connect_from(source, lb.address("l"));
    is_served(&mut client);
    client
}

/// A connection that is reset; the cause in its line of the log.
fn rejected(lb: &Lb, source: &str) -> String {
    let mut client = connect_from(source, lb.address("l"));
    is_reset(&mut client);
    let line = lb.when_logged(&format!("client={} ", client.local_addr().unwrap()));
    assert!(line.contains("reason=limited"), "{line}");
    line.split("cause=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn a_client_has_no_more_connections_than_its_limit_and_others_have_theirs() {
    let backend = Backend::echo();
    let lb = balancer(&backend, "connections: 2");
    let (first, _second) = (served(&lb, "127.0.1.1"), served(&lb, "127.0.1.1"));
    let cause = "the client has as many connections as per_client.connections allows";
    assert_eq!(rejected(&lb, "127.0.1.1"), cause);
    let _other = served(&lb, "127.0.1.2");
    drop(first);
    eventually("the first connection is closed", || lb.logged(&["closed", "reason=client_closed"]).pop());
    let _third = served(&lb, "127.0.1.1");
    assert_eq!(rejected(&lb, "127.0.1.1"), cause);

    assert_eq!([over_limit(&lb, "connections", "reset"), over_limit(&lb, "rate", "reset")], [2.0, 0.0]);
    let listener = &lb.status()["listeners"][0];
    assert_eq!([&listener["over_client_limits"], &listener["over_client_limits_dry_run"]], [2, 0]);
    let pool = &lb.status()["pools"][0];
    assert_eq!([&pool["failures_seen"], &pool["unserved"]], [0, 0], "no failures of the balancer");
    let why = lb.get("/api/v1/why?client=127.0.1.1").1;
    assert!(
        why.contains("its listener rejected it before a backend was chosen") && why.contains(cause),
        "{why}"
    );
}

#[test]
fn a_client_opens_a_burst_and_then_no_more_than_its_rate() {
    let backend = Backend::echo();
    let lb = balancer(&backend, "rate: 1/h, burst: 3");
    for _ in 0..3 {
        drop(served(&lb, "127.0.1.1"));
    }
    let cause = "the client opens connections faster than per_client.rate allows";
    assert_eq!(rejected(&lb, "127.0.1.1"), cause);
    drop(served(&lb, "127.0.1.2"));
    assert_eq!(over_limit(&lb, "rate", "reset"), 1.0);
    // Whatever the client did before counts against the new limits.
    lb.reload(&settings(&backend, "rate: 1/h, burst: 4"));
    drop(served(&lb, "127.0.1.1"));
    assert_eq!(rejected(&lb, "127.0.1.1"), cause);
    lb.reload(&config(&backend, "127.0.0.1:0", ""));
    drop(served(&lb, "127.0.1.1"));
}

#[test]
fn a_dry_run_serves_all_and_counts() {
    let backend = Backend::echo();
    let lb = balancer(&backend, "connections: 1, rate: 1/h, burst: 2, dry_run: true");
    let _open = [(); 3].map(|()| served(&lb, "127.0.1.1"));
    assert_eq!(over_limit(&lb, "connections", "counted"), 2.0);
    let listener = &lb.status()["listeners"][0];
    assert_eq!([&listener["over_client_limits"], &listener["over_client_limits_dry_run"]], [0, 2]);
    assert_eq!(lb.logged(&["reason=limited"]).len(), 0);
}

#[test]
fn limits_that_a_reload_adds_count_the_connections_that_come_after_it() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(&backend, "127.0.0.1:0", ""));
    let early = served(&lb, "127.0.1.1");
    lb.reload(&settings(&backend, "connections: 1"));
    let _first = served(&lb, "127.0.1.1");
    drop(early);
    rejected(&lb, "127.0.1.1");
    // Without the limit and with it again, the open connection still counts.
    lb.reload(&config(&backend, "127.0.0.1:0", ""));
    lb.reload(&settings(&backend, "connections: 1"));
    rejected(&lb, "127.0.1.1");
}

#[test]
fn behind_a_proxy_the_address_in_its_header_has_the_limit() {
    let backend = Backend::echo();
    let limits = ", proxy_protocol: {trust: 127.0.0.1}, per_client: {connections: 1}";
    let lb = Lb::start(&config(&backend, "127.0.0.1:0", limits));
    let connect = |client: &str| {
        let mut stream = connect_from("127.0.0.1", lb.address("l"));
        std::io::Write::write_all(&mut stream, format!("PROXY TCP4 {client} 192.0.2.9 1 2\r\n").as_bytes())
            .unwrap();
        stream
    };
    let (mut first, mut other) = (connect("192.0.2.1"), connect("192.0.2.2"));
    is_served(&mut first);
    is_served(&mut other);
    is_reset(&mut connect("192.0.2.1"));
}
