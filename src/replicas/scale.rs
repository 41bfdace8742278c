//! Chooses the number of replicas by the load. Pure: load and time are handed in, so that the laws below are tested in
//! virtual time.
//!
//! The load is the number of open connections, including those that wait for a place; the target is the number per
//! backend. Replicas are added when the load exceeds the target of all backends that are up, for all of `up_after`.
//! They are removed when fewer backends would *still* be below the target, for all of `down_after`, and by the peak of
//! that time. The two thresholds are a whole backend apart, so a constant load never alternates between them.

use std::time::{Duration, Instant};

use crate::config::Autoscale;

/// The load at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplicaLoad {
    /// Open connections of the pool, and clients that wait in its queue.
    pub(super) open: u64,
    /// Backends that are up, including those that are no replicas.
    pub(super) up: u32,
    /// The wanted number of replicas.
    pub(super) replicas: u32,
    /// Whether some are starting or have just started.
    pub(super) starting: bool,
    /// Whether some are being removed.
    pub(super) leaving: bool,
}

/// A number of replicas, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScaleAdvice {
    pub(super) to: u32,
    pub(super) cause: String,
    /// Report it only.
    pub(super) report_only: bool,
}

/// Chooses the number of replicas.
#[derive(Clone, Debug)]
pub(super) struct Scaler {
    settings: Autoscale,
    min: u32,
    max: u32,
    /// Since when the load is too high.
    above: Option<Instant>,
    /// Since when fewer backends would do, and the peak load since.
    below: Option<(Instant, u64)>,
    /// The end of the cool-down.
    cooldown_until: Option<Instant>,
    /// The last advice that was only reported, while it still applies.
    reported: Option<(u32, u32)>,
}

impl Scaler {
    pub(super) fn new(settings: Autoscale, min: u32, max: u32) -> Self {
        Self { settings, min, max, above: None, below: None, cooldown_until: None, reported: None }
    }

    /// The number of replicas was changed, by a command or by this advice.
    pub(super) fn on_change(&mut self, now: Instant) {
        self.above = None;
        self.below = None;
        self.reported = None;
        self.cooldown_until = Some(now + self.settings.cooldown);
    }

    /// Takes in the present load; the advice to change the number, if any.
    pub(super) fn on_load(&mut self, load: ReplicaLoad, now: Instant) -> Option<ScaleAdvice> {
        let ReplicaLoad { open, up, replicas, .. } = load;
        let target = u64::from(self.settings.connections_per_backend.get());
        if up == 0 {
            // No load causes this: more of the same replicas would not be up either.
            (self.above, self.below, self.reported) = (None, None, None);
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
            (self.above, self.below, self.reported) = (None, None, None);
        }
        None
    }

    fn up(&mut self, load: ReplicaLoad, target: u64, now: Instant) -> Option<ScaleAdvice> {
        let ReplicaLoad { open, up, replicas, starting, .. } = load;
        let needed = u32::try_from(open.div_ceil(target)).unwrap_or(u32::MAX);
        // Replicas that are not up carry nothing, whatever the reason.
        let desired = replicas.saturating_add(needed - up);
        let to = desired.min(self.max).min(replicas.saturating_add(self.settings.step.get()));
        let why = |end: String| {
            format!(
                "{open} open connections on {up} up for {}, {target} each: {desired} needed{end}",
                shown(self.settings.up_after)
            )
        };
        if to <= replicas {
            let cause = why(format!(", but {} is the max", self.max));
            return self.report(replicas, ScaleAdvice { to: replicas, cause, report_only: true });
        }
        if starting || self.cooldown_until.is_some_and(|until| now < until) {
            return None;
        }
        self.decide(replicas, to, why(self.limits(desired, to)), now)
    }

    fn down(&mut self, load: ReplicaLoad, target: u64, peak: u64, now: Instant) -> Option<ScaleAdvice> {
        let ReplicaLoad { up, replicas, starting, leaving, .. } = load;
        // The smallest number that leaves each below its target.
        let needed = u32::try_from(peak / target).unwrap_or(u32::MAX).saturating_add(1);
        let desired = replicas.saturating_sub(up.saturating_sub(needed));
        let to = desired.max(self.min).max(replicas.saturating_sub(self.settings.step.get()));
        if to >= replicas || starting || leaving || self.cooldown_until.is_some_and(|until| now < until) {
            return None;
        }
        let cause = format!(
            "at most {peak} open connections on {up} up for {}, {target} each: {desired} are enough{}",
            shown(self.settings.down_after),
            self.limits(desired, to)
        );
        self.decide(replicas, to, cause, now)
    }

    /// The limit that applies, for the cause.
    fn limits(&self, desired: u32, to: u32) -> String {
        match to {
            _ if to == desired => String::new(),
            _ if to == self.max => format!(", {to} is the max"),
            _ if to == self.min => format!(", {to} is the min"),
            _ => format!(", {} at a time", self.settings.step),
        }
    }

    fn decide(&mut self, from: u32, to: u32, cause: String, now: Instant) -> Option<ScaleAdvice> {
        if self.settings.dry_run {
            return self.report(from, ScaleAdvice { to, cause, report_only: true });
        }
        self.on_change(now);
        Some(ScaleAdvice { to, cause, report_only: false })
    }

    /// Reports once what would be done.
    fn report(&mut self, from: u32, advice: ScaleAdvice) -> Option<ScaleAdvice> {
        let is_new = self.reported.replace((from, advice.to)) != Some((from, advice.to));
        is_new.then_some(advice)
    }
}

fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
