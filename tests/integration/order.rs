//! Connections reach their backend in the order in which the balancer accepted them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::support::{Lb, TIME_LIMIT, listen_alone, static_list};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Pairs of connections, enough that each known cause of reordering shows up in most runs.
const PAIRS: usize = 300;

/// A backend that passes on its connections in the order in which it accepts them.
fn backend() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = listen_alone();
    let address = listener.local_addr().unwrap();
    let (accepted, connections) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if accepted.send(stream).is_err() {
                break;
            }
        }
    });
    (address, connections)
}

/// Lets this thread, and the processes that it starts, run on one CPU only. On several, the kernel may swap two SYNs by
/// itself: each CPU has its own queue for packets of the loopback device, and a busy system moves threads between
/// CPUs.
fn run_on_one_cpu() {
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
}

/// Connects, and sends the byte `first` at once, if there is one.
fn connect(to: SocketAddr, first: Option<u8>) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    if let Some(byte) = first {
        stream.write_all(&[byte]).unwrap();
    }
    stream
}

/// Opens pairs of connections without a pause, on which the client sends the given first bytes; returns how many pairs
/// arrived swapped.
fn swapped(lb: &Lb, connections: &Receiver<TcpStream>, first: Option<u8>, second: Option<u8>) -> usize {
    let to = lb.address("l");
    let swapped = (0..PAIRS).filter(|_| {
        let mut clients = [connect(to, first), connect(to, second)];
        let mut servers =
            [(); 2].map(|()| connections.recv_timeout(TIME_LIMIT).expect("the backend accepts both"));
        // A connection without first bytes identifies itself now.
        clients[0].write_all(b"1").unwrap();
        clients[1].write_all(b"2").unwrap();
        let mut arrived = [0];
        servers[0].set_read_timeout(Some(TIME_LIMIT)).unwrap();
        servers[0].read_exact(&mut arrived).unwrap();
        arrived == *b"2"
    });
    swapped.count()
}

#[test]
fn one_worker_passes_connections_on_in_the_order_in_which_it_accepted_them() {
    let (address, connections) = backend();
    run_on_one_cpu();
    let lb = Lb::start(&format!(
        "runtime: {{workers: 1}}\nlisteners: {{l: {{bind: 127.0.0.1:0, pool: p}}}}\npools: {{p: {{discover: {}}}}}\n",
        static_list(&[address])
    ));
    for (first, second) in [(Some(b'1'), Some(b'2')), (Some(b'1'), None), (None, Some(b'2')), (None, None)] {
        assert_eq!(swapped(&lb, &connections, first, second), 0, "first bytes: {first:?}, {second:?}");
    }
}
