//! The SRV records of a name (RFC 2782), asked for again and again: where each backend is, on which port, with what
//! share, and which ones are for when the others fail. Not for the addresses of a name alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::resolve::{Answer, Resolver, Service, Services};
use super::rounds::{Rounds, ask_each};
use super::{Found, Observation, Outcome, SourceKey};
use crate::config::{Query, Srv};

/// The largest weight that a backend has: more would say little, and cost the algorithms that spread shares out.
const HEAVIEST: u64 = 256;

/// The tiers that there are at most: each costs a view of the backends of its own, and who wrote the records decides
/// how many priorities there are.
const TIERS: usize = 16;

/// The SRV records of a name, and the addresses of their targets.
pub(super) struct Watcher {
    settings: Srv,
    /// The targets of the last answer.
    targets: BTreeMap<Arc<str>, Target>,
}

#[derive(Default)]
struct Target {
    /// What its last conclusive answer was.
    addresses: BTreeSet<IpAddr>,
    /// When it was last asked for.
    asked: Option<Instant>,
    /// Whether the last question came to nothing, and that was told.
    trouble: bool,
}

impl Rounds for Watcher {
    fn query(&self) -> &Query {
        &self.settings.query
    }

    async fn round(&mut self, resolver: &Arc<Resolver>) -> Observation {
        // Who is at an address and port, the records themselves tell. Of the address alone they say nothing: it may be
        // that of a host with many instances.
        let owners = BTreeMap::new();
        let name = &self.settings.name;
        let services = match resolver.services(name).await {
            Answer::Records(services) => Arc::new(services),
            nothing => {
                let outcome = nothing.outcome(name, resolver, |_| Outcome::Empty);
                if outcome.seen().is_some() {
                    self.targets.clear();
                }
                return Observation { outcome, owners };
            }
        };
        let failure = self.locate(&services, resolver).await;
        let found = backends(&services.records, |target| self.targets.get(target).map(|t| &t.addresses));
        let outcome = match failure {
            _ if !found.is_empty() => Outcome::Backends(found),
            // Whom the records name is known, and not where they are.
            Some(failure) => failure,
            None => Outcome::Empty,
        };
        Observation { outcome, owners }
    }
}

impl Watcher {
    pub(super) fn new(settings: Srv) -> Self {
        Self { settings, targets: BTreeMap::new() }
    }

    /// Asks where the targets are. Nothing is concluded about one whose question fails: its last addresses stand
    /// while its record does. The failure of one of them, if any.
    async fn locate(&mut self, services: &Arc<Services>, resolver: &Arc<Resolver>) -> Option<Outcome> {
        let began = Instant::now();
        let mut before = std::mem::take(&mut self.targets);
        // The target "." says that the service is not to be had here (RFC 2782).
        for target in services.records.iter().map(|record| &record.target).filter(|name| !name.is_empty()) {
            self.targets
                .entry(Arc::clone(target))
                .or_insert_with(|| before.remove(target).unwrap_or_default());
        }
        let mut due: Vec<_> =
            self.targets.iter().map(|(name, target)| (target.asked, Arc::clone(name))).collect();
        // As a slow server may not be through with all of them in time, who has waited longest is first.
        due.sort_unstable();
        let family = self.settings.query.family;
        let ask = |name: &Arc<str>| {
            let (resolver, services, name) = (Arc::clone(resolver), Arc::clone(services), Arc::clone(name));
            async move { resolver.target(&name, family, &services).await }
        };
        let (mut failure, mut news) = (None, News::default());
        // Twice what one question may take: some silent ones must not keep the others from being heard.
        let deadline = began + resolver.limit() * 2;
        for (name, answer) in ask_each(due.into_iter().map(|(_, name)| name), ask, deadline).await {
            let Some(target) = self.targets.get_mut(&name) else { continue };
            target.asked = Some(began);
            let outcome = match answer {
                Some(Answer::Records(addresses)) => {
                    target.addresses = addresses;
                    None
                }
                Some(nothing) => Some(nothing.outcome(&name, resolver, |_| Outcome::Empty)),
                // It had no time left, which is no fault of its own.
                None => {
                    failure = Some(Answer::<()>::Silence.outcome(&name, resolver, |()| Outcome::Empty));
                    continue;
                }
            };
            match (std::mem::replace(&mut target.trouble, outcome.is_some()), &outcome) {
                (false, Some(trouble)) => news.failing.push((name, trouble.clone())),
                (true, None) => news.resolved.push(name),
                _ => {}
            }
            match outcome {
                Some(Outcome::Empty | Outcome::NoSuchName(_)) => target.addresses.clear(),
                Some(inconclusive) => failure = Some(inconclusive),
                None => {}
            }
        }
        news.tell(&self.settings);
        failure
    }
}

