//! Addresses for networks that a Compose file gives fixed ones.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use ipnet::Ipv4Net;

use crate::engine::{docker, try_docker};

/// How many first halves are tried: 10.64 to 10.191.
const CANDIDATES: u8 = 128;
/// The position of the candidate to try next, once one was returned. A test creates its network some time after it got
/// the addresses, which look free to other tests until then.
static NEXT: Mutex<Option<u8>> = Mutex::new(None);

/// The first half of addresses (`10.64`) that no network of the engine overlaps with and no route of this machine uses a
/// part of, another one at each call while there are several. A route to more than that, such as 10.0.0.0/8 of a VPN, gives
/// way to the new network's.
pub(crate) fn free_subnet() -> String {
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let (networks, routes) = (networks(), routes());
    // Processes that run at the same time begin at different places.
    let first = next.unwrap_or_else(|| (std::process::id() % u32::from(CANDIDATES)) as u8);
    let is_free = |position: &u8| {
        let candidate = network(*position);
        let overlaps = |network: &Ipv4Net| network.contains(&candidate) || candidate.contains(network);
        !networks.iter().any(overlaps) && !routes.iter().any(|route| candidate.contains(route))
    };
    let mut positions = (0..CANDIDATES).map(|step| (first + step) % CANDIDATES);
    let free = positions.find(is_free);
    let free = free.unwrap_or_else(|| panic!("10.64 to 10.191 are used: {networks:?} {routes:?}"));
    *next = Some((free + 1) % CANDIDATES);
    let [ten, second, ..] = network(free).addr().octets();
    format!("{ten}.{second}")
}

/// The network of a candidate.
fn network(position: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 64 + position, 0, 0), 16)
}

/// The addresses of the engine's networks.
fn networks() -> Vec<Ipv4Net> {
    let ids = docker(&["network", "ls", "-q", "--no-trunc"]);
    let subnets = "{{range .IPAM.Config}}{{println .Subnet}}{{end}}";
    // A network may be removed meanwhile.
    let inspected =
        ids.lines().filter_map(|id| try_docker(&["network", "inspect", "--format", subnets, id]).ok());
    inspected.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The destinations of this machine's routes but the default one, as in proc_net(5): an engine that was killed leaves
/// bridges behind, with their routes.
fn routes() -> Vec<Ipv4Net> {
    // The kernel prints an address as the number that its bytes form in memory.
    let address =
        |text: &str| u32::from_str_radix(text, 16).ok().map(|bits| Ipv4Addr::from(bits.to_ne_bytes()));
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let route = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let network = Ipv4Net::with_netmask(address(columns.get(1)?)?, address(columns.get(7)?)?).ok()?;
        (network.prefix_len() > 0).then_some(network)
    };
    table.lines().skip(1).filter_map(route).collect()
}
