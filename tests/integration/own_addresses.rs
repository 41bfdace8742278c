//! The balancer's own listeners and its admin server are never backends, whatever source names them.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use crate::support::backend::Backend;
use crate::support::dns::Dns;
use crate::support::network::is_inside;
use crate::support::{Lb, TIME_LIMIT, address_of_this_machine, eventually, free_port, http_get};
use pointsman_core::zone::ServiceRecord;
use serde_json::json;

/// Waits until the only backend of the only pool is refused; returns the cause.
fn when_refused(lb: &Lb) -> String {
    eventually("the backend is refused", || match &lb.backends()[..] {
        [(_, state, cause)] if state == "down" && cause.starts_with("refused: ") => Some(cause.clone()),
        _ => None,
    })
}

/// Sends an operator's request to a listener or to the admin server; returns the status, or 0 without an answer.
fn operate(to: SocketAddr, host: SocketAddr, method: &str, path: &str, body: &str) -> u16 {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close");
    let body = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut answer = Vec::new();
    let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[test]
fn an_srv_record_that_names_the_admin_server_does_not_make_clients_operators() {
    const NAME: &str = "_web._tcp.shop.test";
    let dns = Dns::start();
    dns.zone.set("a.test", [IpAddr::from([127, 0, 0, 1])]);
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\n\
         pools: {{p: {{balance: weighted, panic: 100%, discover: [{{srv: {NAME}, server: '{}', every: 100ms}}]}}}}\n",
        dns.server.address
    ));
    let service =
        ServiceRecord { priority: 0, weight: 1, port: lb.admin().port(), target: "a.test".to_owned() };
    dns.zone.set_services(NAME, [service]);
    assert_eq!(when_refused(&lb), format!("refused: {} is this balancer's own admin server", lb.admin()));
    let line = lb.when_logged("backend down");
    assert!(line.contains("own admin server"), "{line}");
    let add = json!({"address": "127.0.0.1:1"}).to_string();
    for (path, body) in [("/api/v1/drain", ""), ("/api/v1/pools/p/backends", &*add)] {
        assert_eq!(operate(lb.address("l"), lb.admin(), "POST", path, body), 0, "{path}");
    }
    assert_eq!(lb.backends().len(), 1);
    assert_eq!(lb.get("/ready").0, 200);
}

#[test]
fn a_name_that_resolves_to_the_listener_itself_causes_no_loop() {
    let dns = Dns::start();
    let port = free_port();
    dns.containers(&[("web-1.net", IpAddr::from([127, 0, 0, 1]))]);
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: '0.0.0.0:{port}', pool: p}}}}\n\
         pools: {{p: {{discover: [{{dns: 'backend:{port}', server: '{}', every: 100ms}}]}}}}\n",
        dns.server.address
    ));
    let own = format!("refused: 127.0.0.1:{port} is this balancer's own listener \"l\"");
    assert_eq!(when_refused(&lb), own);
    assert!(http_get(SocketAddr::from(([127, 0, 0, 1], port)), "/").is_err());
    let turned_away = lb.when_logged_times(1, &["no backend conn="]);
    assert!(turned_away[0].contains("own listener"), "{turned_away:?}");
    lb.when_idle();
    assert!(lb.logged(&["routed"]).is_empty());
}

#[test]
fn an_own_listener_in_a_file_is_refused_and_the_other_backend_serves() {
    let backend = Backend::http("a");
    let lb = Lb::start_in(
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}, other: {bind: 127.0.0.1:0, pool: p}}
pools: {p: {discover: [{file: backends.yaml, every: 50ms}], health: {http: /}}}\n",
        |folder| fs::write(folder.join("backends.yaml"), "[]").unwrap(),
    );
    let list = format!("- {}\n- {{address: '{}', name: a}}\n", lb.address("other"), backend.address);
    fs::write(lb.folder().join("new"), list).unwrap();
    fs::rename(lb.folder().join("new"), lb.folder().join("backends.yaml")).unwrap();
    lb.when_up(vec!["a".to_owned()]);
    // The request does not wait for a backend that is never checked: 202 would mean that a result is pending.
    assert_eq!(lb.request("POST", "/api/v1/check", "{}").0, 200);
    // Another listener of this process is refused as well.
    let refused = lb.when_logged("backend down");
    assert!(
        refused.contains("own listener \\\"other\\\"") || refused.contains("own listener \"other\""),
        "{refused}"
    );
    assert_eq!((0..4).map(|_| http_get(lb.address("l"), "/").unwrap().1).collect::<String>(), "aaaa");
}

