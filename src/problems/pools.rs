//! The problems of pools: their clients, their sources, their checks, and backends that are not stable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Sight;
use super::availability::availability;
use super::finding::{Finding, ProblemSubject};
use super::growth::{CloseReasonIndex, Counter};
use super::picture::{Picture, PoolPicture};
use crate::domain::{CloseReason, ProblemKind, Severity};
use crate::humanize;

/// The maximum number of backends that a sentence names.
pub(super) const NAMED: usize = 5;
/// A backend flaps if it went down this often within the window. A restart or a deployment takes it down once or twice.
/// The alert PointsmanBackendFlaps uses a longer time: an operator at the screen wants to know sooner.
const FLAPS: u64 = 3;
/// Backends come and go if more than this many left within the window, and [`TURNOVER`] times as many as there are, as
/// in the alert PointsmanBackendsComeAndGo.
const LEFT: u64 = 5;
const TURNOVER: u64 = 3;
/// Client-visible failures below this share of the connections are no problem: a single reset among a thousand
/// connections, such as that of a backend that a deployment stopped, needs no operator.
const FEW_FAILURES: f64 = 0.001;
/// Above this share, and this number, they are critical, as in the alert PointsmanManyClientsFail.
const MANY_FAILURES: (f64, u64) = (0.1, 10);

/// If more than this share of a pool's connections ends without an answer, that is taken for its protocol.
const MOST_UNANSWERED: f64 = 0.5;

/// Checks are late if this many were within the window, and one within the last minute: on a machine that was busy for
/// a moment, a single check may be.
const LATE: u64 = 3;

/// The problems of all pools.
pub(super) fn findings(sight: &Sight<'_>, findings: &mut Vec<Finding>) {
    for (name, pool) in &sight.picture.pools {
        let all = [
            availability(sight, name, pool),
            client_failures(sight, name),
            without_answer(sight, name),
            slow(name, pool),
            queue(name, pool),
            flapping(sight, name),
            come_and_go(sight, name, pool),
            checks_late(sight, name),
            checks_without_result(name, pool),
            replicas(name, pool),
        ];
        findings.extend(all.into_iter().flatten());
        findings.extend(sources(sight.picture, name, pool));
    }
    for listener in &sight.picture.listeners {
        findings.extend(failures_without_pool(sight, &listener.name));
    }
}

/// Client-visible failures, which `counter` counts by their reason, as a finding about `subject`, which `what` names.
fn failures(
    sight: &Sight<'_>,
    subject: ProblemSubject,
    what: &str,
    counter: impl Fn(CloseReasonIndex) -> Counter,
    served: u64,
) -> Option<Finding> {
    let failed = sight.grown.failures(&counter);
    let (most, _) = failed.first()?;
    let count: u64 = failed.iter().map(|(_, n)| n).sum();
    // A connection that began before the window may fail within it.
    let share = count as f64 / served.max(count) as f64;
    if share < FEW_FAILURES {
        return None;
    }
    let many = share > MANY_FAILURES.0 && count > MANY_FAILURES.1;
    let reason = match failed.len() {
        1 => format!("all {}", most.name()),
        _ => format!("most of them {}", most.name()),
    };
    let window = humanize::duration(sight.window);
    let sentence = format!(
        "{} of {what} within {window}: {} of its connections, {reason}{}",
        humanize::count(count, "client-visible failure"),
        humanize::percent(share),
        last_one(sight, failed.iter().map(|(reason, _)| counter(reason.index()))),
    );
    let severity = if many { Severity::Critical } else { Severity::Warning };
    let finding = Finding::new(ProblemKind::ClientFailures, severity, subject, sentence, remedy(*most))
        .with([("failures", count), ("connections", served.max(count))]);
    Some(failed.iter().fold(finding, |finding, (reason, n)| finding.with([(reason.name(), *n)])))
}

/// When the last of what these counters count was, if that was a minute ago or more.
fn last_one(sight: &Sight<'_>, counters: impl IntoIterator<Item = Counter>) -> String {
    let minutes = sight.grown.last_of(counters).map_or(0, |ago| ago.as_secs() / 60);
    if minutes == 0 { String::new() } else { format!(", the last one {minutes} min ago") }
}

/// What to do about failures with this reason.
fn remedy(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::NoBackend => {
            "no backend was eligible: `pointsman status` shows why each one is excluded"
        }
        CloseReason::ConnectFailed => {
            "backends that are up refuse connections: `pointsman logs` shows the errors; stricter checks would take \
             them out of service"
        }
        CloseReason::BackendReset => {
            "a backend resets connections: `pointsman logs` shows which one; see its own log"
        }
        CloseReason::Limited => "a connection limit was reached: add backends, or raise the limit",
        CloseReason::BackendDown | CloseReason::BackendLeft => {
            "connections of a backend that went down or left are closed: `on_down` and `on_leave` of the pool set this"
        }
        _ => "`pointsman logs` shows each of them with its cause",
    }
}

