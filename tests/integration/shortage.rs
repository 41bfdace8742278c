//! The behavior when the machine runs out of ports.

use std::net::TcpStream;
use std::time::Instant;

use crate::support::backend::Backend;
use crate::support::network::is_inside;
use crate::support::peers::{connect, is_reset};
use crate::support::{Lb, TIME_LIMIT, eventually, static_list};

#[test]
fn a_shortage_of_ports_is_logged_once_a_second_with_its_count() {
    const CLIENTS: u64 = 200;
    let test = "shortage::a_shortage_of_ports_is_logged_once_a_second_with_its_count";
    if !is_inside(test, "the tool ip", "true") {
        return;
    }
    let backend = Backend::echo();
    let lb = Lb::start(&format!(
        "listeners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}, connect: {{attempts: 1}}}}}}\n",
        static_list(&[backend.address])
    ));
    let address = lb.address("l");
    // Two ports for all connections from one address to another.
    let range = |ports: &str| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", ports).unwrap();
    range("40000 40001");
    let _served = [(); 2].map(|()| connect(&lb));
    lb.when_logged_times(2, &["routed conn="]);
    // Clients of another address have other ports.
    let began = Instant::now();
    for n in 0..CLIENTS {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let from = format!("127.0.{}.{}:0", 1 + n / 200, 1 + n % 200);
        socket.bind(&from.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        // Limits a blocking connect (socket(7)); `connect_timeout` reports an immediate reset as a failure.
        socket.set_write_timeout(Some(TIME_LIMIT)).unwrap();
        socket.connect(&address.into()).unwrap();
        let mut client = TcpStream::from(socket);
        client.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        is_reset(&mut client);
    }
    let logged = || lb.logged(&["cannot connect to backends: local resources are exhausted"]);
    let count = |line: &String| -> u64 {
        let rest = line.split_once("connects=").unwrap().1;
        rest.split_ascii_whitespace().next().unwrap().parse().unwrap()
    };
    eventually("every failure is counted", || {
        (logged().iter().map(count).sum::<u64>() == CLIENTS).then_some(())
    });
    let (lines, took) = (logged(), began.elapsed());
    assert!(lines.len() as u64 <= took.as_secs() + 2, "{} lines in {took:?}", lines.len());
    assert!(lines[0].contains("widen net.ipv4.ip_local_port_range"), "{}", lines[0]);
    // The log still has each client's routing decision, and the backend is not penalized.
    lb.when_logged_times(CLIENTS as usize, &["no backend conn="]);
    assert_eq!(lb.logged(&["backend down"]).len(), 0);
    range("32768 60999"); // the servers stop by connecting to themselves
}
