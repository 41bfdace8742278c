//! The problems of the process as a whole: its configuration, its log, its local resources.

use super::Sight;
use super::finding::{Finding, ProblemSubject};
use super::growth::Counter;
use crate::domain::{ProblemKind, Resource, Severity};
use crate::humanize;

/// The problems that do not belong to a single pool.
pub(super) fn findings(sight: &Sight<'_>, findings: &mut Vec<Finding>) {
    let all = [
        accept_failing(sight),
        connect_failing(sight),
        overflows(sight),
        reload_rejected(sight),
        log_failing(sight),
        log_lines_dropped(sight),
        state_failing(sight),
    ];
    findings.extend(all.into_iter().flatten());
}

fn of_process(kind: ProblemKind, severity: Severity, sentence: String, hint: &str) -> Finding {
    Finding::new(kind, severity, ProblemSubject::default(), sentence, hint)
}

fn accept_failing(sight: &Sight<'_>) -> Option<Finding> {
    let failed = sight.recent.of(&Counter::AcceptsFailed);
    (failed > 0).then(|| {
        let sentence =
            format!("clients cannot be accepted for lack of files or memory: {failed} attempts within a minute");
        let hint = "raise the limit of open files (LimitNOFILE= of systemd, `ulimits` of Compose) and restart, or lower \
                    `runtime.max_connections`";
        of_process(ProblemKind::AcceptFailing, Severity::Critical, sentence, hint).with([("failed", failed)])
    })
}

fn connect_failing(sight: &Sight<'_>) -> Option<Finding> {
    let failed = sight.recent.of(&Counter::ConnectsFailed);
    (failed > 0).then(|| {
        let sentence = format!(
            "connections to backends cannot be opened for lack of local ports, files or memory: {failed} within a minute"
        );
        let hint = "`pointsman logs` shows which; add addresses to `connect.source` for more ports, or raise the limit of \
                    open files";
        of_process(ProblemKind::ConnectFailing, Severity::Critical, sentence, hint).with([("failed", failed)])
    })
}

fn overflows(sight: &Sight<'_>) -> Option<Finding> {
    let dropped = sight.recent.of(&Counter::AcceptQueueOverflows);
    (dropped > 0).then(|| {
        let sentence = format!(
            "the kernel dropped {} within a minute, as the accept queue of a listener was full",
            humanize::count(dropped, "connection")
        );
        let hint = "`ss -ltn` shows the queues (Recv-Q of Send-Q); raise `backlog` of the listener and \
                    net.core.somaxconn, or add workers";
        let kind = ProblemKind::Scarce(Resource::AcceptQueue);
        of_process(kind, Severity::Warning, sentence, hint).with([("dropped", dropped)])
    })
}

fn reload_rejected(sight: &Sight<'_>) -> Option<Finding> {
    let (since, why) = sight.picture.reload_rejected.as_ref()?;
    let sentence = format!("the configuration in the file is not the one in effect: {why}");
    let hint = "`pointsman check` lists everything that is wrong with the file, `pointsman reload --plan` what it would \
                change; then `pointsman reload`. A restart reads the file, too";
    let finding = of_process(ProblemKind::ReloadRejected, Severity::Warning, sentence, hint);
    Some(finding.since(Some(*since)))
}

fn log_failing(sight: &Sight<'_>) -> Option<Finding> {
    let failures = &sight.picture.log_failures;
    if failures.is_empty() {
        return None;
    }
    let said: Vec<_> = failures.iter().map(|(log, error)| format!("{log} ({error})")).collect();
    let sentence = format!(
        "the log cannot be written to {}: lines wait, and are lost beyond 64 KiB",
        said.join(" and ")
    );
    let hint = "free space on the disk of `log.directory`, or look at what reads standard error";
    Some(of_process(ProblemKind::LogFailing, Severity::Warning, sentence, hint))
}

fn log_lines_dropped(sight: &Sight<'_>) -> Option<Finding> {
    let lost = sight.grown.of(&Counter::LogLinesDropped);
    (lost > 0).then(|| {
        let window = humanize::duration(sight.window);
        let verb = if lost == 1 { "was" } else { "were" };
        let sentence = format!("{} {verb} lost within {window}", humanize::count(lost, "log line"));
        let hint = "look at the disk of `log.directory`, or at what reads standard error; `log.connections: false` writes \
                    two fewer lines per connection";
        of_process(ProblemKind::LogLinesDropped, Severity::Warning, sentence, hint).with([("lines", lost)])
    })
}

fn state_failing(sight: &Sight<'_>) -> Option<Finding> {
    let failure = sight.picture.state_failure.as_ref()?;
    let sentence =
        format!("the state directory cannot be written ({failure}): a restart would lose what operators set");
    let hint = "free space on the disk of `runtime.state`, or make it writable: it is then written at once";
    Some(of_process(ProblemKind::StateFailing, Severity::Warning, sentence, hint))
}
