//! A network whose packets arrive late and out of order. The kernel that runs the tests may have no netem(8).
//!
//! A TUN device carries 10.88.0.0/24. What is sent to 10.88.0.2 is written back with both addresses exchanged, and so arrives
//! at 10.88.0.1 as from there: a connection to 10.88.0.2 reaches a server of this machine at 10.88.0.1. The checksums of IP
//! and TCP are sums, which the exchange does not change.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt;

/// Shell commands that create the device, and with it the namespace.
pub const DEVICE: &str =
    "ip tuntap add dev late mode tun && ip address add 10.88.0.1/24 dev late && ip link set late up";
/// The address at which servers listen.
pub const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1));

/// From <linux/if_tun.h>: a device that carries IP packets, without a header of its own.
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` of netdevice(7), as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A packet and when it arrives; of packets that arrive at the same time, the one that was sent first.
type Late = Reverse<(Instant, u64, Vec<u8>)>;

/// The network. It ends with the process.
pub struct LateNetwork {
    delay: Arc<Mutex<RangeInclusive<u64>>>,
}

impl LateNetwork {
    /// The network on the device that [`DEVICE`] has created. Packets are not delayed yet.
    pub fn start() -> Self {
        let device = attach();
        let delay = Arc::new(Mutex::new(0..=0));
        let (send, sent) = channel();
        let (mut from, to, delays) = (device.try_clone().unwrap(), device, Arc::clone(&delay));
        std::thread::spawn(move || {
            for number in 0.. {
                let mut packet = vec![0; 65_536];
                let Ok(length) = from.read(&mut packet) else { return };
                packet.truncate(length);
                let range = delays.lock().unwrap().clone();
                let due = Instant::now() + Duration::from_millis(rand::rng().random_range(range));
                if send.send(Reverse((due, number, packet))).is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || deliver(to, &sent));
        Self { delay }
    }

    /// Where a client reaches the server that listens at this address.
    pub fn remote(&self, server: SocketAddr) -> SocketAddr {
        SocketAddr::from(([10, 88, 0, 2], server.port()))
    }

    /// From now on each packet is delayed by a random time from this range, in milliseconds.
    pub fn delay(&self, range: RangeInclusive<u64>) {
        *self.delay.lock().unwrap() = range;
    }
}

#[allow(unsafe_code)]
fn attach() -> File {
    let device = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name[..4].copy_from_slice(b"late");
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which `InterfaceRequest` is, and keeps no pointer to it.
    let attached = unsafe {
        let request = rustix::ioctl::Setter::<TUNSETIFF, InterfaceRequest>::new(request);
        rustix::ioctl::ioctl(device.as_fd(), request)
    };
    attached.unwrap();
    device
}

/// Writes packets when they are due.
fn deliver(mut device: File, sent: &Receiver<Late>) {
    let mut waiting = BinaryHeap::<Late>::new();
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, mut packet))) = waiting.pop() else { break };
            // Only IPv4: of IPv6 there are only the kernel's solicitations.
            if packet.len() >= 20 && packet[0] >> 4 == 4 {
                let (source, destination) = packet[12..20].split_at_mut(4);
                source.swap_with_slice(destination);
                // It fails while the device is down.
                let _ = device.write_all(&packet);
            }
        }
        let next = waiting.peek().map(|Reverse((due, ..))| *due);
        let received = match next {
            Some(due) => sent.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => sent.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(late) => waiting.push(late),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
