//! The SRV records of a name (RFC 2782) as backends: host, port, weight and priority. `dns.rs` is for the addresses of
//! a name alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use litemap::LiteMap;
use tokio::time::Instant;
use tracing::{info, warn};

use super::resolve::{DnsAnswer, Resolver, SrvRecord, SrvRecords};
use super::rounds::{PolledSource, query_each};
use super::{Found, Observation, Outcome, SourceKey};
use crate::config::{Query, Srv};
use crate::domain::SocketAddress;

/// The largest weight of a backend: larger ones add little precision, and memory for the weighted algorithms.
const LARGEST_WEIGHT: u64 = 256;

/// The limit of tiers: each needs its own list of backends, and the records may have any number of priorities.
const MAX_TIERS: usize = 16;

/// The source for the SRV records of a name.
pub(super) struct SrvSource {
    settings: Srv,
    /// The targets of the last answer.
    targets: HashMap<Arc<str>, SrvTarget>,
}

#[derive(Default)]
struct SrvTarget {
    /// The last conclusive answer.
    addresses: BTreeSet<IpAddr>,
    /// When it was last queried.
    queried: Option<Instant>,
    /// Whether the last query failed, which was logged.
    failing: bool,
}

impl PolledSource for SrvSource {
    fn query(&self) -> &Query {
        &self.settings.query
    }

    async fn round(&mut self, resolver: &Arc<Resolver>) -> Observation {
        // The records name what is at an address and port. The address alone may have many instances, so it has no
        // owner.
        let owners = HashMap::new();
        let name = &self.settings.name;
        let records = match resolver.srv_records(name).await {
            DnsAnswer::Records(records) => Arc::new(records),
            failed => {
                let outcome = failed.outcome(name, resolver, |_| Outcome::Empty);
                if outcome.seen().is_some() {
                    self.targets.clear();
                }
                return Observation { outcome, owners };
            }
        };
        let failure = self.resolve_targets(&records, resolver).await;
        let found = backends(&records.records, |target| self.targets.get(target).map(|t| &t.addresses));
        let outcome = match failure {
            _ if !found.is_empty() => Outcome::Backends(found),
            // The records are known, their addresses are not.
            Some(failure) => failure,
            None => Outcome::Empty,
        };
        Observation { outcome, owners }
    }
}

impl SrvSource {
    pub(super) fn new(settings: Srv) -> Self {
        Self { settings, targets: HashMap::new() }
    }

    /// Resolves the targets. A target whose query fails keeps its last addresses while its record stays. Returns the
    /// failure of one of them, if any.
    async fn resolve_targets(
        &mut self,
        records: &Arc<SrvRecords>,
        resolver: &Arc<Resolver>,
    ) -> Option<Outcome> {
        let began = Instant::now();
        let mut before = std::mem::take(&mut self.targets);
        // The target "." means that the service is not available (RFC 2782).
        for target in records.records.iter().map(|record| &record.target).filter(|name| !name.is_empty()) {
            self.targets
                .entry(Arc::clone(target))
                .or_insert_with(|| before.remove(target).unwrap_or_default());
        }
        let mut due: Vec<_> =
            self.targets.iter().map(|(name, target)| (target.queried, Arc::clone(name))).collect();
        // A slow server may not answer all of them in time: the one that has waited longest is first.
        due.sort_unstable();
        let family = self.settings.query.family;
        let lookup = |name: &Arc<str>| {
            let (resolver, records, name) = (Arc::clone(resolver), Arc::clone(records), Arc::clone(name));
            async move { resolver.target(&name, family, &records).await }
        };
        let (mut failure, mut changes) = (None, TargetChanges::default());
        // Twice the limit of one query: timeouts of some must leave time for the others.
        let deadline = began + resolver.limit() * 2;
        for (name, answer) in query_each(due.into_iter().map(|(_, name)| name), lookup, deadline).await {
            let Some(target) = self.targets.get_mut(&name) else { continue };
            target.queried = Some(began);
            let outcome = match answer {
                Some(DnsAnswer::Records(addresses)) => {
                    target.addresses = addresses;
                    None
                }
                Some(failed) => Some(failed.outcome(&name, resolver, |_| Outcome::Empty)),
                // No time was left for it, which is not its own failure.
                None => {
                    failure = Some(DnsAnswer::<()>::Timeout.outcome(&name, resolver, |()| Outcome::Empty));
                    continue;
                }
            };
            match (std::mem::replace(&mut target.failing, outcome.is_some()), &outcome) {
                (false, Some(outcome)) => changes.failing.push((name, outcome.clone())),
                (true, None) => changes.resolved.push(name),
                _ => {}
            }
            match outcome {
                Some(Outcome::Empty | Outcome::NoSuchName(_)) => target.addresses.clear(),
                Some(inconclusive) => failure = Some(inconclusive),
                None => {}
            }
        }
        changes.log(&self.settings);
        failure
    }
}