/// The targets whose trouble has begun or ended with a round. It is not the source's, which goes on with the others,
/// and so is told here: in one line, however many they are.
#[derive(Default)]
struct News {
    failing: Vec<(Arc<str>, Outcome)>,
    resolved: Vec<Arc<str>>,
}

impl News {
    fn tell(&self, settings: &Srv) {
        let source = SourceKey::Srv(settings.name.clone());
        if let [(target, trouble), others @ ..] = &self.failing[..] {
            let (result, reason, others) = (trouble.result(), trouble.trouble(&source), others.len());
            warn!(%source, %target, others, %result, reason = reason.as_deref(), "resolve failed");
        }
        if let [target, others @ ..] = &self.resolved[..] {
            info!(%source, %target, others = others.len(), "resolved again");
        }
    }
}

/// The records as backends: each address of a record's target, with the record's port.
///
/// The priorities, lowest first, are the tiers; all from the [`TIERS`]th on are one. Two records that lead to one address are one backend: that of the
/// lowest priority counts, and the weights of equals are added.
fn backends<'a>(records: &[Service], addresses: impl Fn(&str) -> Option<&'a BTreeSet<IpAddr>>) -> Vec<Found> {
    let mut priorities: BTreeMap<u16, Vec<&Service>> = BTreeMap::new();
    for record in records.iter().filter(|record| !record.target.is_empty()) {
        priorities.entry(record.priority).or_default().push(record);
    }
    let mut tiers: Vec<Vec<&Service>> = Vec::new();
    for records in priorities.into_values() {
        match tiers.get_mut(TIERS - 1) {
            Some(last) => last.extend(records),
            None => tiers.push(records),
        }
    }
    let mut taken = BTreeSet::new();
    let mut all = Vec::new();
    for (tier, mut records) in (0..).zip(tiers) {
        // Answers come in any order, and of two names of an address always the same one is to be the backend's.
        records.sort_unstable_by_key(|record| (&record.target, record.port));
        let mut sums: BTreeMap<SocketAddr, (Found, u64)> = BTreeMap::new();
        for record in records {
            // Always with the port: a second instance on the same host must not give the first another name.
            let name = format!("{}:{}", record.target, record.port).into();
            for found in addresses(&record.target).into_iter().flat_map(|a| Found::of(&name, a, record.port))
            {
                sums.entry(found.address).or_insert((found, 0)).1 += u64::from(record.weight);
            }
        }
        sums.retain(|address, _| taken.insert(*address));
        let weights = weights(sums.values().map(|(_, sum)| *sum));
        all.extend(sums.into_values().zip(weights).map(|((found, _), weight)| Found {
            weight,
            tier,
            ..found
        }));
    }
    all
}

/// The weights of one priority's records as ours, which end at [`HEAVIEST`] and of which 0 would mean "nothing new".
///
/// As they are, where they can be. Greater ones are divided: by what they have in common, or else so that the greatest
/// is [`HEAVIEST`]; none becomes less than 1. Where all are 0, they are alike; beside others, a record of weight 0 has
/// a very small chance of being chosen (RFC 2782, "Weight"): 1, and the others are multiplied by as much as there is room for.
fn weights(of_records: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut weights: Vec<u64> = of_records.collect();
    let greatest = |weights: &[u64]| weights.iter().copied().max().unwrap_or(0).max(1);
    if greatest(&weights) > HEAVIEST {
        let common = weights.iter().copied().fold(0, gcd);
        weights.iter_mut().for_each(|weight| *weight /= common);
    }
    let (greatest, some_none) = (greatest(&weights), weights.contains(&0));
    let ours = |weight: u64| match weight {
        0 => 1,
        _ if greatest > HEAVIEST => ((weight * HEAVIEST + greatest / 2) / greatest).max(1),
        _ if some_none => weight * (HEAVIEST / greatest),
        _ => weight,
    };
    weights.iter().map(|weight| ours(*weight) as u32).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[path = "srv_tests.rs"]
mod tests;
