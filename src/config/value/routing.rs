//! Where a listener's connections go: pools, and what chooses among them.

use std::sync::Arc;

use ipnet::IpNet;
use litemap::LiteMap;

use super::super::kind::{Kind, keyed};
use super::super::model::PoolShares;
use super::super::outline::Outline;
use super::super::scalar::{text, whole};
use super::super::shape::ValueShape;
use super::super::yaml::YamlValue;
use super::network_block::{MUST, read_network};
use crate::protocol::client_hello::is_dns_name;

/// A pool, or several with the share of each.
pub(in crate::config) fn pool_shares() -> Kind<PoolShares> {
    let share = || whole::<u32>(0..=PoolShares::MOST.into());
    Kind::new(
        move |found| {
            let must = "must be a pool, or pools with the share of each, such as {web: 95, canary: 5}";
            match (&found.node.value, found.node.text()) {
                (_, Some(name)) => Some(PoolShares::one(name.into())),
                (YamlValue::Map(pairs), _) => {
                    let mut shares = LiteMap::new();
                    for (key, node) in pairs {
                        let what = format!("the share of {:?} in {}", key.text, found.what);
                        let read = share().read(&found.named(&key.text, node, what));
                        shares.insert(key.text.as_str().into(), read?);
                    }
                    let divided = PoolShares::new(shares);
                    if divided.is_none() {
                        found.problem(format!("{} needs a pool with a share of at least 1", found.what));
                    }
                    divided
                }
                _ => {
                    found.wrong(must);
                    None
                }
            }
        },
        |shares: &PoolShares| {
            let entry = |(pool, share): (&Arc<str>, u32)| (pool.to_string(), Outline::Number(share.into()));
            Some(match shares.single() {
                Some(pool) => Outline::text(pool),
                None => Outline::Map(shares.iter().map(entry).collect()),
            })
        },
        move || {
            let several = ValueShape::Named(Box::new(share().shape()), "web");
            ValueShape::Any(vec![text().shape(), several])
        },
    )
}

/// Pools by the network of the client.
pub(in crate::config) fn by_network() -> Kind<LiteMap<IpNet, PoolShares>> {
    keyed(read_network, IpNet::to_string, "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$", pool_shares(), MUST)
}

/// Pools by an application protocol that the client offers.
pub(in crate::config) fn by_protocol() -> Kind<LiteMap<Arc<str>, PoolShares>> {
    // Names are bytes; those of protocols in use are printable (IANA's registry of ALPN protocol IDs).
    let good =
        |text: &str| (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let must = "must be the name of a protocol, such as h2 or acme-tls/1";
    let read = move |text: &str| if good(text) { Ok(text.into()) } else { Err(must.to_owned()) };
    keyed(read, |name: &Arc<str>| name.to_string(), "^[!-~]{1,255}$", pool_shares(), must)
}

/// Pools by the name of the server that the client asks for.
pub(in crate::config) fn by_server_name() -> Kind<LiteMap<Arc<str>, PoolShares>> {
    let pattern = r"^(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*$";
    keyed(read_server_name, |name: &Arc<str>| name.to_string(), pattern, pool_shares(), SERVER_NAME)
}

const SERVER_NAME: &str =
    "must be a name such as www.example.com or *.example.com, in the form of DNS (xn--…)";

/// Reads a name or a pattern, in lower case, as names are compared.
fn read_server_name(text: &str) -> Result<Arc<str>, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if is_dns_name(name) { Ok(text.to_ascii_lowercase().into()) } else { Err(SERVER_NAME.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_and_patterns_are_read_in_lower_case() {
        for (text, name) in
            [("www.Example.com", "www.example.com"), ("*.example.com", "*.example.com"), ("a_b", "a_b")]
        {
            assert_eq!(read_server_name(text).as_deref(), Ok(name));
        }
        for wrong in
            ["", "*", "*.", "*.*.com", "a*.com", "a..b", ".a", "a.", "bücher.example", "a:443", "a/b"]
        {
            assert_eq!(read_server_name(wrong), Err(SERVER_NAME.to_owned()), "{wrong:?}");
        }
    }
}
