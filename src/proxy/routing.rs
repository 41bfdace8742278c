//! Which pool a connection belongs to: the listener's only one, or one by the client's address and its ClientHello.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::hello::Hello;
use crate::balance::{Candidate, Load, PickArgs, Picker};
use crate::config::{self, Algorithm, Hash, PoolShares};
use crate::domain::{Client, PoolMatch, PoolShare, RoutingRule};
use crate::pool::Pool;

/// Where a listener's connections go.
#[derive(Debug)]
pub enum Routing {
    /// All to one pool.
    Pool(Arc<Assignment>),
    /// To several.
    Rules(Box<Rules>),
}

/// The pool of a connection, and how it was found.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// The pool; `None`: no rule matched, and the listener has no default.
    pub(super) pool: Option<Arc<Pool>>,
    /// How it was found, if there was a choice or the client requested a server name.
    pub(super) matched: Option<Arc<PoolMatch>>,
}

/// The pools of a listener that has several.
#[derive(Debug, Default)]
pub struct Rules {
    sources: BySource,
    alpn: HashMap<Box<[u8]>, Target>,
    sni: ByName,
    default: Option<Target>,
}

/// A pool, or several with a share each.
#[derive(Debug)]
struct Target {
    /// The rule for this target; `None`: there are only shares.
    rule: Option<RoutingRule>,
    /// The pools that have a share, and each one's, by its index.
    pools: Box<[Arc<Pool>]>,
    shares: Box<[Candidate]>,
    /// Chooses among those that have a backend.
    picker: ArcSwap<SharePicker>,
}

/// Chooses among some of a target's pools.
#[derive(Debug)]
struct SharePicker {
    /// Their indices.
    pools: Vec<usize>,
    picker: Picker,
}

impl Routing {
    /// The routing of a configured listener. `pool` finds a pool by its name; `None`: one of them does not exist.
    pub fn new(listener: &config::Listener, pool: impl Fn(&str) -> Option<Arc<Pool>>) -> Option<Self> {
        if let Some(name) = listener.pool.as_ref().and_then(PoolShares::single) {
            return Some(Self::Pool(Arc::new(Assignment { pool: Some(pool(name)?), matched: None })));
        }
        let target = |shares: &PoolShares, rule| Target::new(shares, rule, &pool);
        let mut rules = Rules::default();
        for (network, shares) in &listener.sources {
            rules.sources.add(*network, target(shares, Some(RoutingRule::Source(*network)))?);
        }
        for (protocol, shares) in &listener.alpn {
            let target = target(shares, Some(RoutingRule::Alpn(Arc::clone(protocol))))?;
            rules.alpn.insert(protocol.as_bytes().into(), target);
        }
        for (name, shares) in &listener.sni {
            rules.sni.add(name, target(shares, Some(RoutingRule::ServerName(Arc::clone(name))))?);
        }
        rules.default = match (&listener.pool, &listener.default) {
            (Some(shares), _) => Some(target(shares, None)?),
            (None, Some(shares)) => Some(target(shares, Some(RoutingRule::Default))?),
            (None, None) => None,
        };
        Some(Self::Rules(Box::new(rules)))
    }

    /// The pool of all connections; `None`: there are several.
    pub fn only(&self) -> Option<&Arc<Pool>> {
        match self {
            Self::Pool(assignment) => assignment.pool.as_ref(),
            Self::Rules(_) => None,
        }
    }

    /// The assignment of all connections, unless it depends on what the client sends.
    pub(super) fn early(&self) -> Option<&Arc<Assignment>> {
        match self {
            Self::Pool(assignment) => Some(assignment),
            Self::Rules(_) => None,
        }
    }

    /// Assigns a connection to a pool.
    pub(super) fn assign(&self, client: Client, hello: Option<&Hello>) -> Arc<Assignment> {
        let server_name = hello.and_then(|hello| hello.server_name.clone());
        let mut matched = PoolMatch { server_name, ..PoolMatch::default() };
        let pool = match self {
            Self::Pool(assignment) if matched.server_name.is_none() => return Arc::clone(assignment),
            Self::Pool(assignment) => assignment.pool.clone(),
            Self::Rules(rules) => rules.find(client, hello).map(|target| {
                let (pool, share) = target.choose();
                (matched.rule, matched.share) = (target.rule.clone(), share);
                Arc::clone(pool)
            }),
        };
        let is_known = matched != PoolMatch::default();
        Arc::new(Assignment { pool, matched: is_known.then(|| Arc::new(matched)) })
    }

    /// Whether the client's address alone chooses the pool.
    pub(super) fn has_source(&self, client: Client) -> bool {
        match self {
            Self::Pool(_) => false,
            Self::Rules(rules) => rules.by_source(client).is_some(),
        }
    }

    /// Whether a connection that matches no rule has a pool.
    pub(super) fn has_default(&self) -> bool {
        match self {
            Self::Pool(_) => true,
            Self::Rules(rules) => rules.default.is_some(),
        }
    }

    /// Continues the shares of the routing before a reload, where they are the same.
    pub fn continue_shares(&self, before: &Self) {
        let (Self::Rules(rules), Self::Rules(before)) = (self, before) else { return };
        let shares =
            |target: &Target| target.shares.iter().map(|one| (Arc::clone(&one.name), one.weight)).collect();
        for target in rules.targets() {
            let same = |old: &&Target| {
                let [old_shares, new_shares]: [Vec<_>; 2] = [shares(old), shares(target)];
                old.rule == target.rule && old_shares == new_shares
            };
            if let Some(old) = before.targets().find(same) {
                target.picker.store(old.picker.load_full());
            }
        }
    }

