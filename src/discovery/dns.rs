//! The A and AAAA records of a name as backends. `srv.rs` is for SRV records.
//!
//! An address does not identify a container: Docker gives the address of a stopped container to the next one that
//! starts, in any service. So each round also looks up the *names* of the addresses, of those in the answer and of
//! recent ones. A name that arrives after the answer may already be that of the next container, so an address with a
//! new name counts only if a later answer has it, too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::resolve::{AddressOwner, DnsAnswer, Resolver};
use super::rounds::{PolledSource, query_each};
use super::{Found, Observation, Outcome};
use crate::config::{Dns, Query};
use crate::domain::Cause;

/// The interval between reverse lookups of known names at a server that is not on this machine.
const NAMES_AGAIN: Duration = Duration::from_secs(10);
/// The limit of address queries in one round, until the answer is newer than the names of all its addresses. After
/// that, changing names are accepted as they are.
const PASSES: usize = 3;

/// The source for the A and AAAA records of a name.
pub(super) struct DnsSource {
    settings: Dns,
    /// The addresses of recent answers.
    known: HashMap<IpAddr, KnownAddress>,
}

struct KnownAddress {
    /// When it was last in an answer.
    seen: Instant,
    name: Option<Arc<str>>,
    /// When its name was last looked up.
    looked_up: Option<Instant>,
    /// Whether that failed.
    failed: bool,
}

impl PolledSource for DnsSource {
    fn query(&self) -> &Query {
        &self.settings.query
    }

    async fn round(&mut self, resolver: &Arc<Resolver>) -> Observation {
        let mut passes = 0;
        let answer = loop {
            let answer = self.query_addresses(resolver).await;
            let renamed = self.look_up_names(resolver, resolver.timeout).await;
            passes += 1;
            let is_stable =
                !matches!(&answer, DnsAnswer::Records(addresses) if !addresses.is_disjoint(&renamed));
            if is_stable || passes == PASSES {
                break answer;
            }
        };
        let owners = self.known.iter().filter_map(|(ip, known)| Some((*ip, known.name.clone()?))).collect();
        Observation { outcome: self.outcome(answer, resolver), owners }
    }
}

impl DnsSource {
    pub(super) fn new(settings: Dns) -> Self {
        Self { settings, known: HashMap::new() }
    }

    async fn query_addresses(&mut self, resolver: &Resolver) -> DnsAnswer<BTreeSet<IpAddr>> {
        let answer = resolver.addresses(&self.settings.name, self.settings.query.family).await;
        self.remember(&answer);
        answer
    }

    /// Notes the addresses of the answer, and forgets those that no backend can still have.
    fn remember(&mut self, answer: &DnsAnswer<BTreeSet<IpAddr>>) {
        let now = Instant::now();
        let present: &BTreeSet<IpAddr> = match answer {
            DnsAnswer::Records(set) => set,
            DnsAnswer::Empty | DnsAnswer::NoSuchName => &BTreeSet::new(),
            DnsAnswer::ServerFailure(_) | DnsAnswer::Timeout => return,
        };
        for ip in present {
            self.known
                .entry(*ip)
                .or_insert(KnownAddress { seen: now, name: None, looked_up: None, failed: false })
                .seen = now;
        }
        let memory = self.settings.query.flap + self.settings.query.every * 3;
        self.known.retain(|_, known| now.duration_since(known.seen) <= memory);
    }

