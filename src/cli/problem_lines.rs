//! The problems of an instance as lines of text: of `doctor`, `status` and `top`.

use ratatui::style::Color;

use super::terminal;
use crate::api::ProblemInfo;
use crate::humanize;

/// The mark of a problem's severity, for readers who cannot distinguish the colors, and its color.
pub(super) fn mark(problem: &ProblemInfo) -> (char, Color) {
    if problem.is_critical() { ('✖', Color::Red) } else { ('▲', Color::Yellow) }
}

/// `✖ 3m  pool web has no eligible backend: …`
pub(super) fn line(problem: &ProblemInfo, now: f64) -> String {
    let age = terminal::age(now - problem.since.0);
    terminal::clean(&format!("{} {age:>3}  {}", mark(problem).0, problem.sentence))
}

/// `2 problems, 1 of them critical`; `no problems`.
pub(super) fn summary(problems: &[ProblemInfo]) -> String {
    let critical = problems.iter().filter(|problem| problem.is_critical()).count();
    match (problems.len(), critical) {
        (0, _) => "no problems".to_owned(),
        (1, 1) => "1 critical problem".to_owned(),
        (n, 0) => humanize::count(n as u64, "problem"),
        (n, all) if n == all => format!("{n} problems, all critical"),
        (n, some) => format!("{n} problems, {some} of them critical"),
    }
}

/// The problems with what to do about each, for reading one after the other.
pub(super) fn explained(problems: &[ProblemInfo], now: f64) -> Vec<String> {
    let lines = problems.iter().flat_map(|problem| {
        let hint = (!problem.hint.is_empty()).then(|| terminal::clean(&format!("       → {}", problem.hint)));
        std::iter::once(line(problem, now)).chain(hint)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_counted_by_severity() {
        let of = |severities: &[&'static str]| {
            let problem = |severity: &&'static str| ProblemInfo {
                severity: (*severity).into(),
                ..ProblemInfo::default()
            };
            summary(&severities.iter().map(problem).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), "no problems");
        assert_eq!([of(&["warning"]), of(&["critical"])], ["1 problem", "1 critical problem"]);
        assert_eq!(of(&["warning", "warning"]), "2 problems");
        assert_eq!(of(&["critical", "critical"]), "2 problems, all critical");
        assert_eq!(of(&["critical", "warning", "of a later version"]), "3 problems, 1 of them critical");
    }

    #[test]
    fn a_hint_follows_its_problem_and_nothing_controls_the_terminal() {
        let problem = ProblemInfo {
            severity: "warning".into(),
            since: crate::api::Timestamp(40.0),
            sentence: "b\u{1b}[2J is down".to_owned(),
            hint: "start it".to_owned(),
            ..ProblemInfo::default()
        };
        assert_eq!(explained(&[problem], 100.0), ["▲  1m  b [2J is down", "       → start it"]);
    }
}