    /// All pools, each once, in the order of their names.
    pub fn pools(&self) -> Vec<&Arc<Pool>> {
        let mut pools: Vec<_> = match self {
            Self::Pool(assignment) => assignment.pool.iter().collect(),
            Self::Rules(rules) => rules.targets().flat_map(|target| &target.pools).collect(),
        };
        pools.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        pools.dedup_by(|a, b| a.name == b.name);
        pools
    }
}

impl Rules {
    fn find(&self, client: Client, hello: Option<&Hello>) -> Option<&Target> {
        let by_hello = || {
            let hello = hello?;
            let by_protocol = hello.protocols.iter().find_map(|protocol| self.alpn.get(protocol));
            by_protocol.or_else(|| self.sni.find(hello.server_name.as_deref()?))
        };
        self.by_source(client).or_else(by_hello).or(self.default.as_ref())
    }

    fn by_source(&self, client: Client) -> Option<&Target> {
        match client {
            Client::Tcp(address) => self.sources.find(address.ip()),
            Client::Unix => None,
        }
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        let sources = self.sources.targets.values();
        sources.chain(self.alpn.values()).chain(self.sni.targets.values()).chain(&self.default)
    }
}

impl Target {
    fn new(
        shares: &PoolShares,
        rule: Option<RoutingRule>,
        pool: &impl Fn(&str) -> Option<Arc<Pool>>,
    ) -> Option<Self> {
        let shares: Vec<_> = shares.iter().filter(|(_, share)| *share > 0).collect();
        let pools = shares.iter().map(|(name, _)| pool(name)).collect::<Option<Box<_>>>()?;
        let candidate = |(key, (name, share)): (u64, &(&Arc<str>, u32))| Candidate {
            key,
            name: Arc::clone(name),
            weight: *share,
            load: Arc::<Load>::default(),
        };
        let shares: Box<[Candidate]> = (0..).zip(&shares).map(candidate).collect();
        let picker = SharePicker::new((0..pools.len()).collect(), &shares, None);
        Some(Self { rule, pools, shares, picker: ArcSwap::from_pointee(picker) })
    }

    /// A pool, by the shares, with its share if there are several; one without a backend only if no pool has one.
    fn choose(&self) -> (&Arc<Pool>, Option<PoolShare>) {
        if let [only] = &*self.pools {
            return (only, None);
        }
        let mut usable = self.indices(|pool| !pool.snapshot().is_empty());
        if usable.is_empty() {
            usable = self.indices(|_| true);
        }
        let mut picker = self.picker.load_full();
        if picker.pools != usable {
            picker = Arc::new(SharePicker::new(usable, &self.shares, Some(&picker.picker)));
            self.picker.store(Arc::clone(&picker));
        }
        let chosen = picker.picker.choose(&PickArgs::default()).unwrap_or_default();
        let index = picker.pools[chosen];
        let total = picker.pools.iter().map(|index| self.shares[*index].weight).sum();
        let share = PoolShare { share: self.shares[index].weight, total };
        (&self.pools[index], Some(share))
    }

    fn indices(&self, wanted: impl Fn(&Pool) -> bool) -> Vec<usize> {
        (0..).zip(&self.pools).filter(|(_, pool)| wanted(pool)).map(|(index, _)| index).collect()
    }
}

impl SharePicker {
    /// `previous`: the picker for other pools, whose credits are kept.
    fn new(pools: Vec<usize>, shares: &[Candidate], previous: Option<&Picker>) -> Self {
        let candidates = pools.iter().map(|index| shares[*index].clone()).collect();
        let picker = Picker::new(Algorithm::Weighted, &Hash::default(), candidates, previous);
        Self { pools, picker }
    }
}

/// Targets by the network of the client.
#[derive(Debug, Default)]
struct BySource {
    targets: HashMap<IpNet, Target>,
    /// The prefix lengths in use, the longest first.
    lengths: Vec<u8>,
}

impl BySource {
    fn add(&mut self, network: IpNet, target: Target) {
        self.targets.insert(network, target);
        let length = network.prefix_len();
        if let Err(index) = self.lengths.binary_search_by(|other| length.cmp(other)) {
            self.lengths.insert(index, length);
        }
    }

    /// The target of the most specific network that contains `ip`.
    fn find(&self, ip: IpAddr) -> Option<&Target> {
        // Longer prefixes than an IPv4 address has are of IPv6 networks.
        let networks = self.lengths.iter().filter_map(|length| IpNet::new(ip, *length).ok());
        networks.map(|network| network.trunc()).find_map(|network| self.targets.get(&network))
    }
}

/// Targets by the server name.
#[derive(Debug, Default)]
struct ByName {
    /// By the name, or for a pattern such as `*.example.com` by what follows the asterisk.
    targets: HashMap<Box<str>, Target>,
}

impl ByName {
    fn add(&mut self, name: &str, target: Target) {
        self.targets.insert(name.strip_prefix('*').unwrap_or(name).into(), target);
    }

    /// The target of that name, or else of the longest pattern that matches it.
    fn find(&self, name: &str) -> Option<&Target> {
        let ends = name.match_indices('.').map(|(dot, _)| &name[dot..]);
        std::iter::once(name).chain(ends).find_map(|end| self.targets.get(end))
    }
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
