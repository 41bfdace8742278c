//! The cost of comparing a backend with the addresses that this process listens on.

use divan::{Bencher, black_box};
use pointsman_core::domain::SocketAddress;
use pointsman_core::own::{OwnAddresses, Owner};

/// Compares a backend with a listener on every address: another port, another machine, this machine.
#[divan::bench(args = ["192.0.2.1:81", "192.0.2.1:80", "127.0.0.1:80", "[2001:db8::1]:80"])]
fn compare(bencher: Bencher<'_, '_>, address: &str) {
    let address: SocketAddress = address.parse().expect("an address");
    let any = "[::]:80".parse().expect("an address");
    let own = OwnAddresses::new(vec![(any, Owner::Admin)]);
    bencher.bench(|| own.owner(black_box(&address)).is_some());
}