#[test]
fn an_operator_cannot_add_an_own_address() {
    let lb = Lb::start(
        "admin: {bind: 0.0.0.0:0}\nlisteners: {l: {bind: 0.0.0.0:0, pool: p}}\n\
         pools: {p: {discover: [{static: [192.0.2.1:1]}]}}\n",
    );
    let local = |address: SocketAddr| SocketAddr::from(([127, 0, 0, 1], address.port()));
    let (listener, admin) = (local(lb.address("l")), local(lb.admin()));
    let mut tried = vec![(listener, "own_listener"), (admin, "own_admin")];
    // An unspecified address means every address of this machine.
    if let Some(outside) = address_of_this_machine() {
        tried.push((SocketAddr::new(outside, listener.port()), "own_listener"));
    }
    for (address, code) in tried {
        let (status, body) =
            lb.request("POST", "/api/v1/pools/p/backends", &json!({"address": address}).to_string());
        assert!(
            status == 409 && body.contains(code) && body.contains(&address.to_string()),
            "{status} {body}"
        );
    }
    assert_eq!(lb.backends().len(), 1);
}

#[test]
fn a_backend_is_refused_while_a_listener_has_its_address() {
    let port = free_port();
    let config = |more: &str| {
        format!(
            "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}{more}}}\npools: {{p: {{discover: [{{file: b.yaml}}]}}}}\n"
        )
    };
    let lb = Lb::start_in(&config(""), |folder| {
        fs::write(folder.join("b.yaml"), format!("- {{address: '127.0.0.1:{port}', name: a}}\n")).unwrap();
    });
    lb.when_up(vec!["a".to_owned()]);
    lb.reload(&config(&format!(", new: {{bind: '127.0.0.1:{port}', pool: p}}")));
    assert_eq!(
        when_refused(&lb),
        format!("refused: 127.0.0.1:{port} is this balancer's own listener \"new\"")
    );
    assert!(http_get(SocketAddr::from(([127, 0, 0, 1], port)), "/").is_err());
    lb.reload(&config(""));
    lb.when_up(vec!["a".to_owned()]);
}

#[test]
fn a_client_redirected_by_the_kernel_to_the_admin_server_is_no_operator() {
    let test = "own_addresses::a_client_redirected_by_the_kernel_to_the_admin_server_is_no_operator";
    if !is_inside(test, "the tools ip and nft", "nft add table ip nat") {
        return;
    }
    let lb = Lb::start(
        "listeners: {l: {bind: 127.0.0.1:0, pool: p}}\npools: {p: {discover: [{static: [127.0.0.1:7000]}]}}\n",
    );
    let rules = format!(
        "add chain ip nat output {{ type nat hook output priority -100; }}\n\
         add rule ip nat output ip daddr 127.0.0.1 tcp dport 7000 redirect to :{}\n",
        lb.admin().port()
    );
    fs::write(lb.folder().join("rules"), rules).unwrap();
    let added = Command::new("nft").arg("-f").arg(lb.folder().join("rules")).status().unwrap();
    assert!(added.success());
    let backends = "/api/v1/pools/p/backends";
    let add = |port: u16| json!({"address": format!("127.0.0.1:{port}")}).to_string();
    // The admin server answers, and it knows the origin of the request.
    assert_eq!(operate(lb.address("l"), lb.admin(), "GET", "/heartbeat", ""), 200);
    assert_eq!(operate(lb.address("l"), lb.admin(), "POST", backends, &add(1)), 403);
    assert_eq!(operate(lb.address("l"), lb.admin(), "POST", "/api/v1/drain", ""), 403);
    // An operator stays one when the kernel redirects the connection.
    assert_eq!(operate(lb.admin(), lb.admin(), "POST", backends, &add(2)), 201);
    assert_eq!(operate(SocketAddr::from(([127, 0, 0, 1], 7000)), lb.admin(), "POST", backends, &add(3)), 201);
}
