//! Whether pools have enough backends, and which backends are out of service for which reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Sight;
use super::finding::{Finding, ProblemSubject};
use super::picture::{BackendPicture, Picture, PoolPicture};
use super::pools::NAMED;
use crate::domain::{BackendState, ProblemKind, ServingTier, Severity};
use crate::humanize;
use crate::pool::LocalZone;

/// How long a backend may be joining before it counts as missing: if a container takes longer to start, the others
/// carry its share noticeably long.
const LONG_JOINING: Duration = Duration::from_secs(60);
/// Pools with fewer backends than this never have too few up: one of two is half.
const SEVERAL: usize = 3;

/// Whether the pool has enough backends: at most one problem, the worst.
pub(super) fn availability(sight: &Sight<'_>, name: &Arc<str>, pool: &PoolPicture) -> Option<Finding> {
    let picture = sight.picture;
    if !pool.settled {
        return None; // its backends are not known yet
    }
    let wanted = || pool.backends.iter().filter(|backend| !backend.is_out_by_operator());
    let lacking: Vec<_> = wanted().filter(|backend| lacks(picture, backend)).collect();
    let wanted = wanted().count();
    let out = || states(&pool.backends.iter().filter(|one| one.is_out(picture)).collect::<Vec<_>>());
    let counts = [("up", pool.eligible as u64), ("backends", pool.backends.len() as u64)];
    let finding = |kind, severity, sentence: String, hint: String| {
        Finding::new(kind, severity, ProblemSubject::pool(name), sentence, hint).with(counts)
    };
    let first = lacking.first().map_or("BACKEND", |backend| &*backend.name);
    let explain = format!("`pointsman why {name}/{first}` explains its state");
    match pool.tier {
        ServingTier::None => {
            let (severity, unused) = match pool.used {
                true => (Severity::Critical, ""),
                false => (Severity::Warning, " (no listener uses it)"),
            };
            let sentence = match pool.backends.is_empty() {
                true => format!("pool {name} has no backends{unused}: {}", why_empty(pool)),
                false => format!("pool {name} has no eligible backend{unused}: {}", out()),
            };
            let hint = match (pool.backends.is_empty(), lacking.is_empty()) {
                (true, _) => "start its backends, or correct `discover` in the configuration".to_owned(),
                (false, true) => {
                    format!(
                        "`pointsman up {name}/BACKEND` puts a backend back in service, `pointsman weight` gives it a share"
                    )
                }
                (false, false) => format!("{explain}; `pointsman recheck` checks it at once"),
            };
            Some(finding(ProblemKind::NoBackend, severity, sentence, hint))
        }
        ServingTier::All => Some(finding(
            ProblemKind::Panic,
            Severity::Critical,
            format!("pool {name} is in panic: too few backends are up, so all are used; {}", out()),
            format!("{explain}; if the backends are healthy, correct their checks"),
        )),
        ServingTier::Backups => Some(finding(
            ProblemKind::BackupsServe,
            Severity::Warning,
            format!("pool {name} is served by its backups: {}", out()),
            format!("{explain}; its primaries serve again as soon as one is up"),
        )),
        ServingTier::AllZones => {
            let zone = pool.local_zone.as_ref();
            let hint = match zone.is_some_and(|zone| zone.backends == 0) {
                true => "compare `zone` of the pool with the zones of its backends".to_owned(),
                false => format!("{explain}; only the local zone serves again as soon as enough are up"),
            };
            let why: Vec<_> = zone.map(LocalZone::supply).into_iter().chain([out()]).collect();
            let why: Vec<_> = why.into_iter().filter(|part| !part.is_empty()).collect();
            let sentence = format!("pool {name} uses backends of other zones too: {}", why.join("; "));
            Some(finding(ProblemKind::ZoneShort, Severity::Warning, sentence, hint))
        }
        ServingTier::Primaries if lacking.is_empty() => None,
        ServingTier::Primaries => {
            let few = wanted >= SEVERAL && 2 * (wanted - lacking.len()) < wanted;
            let kind = if few { ProblemKind::FewBackends } else { ProblemKind::BackendsDown };
            let sentence = match few {
                true => format!(
                    "only {} of {wanted} backends of pool {name} are eligible: {}",
                    wanted - lacking.len(),
                    states(&lacking)
                ),
                false => format!(
                    "{} of {} of pool {name} {} eligible: {}",
                    pool.eligible,
                    humanize::count(pool.backends.len() as u64, "backend"),
                    if pool.eligible == 1 { "is" } else { "are" },
                    out()
                ),
            };
            let hint = match few {
                true => format!("{explain}; what they have in common is the likely cause"),
                false => explain,
            };
            let began = lacking.iter().map(|backend| backend.since).min();
            Some(
                finding(kind, Severity::Warning, sentence, hint)
                    .since(began.map(|began| picture.clock_at(began)))
                    .with([("down", lacking.len() as u64)]),
            )
        }
    }
}

/// Whether a backend should be up but is not.
fn lacks(picture: &Picture, backend: &BackendPicture) -> bool {
    match backend.state {
        BackendState::Down | BackendState::Ejected => true,
        BackendState::Joining => picture.at.saturating_duration_since(backend.since) >= LONG_JOINING,
        BackendState::Up | BackendState::Draining | BackendState::Maintenance | BackendState::Gone => false,
    }
}

impl BackendPicture {
    /// Whether an operator has taken it out of service.
    fn is_out_by_operator(&self) -> bool {
        matches!(self.state, BackendState::Draining | BackendState::Maintenance) || self.weight == 0
    }

    /// Whether it gets no connections.
    fn is_out(&self, picture: &Picture) -> bool {
        lacks(picture, self) || self.state != BackendState::Up || self.weight == 0
    }

    /// Its state, for a sentence.
    fn word(&self) -> &'static str {
        match self.state {
            BackendState::Up if self.weight == 0 => "at weight 0",
            BackendState::Up => "up",
            BackendState::Maintenance => "in maintenance",
            state => state.name(),
        }
    }
}

/// `a and b are down (refused), c is in maintenance`.
fn states(backends: &[&BackendPicture]) -> String {
    let mut by_word: BTreeMap<&str, Vec<&BackendPicture>> = BTreeMap::new();
    for backend in backends {
        by_word.entry(backend.word()).or_default().push(backend);
    }
    let group = |(word, backends): (&str, Vec<&BackendPicture>)| {
        let names: Vec<_> = backends.iter().map(|backend| &*backend.name).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        let (first, rest) = (&backends[0].cause, &backends[1..]);
        let cause = match () {
            () if first.is_empty() => String::new(),
            () if rest.iter().all(|other| other.cause == *first) => format!(" ({first})"),
            () => format!(" ({}: {first})", names[0]),
        };
        format!("{} {verb} {word}{cause}", humanize::list(&names, NAMED))
    };
    by_word.into_iter().map(group).collect::<Vec<_>>().join(", ")
}

/// What the sources of a pool without backends report.
fn why_empty(pool: &PoolPicture) -> String {
    let said: Vec<_> = pool
        .sources
        .iter()
        .map(|source| match &source.trouble {
            Some(trouble) => format!("{}: {}", source.name, trouble.reason),
            None if source.answered => {
                format!("{}: {}", source.name, humanize::count(source.found as u64, "backend"))
            }
            None => format!("{}: no answer yet", source.name),
        })
        .collect();
    if said.is_empty() { "it has no source".to_owned() } else { said.join("; ") }
}
