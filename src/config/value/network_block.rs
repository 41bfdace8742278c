//! Networks of clients, as CIDR blocks (RFC 4632), and single addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::kind::Kind;
use super::super::outline::Outline;
use super::super::scalar::pattern;

pub(super) const MUST: &str = "must be a network such as 10.0.0.0/8, or an IP address";

/// A network, or a single address.
pub(in crate::config) fn network_block() -> Kind<IpNet> {
    let print = |network: &IpNet| Outline::text(network.to_string());
    Kind::scalar(
        |node| read_network(node.text().unwrap_or_default()),
        print,
        || pattern("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"),
    )
}

/// An IP address.
pub(in crate::config) fn ip_address() -> Kind<IpAddr> {
    let read = |text: &str| text.parse().map_err(|_| "must be an IP address, such as 10.0.0.5".to_owned());
    Kind::scalar(
        move |node| read(node.text().unwrap_or_default()),
        |address: &IpAddr| Outline::text(address.to_string()),
        || pattern("^[0-9A-Fa-f:.]+$"),
    )
}

/// Reads a network, or a single address.
pub(super) fn read_network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| MUST.to_owned())?,
    };
    if network.addr() != network.network() {
        let (whole, one) = (network.trunc(), network.addr());
        return Err(format!("must be {whole} for the whole network, or {one} for one address"));
    }
    match network {
        IpNet::V6(mapped) if mapped.addr().to_ipv4_mapped().is_some() => {
            Err("must be an IPv4 network, as clients with IPv4-mapped addresses count as IPv4 clients"
                .to_owned())
        }
        network => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses_are_read() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(read_network(text).map(|network| network.to_string()), Ok(network.to_owned()));
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_advice() {
        for text in ["", "example.com", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "all", "10.0.0.1:80"] {
            assert_eq!(read_network(text), Err(MUST.to_owned()), "{text}");
        }
        let error = read_network("10.1.2.3/8").unwrap_err();
        assert_eq!(error, "must be 10.0.0.0/8 for the whole network, or 10.1.2.3 for one address");
        assert!(read_network("::ffff:10.0.0.0/104").unwrap_err().starts_with("must be an IPv4 network"));
    }
}