    /// Looks up the names of the known addresses, for at most `limit`: in each round at a server on this machine, less
    /// often at another one and for an unnamed address after a failure, and always for a new address. Gives the
    /// addresses with another name than before.
    async fn look_up_names(&mut self, resolver: &Arc<Resolver>, limit: Duration) -> BTreeSet<IpAddr> {
        let began = Instant::now();
        let each_round = |known: &KnownAddress| resolver.local && (known.name.is_some() || !known.failed);
        let due = |known: &KnownAddress| {
            each_round(known) || known.looked_up.is_none_or(|at| began.duration_since(at) >= NAMES_AGAIN)
        };
        let mut due: Vec<(Option<Instant>, IpAddr)> = self
            .known
            .iter()
            .filter(|(_, known)| due(known))
            .map(|(ip, known)| (known.looked_up, *ip))
            .collect();
        // The longest wait comes first, so that a slow server eventually answers for all of them.
        due.sort_unstable();
        let query = |ip: &IpAddr| {
            let (resolver, ip) = (Arc::clone(resolver), *ip);
            async move { resolver.owner(ip).await }
        };
        let mut renamed = BTreeSet::new();
        // Addresses matter more than names: names that are late wait for the next round.
        for (ip, owner) in query_each(due.into_iter().map(|(_, ip)| ip), query, began + limit).await {
            let Some(known) = self.known.get_mut(&ip) else { continue };
            let owner = owner.unwrap_or(AddressOwner::Unknown);
            (known.looked_up, known.failed) = (Some(began), owner == AddressOwner::Unknown);
            let AddressOwner::Named(names) = owner else { continue };
            // A failed lookup, or an address without a name (its container may be stopping), changes nothing: only
            // another name does. Of several names the known one stays.
            if known.name.as_ref().is_none_or(|name| !names.contains(name)) {
                known.name = names.first().cloned();
                renamed.insert(ip);
            }
        }
        renamed
    }

    fn outcome(&self, answer: DnsAnswer<BTreeSet<IpAddr>>, resolver: &Resolver) -> Outcome {
        let Dns { name, .. } = &self.settings;
        match answer {
            DnsAnswer::NoSuchName if resolver.docker => Outcome::NoSuchName(Cause::from(format!(
                "NXDOMAIN for {name:?} from {}: no running container on this container's networks has that name; \
                 is it on the same network? see `docker network inspect`",
                resolver.server
            ))),
            answer => answer.outcome(name, resolver, |set| Outcome::Backends(self.group(&set))),
        }
    }

    /// The addresses as backends.
    fn group(&self, addresses: &BTreeSet<IpAddr>) -> Vec<Found> {
        let port = self.settings.port;
        let mut by_name: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut found = Vec::new();
        for ip in addresses {
            match self.known.get(ip).and_then(|known| known.name.clone()) {
                Some(name) => {
                    by_name.entry(name).or_default().insert(*ip);
                }
                None => {
                    let address = SocketAddr::new(*ip, port);
                    found.push(Found {
                        nameless: true,
                        ..Found::new(address.to_string().into(), address.into())
                    });
                }
            }
        }
        found.extend(by_name.into_iter().flat_map(|(name, addresses)| Found::of(&name, &addresses, port)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(names: &[(&str, Option<&str>)]) -> (DnsSource, BTreeSet<IpAddr>) {
        let mut source = DnsSource::new(Dns::new("backend".into(), 5000));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (address, name) in names {
            let known = KnownAddress {
                seen: Instant::now(),
                name: name.map(Into::into),
                looked_up: None,
                failed: false,
            };
            source.known.insert(ip(address), known);
        }
        (source, names.iter().map(|(address, _)| ip(address)).collect())
    }

    #[test]
    fn an_ipv4_and_an_ipv6_address_of_one_name_are_one_backend() {
        let (source, set) = source(&[("10.0.0.1", Some("web-1.net")), ("fd00::1", Some("web-1.net"))]);
        let found = source.group(&set);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, "10.0.0.1:5000".parse().unwrap());
        assert_eq!(found[0].also, ["[fd00::1]:5000".parse().unwrap()]);
    }

    #[test]
    fn addresses_of_one_name_and_family_are_separate_backends() {
        let (source, set) = source(&[("10.0.0.1", Some("web.corp")), ("10.0.0.2", Some("web.corp"))]);
        assert_eq!(source.group(&set).len(), 2);
    }

    #[test]
    fn an_address_without_a_name_is_the_name() {
        let (source, set) = source(&[("10.0.0.1", None), ("fd00::1", None)]);
        let names: Vec<_> = source.group(&set).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["10.0.0.1:5000".into(), "[fd00::1]:5000".into()] as [Arc<str>; 2]);
    }
}

#[cfg(test)]
#[path = "dns_rounds_tests.rs"]
mod rounds_tests;
