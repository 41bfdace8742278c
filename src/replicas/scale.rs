//! By what load there are to be more replicas or fewer. Pure: what is measured and the time are handed in, so that the
//! laws below are tested in virtual time.
//!
//! The load is the number of open connections, those included that wait for a place; the target is how many of them
//! one backend is to carry. Replicas are added when there are more than the backends that are up are to carry, for
//! `up_after` without a break. They are taken out when fewer backends would *still* be below their target, for
//! `down_after` without a break, and by the highest load of that time: between the two lies a whole backend, so that no
//! load that stands still makes them go up and down.

use std::time::{Duration, Instant};

use crate::config::Autoscale;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Open connections to the pool's backends, and clients that wait for one.
    pub(super) open: u64,
    /// Backends that can be chosen, whoever started them.
    pub(super) up: u32,
    /// Replicas that there are to be.
    pub(super) replicas: u32,
    /// Some of them are being started, or have just been.
    pub(super) starting: bool,
    /// Others are being taken out.
    pub(super) leaving: bool,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// So many there are to be.
    pub(super) to: u32,
    /// Why.
    pub(super) cause: String,
    /// It is only to be told.
    pub(super) only_told: bool,
}

/// Decides how many replicas there are to be.
#[derive(Clone, Debug)]
pub(super) struct Scaler {
    settings: Autoscale,
    min: u32,
    max: u32,
    /// Since when there are too many connections.
    above: Option<Instant>,
    /// Since when fewer backends would do, and the most connections since.
    below: Option<(Instant, u64)>,
    /// Nothing is changed before.
    calm_until: Option<Instant>,
    /// What was told last without being done, while it would still be said.
    told: Option<(u32, u32)>,
}

impl Scaler {
    pub(super) fn new(settings: Autoscale, min: u32, max: u32) -> Self {
        Self { settings, min, max, above: None, below: None, calm_until: None, told: None }
    }

    /// The number of replicas was changed, by whomever.
    pub(super) fn changed(&mut self, now: Instant) {
        self.above = None;
        self.below = None;
        self.told = None;
        self.calm_until = Some(now + self.settings.cooldown);
    }

    /// Takes in what is measured now; what follows, if anything does.
    pub(super) fn weigh(&mut self, load: Load, now: Instant) -> Option<Verdict> {
        let Load { open, up, replicas, .. } = load;
        let target = u64::from(self.settings.connections_per_backend.get());
        if up == 0 {
            // That nobody is up has other reasons than the load: more of the same would not be up either.
            (self.above, self.below, self.told) = (None, None, None);
            return None;
        }
        if open > target * u64::from(up) {
            self.below = None;
            let since = *self.above.get_or_insert(now);
            if now - since >= self.settings.up_after {
                return self.up(load, target, now);
            }
        } else if open < target * u64::from(up - 1) && replicas > self.min {
            self.above = None;
            let (since, peak) = self.below.get_or_insert((now, open));
            *peak = open.max(*peak);
            let (since, peak) = (*since, *peak);
            if now - since >= self.settings.down_after {
                return self.down(load, target, peak, now);
            }
        } else {
            (self.above, self.below, self.told) = (None, None, None);
        }
        None
    }

    fn up(&mut self, load: Load, target: u64, now: Instant) -> Option<Verdict> {
        let Load { open, up, replicas, starting, .. } = load;
        let needed = u32::try_from(open.div_ceil(target)).unwrap_or(u32::MAX);
        // Those that are not up do not carry their part, whatever the reason is.
        let desired = replicas.saturating_add(needed - up);
        let to = desired.min(self.max).min(replicas.saturating_add(self.settings.step.get()));
        let why = |end: String| {
            format!(
                "{open} open connections on {up} up for {}, {target} each: {desired} needed{end}",
                shown(self.settings.up_after)
            )
        };
        if to <= replicas {
            // At the maximum already, or above it.
            let cause = why(format!(", but {} is the max", self.max));
            return self.tell(replicas, Verdict { to: replicas, cause, only_told: true });
        }
        if starting || self.calm_until.is_some_and(|until| now < until) {
            return None;
        }
        self.decide(replicas, to, why(self.limits(desired, to)), now)
    }

    fn down(&mut self, load: Load, target: u64, peak: u64, now: Instant) -> Option<Verdict> {
        let Load { up, replicas, starting, leaving, .. } = load;
        // The fewest of which each stays below its target.
        let needed = u32::try_from(peak / target).unwrap_or(u32::MAX).saturating_add(1);
        let desired = replicas.saturating_sub(up.saturating_sub(needed));
        let to = desired.max(self.min).max(replicas.saturating_sub(self.settings.step.get()));
        if to >= replicas || starting || leaving || self.calm_until.is_some_and(|until| now < until) {
            return None;
        }
        let cause = format!(
            "at most {peak} open connections on {up} up for {}, {target} each: {desired} are enough{}",
            shown(self.settings.down_after),
            self.limits(desired, to)
        );
        self.decide(replicas, to, cause, now)
    }

    /// What a limit has to do with it.
    fn limits(&self, desired: u32, to: u32) -> String {
        match to {
            _ if to == desired => String::new(),
            _ if to == self.max => format!(", {to} is the max"),
            _ if to == self.min => format!(", {to} is the min"),
            _ => format!(", {} at a time", self.settings.step),
        }
    }

    fn decide(&mut self, from: u32, to: u32, cause: String, now: Instant) -> Option<Verdict> {
        if self.settings.dry_run {
            return self.tell(from, Verdict { to, cause, only_told: true });
        }
        self.changed(now);
        Some(Verdict { to, cause, only_told: false })
    }

    /// Tells once what would be done.
    fn tell(&mut self, from: u32, verdict: Verdict) -> Option<Verdict> {
        let news = self.told.replace((from, verdict.to)) != Some((from, verdict.to));
        news.then_some(verdict)
    }
}

fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
