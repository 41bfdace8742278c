//! Other machines of a test, in network namespaces.

use std::sync::mpsc::{Sender, channel};

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

use super::network::sh;

type Job = Box<dyn FnOnce() + Send>;

/// A machine with a cable to the balancer's: a thread with a network namespace of its own. Sockets belong to the namespace
/// of the thread that creates them.
pub struct Machine {
    jobs: Sender<Job>,
    thread: i32,
}

impl Machine {
    /// A machine without a network.
    pub fn alone() -> Self {
        let (jobs, given) = channel::<Job>();
        let (ready, its) = channel();
        std::thread::spawn(move || {
            own_network_for_this_thread();
            ready.send(gettid().as_raw_nonzero()).unwrap();
            given.into_iter().for_each(|job| job());
        });
        Self { jobs, thread: its.recv_timeout(crate::TIME_LIMIT).unwrap().get() }
    }

    /// Connects it to a bridge of the balancer's namespace: `outside` is the name of the cable's end there, and the bridge's
    /// name that of its own end.
    pub fn plug(&self, bridge: &'static str, outside: &str, address: &str) {
        let thread = self.thread;
        sh(&format!(
            "ip link add {outside} type veth peer name {bridge} netns {thread}
             ip link set {outside} master {bridge} up"
        ));
        let commands =
            format!("ip link set lo up; ip address add {address}/24 dev {bridge}; ip link set {bridge} up");
        self.run(move || sh(&commands));
    }

    /// `interface` is its end in the balancer's namespace, which has the addresses that end in 1; its own end in 2.
    /// `network` is a part of its addresses, and distinguishes it from others.
    pub fn new(interface: &str, network: u8) -> Self {
        let machine = Self::alone();
        let thread = machine.thread;
        let addresses = move |device: &str, end: u8| {
            format!(
                "ip address add 10.77.{network}.{end}/24 dev {device}
                 ip address add fd77:{network}::{end}/64 dev {device} nodad
                 ip link set {device} up"
            )
        };
        sh(&format!("ip link add {interface} type veth peer name cable netns {thread}"));
        sh(&addresses(interface, 1));
        machine.run(move || {
            sh(&addresses("cable", 2));
            sh(&format!(
                "ip route add default via 10.77.{network}.1; ip route add default via fd77:{network}::1"
            ));
        });
        machine
    }

    /// Runs `job` on this machine.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || done.send(job()).unwrap())).unwrap();
        result.recv_timeout(crate::TIME_LIMIT).unwrap()
    }
}

#[allow(unsafe_code)]
fn own_network_for_this_thread() {
    // SAFETY: only `FILES` could be unsafe, and it is not among the flags.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
}
