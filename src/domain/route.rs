//! How a connection was routed: the chosen backend, the candidates, and the excluded backends with their reasons.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Algorithm, Cause, Client, Excluded, SocketAddress};

/// The number of candidates of a choice that are listed with their connections.
pub const SHOWN: usize = 16;

/// How a connection was routed, or why it got no backend. The backend is in the connection's record.
#[derive(Clone, Debug)]
pub struct Route {
    /// Time from the accept to this decision.
    pub after: Duration,
    /// The algorithm that chose.
    pub algorithm: Algorithm,
    /// The backends that were excluded before any attempt.
    pub excluded: Excluded,
    /// The number of backends that were tried, the one that was reached included.
    pub attempts: u32,
    /// The attempts that failed, in order.
    pub failed: Vec<FailedAttempt>,
    /// The eligible backends when the last choice was made.
    pub candidates: CandidateSet,
    /// The client's home, if that had more than its share (`load_factor`).
    pub home: Option<Arc<str>>,
    /// Which of the pool's backends were eligible.
    pub tier: RouteTier,
    /// How long the client waited in the queue, if it did.
    pub queued: Option<Duration>,
    /// The address that the connection to the backend comes from, if it is configured (`connect.source`,
    /// `connect.transparent`).
    pub source: Option<IpAddr>,
    /// The proxy that sent the client's address in a PROXY header; `None`: the client is the peer.
    pub proxy: Option<Client>,
    /// Whether the backend got a PROXY header (`send_proxy_protocol`).
    pub proxy_header: bool,
    /// Whether it is a request to cancel a query of PostgreSQL, which the other backends get too.
    pub cancel_request: bool,
}

impl Route {
    /// All backends that were excluded, those that were tried included, as text; empty: none was.
    pub fn skipped(&self) -> impl fmt::Display + '_ {
        Skipped(self)
    }

    /// Whether a backend was excluded, or the queue had no room.
    pub fn has_skipped(&self) -> bool {
        !self.excluded.is_empty() || !self.failed.is_empty()
    }
}

struct Skipped<'a>(&'a Route);

impl fmt::Display for Skipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route { excluded, failed, .. } = self.0;
        if failed.is_empty() {
            return excluded.fmt(f);
        }
        let mut parts = vec![excluded.backends()];
        parts.extend(failed.iter().map(|attempt| format!("{}: {}", attempt.backend, attempt.error)));
        parts.extend(excluded.full_queue());
        parts.retain(|part| !part.is_empty());
        f.write_str(&parts.join("; "))
    }
}

/// An attempt to connect to a backend that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its address.
    pub address: SocketAddress,
    /// Why it failed.
    pub error: Cause,
    /// How long it took.
    pub took: Duration,
}

/// Which of a pool's backends a choice was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[cfg_attr(any(test, feature = "testing"), schemars(rename_all = "lowercase"))]
pub enum RouteTier {
    /// Primary backends.
    Primaries,
    /// Primary backends of all zones, as too few of the local zone were up.
    #[cfg_attr(any(test, feature = "testing"), schemars(rename = "all_zones"))]
    AllZones,
    /// Those of other zones, as no backend of the local one was left: each had failed or was full.
    #[cfg_attr(any(test, feature = "testing"), schemars(rename = "other_zones"))]
    OtherZones,
    /// Backups, as no primary was up.
    Backups,
    /// Those of the next tier, as every attempt at the one before failed.
    Standby,
    /// Those of a higher tier, as no backend of the lower ones had room.
    Overflow,
    /// All, whether up or not: panic.
    All,
}

impl RouteTier {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primaries => "primaries",
            Self::AllZones => "all_zones",
            Self::OtherZones => "other_zones",
            Self::Backups => "backups",
            Self::Standby => "standby",
            Self::Overflow => "overflow",
            Self::All => "all",
        }
    }
}

/// An eligible backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCandidate {
    /// Its name.
    pub name: Arc<str>,
    /// Its share, relative to the others' in the same snapshot.
    pub share: u32,
}

/// The eligible backends of a choice, and their connections. In a fixed array, so that a route allocates nothing for
/// them.
#[derive(Clone, Debug)]
pub struct CandidateSet {
    /// The first [`SHOWN`] of them: one list for all choices from one snapshot.
    pub shown: Arc<[RouteCandidate]>,
    /// The open connections of each of those, connecting ones included.
    pub loads: [u32; SHOWN],
    /// How many there were.
    pub total: u32,
    /// The number of the pool's backends, eligible or not.
    pub known: u32,
    /// The connections of the chosen one.
    pub chosen: Option<u32>,
}

impl CandidateSet {
    /// The listed ones, each with its connections.
    pub fn shown(&self) -> impl Iterator<Item = (&RouteCandidate, u32)> {
        self.shown.iter().zip(self.loads)
    }
}

#[cfg(any(test, feature = "testing"))]
impl Route {
    /// The route of a connection to the only backend of a pool.
    pub fn to_only_backend() -> Self {
        Self {
            after: Duration::ZERO,
            algorithm: Algorithm::RoundRobin,
            excluded: Excluded::default(),
            attempts: 1,
            failed: Vec::new(),
            candidates: CandidateSet {
                shown: [].into(),
                loads: [0; SHOWN],
                total: 0,
                known: 0,
                chosen: None,
            },
            home: None,
            tier: RouteTier::Primaries,
            queued: None,
            source: None,
            proxy: None,
            proxy_header: false,
            cancel_request: false,
        }
    }

    /// The same after a failed attempt at another backend, `z`.
    pub fn after_failed_attempt() -> Self {
        let failed = FailedAttempt {
            backend: "z".into(),
            address: "10.0.0.9:80".parse().expect("an address"),
            error: "connection refused".into(),
            took: Duration::ZERO,
        };
        Self { attempts: 2, failed: vec![failed], ..Self::to_only_backend() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BackendState, Exclusion, ExclusionReason, Ineligible, StateReason};

    fn route(excluded: Excluded, failed: Vec<FailedAttempt>) -> Route {
        Route { excluded, attempts: failed.len() as u32, failed, ..Route::to_only_backend() }
    }

    #[test]
    fn failed_attempts_stand_between_the_excluded_backends_and_the_full_queue() {
        let exclusion = |backend: &str, reason| Exclusion { backend: backend.into(), reason };
        let why = StateReason::SourceUnhealthy("why".into());
        let down = exclusion("a", ExclusionReason::State(BackendState::Down, why));
        let excluded = Excluded {
            ineligible: {
                let why_more = "too few are up, so all are used".to_owned();
                Arc::new(Ineligible::new(vec![down], 2, Some(why_more)))
            },
            busy: vec![exclusion("b", ExclusionReason::Full), exclusion("c", ExclusionReason::Overloaded)],
            more_full: 292,
            queue_full: Some(4),
        };
        let failed = FailedAttempt {
            backend: "d".into(),
            address: "10.0.0.4:80".parse().unwrap(),
            error: "connection refused".into(),
            took: Duration::from_millis(1),
        };
        let all = route(excluded, vec![failed.clone()]);
        assert_eq!(
            all.skipped().to_string(),
            "a: down (why); and 2 more; too few are up, so all are used; b: full; and 292 more that are full; \
             c: above its share (load_factor); d: connection refused; queue full: 4 waiting"
        );
        let none = route(Excluded::default(), Vec::new());
        assert_eq!((none.skipped().to_string(), none.has_skipped()), (String::new(), false));
        let one = route(Excluded::default(), vec![failed]);
        assert_eq!((&*one.skipped().to_string(), one.has_skipped()), ("d: connection refused", true));
    }
}