fn client_failures(sight: &Sight<'_>, name: &Arc<str>) -> Option<Finding> {
    let served = sight.grown.of(&Counter::Served(Arc::clone(name)));
    let counter = |reason| Counter::Failed(Arc::clone(name), reason);
    failures(sight, ProblemSubject::pool(name), &format!("pool {name}"), counter, served)
}

/// Connections that were closed before the backend had answered: of a backend that died or hangs. Where most connections end
/// so, it is the protocol whose servers do not answer.
fn without_answer(sight: &Sight<'_>, name: &Arc<str>) -> Option<Finding> {
    let count = sight.grown.of(&Counter::WithoutAnswer(Arc::clone(name)));
    let served = sight.grown.of(&Counter::Served(Arc::clone(name))).max(count);
    let share = count as f64 / served as f64;
    if count == 0 || !(FEW_FAILURES..=MOST_UNANSWERED).contains(&share) {
        return None;
    }
    let sentence = format!(
        "{} of pool {name} ended without an answer within {} ({} of its connections): closed after the client had sent \
         bytes, and before any came back{}",
        humanize::count(count, "connection"),
        humanize::duration(sight.window),
        humanize::percent(share),
        last_one(sight, [Counter::WithoutAnswer(Arc::clone(name))]),
    );
    let hint = "backends that die or hang cause this: `pointsman story` shows when, `pointsman logs` shows the lines with \
                bytes_out=0";
    let subject = ProblemSubject::pool(name);
    Some(
        Finding::new(ProblemKind::WithoutAnswer, Severity::Warning, subject, sentence, hint)
            .with([("unanswered", count), ("connections", served)]),
    )
}

/// Backends that answer much later than the others.
fn slow(name: &Arc<str>, pool: &PoolPicture) -> Option<Finding> {
    let mut slow: Vec<_> = pool.backends.iter().filter_map(|one| Some((one, one.slow?))).collect();
    slow.sort_by(|(_, a), (_, b)| b.times_slower().total_cmp(&a.times_slower()));
    let (worst, figures) = slow.first()?;
    let names: Vec<_> = slow.iter().map(|(backend, _)| &*backend.name).collect();
    let milliseconds = |time: Duration| format!("{} ms", (time.as_secs_f64() * 1e3).round());
    let sentence = format!(
        "{} of pool {name} {} much later than the others: half of the first bytes of {} take longer than {}, {} with the others",
        humanize::list(&names, NAMED),
        if names.len() == 1 { "answers" } else { "answer" },
        worst.name,
        milliseconds(figures.median),
        milliseconds(figures.others),
    );
    let hint = format!(
        "`pointsman drain {name}/{}` takes it out of service while you look; `balance: ewma` sends it fewer connections, \
         `eject.slow` ejects such backends",
        worst.name
    );
    let subject = ProblemSubject::pool(name);
    let finding = Finding::new(ProblemKind::SlowBackends, Severity::Warning, subject, sentence, hint);
    Some(finding.with([("backends", slow.len() as u64)]))
}

fn failures_without_pool(sight: &Sight<'_>, name: &Arc<str>) -> Option<Finding> {
    let accepted = sight.grown.of(&Counter::Accepted(Arc::clone(name)));
    let counter = |reason| Counter::FailedWithoutPool(Arc::clone(name), reason);
    failures(sight, ProblemSubject::listener(name), &format!("listener {name}"), counter, accepted)
}

fn queue(name: &Arc<str>, pool: &PoolPicture) -> Option<Finding> {
    if pool.queue == 0 {
        return None;
    }
    let waiting = humanize::count(pool.queue as u64, "client");
    let verb = if pool.queue == 1 { "waits" } else { "wait" };
    let full = pool.queue >= pool.queue_room;
    let (severity, what) = match full {
        true => (
            Severity::Critical,
            format!("the queue of pool {name} is full: {waiting} {verb}, and further clients are rejected"),
        ),
        false => (
            Severity::Warning,
            format!("{waiting} {verb} in the queue of pool {name}: all its backends are at their limit"),
        ),
    };
    let hint = "add backends, or raise `limits.connections` if the backends can carry more";
    let figures = [("waiting", pool.queue as u64), ("room", pool.queue_room as u64)];
    Some(Finding::new(ProblemKind::Queue, severity, ProblemSubject::pool(name), what, hint).with(figures))
}

