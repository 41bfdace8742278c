//! The clients that a listener admits, by their addresses.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use crate::support::backend::Backend;
use crate::support::peers::is_reset;
use crate::support::{Lb, TIME_LIMIT, static_list};

pub(crate) fn config(backend: &Backend, bind: &str, settings: &str) -> String {
    let discover = static_list(&[backend.address]);
    format!("listeners: {{l: {{bind: {bind}, pool: p{settings}}}}}\npools: {{p: {{discover: {discover}}}}}\n")
}

/// A connection from that address of this machine.
pub(crate) fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let source = source.parse::<IpAddr>().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.set_write_timeout(Some(TIME_LIMIT)).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    stream
}

/// Asserts that an echo server answers.
pub(crate) fn is_served(client: &mut (impl Read + Write)) {
    client.write_all(b"x").unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"x");
}

#[test]
fn a_client_outside_of_allow_or_inside_of_deny_is_reset_logged_and_counted() {
    let backend = Backend::echo();
    let lists = ", allow: [127.0.1.0/24, 127.0.2.0/24], deny: 127.0.2.128/25";
    let lb = Lb::start(&config(&backend, "127.0.0.1:0", lists));
    let to = lb.address("l");
    is_served(&mut connect_from("127.0.1.1", to));
    is_served(&mut connect_from("127.0.2.127", to));
    for denied in ["127.0.0.1", "127.0.2.128", "127.0.3.1"] {
        let mut client = connect_from(denied, to);
        is_reset(&mut client);
        let line = lb.when_logged(&format!("client={} ", client.local_addr().unwrap()));
        assert!(line.contains("closed") && line.contains("reason=denied"), "{line}");
    }
    lb.when_idle();
    let closed =
        "pointsman_connections_closed_total{listener=\"l\",pool=\"p\",backend=\"\",reason=\"denied\"}";
    assert_eq!(lb.metric(closed), 3.0);
    let status = lb.status();
    assert_eq!([&status["listeners"][0]["denied"], &status["listeners"][0]["connections"]], [3, 5]);
    let pool = &status["pools"][0];
    assert_eq!([&pool["unserved"], &pool["failures_seen"], &pool["connections"]], [0, 0, 2]);
    let why = lb.get("/api/v1/why?client=127.0.3.1").1;
    assert!(why.contains("the listener does not admit the client's address (allow, deny)"), "{why}");
}

#[test]
fn an_ipv4_client_of_a_socket_for_both_families_is_judged_by_its_ipv4_address() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(&backend, "'[::]:0'", ", allow: [127.0.1.0/24, '::1']"));
    let port = lb.address("l").port();
    is_served(&mut connect_from("127.0.1.1", ([127, 0, 0, 1], port).into()));
    is_reset(&mut connect_from("127.0.0.1", ([127, 0, 0, 1], port).into()));
    is_served(&mut connect_from("::1", (std::net::Ipv6Addr::LOCALHOST, port).into()));
}

#[test]
fn clients_of_a_unix_socket_have_no_address_and_are_admitted() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(&backend, "['127.0.0.1:0', 'unix:l.sock']", ", allow: 192.0.2.1"));
    let mut local = UnixStream::connect(lb.folder().join("l.sock")).unwrap();
    local.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    is_served(&mut local);
    is_reset(&mut connect_from("127.0.0.1", lb.address("l")));
}

#[test]
fn a_reload_changes_the_lists_for_new_connections_only() {
    let backend = Backend::echo();
    let lb = Lb::start(&config(&backend, "127.0.0.1:0", ""));
    let to = lb.address("l");
    let mut early = connect_from("127.0.1.1", to);
    is_served(&mut early);
    lb.reload(&config(&backend, "127.0.0.1:0", ", deny: 127.0.1.1"));
    is_reset(&mut connect_from("127.0.1.1", to));
    is_served(&mut connect_from("127.0.1.2", to));
    is_served(&mut early);
    lb.reload(&config(&backend, "127.0.0.1:0", ""));
    is_served(&mut connect_from("127.0.1.1", to));
}
