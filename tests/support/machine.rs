//! Other machines of a test, in network namespaces.

use std::sync::mpsc::{Sender, channel};

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

use super::network::sh;

type Job = Box<dyn FnOnce() + Send>;

/// A machine with a cable to the balancer's: a thread with a network namespace of its own. Sockets belong to the namespace
/// of the thread that creates them.
pub struct Machine {
    jobs: Sender<Job>,
}

impl Machine {
    /// `interface` is its end in the balancer's namespace, which has the addresses that end in 1; its own end in 2.
    /// `network` is a part of its addresses, and distinguishes it from others.
    pub fn new(interface: &str, network: u8) -> Self {
        let (jobs, given) = channel::<Job>();
        let (ready, its) = channel();
        std::thread::spawn(move || {
            own_network_for_this_thread();
            ready.send(gettid().as_raw_nonzero()).unwrap();
            given.into_iter().for_each(|job| job());
        });
        let thread = its.recv_timeout(crate::TIME_LIMIT).unwrap();
        let addresses = move |device: &str, end: u8| {
            format!(
                "ip address add 10.77.{network}.{end}/24 dev {device}
                 ip address add fd77:{network}::{end}/64 dev {device} nodad
                 ip link set {device} up"
            )
        };
        sh(&format!("ip link add {interface} type veth peer name cable netns {thread}"));
        sh(&addresses(interface, 1));
        let machine = Self { jobs };
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
