//! Faults of clients: silence, slowness, floods.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use super::scene::Scene;
use crate::support::backend::Backend;
use crate::support::network::is_inside;
use crate::support::{connect_to, eventually, limited, static_list};

#[test]
fn a_thousand_silent_clients_are_reset_and_delay_no_other() {
    let backends = [Backend::http("a"), Backend::http("b")];
    let scene = Scene::start(
        backends.each_ref().map(|one| one.address),
        ", silent: {bind: 127.0.0.1:0, pool: web, proxy_protocol: {trust: 127.0.0.0/8, timeout: 1s}}",
        "",
    );
    let address = scene.lb.address("silent");
    let seen = scene.during(|| {
        let silent: Vec<_> = (0..1000).map(|_| limited(connect_to(address).unwrap()).unwrap()).collect();
        for mut client in silent {
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
    seen.without_errors();
    eventually("each has its line in the log", || {
        (scene.lb.logged(&["closed", "listener=silent", "reason=preface_timeout"]).len() == 1000)
            .then_some(())
    });
    scene.is_as_before();
}

#[test]
fn a_hundred_clients_that_do_not_read_delay_no_other() {
    const SIZE: usize = 4 << 20;
    let large = Backend::serving(|mut stream: TcpStream| _ = stream.write_all(&vec![7; SIZE]));
    let backends = [Backend::http("a"), Backend::http("b")];
    let scene = Scene::start(
        backends.each_ref().map(|one| one.address),
        ", large: {bind: 127.0.0.1:0, pool: web-large}",
        &format!("balance: round-robin\n  web-large: {{discover: {}}}", static_list(&[large.address])),
    );
    let address = scene.lb.address("large");
    let seen = scene.during(|| {
        let slow: Vec<_> = (0..100).map(|_| limited(connect_to(address).unwrap()).unwrap()).collect();
        eventually("all are routed", || {
            (scene.lb.logged(&["routed conn=", "listener=large"]).len() == 100).then_some(())
        });
        scene.during(|| {}).without_errors();
        // Half of them read at last, and get everything; the others leave.
        for (n, mut client) in slow.into_iter().enumerate() {
            if n % 2 == 0 {
                let mut all = Vec::new();
                client.read_to_end(&mut all).unwrap();
                assert_eq!(all.len(), SIZE);
            }
        }
    });
    seen.without_errors();
    scene.is_as_before();
}

#[test]
fn a_flood_of_syns_from_false_addresses_refuses_no_client() {
    // No answer to the SYN-ACKs: they are dropped, as if no machine had these addresses.
    let prepare = "nft add table ip faults && nft 'add chain ip faults input { type filter hook input priority 0; }' \
                   && nft add rule ip faults input ip daddr 127.66.0.0/16 drop";
    if !is_inside(
        "faults::clients::a_flood_of_syns_from_false_addresses_refuses_no_client",
        "nftables",
        prepare,
    ) {
        return;
    }
    let backends = [Backend::http("a"), Backend::http("b")];
    let scene = Scene::start(backends.each_ref().map(|one| one.address), "", "");
    let port = scene.lb.address("web").port();
    let seen = scene.during(|| {
        let flood = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(6))).unwrap();
        flood.set_header_included_v4(true).unwrap();
        let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port).into();
        for n in 0..50_000_u32 {
            let [.., high, low] = n.to_be_bytes();
            flood
                .send_to(&syn(Ipv4Addr::new(127, 66, high, low), 1024 + n as u16 % 60_000, port), &to)
                .unwrap();
        }
    });
    seen.without_errors();
    assert!(cookies_sent() > 1000, "the kernel was not flooded: {} SYN cookies", cookies_sent());
    let accepted = scene.lb.metric("pointsman_listener_connections_accepted_total{listener=\"web\"}");
    scene.is_as_before();
    assert!(accepted < 50_000.0, "half-open connections are not accepted");
}

/// A SYN to 127.0.0.1 (RFC 791, 3.1; RFC 9293, 3.1). The kernel fills in the checksum of the IP header.
fn syn(from: Ipv4Addr, from_port: u16, port: u16) -> [u8; 40] {
    let to = Ipv4Addr::LOCALHOST;
    let mut packet = [0; 40];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..22].copy_from_slice(&from_port.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[24..28].copy_from_slice(&[1, 2, 3, 4]);
    packet[32..36].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, 20]].concat();
    let words = pseudo.chunks(2).chain(packet[20..].chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// How many SYN cookies the kernel has sent in this namespace (proc(5), net/netstat).
fn cookies_sent() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let index = names.split(' ').position(|name| name == "SyncookiesSent").unwrap();
    values.split(' ').nth(index).unwrap().parse().unwrap()
}
