//! Which of a pool's backends are used: those of the lowest tier with a backend that is up, and of these those of the
//! local zone, unless too few of them are up (`zone`).

use std::sync::Arc;

use super::NAMED;
use super::member::Member;
use crate::config::{self, ZonePreference};
use crate::domain::{BackendState, Exclusion, ExclusionReason, Ineligible};

/// The zones whose backends are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zones {
    /// All: the pool prefers none.
    Any,
    /// The local one.
    Local,
    /// All, as too few backends of the local one are up.
    Short,
    /// The other ones, for connections that failed in the local one or found no room there.
    Others,
}

/// The backends of the zone that a pool prefers, in the tier that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalZone {
    /// The zone.
    pub name: Arc<str>,
    /// Its backends, without those that are leaving or have the weight 0.
    pub backends: u64,
    /// Those of them that are up.
    pub up: u64,
    /// Whether these are too few, so that backends of other zones are used too.
    pub short: bool,
}

impl LocalZone {
    /// The backends of that tier in the zone; also returns whether they are too few.
    fn count(zone: &ZonePreference, members: &[Member], tier: u16) -> Self {
        let counts = |member: &&Member| {
            let usable = member.weight > 0 && !member.leaving() && member.refused.is_none();
            usable && member.tier == tier && is_local(Some(zone), member)
        };
        let (mut backends, mut up, mut weight, mut weight_up) = (0, 0, 0, 0);
        for member in members.iter().filter(counts) {
            backends += 1;
            weight += u64::from(member.weight);
            if member.state == BackendState::Up {
                up += 1;
                weight_up += u64::from(member.weight);
            }
        }
        let too_few = up < u64::from(zone.min_backends.get());
        let short = too_few || weight_up * 100 < weight * u64::from(zone.min_up.0);
        Self { name: Arc::clone(&zone.name), backends, up, short }
    }

    /// How many of its backends are up, as in "1 of 3 up in zone a".
    pub fn supply(&self) -> String {
        let Self { name, backends, up, .. } = self;
        match (*backends, *up) {
            (0, _) => format!("no backend in zone {name}"),
            (all, up) if all == up => format!("only {up} in zone {name}"),
            (all, up) => format!("{up} of {all} up in zone {name}"),
        }
    }
}

/// Which of a pool's backends are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selection<'c> {
    config: &'c config::Pool,
    /// The tier in use.
    pub(super) tier: u16,
    /// The zones in use, of that tier.
    pub(super) zones: Zones,
    /// Whether backends are used that are not up.
    pub(super) panic: bool,
}

impl<'c> Selection<'c> {
    /// The lowest tier with a backend that is up; in it, the local zone if enough of its backends are up. If too few of
    /// all these are up (or none in any tier), all of them are used, except those that are leaving and those that an
    /// operator has drained or disabled: wrong checks are likelier than an outage of all backends.
    pub(super) fn new(config: &'c config::Pool, members: &[Member]) -> Self {
        let usable = || members.iter().filter(|member| member.weight > 0);
        let up = usable().filter(|member| member.state == BackendState::Up);
        let available = usable().filter(|member| is_available(member));
        let tier = up.chain(available).map(|member| (member.state != BackendState::Up, member.tier)).min();
        let mut selection = Self::of_tier(config, members, tier.map_or(0, |(_, tier)| tier));
        if selection.zones == Zones::Local && selection.in_panic(members) {
            // Backends of other zones that are up are better than local ones that are down.
            selection.zones = Zones::Short;
        }
        selection.panic = selection.in_panic(members);
        selection
    }

    fn of_tier(config: &'c config::Pool, members: &[Member], tier: u16) -> Self {
        let zones = match &config.zone {
            None => Zones::Any,
            Some(zone) if LocalZone::count(zone, members, tier).short => {
                let others = Self { config, tier, zones: Zones::Others, panic: false };
                if others.has_backends(members) { Zones::Short } else { Zones::Local }
            }
            Some(_) => Zones::Local,
        };
        Self { config, tier, zones, panic: false }
    }

