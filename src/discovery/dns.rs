//! The A and AAAA records of a name, asked for again and again, and whose those addresses are.
//!
//! An address alone does not say who is behind it: Docker gives the address of a stopped container to the next
//! one that starts, whatever its service. So each round also asks for the *names* of the addresses, those of
//! the answer and those that were in it a moment ago. Not for SRV records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::resolve::{Answer, Owner, Resolver};
use super::{Found, Observation, Outcome, Sink};
use crate::config::Dns;

/// A question unanswered after this long has failed. Docker's server itself waits up to 12 s for the outside
/// servers that it passes unknown names on to; no round of ours may hang on that.
const LONGEST_QUESTION: Duration = Duration::from_secs(1);
/// Rounds out of turn are at least this far apart, so that a storm of failed connects is not a storm of queries.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);
/// How often a server that is not on this machine is asked again for names that it has already told.
const NAMES_AGAIN: Duration = Duration::from_secs(10);
/// Reverse lookups in flight at once.
const AT_ONCE: usize = 16;

/// Asks every `settings.every`, and out of turn when notified, for ever. The first round is at once.
pub(super) async fn watch(settings: Dns, ask_now: Arc<Notify>, sink: Sink) {
    let mut watcher = Watcher::new(settings);
    loop {
        let began = Instant::now();
        let observation = watcher.round().await;
        let concluded = observation.outcome.seen().is_some();
        sink(observation);
        // Up to a fifth early, so that pools do not ask in step, and never late.
        let early = rand::rng().random_range(0.8..=1.0);
        let regular = began + watcher.settings.query.every.mul_f64(early);
        tokio::select! {
            () = sleep_until(regular.max(Instant::now() + Duration::from_millis(1))) => {}
            // A server that fails is left to the regular rounds: asking more often would not help it.
            () = ask_now.notified(), if concluded => sleep_until(regular.min(Instant::now() + BETWEEN_ROUNDS)).await,
        }
    }
}

struct Watcher {
    settings: Dns,
    /// `None` until the system's configuration could be read.
    resolver: Option<Arc<Resolver>>,
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

impl Watcher {
    fn new(settings: Dns) -> Self {
        Self { settings, resolver: None, known: HashMap::new() }
    }

    async fn round(&mut self) -> Observation {
        let timeout = self.settings.query.every.clamp(Duration::from_millis(100), LONGEST_QUESTION);
        let resolver = match &self.resolver {
            Some(resolver) => Arc::clone(resolver),
            None => match Resolver::new(self.settings.query.server, timeout) {
                Ok(resolver) => Arc::clone(self.resolver.insert(Arc::new(resolver))),
                Err(reason) => {
                    return Observation { outcome: Outcome::ServerFailure(reason), owners: BTreeMap::new() };
                }
            },
        };
        let answer = resolver.addresses(&self.settings.name, self.settings.query.family).await;
        self.remember(&answer);
        self.learn_names(&resolver, timeout).await;
        let owners = self.known.iter().filter_map(|(ip, known)| Some((*ip, known.name.clone()?))).collect();
        Observation { outcome: self.outcome(answer, &resolver), owners }
    }

    /// Notes which addresses are in the answer, and forgets those that no backend can still have.
    fn remember(&mut self, answer: &Answer) {
        let now = Instant::now();
        let present: &BTreeSet<IpAddr> = match answer {
            Answer::Addresses(set) => set,
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
    async fn learn_names(&mut self, resolver: &Arc<Resolver>, limit: Duration) {
        let began = Instant::now();
        let each_round = |known: &Known| resolver.nearby && (known.name.is_some() || !known.silent);
        let due = |known: &Known| {
            each_round(known) || known.asked.is_none_or(|at| began.duration_since(at) >= NAMES_AGAIN)
        };
        let mut due: Vec<(Option<Instant>, IpAddr)> =
            self.known.iter().filter(|(_, known)| due(known)).map(|(ip, known)| (known.asked, *ip)).collect();
        // Who has waited longest is asked for first, so that a slow server is through with all of them some time.
        due.sort_unstable();
        let mut due = due.into_iter();
        let mut asking = tokio::task::JoinSet::new();
        loop {
            while asking.len() < AT_ONCE
                && let Some((_, ip)) = due.next()
            {
                if let Some(known) = self.known.get_mut(&ip) {
                    (known.asked, known.silent) = (Some(began), true);
                }
                let resolver = Arc::clone(resolver);
                asking.spawn(async move { (ip, resolver.owner(ip).await) });
            }
            // The addresses are worth more than their names: those who are not told in time have to wait.
            let Ok(Some(done)) = tokio::time::timeout_at(began + limit, asking.join_next()).await else {
                break;
            };
            let Ok((ip, owner)) = done else { continue };
            let Some(known) = self.known.get_mut(&ip) else { continue };
            known.silent = owner == Owner::Unknown;
            let Owner::Named(names) = owner else { continue };
            // A reverse lookup that fails, or an address whose container is just going, changes nothing that is
            // known: only another name does. Of several names, in whatever order, the one known stays.
            if known.name.as_ref().is_none_or(|name| !names.contains(name)) {
                known.name = names.first().cloned();
            }
        }
    }

    fn outcome(&self, answer: Answer, resolver: &Resolver) -> Outcome {
        let Dns { name, .. } = &self.settings;
        let server = &resolver.server;
        match answer {
            Answer::Addresses(set) => Outcome::Backends(self.group(&set)),
            Answer::Empty => Outcome::Empty,
            Answer::NoSuchName if resolver.docker => Outcome::NoSuchName(format!(
                "no running container on this container's networks answers to {name:?} (asked {server}); \
                 is it on the same network? see `docker network inspect`"
            )),
            Answer::NoSuchName => Outcome::NoSuchName(format!("{server} knows no name {name:?}")),
            Answer::ServerFailure(reason) => {
                Outcome::ServerFailure(format!("{name:?} could not be resolved by {server}: {reason}"))
            }
            Answer::Silence => Outcome::Silence(format!("{server} did not answer for {name:?} in time")),
        }
    }

    /// The addresses as backends: an IPv4 and an IPv6 address of one name are one backend.
    fn group(&self, addresses: &BTreeSet<IpAddr>) -> Vec<Found> {
        let port = self.settings.port;
        let name = |ip: &IpAddr| self.known.get(ip).and_then(|known| known.name.clone());
        let mut by_name: BTreeMap<Arc<str>, (Vec<IpAddr>, Vec<IpAddr>)> = BTreeMap::new();
        let mut found = Vec::new();
        let one = |name: Arc<str>, ip: IpAddr, also: Vec<SocketAddr>| Found {
            also,
            ..Found::new(name, SocketAddr::new(ip, port))
        };
        for ip in addresses {
            match name(ip) {
                Some(name) if ip.is_ipv4() => by_name.entry(name).or_default().0.push(*ip),
                Some(name) => by_name.entry(name).or_default().1.push(*ip),
                None => {
                    let name = SocketAddr::new(*ip, port).to_string().into();
                    found.push(Found { nameless: true, ..one(name, *ip, Vec::new()) });
                }
            }
        }
        for (name, (v4, v6)) in by_name {
            match (&v4[..], &v6[..]) {
                ([v4], [v6]) => found.push(one(name, *v4, vec![SocketAddr::new(*v6, port)])),
                _ => found.extend(v4.iter().chain(&v6).map(|ip| one(Arc::clone(&name), *ip, Vec::new()))),
            }
        }
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
