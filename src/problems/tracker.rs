//! Tracks since when each problem exists: it keeps its beginning while it lasts, and is forgotten when its cause ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::finding::{Finding, ProblemSubject};
use crate::api::ProblemInfo;
use crate::domain::ProblemKind;

/// What identifies a problem while it lasts.
type Identity = (ProblemKind, ProblemSubject);

/// The current problems and their beginnings.
#[derive(Debug, Default)]
pub(super) struct Tracker(BTreeMap<Identity, Beginning>);

#[derive(Clone, Copy, Debug)]
struct Beginning {
    /// When the problem began, by the clock.
    since: SystemTime,
    /// When it was first found.
    found: Instant,
}

impl Tracker {
    /// Handles all findings of a moment. Problems without a finding have ended.
    pub(super) fn follow(&mut self, findings: &[Finding], at: Instant, clock: SystemTime) {
        let before = std::mem::take(&mut self.0);
        for finding in findings {
            let identity = (finding.kind, finding.subject.clone());
            let began = finding.began.unwrap_or(clock).min(clock);
            let beginning = Beginning { since: began, found: at };
            let beginning = before.get(&identity).copied().unwrap_or(beginning);
            self.0.insert(identity, beginning);
        }
    }

    /// The findings as problems with their beginnings, the worst first. Those that are too young to be problems are left
    /// out.
    pub(super) fn problems(&self, findings: &[Finding], at: Instant, clock: SystemTime) -> Vec<ProblemInfo> {
        let mut present: Vec<_> = findings
            .iter()
            .filter_map(|finding| {
                let known = self.0.get(&(finding.kind, finding.subject.clone())).copied();
                let began = finding.began.unwrap_or(clock);
                let beginning = known.unwrap_or(Beginning { since: began, found: at });
                let age = at.saturating_duration_since(beginning.found);
                (age >= delay(finding.kind)).then_some((finding, beginning.since))
            })
            .collect();
        present.sort_by(|(a, _), (b, _)| {
            (a.severity, a.kind, &a.subject).cmp(&(b.severity, b.kind, &b.subject))
        });
        present.into_iter().map(|(finding, since)| finding.problem(since)).collect()
    }
}

/// How long a finding must last before it is a problem. Queues are meant for clients that wait for a moment: only a queue
/// that stays non-empty is a sign that backends lack capacity.
fn delay(kind: ProblemKind) -> Duration {
    match kind {
        ProblemKind::Queue => Duration::from_secs(3),
        _ => Duration::ZERO,
    }
}

impl Finding {
    fn problem(&self, since: SystemTime) -> ProblemInfo {
        ProblemInfo {
            kind: self.kind.name().into(),
            severity: self.severity.name().into(),
            pool: self.subject.pool.clone(),
            listener: self.subject.listener.clone(),
            source: self.subject.source.clone(),
            since: since.into(),
            sentence: self.sentence.clone(),
            hint: self.hint.clone(),
            figures: self.figures.iter().map(|(name, value)| ((*name).into(), *value)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Severity;

    fn finding(kind: ProblemKind, pool: &str) -> Finding {
        Finding::new(kind, Severity::Warning, ProblemSubject::pool(&pool.into()), "", "")
    }

    /// Moments of a test, in seconds.
    struct Moments(Instant);

    impl Moments {
        fn at(&self, seconds: u64) -> (Instant, SystemTime) {
            let time = Duration::from_secs(seconds);
            (self.0 + time, SystemTime::UNIX_EPOCH + Duration::from_secs(1000) + time)
        }
    }

    /// Looks once, and returns the beginnings, in seconds.
    fn look(tracker: &mut Tracker, findings: &[Finding], (at, clock): (Instant, SystemTime)) -> Vec<f64> {
        tracker.follow(findings, at, clock);
        tracker.problems(findings, at, clock).iter().map(|problem| problem.since.0 - 1000.0).collect()
    }

    #[test]
    fn a_problem_keeps_its_beginning_while_it_lasts_and_a_later_one_has_its_own() {
        let (time, mut tracker) = (Moments(Instant::now()), Tracker::default());
        let down = [finding(ProblemKind::BackendsDown, "web")];
        assert_eq!(look(&mut tracker, &down, time.at(5)), [5.0]);
        assert_eq!(look(&mut tracker, &down, time.at(6)), [5.0]);
        let both = [finding(ProblemKind::BackendsDown, "api"), down[0].clone()];
        assert_eq!(look(&mut tracker, &both, time.at(9)), [9.0, 5.0], "another pool's is another problem");
        assert!(look(&mut tracker, &[], time.at(10)).is_empty());
        assert_eq!(look(&mut tracker, &down, time.at(11)), [11.0]);
    }

    #[test]
    fn a_known_beginning_counts_but_does_not_move() {
        let (time, mut tracker) = (Moments(Instant::now()), Tracker::default());
        let since = |seconds| [finding(ProblemKind::BackendsDown, "web").since(Some(time.at(seconds).1))];
        assert_eq!(look(&mut tracker, &since(2), time.at(5)), [2.0]);
        assert_eq!(look(&mut tracker, &since(4), time.at(6)), [2.0], "another backend went down later");
        assert!(look(&mut tracker, &[], time.at(7)).is_empty());
        assert_eq!(look(&mut tracker, &since(100), time.at(8)), [8.0], "never in the future");
    }

    #[test]
    fn a_queue_is_a_problem_only_when_it_stays() {
        let (time, mut tracker) = (Moments(Instant::now()), Tracker::default());
        let queue = [finding(ProblemKind::Queue, "web")];
        assert!(look(&mut tracker, &queue, time.at(1)).is_empty());
        assert!(look(&mut tracker, &[], time.at(2)).is_empty());
        assert!(look(&mut tracker, &queue, time.at(3)).is_empty());
        assert!(look(&mut tracker, &queue, time.at(5)).is_empty());
        assert_eq!(look(&mut tracker, &queue, time.at(6)), [3.0]);
    }

    #[test]
    fn the_worst_comes_first_and_of_equal_ones_the_earlier_kind() {
        let tracker = Tracker::default();
        let mut findings = vec![
            finding(ProblemKind::LogLinesDropped, "x"),
            finding(ProblemKind::Flapping, "b"),
            finding(ProblemKind::Flapping, "a"),
        ];
        findings.push(Finding { severity: Severity::Critical, ..finding(ProblemKind::ClientFailures, "z") });
        let problems = tracker.problems(&findings, Instant::now(), SystemTime::now());
        let pools: Vec<_> = problems.iter().map(|problem| problem.pool.as_deref().unwrap()).collect();
        assert_eq!(pools, ["z", "a", "b", "x"]);
    }
}