    /// What a connection uses that failed on all of these backends or found them full: those of other zones that are up,
    /// then the next tier with a backend that is up.
    pub(super) fn next(self, members: &[Member]) -> Option<Self> {
        let others = Self { zones: Zones::Others, panic: false, ..self };
        if self.zones == Zones::Local && others.has_backends(members) {
            return Some(others);
        }
        let up = members.iter().filter(|member| member.state == BackendState::Up && member.weight > 0);
        let tier = up.map(|member| member.tier).filter(|tier| *tier > self.tier).min()?;
        Some(Self::of_tier(self.config, members, tier))
    }

    /// Whether it takes the backend.
    pub(super) fn takes(self, member: &Member) -> bool {
        let fit = member.state == BackendState::Up || (self.panic && is_available(member));
        fit && member.weight > 0 && self.covers(member)
    }

    /// The tier, and whether only other zones are used: the order in which selections are used.
    pub(super) fn rank(self) -> (u16, bool) {
        (self.tier, self.zones == Zones::Others)
    }

    /// The backends of the local zone in this tier.
    pub(super) fn local_zone(self, members: &[Member]) -> Option<LocalZone> {
        let zone = self.config.zone.as_ref()?;
        let short = self.zones == Zones::Short;
        Some(LocalZone { short, ..LocalZone::count(zone, members, self.tier) })
    }

    /// The backends that are not eligible.
    pub(super) fn ineligible(self, members: &[Member]) -> Ineligible {
        // A connection that uses a standby lists the backends before it itself, as failed or full.
        let tried = |member: &&Member| {
            let rank = (member.tier, !is_local(self.config.zone.as_ref(), member));
            member.state == BackendState::Up && member.weight > 0 && rank < self.rank()
        };
        let all = || members.iter().filter(|member| !self.takes(member) && !tried(member));
        let one = |member: &Member| Exclusion {
            backend: Arc::clone(&member.backend.name),
            reason: match (member.state, &member.zone) {
                (BackendState::Up, _) if member.weight == 0 => ExclusionReason::ZeroWeight,
                (BackendState::Up, Some(zone)) if member.tier == self.tier => {
                    ExclusionReason::OtherZone(Arc::clone(zone))
                }
                (BackendState::Up, _) => ExclusionReason::Backup,
                (state, _) => ExclusionReason::State(state, member.reason.clone()),
            },
        };
        let why_more = match (self.panic, self.zones, self.local_zone(members)) {
            (true, ..) => Some("too few are up, so all are used".to_owned()),
            (false, Zones::Short, Some(zone)) => {
                Some(format!("{}, so those of other zones are used too", zone.supply()))
            }
            _ => None,
        };
        Ineligible::new(all().take(NAMED).map(one).collect(), all().skip(NAMED).count(), why_more)
    }

    /// Whether too few of its backends are up. Joining ones count as up: otherwise each start would be a false alarm.
    fn in_panic(self, members: &[Member]) -> bool {
        let count = |of: fn(&Member) -> bool| {
            members.iter().filter(|member| member.weight > 0 && self.covers(member) && of(member)).count()
        };
        let up = count(|member| member.state == BackendState::Up);
        let all = count(is_available);
        let joining = count(|member| member.state == BackendState::Joining);
        all > 0 && (up + joining) * 100 < usize::from(self.config.panic.0) * (all + joining)
    }

    /// Whether the backend is of its tier and its zones.
    fn covers(self, member: &Member) -> bool {
        let is_local = || is_local(self.config.zone.as_ref(), member);
        member.tier == self.tier
            && match self.zones {
                Zones::Any | Zones::Short => true,
                Zones::Local => is_local(),
                Zones::Others => !is_local(),
            }
    }

    fn has_backends(self, members: &[Member]) -> bool {
        members.iter().any(|member| self.takes(member))
    }
}

/// Whether a backend is of the zone that the pool prefers.
fn is_local(zone: Option<&ZonePreference>, member: &Member) -> bool {
    zone.is_none_or(|zone| zone.is_local(member.zone.as_ref()))
}

/// Whether panic may use it, whatever its checks report; a joining backend has no result yet.
fn is_available(member: &Member) -> bool {
    matches!(member.state, BackendState::Up | BackendState::Down | BackendState::Ejected)
        && member.refused.is_none()
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
