//! The hash of clients and backend names.
//!
//! It is fixed, not seeded: a client goes to the same backend from every Pointsman with the same configuration, also
//! after a restart and an upgrade. So it must never change between releases; a test holds its values. It is
//! SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), whose key gives as many independent
//! functions as needed. The keys are public: a client that can choose its source address can choose its backend.
//!
//! The upper half of a client's hash is the one that the kernel can compute ([`jhash`]), and a table is indexed by it
//! ([`slot`]): so a client gets the same backend whether Pointsman or the kernel forwards its connection.

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::Candidate;
use super::jhash::jhash;
use crate::config::HashKey;

/// What a hash is for: a part of the key. The numbers must never change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A client, for [`PickArgs`](super::PickArgs).
    Client = 1,
    /// A client whose choice is excluded or full.
    Rehash = 2,
    /// The virtual nodes of a backend.
    Ring = 3,
    /// Where a backend's permutation of the table begins.
    Offset = 4,
    /// The step width of that permutation.
    Skip = 5,
}

/// The seed of the hash that the kernel computes too.
pub const SEED: u32 = 0x504d;

/// The hash of a client, for [`PickArgs::client`](super::PickArgs::client). An IPv4-mapped IPv6 address
/// (RFC 4291, section 2.5.5.2) counts as its IPv4 address.
pub fn client(ip: IpAddr, port: u16, key: HashKey) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => selected(&ip.octets(), 3, port, key),
        IpAddr::V6(ip) => selected(&ip.octets(), 8, port, key),
    }
}

/// The hash of what `key` selects; the first `net` bytes of an address are its network.
fn selected(address: &[u8], net: usize, port: u16, key: HashKey) -> u64 {
    let mut bytes = [0; 20];
    let (net, length) = match key {
        HashKey::SourceIp | HashKey::Sni => (address.len(), address.len()),
        // nftables pads each part of a concatenation to four bytes.
        HashKey::SourceIpPort => (address.len(), address.len() + 4),
        HashKey::SourceNet => (net, address.len()),
    };
    bytes[..net].copy_from_slice(&address[..net]);
    if key == HashKey::SourceIpPort {
        bytes[net..net + 2].copy_from_slice(&port.to_be_bytes());
    }
    let bytes = &bytes[..length];
    u64::from(jhash(bytes, SEED)) << 32 | sip(Purpose::Client as u64, 0, bytes) & u64::from(u32::MAX)
}

/// The slot of a client with that hash in a table of `slots`, as the kernel computes it (`reciprocal_scale` in
/// `include/linux/kernel.h`).
pub(super) fn slot(client: u64, slots: u64) -> u64 {
    ((client >> 32) * slots) >> 32
}

/// The hash of the clients that ask for that server, for [`PickArgs::client`](super::PickArgs::client).
pub fn server_name(name: &str) -> u64 {
    sip(Purpose::Client as u64, 0, name.as_bytes())
}

/// Another hash of a client, one per number.
pub(super) fn rehash(client: u64, number: u64) -> u64 {
    sip(Purpose::Rehash as u64, number, &client.to_le_bytes())
}

/// A candidate as the hashes see it, independent of discovery order.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedCandidate<'a> {
    /// Its index among the candidates.
    pub(super) index: usize,
    pub(super) weight: u32,
    name: &'a str,
    /// Candidates of the same name before it. Only the order of discovery distinguishes them, so another process may
    /// swap them.
    duplicates: u64,
}

impl NamedCandidate<'_> {
    /// Its hash for a purpose and a number.
    pub(super) fn hash(&self, purpose: Purpose, number: u64) -> u64 {
        sip(self.duplicates << 8 | purpose as u64, number, self.name.as_bytes())
    }
}

