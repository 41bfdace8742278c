//! The hash that clients and backends' names are placed by.
//!
//! It is fixed, not seeded: the same client goes to the same backend from every Pointsman of the same configuration,
//! also after a restart and after an upgrade. So it must never change between releases; its values stand in a test.
//! It is SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), whose key gives as many
//! functions that are independent of each other as we need. The keys are known to everybody: who can choose the
//! address that it comes from can choose its backend.

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::Candidate;
use crate::config::HashKey;

/// What is hashed, and what for: a part of the key. The numbers must never change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A client, as an [`PickArgs`](super::PickArgs) has it.
    Client = 1,
    /// A client that cannot go where it belongs.
    Again = 2,
    /// A backend's places on the ring.
    Ring = 3,
    /// Where in the table a backend's permutation begins.
    Offset = 4,
    /// How far its steps are.
    Skip = 5,
}

/// The hash of a client, for [`PickArgs::client`](super::PickArgs::client). An IPv6 address that stands for an IPv4 address
/// (RFC 4291, section 2.5.5.2) counts as that one.
pub fn client(ip: IpAddr, port: u16, key: HashKey) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => part(&ip.octets(), 3, port, key),
        IpAddr::V6(ip) => part(&ip.octets(), 8, port, key),
    }
}

/// The part of an address that `key` asks for; the first `net` bytes of it are its network.
fn part(address: &[u8], net: usize, port: u16, key: HashKey) -> u64 {
    match key {
        HashKey::SourceIp => sip(Purpose::Client as u64, 0, address),
        HashKey::SourceIpPort => sip(Purpose::Client as u64, 0, &[address, &port.to_be_bytes()].concat()),
        HashKey::SourceNet => sip(Purpose::Client as u64, 0, &address[..net]),
    }
}

/// Another hash of a client: one for each number.
pub(super) fn again(client: u64, number: u64) -> u64 {
    sip(Purpose::Again as u64, number, &client.to_le_bytes())
}

/// A candidate as the hashes know it, whatever order it was found in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    /// Its place among the candidates.
    pub(super) index: usize,
    pub(super) weight: u32,
    name: &'a str,
    /// How many of the same name are before it. Only the order in which they were found tells those from each other,
    /// so that another process may take one for the other.
    namesakes: u64,
}

impl Named<'_> {
    /// One of its hashes: one for each purpose and number.
    pub(super) fn hash(&self, purpose: Purpose, number: u64) -> u64 {
        sip(self.namesakes << 8 | purpose as u64, number, self.name.as_bytes())
    }
}

/// The candidates in the order of their names.
pub(super) fn by_name(candidates: &[Candidate]) -> Vec<Named<'_>> {
    let mut order: Vec<_> = candidates.iter().enumerate().collect();
    order.sort_unstable_by_key(|(_, candidate)| (&*candidate.name, candidate.key));
    let mut all: Vec<Named<'_>> = Vec::with_capacity(order.len());
    for (index, Candidate { name, weight, .. }) in order {
        let namesakes = all.last().filter(|last| *last.name == **name).map_or(0, |last| last.namesakes + 1);
        all.push(Named { index, weight: *weight, name, namesakes });
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
    fn it_is_the_siphash_of_the_paper() {
        let message: Vec<u8> = (0..15).collect();
        let key = |from: u8| u64::from_le_bytes(std::array::from_fn(|n| from + n as u8));
        assert_eq!(SipHasher24::new_with_keys(key(0), key(8)).hash(&message), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn a_client_has_the_same_hash_in_every_release() {
        let of = |ip: &str, key| client(ip.parse().unwrap(), 40_000, key);
        assert_eq!(of("192.0.2.1", HashKey::SourceIp), 0x2a3f_7770_678e_f3ba);
        assert_eq!(of("192.0.2.1", HashKey::SourceIpPort), 0x3e4e_8be7_f7ae_162e);
        assert_eq!(of("192.0.2.1", HashKey::SourceNet), 0xbb09_cf15_7fd9_aa00);
        assert_eq!(of("2001:db8::1", HashKey::SourceIp), 0x68b5_fd21_18ea_f23a);
        assert_eq!(of("2001:db8::1", HashKey::SourceIpPort), 0x95ad_253f_16a9_e824);
        assert_eq!(of("2001:db8::1", HashKey::SourceNet), 0x995f_e8fc_561a_a98a);
    }

    fn key() -> impl Strategy<Value = HashKey> {
        proptest::sample::select(vec![HashKey::SourceIp, HashKey::SourceIpPort, HashKey::SourceNet])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_mapped_address_is_its_ipv4_address(ip in any::<u32>(), port in any::<u16>(), key in key()) {
            let ip = Ipv4Addr::from(ip);
            prop_assert_eq!(client(ip.into(), port, key), client(ip.to_ipv6_mapped().into(), port, key));
        }

        #[test]
        fn only_what_the_key_asks_for_matters(ip in any::<u128>(), host in any::<u64>(), ports in any::<[u16; 2]>()) {
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