fn flapping(sight: &Sight<'_>, name: &Arc<str>) -> Option<Finding> {
    // A backend that returns under its name is a new one with another key.
    let mut falls: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
    for (counter, growth) in &sight.grown.0 {
        match counter {
            Counter::Fell(pool, _, backend) if pool == name => {
                *falls.entry(backend).or_default() += growth.count;
            }
            _ => {}
        }
    }
    let mut falls: Vec<_> = falls.into_iter().filter(|(_, n)| *n >= FLAPS).collect();
    falls.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let (worst, times) = falls.first()?;
    let named: Vec<_> = falls.iter().map(|(backend, n)| format!("{backend} ({n} times)")).collect();
    let (window, went) = (humanize::duration(sight.window), humanize::list(&named, NAMED));
    Some(
        Finding::new(
            ProblemKind::Flapping,
            Severity::Warning,
            ProblemSubject::pool(name),
            format!("backends of pool {name} flap: {went} went down within {window}"),
            format!(
                "`pointsman why {name}/{worst}` shows its checks; if it is only slow at times, give its check a longer \
                 `timeout` or a higher `fall`"
            ),
        )
        .with([("backends", falls.len() as u64), ("most", *times)]),
    )
}

fn come_and_go(sight: &Sight<'_>, name: &Arc<str>, pool: &PoolPicture) -> Option<Finding> {
    let left = sight.grown.of(&Counter::Left(Arc::clone(name)));
    if left <= LEFT || left <= TURNOVER * pool.backends.len() as u64 {
        return None;
    }
    Some(
        Finding::new(
            ProblemKind::BackendsComeAndGo,
            Severity::Warning,
            ProblemSubject::pool(name),
            format!("{left} backends have left pool {name} within {}", humanize::duration(sight.window)),
            "look for containers that restart again and again, or a DNS server whose answers differ each time; `flap` \
             keeps backends that are missing for a moment",
        )
        .with([("left", left)]),
    )
}

fn sources(picture: &Picture, name: &Arc<str>, pool: &PoolPicture) -> Vec<Finding> {
    let finding = |source: &crate::pool::SourceStatus| {
        let (since, trouble) = (source.failing?, source.trouble.as_ref()?);
        let expired = source.hold.is_some_and(|hold| picture.at.saturating_duration_since(since) >= hold);
        let consequence =
            if expired { "; that answer has expired, so backends whose checks fail leave" } else { "" };
        let hint = match source.name.split(' ').next() {
            Some("dns" | "srv") => "check the DNS server, and `server` of the source",
            Some("docker") => "check that the Docker engine runs and that its socket can be opened",
            Some("file") => "correct the file: a new version is read at once",
            _ => "`pointsman logs` shows the errors",
        };
        let subject = ProblemSubject { source: Some(Arc::clone(&source.name)), ..ProblemSubject::pool(name) };
        let sentence = format!("{} of pool {name} fails: {}{consequence}", source.name, trouble.reason);
        let finding = Finding::new(ProblemKind::SourceFailing, Severity::Warning, subject, sentence, hint);
        Some(finding.since(Some(picture.clock_at(since))).with([("backends", source.found as u64)]))
    };
    pool.sources.iter().filter_map(finding).collect()
}

fn checks_late(sight: &Sight<'_>, name: &Arc<str>) -> Option<Finding> {
    let counter = Counter::ChecksLate(Arc::clone(name));
    let late = sight.grown.of(&counter);
    (late >= LATE && sight.recent.of(&counter) > 0).then(|| {
        Finding::new(
            ProblemKind::ChecksLate,
            Severity::Warning,
            ProblemSubject::pool(name),
            format!("checks of pool {name} run late: {late} within {}", humanize::duration(sight.window)),
            "the limit `runtime.max_checks` is reached: remove unresponsive backends, shorten the `timeout` of their \
             checks, or raise the limit",
        )
        .with([("late", late)])
    })
}

fn checks_without_result(name: &Arc<str>, pool: &PoolPicture) -> Option<Finding> {
    let without: Vec<_> = pool.backends.iter().filter(|one| one.local_check_error.is_some()).collect();
    let error = without.first()?.local_check_error.as_ref()?;
    let names: Vec<_> = without.iter().map(|backend| &*backend.name).collect();
    Some(
        Finding::new(
            ProblemKind::ChecksWithoutResult,
            Severity::Warning,
            ProblemSubject::pool(name),
            format!(
                "checks of {} in pool {name} have no result because of a local error: {error}",
                humanize::list(&names, NAMED)
            ),
            "failures of these backends are not detected until this is fixed; `pointsman check` tests the files of checks",
        )
        .with([("backends", without.len() as u64)]),
    )
}

fn replicas(name: &Arc<str>, pool: &PoolPicture) -> Option<Finding> {
    let trouble = pool.replicas_trouble.as_ref()?;
    Some(Finding::new(
        ProblemKind::ReplicasFailing,
        Severity::Warning,
        ProblemSubject::pool(name),
        format!("the replicas of pool {name} are not managed: {trouble}"),
        "check that the Docker engine runs and that its socket can be opened",
    ))
}