/// The candidates in the order of their names.
pub(super) fn by_name(candidates: &[Candidate]) -> Vec<NamedCandidate<'_>> {
    let mut order: Vec<_> = candidates.iter().enumerate().collect();
    order.sort_unstable_by_key(|(_, candidate)| (&*candidate.name, candidate.key));
    let mut all: Vec<NamedCandidate<'_>> = Vec::with_capacity(order.len());
    for (index, Candidate { name, weight, .. }) in order {
        let duplicates = all.last().filter(|last| *last.name == **name).map_or(0, |last| last.duplicates + 1);
        all.push(NamedCandidate { index, weight: *weight, name, duplicates });
    }
    all
}

fn sip(purpose: u64, number: u64, bytes: &[u8]) -> u64 {
    SipHasher24::new_with_keys(purpose, number).hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn the_hash_is_the_siphash_of_the_paper() {
        let message: Vec<u8> = (0..15).collect();
        let key = |from: u8| u64::from_le_bytes(std::array::from_fn(|n| from + n as u8));
        assert_eq!(SipHasher24::new_with_keys(key(0), key(8)).hash(&message), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn a_client_has_the_same_hash_in_every_release() {
        let of = |ip: &str, key| client(ip.parse().unwrap(), 40_000, key);
        assert_eq!(of("192.0.2.1", HashKey::SourceIp), 0x2929_cc9f_678e_f3ba);
        assert_eq!(of("192.0.2.1", HashKey::SourceIpPort), 0x3a78_c33b_7a83_8970);
        assert_eq!(of("192.0.2.1", HashKey::SourceNet), 0x4ec6_3195_6dd2_83b7);
        assert_eq!(of("2001:db8::1", HashKey::SourceIp), 0xf298_2e41_18ea_f23a);
        assert_eq!(of("2001:db8::1", HashKey::SourceIpPort), 0xe020_9f9a_4e1f_da33);
        assert_eq!(of("2001:db8::1", HashKey::SourceNet), 0xcf51_8c72_614f_bc67);
        // A client that asks for no name.
        assert_eq!(of("192.0.2.1", HashKey::Sni), of("192.0.2.1", HashKey::SourceIp));
        assert_eq!(server_name("www.example.com"), 0x4121_9425_a30a_9e87);
    }

    fn key() -> impl Strategy<Value = HashKey> {
        proptest::sample::select(HashKey::ALL.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_mapped_address_is_its_ipv4_address(ip in any::<u32>(), port in any::<u16>(), key in key()) {
            let ip = Ipv4Addr::from(ip);
            prop_assert_eq!(client(ip.into(), port, key), client(ip.to_ipv6_mapped().into(), port, key));
        }

        #[test]
        fn only_what_the_key_selects_matters(ip in any::<u128>(), host in any::<u64>(), ports in any::<[u16; 2]>()) {
            let (v4, v6) = (Ipv4Addr::from(ip as u32), Ipv6Addr::from(ip | 1 << 127));
            let near_v4 = Ipv4Addr::from(ip as u32 & !0xff | host as u32 & 0xff);
            let near_v6 = Ipv6Addr::from((ip | 1 << 127) >> 64 << 64 | u128::from(host));
            let pairs: [(IpAddr, IpAddr); 2] = [(v4.into(), near_v4.into()), (v6.into(), near_v6.into())];
            for (ip, near) in pairs {
                let of = |ip, n: usize, key| client(ip, ports[n], key);
                prop_assert_eq!(of(ip, 0, HashKey::SourceNet), of(near, 1, HashKey::SourceNet));
                prop_assert_eq!(of(ip, 0, HashKey::SourceIp), of(ip, 1, HashKey::SourceIp));
                prop_assert_eq!(of(ip, 0, HashKey::SourceIp) == of(near, 1, HashKey::SourceIp), ip == near);
                let same = ports[0] == ports[1];
                prop_assert_eq!(of(ip, 0, HashKey::SourceIpPort) == of(ip, 1, HashKey::SourceIpPort), same);
            }
        }
    }
}
