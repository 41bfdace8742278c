//! Which clients a listener admits, by their addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::Client;

/// The clients that a listener admits (`allow`, `deny`).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    allow: Option<Networks>,
    deny: Option<Networks>,
}

impl AccessList {
    /// Admits the clients in `allow` that are not in `deny`; an empty `allow` stands for all.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        Self { allow: Networks::new(allow), deny: Networks::new(deny) }
    }

    /// Whether it admits a client. Clients of Unix sockets have no address and are admitted: the mode of the socket's
    /// file limits access.
    pub(super) fn admits(&self, client: Client) -> bool {
        let Client::Tcp(address) = client else { return true };
        let ip = address.ip();
        self.allow.as_ref().is_none_or(|allow| allow.contains(ip))
            && self.deny.as_ref().is_none_or(|deny| !deny.contains(ip))
    }
}

/// Networks that do not overlap, in ascending order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Networks(Box<[IpNet]>);

impl Networks {
    /// `None`: there are none.
    pub(super) fn new(networks: &[IpNet]) -> Option<Self> {
        let mut merged = IpNet::aggregate(&networks.to_vec());
        merged.sort_unstable_by_key(IpNet::network);
        (!merged.is_empty()).then(|| Self(merged.into()))
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let behind = self.0.partition_point(|network| network.network() <= ip);
        behind.checked_sub(1).is_some_and(|last| self.0[last].contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(ip: &str) -> Client {
        Client::Tcp((ip.parse::<IpAddr>().unwrap(), 40_000).into())
    }

    #[test]
    fn deny_takes_precedence_over_allow_and_both_are_optional() {
        let (allow, deny) = (networks(&["10.0.0.0/8", "2001:db8::/32"]), networks(&["10.6.6.0/24"]));
        let both = AccessList::new(&allow, &deny);
        for (ip, admitted) in [
            ("10.0.0.1", true),
            ("10.6.5.255", true),
            ("10.6.6.0", false),
            ("10.6.6.255", false),
            ("11.0.0.0", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(both.admits(client(ip)), admitted, "{ip}");
        }
        assert!(AccessList::default().admits(client("192.0.2.1")));
        assert!(AccessList::new(&[], &deny).admits(client("192.0.2.1")));
        assert!(!AccessList::new(&[], &deny).admits(client("10.6.6.6")));
        assert!(!AccessList::new(&allow, &[]).admits(client("192.0.2.1")));
        assert!(AccessList::new(&allow, &deny).admits(Client::Unix));
    }

    /// Addresses and networks that often overlap.
    fn address() -> impl Strategy<Value = IpAddr> {
        let byte = || prop_oneof![Just(0u8), Just(1), Just(128), Just(255), any::<u8>()];
        let v4 = [byte(), byte(), byte(), byte()].prop_map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
        let v6 = (any::<bool>(), byte(), byte()).prop_map(|(high, a, b)| {
            IpAddr::from(Ipv6Addr::new(if high { 0xffff } else { 0x2001 }, a.into(), 0, 0, 0, 0, 0, b.into()))
        });
        prop_oneof![v4, v6]
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=128).prop_map(|(ip, length)| {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            IpNet::new(ip, length.min(most)).unwrap().trunc()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn a_list_contains_what_one_of_its_networks_contains(
            networks in proptest::collection::vec(network(), 1..20), ip in address(),
        ) {
            let expected = networks.iter().any(|network| network.contains(&ip));
            prop_assert_eq!(Networks::new(&networks).unwrap().contains(ip), expected, "{} in {:?}", ip, networks);
        }
    }
}
