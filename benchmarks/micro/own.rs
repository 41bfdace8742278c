//! What it costs that the balancer is never its own backend.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use divan::{Bencher, black_box};
use pointsman::own::{OwnAddresses, Owner};
use pointsman::proxy::loopback::{Entered, LoopbackConnections};

/// Entering a connection to a backend on loopback, its port asked for, until its end, among so many others.
#[divan::bench(args = [0, 10_000])]
fn enter(bencher: Bencher<'_, '_>, others: u16) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("an address");
    let remote = server.local_addr().expect("its address");
    let stream = TcpStream::connect(remote).expect("a connection");
    let connections = Arc::new(LoopbackConnections::default());
    let other = |port| connections.enter(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), remote);
    let _others: Vec<Entered> = (1..=others).map(other).collect();
    bencher.bench(|| Box::new(connections.enter(stream.local_addr().expect("its port"), remote)));
}

/// Comparing a backend with a listener on every address: of another port, not of this machine, of this machine.
#[divan::bench(args = ["192.0.2.1:81", "192.0.2.1:80", "127.0.0.1:80", "[2001:db8::1]:80"])]
fn compare(bencher: Bencher<'_, '_>, address: &str) {
    let address: SocketAddr = address.parse().expect("an address");
    let any = "[::]:80".parse().expect("an address");
    let own = OwnAddresses::new(vec![(any, Owner::Admin)]);
    bencher.bench(|| own.owner(black_box(address)).is_some());
}