/// The targets that have begun or ceased to fail. The source itself works, so they are logged here, in one line for any
/// number.
#[derive(Default)]
struct TargetChanges {
    failing: Vec<(Arc<str>, Outcome)>,
    resolved: Vec<Arc<str>>,
}

impl TargetChanges {
    fn log(&self, settings: &Srv) {
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
/// The priorities, lowest first, are the tiers; all from the [`MAX_TIERS`]th on share one. Records that lead to the
/// same address are one backend: the lowest priority counts, and the weights of equal priorities are added.
pub(super) fn backends<'a>(
    records: &[SrvRecord],
    addresses: impl Fn(&str) -> Option<&'a BTreeSet<IpAddr>>,
) -> Vec<Found> {
    let mut priorities: LiteMap<u16, Vec<&SrvRecord>> = LiteMap::new();
    for record in records.iter().filter(|record| !record.target.is_empty()) {
        priorities.entry(record.priority).or_default().push(record);
    }
    let mut tiers: Vec<Vec<&SrvRecord>> = Vec::new();
    for (_, records) in priorities {
        match tiers.get_mut(MAX_TIERS - 1) {
            Some(last) => last.extend(records),
            None => tiers.push(records),
        }
    }
    let mut taken = HashSet::new();
    let mut all = Vec::new();
    for (tier, mut records) in (0..).zip(tiers) {
        // Answers come in any order, and of two names of an address the same one must always win.
        records.sort_unstable_by_key(|record| (&record.target, record.port));
        let mut sums: BTreeMap<SocketAddress, (Found, u64)> = BTreeMap::new();
        for record in records {
            // Always with the port: a second instance on the host must not rename the first.
            let name = format!("{}:{}", record.target, record.port).into();
            for found in addresses(&record.target).into_iter().flat_map(|a| Found::of(&name, a, record.port))
            {
                sums.entry(found.address.clone()).or_insert((found, 0)).1 += u64::from(record.weight);
            }
        }
        sums.retain(|address, _| taken.insert(address.clone()));
        let weights = weights(sums.values().map(|(_, sum)| *sum));
        all.extend(sums.into_values().zip(weights).map(|((found, _), weight)| Found {
            weight,
            tier,
            ..found
        }));
    }
    all
}

/// Converts the weights of one priority's records to backend weights, from 1 to [`LARGEST_WEIGHT`]; 0 would mean "no
/// new connections".
///
/// Weights within the range stay. Larger ones are divided by their greatest common divisor, or else scaled to the
/// range. If all are 0, they are equal; beside others, a record of weight 0 has a very small chance (RFC 2782,
/// "Weight"): it gets 1, and the others are multiplied as far as the range allows.
pub(super) fn weights(records: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut weights: Vec<u64> = records.collect();
    let greatest = |weights: &[u64]| weights.iter().copied().max().unwrap_or(0).max(1);
    if greatest(&weights) > LARGEST_WEIGHT {
        let common = weights.iter().copied().fold(0, gcd);
        weights.iter_mut().for_each(|weight| *weight /= common);
    }
    let (greatest, has_zero) = (greatest(&weights), weights.contains(&0));
    let scaled = |weight: u64| match weight {
        0 => 1,
        _ if greatest > LARGEST_WEIGHT => ((weight * LARGEST_WEIGHT + greatest / 2) / greatest).max(1),
        _ if has_zero => weight * (LARGEST_WEIGHT / greatest),
        _ => weight,
    };
    weights.iter().map(|weight| scaled(*weight) as u32).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[path = "srv_tests.rs"]
mod tests;
