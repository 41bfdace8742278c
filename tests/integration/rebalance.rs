//! Rebalancing of long-lived connections: idle ones are closed, so that their clients get to a backend with fewer.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::{Lb, TIME_LIMIT, connect_to, eventually, free_port, join_within, static_list};

/// Clients that stay connected, and connect again when their connection is closed.
struct Clients {
    stop: Arc<AtomicBool>,
    /// How often each has connected.
    connects: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// `busy` of them send a byte again and again.
    fn start(address: SocketAddr, n: usize, busy: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let connects: Vec<_> = (0..n).map(|_| Arc::<AtomicUsize>::default()).collect();
        let start = |(index, connects): (usize, &Arc<AtomicUsize>)| {
            let (stop, connects) = (Arc::clone(&stop), Arc::clone(connects));
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    stay(address, index < busy, &connects, &stop);
                }
            })
        };
        let threads = connects.iter().enumerate().map(start).collect();
        Self { stop, connects, threads }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            join_within(thread, "the clients");
        }
    }
}

/// Connects, and stays connected until the other side closes or the clients stop.
fn stay(address: SocketAddr, busy: bool, connects: &AtomicUsize, stop: &AtomicBool) {
    let mut stream = connect_to(address).unwrap();
    stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    connects.fetch_add(1, SeqCst);
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while !stop.load(SeqCst) {
        if busy {
            stream.write_all(b"x").unwrap();
        }
        match stream.read(&mut [0]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn config(port: u16, backends: &[SocketAddr], rebalance: &str) -> String {
    format!(
        "listeners: {{l: {{bind: 127.0.0.1:{port}, pool: p}}}}
pools: {{p: {{discover: {}, balance: least-connections, rebalance: {rebalance}}}}}",
        static_list(backends)
    )
}

fn active(lb: &Lb) -> Vec<u64> {
    let status = lb.status();
    let backends = status["pools"][0]["backends"].as_array().unwrap();
    backends.iter().map(|backend| backend["active"].as_u64().unwrap()).collect()
}

#[test]
fn idle_connections_move_to_a_new_backend_and_busy_ones_stay() {
    let backends = [Backend::echo(), Backend::echo()].map(|backend| (backend.address, backend));
    let (port, rebalance) = (free_port(), "{idle: 1s, rate: 20/s}");
    let [(a, _a), (b, _b)] = backends;
    let lb = Lb::start(&config(port, &[a], rebalance));
    let clients = Clients::start(lb.address("l"), 20, 3);
    eventually("all are connected", || (active(&lb) == [20]).then_some(()));
    lb.reload(&config(port, &[a, b], rebalance));
    eventually("each has its share", || (active(&lb) == [10, 10]).then_some(()));
    let started = lb.when_logged("rebalance started");
    assert!(started.contains("surplus=10") && started.contains("dry_run=false"), "{started}");
    let done = lb.when_logged("rebalance done");
    let closed = lb.logged(&["closed conn=", "reason=rebalanced"]).len();
    assert!(done.contains(&format!("closed={closed}")) && (10..=12).contains(&closed), "{done} {closed}");
    let connects: Vec<_> = clients.connects.iter().map(|connects| connects.load(SeqCst)).collect();
    assert_eq!(connects[..3], [1, 1, 1], "busy ones stay");
    let story = lb.get("/api/v1/story").1;
    assert!(story.contains("above the shares of their backends"), "{story}");
}

#[test]
fn a_dry_run_only_tells_what_it_would_close() {
    let (a, b) = (Backend::echo(), Backend::echo());
    let (port, rebalance) = (free_port(), "{idle: 100ms, rate: 1000/s, dry_run: true}");
    let lb = Lb::start(&config(port, &[a.address], rebalance));
    let _clients = Clients::start(lb.address("l"), 8, 0);
    eventually("all are connected", || (active(&lb) == [8]).then_some(()));
    lb.reload(&config(port, &[a.address, b.address], rebalance));
    let started = lb.when_logged("rebalance started");
    assert!(started.contains("surplus=4 idle=8 seconds=1 dry_run=true"), "{started}");
    assert_eq!(active(&lb), [8, 0]);
    assert!(lb.logged(&["closed conn="]).is_empty(), "{}", lb.log());
}
