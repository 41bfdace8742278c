//! The problems of connections that the kernel forwards, and of its table of tracked connections.

use std::time::Duration;

use super::Sight;
use super::finding::{Finding, ProblemSubject};
use super::growth::Counter;
use super::kernel::KernelPicture;
use super::picture::ListenerPicture;
use crate::domain::{ProblemKind, Resource, Severity};
use crate::humanize;

/// `tcp_keepalive_time` (tcp(7)), the kernel's default. If conntrack forgets an idle connection sooner, that is lost before the
/// first keepalive probe.
const KEEPALIVE_TIME: Duration = Duration::from_secs(7200);

/// The problems of the kernel plane.
pub(super) fn findings(sight: &Sight<'_>, findings: &mut Vec<Finding>) {
    findings.extend(packets_dropped(sight));
    for listener in &sight.picture.listeners {
        findings.extend(not_forwarded(listener));
        findings.extend(idle_forgotten(listener, sight.kernel));
    }
}

fn packets_dropped(sight: &Sight<'_>) -> Option<Finding> {
    let dropped = sight.recent.of(&Counter::ConntrackDrops);
    (dropped > 0).then(|| {
        let sentence = format!(
            "conntrack dropped {} within a minute: its table was full, or packets collided that make the same entry",
            humanize::count(dropped, "packet")
        );
        let hint = "compare net.netfilter.nf_conntrack_count with nf_conntrack_max, and raise the latter if they are close";
        let kind = ProblemKind::Scarce(Resource::Conntrack);
        let subject = ProblemSubject::default();
        Finding::new(kind, Severity::Warning, subject, sentence, hint).with([("dropped", dropped)])
    })
}

fn not_forwarded(listener: &ListenerPicture) -> Option<Finding> {
    let (name, obstacle) = (&listener.name, listener.kernel_obstacle.as_ref()?);
    let sentence = format!(
        "the kernel does not forward the connections of listener {name}: {obstacle}. This process forwards them"
    );
    let hint = "Pointsman tries again by itself; `plane: user` makes it permanent";
    let subject = ProblemSubject::listener(name);
    Some(Finding::new(ProblemKind::NotForwarded, Severity::Warning, subject, sentence, hint))
}

fn idle_forgotten(listener: &ListenerPicture, kernel: &KernelPicture) -> Option<Finding> {
    let after = kernel
        .conntrack_timeout
        .filter(|after| listener.forwarded_without_idle_timeout && *after < KEEPALIVE_TIME)?;
    let name = &listener.name;
    let sentence = format!(
        "the kernel forgets connections of listener {name} that are idle for {}: a pool has no `timeouts.idle`, so \
         net.netfilter.nf_conntrack_tcp_timeout_established applies",
        humanize::duration(after)
    );
    let hint = "set `timeouts.idle` of the pool, or raise the kernel's value to 2 h at least: the next packet of a \
                forgotten connection is answered with a reset";
    let subject = ProblemSubject::listener(name);
    Some(Finding::new(ProblemKind::IdleForgotten, Severity::Warning, subject, sentence, hint))
}
