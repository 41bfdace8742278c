//! The A and AAAA records of a name, asked for again and again, and whose those addresses are.
//!
//! An address alone does not say who is behind it: Docker gives the address of a stopped container to the next
//! one that starts, whatever its service. So each round also asks for the *names* of the addresses, those of
//! the answer and those that were in it a moment ago. A name that is told after the answer may be that of the next
//! one already: who has a new name is believed to belong to the pool when an answer *after* that has the address, too.
//! Not for SRV records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::resolve::{Answer, Owner, Resolver};
use super::rounds::{Rounds, ask_each};
use super::{Found, Observation, Outcome};
use crate::config::{Dns, Query};
use crate::domain::Cause;

/// How often a server that is not on this machine is asked again for names that it has already told.
const NAMES_AGAIN: Duration = Duration::from_secs(10);
/// How often one round asks for the addresses, at most, until the answer is younger than the names of all that are in it.
/// Names that do not rest even then are taken as they are.
const PASSES: usize = 3;

/// The A and AAAA records of a name, and what is known of the addresses.
pub(super) struct Watcher {
    settings: Dns,
    /// The addresses of the recent answers, and what is known of each.
    known: HashMap<IpAddr, Known>,
}

struct Known {
    /// When it was last in an answer.
    seen: Instant,
    name: Option<Arc<str>>,
    /// When its name was last asked for.
    asked: Option<Instant>,
    /// Whether nothing was to be learned then.
    silent: bool,
}

impl Rounds for Watcher {
    fn query(&self) -> &Query {
        &self.settings.query
    }

    async fn round(&mut self, resolver: &Arc<Resolver>) -> Observation {
        let mut passes = 0;
        let answer = loop {
            let answer = self.ask(resolver).await;
            let renamed = self.learn_names(resolver, resolver.timeout).await;
            passes += 1;
            let rests = !matches!(&answer, Answer::Records(addresses) if !addresses.is_disjoint(&renamed));
            if rests || passes == PASSES {
                break answer;
            }
        };
        let owners = self.known.iter().filter_map(|(ip, known)| Some((*ip, known.name.clone()?))).collect();
        Observation { outcome: self.outcome(answer, resolver), owners }
    }
}

impl Watcher {
    pub(super) fn new(settings: Dns) -> Self {
        Self { settings, known: HashMap::new() }
    }

    async fn ask(&mut self, resolver: &Resolver) -> Answer<BTreeSet<IpAddr>> {
        let answer = resolver.addresses(&self.settings.name, self.settings.query.family).await;
        self.remember(&answer);
        answer
    }

    /// Notes which addresses are in the answer, and forgets those that no backend can still have.
    fn remember(&mut self, answer: &Answer<BTreeSet<IpAddr>>) {
        let now = Instant::now();
        let present: &BTreeSet<IpAddr> = match answer {
            Answer::Records(set) => set,
            Answer::Empty | Answer::NoSuchName => &BTreeSet::new(),
            Answer::ServerFailure(_) | Answer::Silence => return,
        };
        for ip in present {
            self.known
                .entry(*ip)
                .or_insert(Known { seen: now, name: None, asked: None, silent: false })
                .seen = now;
        }
        let memory = self.settings.query.flap + self.settings.query.every * 3;
        self.known.retain(|_, known| now.duration_since(known.seen) <= memory);
    }

    /// Asks whose the known addresses are, for `limit` at most. A server on this machine is asked each round; another
    /// one, and one that says nothing of an address whose name is not known, now and then. New ones are always asked for.
    /// Gives those that have another name than before.
    async fn learn_names(&mut self, resolver: &Arc<Resolver>, limit: Duration) -> BTreeSet<IpAddr> {
        let began = Instant::now();
        let each_round = |known: &Known| resolver.nearby && (known.name.is_some() || !known.silent);
        let due = |known: &Known| {
            each_round(known) || known.asked.is_none_or(|at| began.duration_since(at) >= NAMES_AGAIN)
        };
        let mut due: Vec<(Option<Instant>, IpAddr)> =
            self.known.iter().filter(|(_, known)| due(known)).map(|(ip, known)| (known.asked, *ip)).collect();
        // Who has waited longest is asked for first, so that a slow server is through with all of them some time.
        due.sort_unstable();
        let ask = |ip: &IpAddr| {
            let (resolver, ip) = (Arc::clone(resolver), *ip);
            async move { resolver.owner(ip).await }
        };
        let mut renamed = BTreeSet::new();
        // The addresses are worth more than their names: those who are not told in time have to wait.
        for (ip, owner) in ask_each(due.into_iter().map(|(_, ip)| ip), ask, began + limit).await {
            let Some(known) = self.known.get_mut(&ip) else { continue };
            let owner = owner.unwrap_or(Owner::Unknown);
            (known.asked, known.silent) = (Some(began), owner == Owner::Unknown);
            let Owner::Named(names) = owner else { continue };
            // A reverse lookup that fails, or an address whose container is just going, changes nothing that is
            // known: only another name does. Of several names, in whatever order, the one known stays.
            if known.name.as_ref().is_none_or(|name| !names.contains(name)) {
                known.name = names.first().cloned();
                renamed.insert(ip);
            }
        }
        renamed
    }

    fn outcome(&self, answer: Answer<BTreeSet<IpAddr>>, resolver: &Resolver) -> Outcome {
        let Dns { name, .. } = &self.settings;
        match answer {
            Answer::NoSuchName if resolver.docker => Outcome::NoSuchName(Cause::from(format!(
                "no running container on this container's networks answers to {name:?} (asked {}); \
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
                    found.push(Found { nameless: true, ..Found::new(address.to_string().into(), address) });
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

    fn watcher(names: &[(&str, Option<&str>)]) -> (Watcher, BTreeSet<IpAddr>) {
        let mut watcher = Watcher::new(Dns::new("backend".into(), 5000));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (address, name) in names {
            let known =
                Known { seen: Instant::now(), name: name.map(Into::into), asked: None, silent: false };
            watcher.known.insert(ip(address), known);
        }
        (watcher, names.iter().map(|(address, _)| ip(address)).collect())
    }

    #[test]
    fn one_container_seen_by_both_families_is_one_backend() {
        let (watcher, set) = watcher(&[("10.0.0.1", Some("web-1.net")), ("fd00::1", Some("web-1.net"))]);
        let found = watcher.group(&set);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, "10.0.0.1:5000".parse().unwrap());
        assert_eq!(found[0].also, ["[fd00::1]:5000".parse().unwrap()]);
    }

    #[test]
    fn addresses_that_share_a_name_and_a_family_stay_apart() {
        let (watcher, set) = watcher(&[("10.0.0.1", Some("web.corp")), ("10.0.0.2", Some("web.corp"))]);
        assert_eq!(watcher.group(&set).len(), 2);
    }

    #[test]
    fn an_address_without_a_name_is_named_by_itself() {
        let (watcher, set) = watcher(&[("10.0.0.1", None), ("fd00::1", None)]);
        let names: Vec<_> = watcher.group(&set).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["10.0.0.1:5000".into(), "[fd00::1]:5000".into()] as [Arc<str>; 2]);
    }
}

#[cfg(test)]
#[path = "dns_rounds_tests.rs"]
mod rounds_tests;
