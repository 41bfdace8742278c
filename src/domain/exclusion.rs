//! Why backends were excluded from a choice.

use std::fmt;
use std::sync::Arc;

use super::{BackendState, Cause, StateReason};

/// A backend that was excluded from a choice, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Why.
    pub reason: ExclusionReason,
}

/// Why a backend was excluded from a choice before any attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExclusionReason {
    /// It was not up, and why it was not.
    State(BackendState, StateReason),
    /// Its weight was 0.
    ZeroWeight,
    /// It was a backup, and a lower tier served.
    Backup,
    /// It runs in this zone, and enough backends of the local zone were up.
    OtherZone(Arc<str>),
    /// Its open connections had reached its limit.
    Full,
    /// It was the client's home, and had more than its share (`load_factor`).
    Overloaded,
}

impl ExclusionReason {
    /// The name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::State(state, _) => state.name(),
            Self::ZeroWeight => "weight_0",
            Self::Backup => "backup",
            Self::OtherZone(_) => "other_zone",
            Self::Full => "full",
            Self::Overloaded => "overloaded",
        }
    }

    /// Why the backend was in its state, or its zone, if that is the reason.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::State(_, reason) => Some(reason.text()),
            Self::OtherZone(zone) => Some(Cause::from(format!("in zone {zone}"))),
            Self::ZeroWeight | Self::Backup | Self::Full | Self::Overloaded => None,
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.backend)?;
        match &self.reason {
            ExclusionReason::State(state, reason) => write!(f, "{} ({reason})", state.name()),
            ExclusionReason::ZeroWeight => f.write_str("weight 0"),
            ExclusionReason::Backup => f.write_str("backup"),
            ExclusionReason::OtherZone(zone) => write!(f, "in zone {zone}"),
            ExclusionReason::Full => f.write_str("full"),
            ExclusionReason::Overloaded => f.write_str("above its share (load_factor)"),
        }
    }
}

/// The backends that are not eligible while a snapshot is in force. All choices from it share the list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ineligible {
    listed: Vec<Exclusion>,
    /// Made once for each snapshot, as each connection logs it.
    text: Box<str>,
}

impl Ineligible {
    /// The backends in `listed`, and `unlisted` more that are not listed; `why_more`: why backends are used that otherwise
    /// are not.
    pub fn new(listed: Vec<Exclusion>, unlisted: usize, why_more: Option<String>) -> Self {
        let mut parts: Vec<String> = listed.iter().map(Exclusion::to_string).collect();
        parts.extend((unlisted > 0).then(|| format!("and {unlisted} more")));
        parts.extend(why_more);
        Self { listed, text: parts.join("; ").into() }
    }
}

/// The backends that were excluded from a choice before any attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    /// Those that were not eligible.
    pub ineligible: Arc<Ineligible>,
    /// Those that were eligible, but full or above their share.
    pub busy: Vec<Exclusion>,
    /// How many more were full.
    pub more_full: usize,
    /// How many clients waited in the queue, if it was full.
    pub queue_full: Option<usize>,
}

impl Excluded {
    /// The listed ones.
    pub fn listed(&self) -> impl Iterator<Item = &Exclusion> {
        self.ineligible.listed.iter().chain(&self.busy)
    }

    /// The backends as text, without the queue.
    pub fn backends(&self) -> String {
        let mut parts = Vec::new();
        parts.extend((!self.ineligible.text.is_empty()).then(|| self.ineligible.text.to_string()));
        let (full, overloaded): (Vec<_>, Vec<_>) =
            self.busy.iter().partition(|one| one.reason == ExclusionReason::Full);
        parts.extend(full.into_iter().map(Exclusion::to_string));
        parts.extend((self.more_full > 0).then(|| format!("and {} more that are full", self.more_full)));
        parts.extend(overloaded.into_iter().map(Exclusion::to_string));
        parts.join("; ")
    }

    /// The queue as text, if it was full.
    pub fn full_queue(&self) -> Option<String> {
        self.queue_full.map(|waiting| format!("queue full: {waiting} waiting"))
    }

    /// Whether no backend was excluded and the queue had room.
    pub fn is_empty(&self) -> bool {
        self.ineligible.text.is_empty() && self.only_ineligible()
    }

    fn only_ineligible(&self) -> bool {
        self.busy.is_empty() && self.more_full == 0 && self.queue_full.is_none()
    }
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.only_ineligible() {
            return f.write_str(&self.ineligible.text);
        }
        let mut parts = vec![self.backends()];
        parts.extend(self.full_queue());
        parts.retain(|part| !part.is_empty());
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(backend: impl Into<Arc<str>>, reason: ExclusionReason) -> Exclusion {
        Exclusion { backend: backend.into(), reason }
    }

    #[test]
    fn exclusions_have_a_text_each_and_unlisted_ones_are_counted() {
        let down =
            one("a", ExclusionReason::State(BackendState::Down, StateReason::SourceUnhealthy("why".into())));
        let ineligible =
            Arc::new(Ineligible::new(vec![down], 2, Some("too few are up, so all are used".to_owned())));
        let only = Excluded { ineligible: Arc::clone(&ineligible), ..Excluded::default() };
        assert_eq!(only.to_string(), "a: down (why); and 2 more; too few are up, so all are used");
        let excluded = Excluded {
            ineligible,
            busy: vec![one("b", ExclusionReason::Full), one("c", ExclusionReason::Overloaded)],
            more_full: 292,
            queue_full: Some(4),
        };
        assert_eq!(
            excluded.to_string(),
            "a: down (why); and 2 more; too few are up, so all are used; b: full; and 292 more that are full; \
             c: above its share (load_factor); queue full: 4 waiting"
        );
        assert!(excluded.backends().ends_with("c: above its share (load_factor)"));
        assert_eq!((Excluded::default().to_string(), Excluded::default().is_empty()), (String::new(), true));
    }
}
