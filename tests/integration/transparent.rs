//! Connections to backends from the client's address (`connect.transparent`), between three network namespaces: the
//! client's, the balancer's and the backend's, which has its route to the client through the balancer.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};

use crate::support::machine::Machine;
use crate::support::network::is_inside;
use crate::support::{Lb, accept_within, connect_to, within};

/// The address that the backend sees of a connection from `client` to the listener, over which bytes pass both ways.
fn seen_by_the_backend(client: &Machine, lb: &Lb, listener: &str, backend: &TcpListener) -> IpAddr {
    let address = lb.address(listener);
    let mut client = client.run(move || connect_to(address)).unwrap();
    client.write_all(b"to").unwrap();
    let (mut server, peer) = accept_within(backend);
    let mut bytes = [0; 2];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to");
    server.write_all(b"and fro").unwrap();
    drop(server);
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "and fro");
    peer.ip()
}

#[test]
fn the_backend_sees_the_clients_address() {
    // Packets from the backend are for this machine, whatever their destination.
    let routes = "ip rule add iif backend0 lookup 77 && ip route add local default dev lo table 77 \
                  && ip -6 rule add iif backend0 lookup 77 && ip -6 route add local default dev lo table 77";
    if !is_inside("transparent::the_backend_sees_the_clients_address", "the tool ip", routes) {
        return;
    }
    let (client, server) = (Machine::new("client0", 1), Machine::new("backend0", 2));
    let listen = |address: &'static str| server.run(move || TcpListener::bind(address)).unwrap();
    let (ipv4, ipv6) = (listen("10.77.2.2:0"), listen("[fd77:2::2]:0"));
    let addresses = [&ipv4, &ipv6].map(|listener| listener.local_addr().unwrap());
    // The machine has no route to the backend's address until its end of the cable is up.
    for address in addresses {
        within(crate::TIME_LIMIT, "a route to the backend", || TcpStream::connect(address).ok());
    }
    for (listener, machine) in [(&ipv4, "10.77.2.1"), (&ipv6, "fd77:2::1")] {
        assert_eq!(accept_within(listener).1.ip().to_string(), machine);
    }
    let config = |connect: &str| {
        let pool = |address| format!("{{discover: [{{static: ['{address}']}}], connect: {connect}}}");
        format!(
            "listeners:\n  v4: {{bind: 10.77.1.1:0, pool: v4}}\n  v6: {{bind: '[fd77:1::1]:0', pool: v6}}\n  \
             both: {{bind: '[fd77:1::1]:0', pool: v4}}\n  \
             proxy: {{bind: 10.77.1.1:0, pool: v4, proxy_protocol: {{trust: 10.77.1.2}}}}\n\
             pools:\n  v4: {}\n  v6: {}\n",
            pool(addresses[0]),
            pool(addresses[1])
        )
    };
    let lb = Lb::start(&config("{transparent: true, source: [10.77.2.1]}"));
    let seen = |listener, backend| seen_by_the_backend(&client, &lb, listener, backend).to_string();
    assert_eq!(seen("v4", &ipv4), "10.77.1.2");
    assert_eq!(seen("v6", &ipv6), "fd77:1::2");
    assert_eq!(seen("both", &ipv4), "10.77.2.1", "a client of the other address family");
    let proxy = lb.address("proxy");
    let mut behind = client.run(move || connect_to(proxy)).unwrap();
    behind.write_all(b"PROXY TCP4 192.0.2.9 10.77.1.1 7 80\r\n").unwrap();
    assert_eq!(accept_within(&ipv4).1.ip().to_string(), "192.0.2.9", "the address in the PROXY header");
    lb.reload(&config("{}"));
    assert_eq!(seen_by_the_backend(&client, &lb, "v4", &ipv4).to_string(), "10.77.2.1");
}
