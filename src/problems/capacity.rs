//! How much of each limited resource is in use, how fast that grows, and when the resource will be used up.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::finding::{Finding, ProblemSubject};
use super::kernel::KernelPicture;
use super::picture::Picture;
use crate::api::CapacityInfo;
use crate::domain::{ProblemKind, Resource, Severity};
use crate::humanize;

/// How long values are kept, for the computation of growth.
const KEPT: Duration = Duration::from_secs(300);
/// The minimum time over which growth is computed: over a shorter one, single requests are noise.
const LEAST: Duration = Duration::from_secs(30);
/// The minimum growth, as a share of the limit, that is extrapolated: less is noise.
const NOISE: f64 = 0.01;
/// A later exhaustion is not reported.
const FAR: f64 = 86_400.0;
/// Exhaustion within this time is a problem, if half of the resource is in use: before that a steep but short growth, as
/// at the start of a load, would be reported.
const SOON: f64 = 900.0;
const HALF: f64 = 0.5;
/// The maximum number of backends and accept queues that are listed.
const LISTED: usize = 5;

/// A resource that has a limit, with the listener or backend that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Measure {
    pub(super) resource: Resource,
    pub(super) subject: Option<Arc<str>>,
    pub(super) used: u64,
    pub(super) limit: u64,
}

impl Measure {
    fn new(resource: Resource, subject: Option<Arc<str>>, [used, limit]: [u64; 2]) -> Self {
        Self { resource, subject, used, limit }
    }

    fn share(&self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used as f64 / self.limit as f64 }
    }

    fn key(&self) -> (Resource, Option<Arc<str>>) {
        (self.resource, self.subject.clone())
    }
}

/// All measures at one moment.
pub(super) fn measures(picture: &Picture, kernel: &KernelPicture) -> Vec<Measure> {
    let mut all = vec![Measure::new(Resource::Connections, None, picture.connections)];
    for listener in &picture.listeners {
        let name = Some(Arc::clone(&listener.name));
        let limited = listener.limit.map(|limit| [listener.open, limit]);
        all.extend(limited.map(|one| Measure::new(Resource::ListenerConnections, name, one)));
    }
    all.extend(kernel.files.map(|files| Measure::new(Resource::OpenFiles, None, files)));
    all.extend(source_ports(picture, kernel));
    all.extend(accept_queues(picture, kernel));
    all.extend(kernel.conntrack.map(|entries| Measure::new(Resource::Conntrack, None, entries)));
    all.extend(kernel.memory.map(|memory| Measure::new(Resource::Memory, None, memory)));
    all.extend(kernel.log_disk.map(|space| Measure::new(Resource::LogDisk, None, space)));
    all
}

/// The backends to which most of the local ports are in use. A backend in several pools uses the ports of one address
/// pair together.
fn source_ports(picture: &Picture, kernel: &KernelPicture) -> Vec<Measure> {
    let Some(range) = kernel.ports else { return Vec::new() };
    let mut by_address: HashMap<SocketAddr, (String, u64, u64)> = HashMap::new();
    for (pool, state) in picture.pools.iter().filter(|(_, state)| state.source_addresses > 0) {
        for backend in &state.backends {
            let Some(address) = backend.address else { continue };
            if backend.open == 0 && !kernel.time_wait.contains_key(&address) {
                continue;
            }
            let limit = range * state.source_addresses as u64;
            let name = || (format!("{pool}/{}", backend.name), 0, limit);
            let entry = by_address.entry(address).or_insert_with(name);
            entry.1 += backend.open;
            entry.2 = entry.2.max(limit);
        }
    }
    let all = by_address.into_iter().map(|(address, (name, open, limit))| {
        let waiting = kernel.time_wait.get(&address).copied().unwrap_or_default();
        Measure::new(Resource::SourcePorts, Some(name.into()), [open + waiting, limit])
    });
    scarcest(all.collect())
}

/// The fullest socket of each listener: each worker has its own.
fn accept_queues(picture: &Picture, kernel: &KernelPicture) -> Vec<Measure> {
    let fullest = |listener: &super::picture::ListenerPicture| {
        let queues = kernel.accept_queues.iter().filter(|queue| listener.addresses.contains(&queue.address));
        let queue = queues.max_by_key(|queue| (queue.waiting, std::cmp::Reverse(queue.limit)))?;
        let name = Some(Arc::clone(&listener.name));
        Some(Measure::new(Resource::AcceptQueue, name, [queue.waiting, queue.limit].map(u64::from)))
    };
    scarcest(picture.listeners.iter().filter_map(fullest).collect())
}

fn scarcest(mut measures: Vec<Measure>) -> Vec<Measure> {
    measures.sort_by(|a, b| b.share().total_cmp(&a.share()).then_with(|| a.cmp(b)));
    measures.truncate(LISTED);
    measures
}

/// The used amounts of a resource, the oldest first.
type Readings = VecDeque<(Instant, u64)>;

/// The values of the last minutes of each resource.
#[derive(Debug, Default)]
pub(super) struct Trends(BTreeMap<(Resource, Option<Arc<str>>), Readings>);

impl Trends {
    /// Adds the current values; resources without one are forgotten.
    pub(super) fn take(&mut self, at: Instant, measures: &[Measure]) {
        let mut before = std::mem::take(&mut self.0);
        for measure in measures {
            let mut values = before.remove(&measure.key()).unwrap_or_default();
            while values.front().is_some_and(|(then, _)| at.saturating_duration_since(*then) > KEPT) {
                values.pop_front();
            }
            values.push_back((at, measure.used));
            self.0.insert(measure.key(), values);
        }
    }

    /// The resources with their growth, the scarcest first.
    pub(super) fn capacity(&self, measures: &[Measure]) -> Vec<CapacityInfo> {
        let mut all: Vec<_> = measures.iter().map(|measure| self.info(measure)).collect();
        all.sort_by(|a, b| b.share.total_cmp(&a.share));
        all
    }

    fn info(&self, measure: &Measure) -> CapacityInfo {
        let growth = self.0.get(&measure.key()).and_then(|values| growth(values, measure.limit));
        let left = measure.limit.saturating_sub(measure.used) as f64;
        CapacityInfo {
            resource: measure.resource.name().into(),
            subject: measure.subject.clone(),
            used: measure.used,
            limit: measure.limit,
            unit: unit(measure.resource).into(),
            share: measure.share(),
            growth_per_minute: growth.map(|per_second| per_second * 60.0),
            exhausted_in_seconds: growth.map(|per_second| left / per_second).filter(|left| *left <= FAR),
        }
    }

    /// The resources that are nearly used up, or soon will be.
    pub(super) fn findings(&self, measures: &[Measure], findings: &mut Vec<Finding>) {
        findings.extend(measures.iter().filter_map(|measure| scarce(measure, &self.info(measure))));
    }
}

/// The growth per second; `None`: the values do not grow noticeably. It is the lower one of the whole time and of its
/// second half: a load that has just begun has grown, but no longer grows.
fn growth(values: &VecDeque<(Instant, u64)>, limit: u64) -> Option<f64> {
    let time = values.back()?.0.saturating_duration_since(values.front()?.0);
    if time < LEAST {
        return None;
    }
    let all: Vec<_> = values.iter().copied().collect();
    let slope = slope(&all).min(slope(&all[all.len() / 2..]));
    (slope * time.as_secs_f64() >= NOISE * limit as f64 && slope > 0.0).then_some(slope)
}

/// The slope of the line that fits the values best (least squares), per second.
fn slope(values: &[(Instant, u64)]) -> f64 {
    let first = values[0].0;
    let points =
        || values.iter().map(|(at, used)| (at.saturating_duration_since(first).as_secs_f64(), *used as f64));
    let n = values.len() as f64;
    let mean = |of: fn((f64, f64)) -> f64| points().map(of).sum::<f64>() / n;
    let (mean_time, mean_used) = (mean(|point| point.0), mean(|point| point.1));
    let deviation: f64 = points().map(|(time, used)| (time - mean_time) * (used - mean_used)).sum();
    let spread: f64 = points().map(|(time, _)| (time - mean_time).powi(2)).sum();
    if spread > 0.0 { deviation / spread } else { 0.0 }
}

/// The shares from which a resource is nearly used up, as a warning and as critical.
fn thresholds(resource: Resource) -> [f64; 2] {
    match resource {
        // As in the alerts PointsmanNearMaxConnections and PointsmanAtMaxConnections: clients wait or are reset at the limit.
        Resource::Connections | Resource::ListenerConnections => [0.8, 1.0],
        // Each connection needs two, and checks and the log need some: the last 5 % are used up quickly.
        Resource::OpenFiles => [0.8, 0.95],
        // The kernel searches longer for a free port as they become few, and then refuses.
        Resource::SourcePorts => [0.8, 0.95],
        // A queue is emptied many times a second: one that is half full means that workers cannot keep up.
        Resource::AcceptQueue => [0.5, 1.0],
        // A full table drops packets of all programs on the machine.
        Resource::Conntrack => [0.8, 0.95],
        // The kernel kills the process at the limit.
        Resource::Memory => [0.85, 0.95],
        // Many programs fail on a full disk; this one drops log lines.
        Resource::LogDisk => [0.9, 0.97],
    }
}

fn unit(resource: Resource) -> &'static str {
    match resource {
        Resource::Connections | Resource::ListenerConnections | Resource::AcceptQueue => "connections",
        Resource::OpenFiles => "files",
        Resource::SourcePorts => "ports",
        Resource::Conntrack => "entries",
        Resource::Memory | Resource::LogDisk => "bytes",
    }
}

fn scarce(measure: &Measure, info: &CapacityInfo) -> Option<Finding> {
    let [warning, critical] = thresholds(measure.resource);
    let soon = info.exhausted_in_seconds.filter(|left| *left <= SOON && info.share >= HALF);
    let severity = match info.share {
        share if share >= critical => Severity::Critical,
        share if share >= warning || soon.is_some() => Severity::Warning,
        _ => return None,
    };
    let subject = measure.subject.as_deref().unwrap_or_default();
    let (what, verb) = match measure.resource {
        Resource::Connections => ("the connections that the process may have".to_owned(), "are"),
        Resource::ListenerConnections => (format!("the connections that listener {subject} may have"), "are"),
        Resource::OpenFiles => ("the files that the process may open".to_owned(), "are"),
        Resource::SourcePorts => (format!("the local ports for connections to {subject}"), "are"),
        Resource::AcceptQueue => (format!("the accept queue of listener {subject}"), "is"),
        Resource::Conntrack => ("the kernel's table of tracked connections".to_owned(), "is"),
        Resource::Memory => ("the memory that the process may have".to_owned(), "is"),
        Resource::LogDisk => ("the file system of the log directory".to_owned(), "is"),
    };
    let amounts = match measure.resource {
        Resource::Memory | Resource::LogDisk => [measure.used, measure.limit].map(humanize::bytes),
        _ => [measure.used, measure.limit].map(|n| n.to_string()),
    };
    let left = match info.exhausted_in_seconds {
        Some(left) if info.share < 1.0 => {
            format!(
                "; at its current growth it is used up in {}",
                humanize::duration(Duration::from_secs(left as u64))
            )
        }
        _ => String::new(),
    };
    let sentence = format!(
        "{} of {what} {verb} in use ({} of {}){left}",
        humanize::percent(info.share),
        amounts[0],
        amounts[1]
    );
    let concerned = match (measure.resource, &measure.subject) {
        (Resource::ListenerConnections | Resource::AcceptQueue, Some(listener)) => {
            ProblemSubject::listener(listener)
        }
        (_, Some(backend)) => pool_of(backend),
        (_, None) => ProblemSubject::default(),
    };
    let kind = ProblemKind::Scarce(measure.resource);
    let finding = Finding::new(kind, severity, concerned, sentence, remedy(measure.resource));
    Some(finding.with([("used", measure.used), ("limit", measure.limit)]))
}

/// The pool of `POOL/BACKEND`.
fn pool_of(backend: &str) -> ProblemSubject {
    let pool = backend.split_once('/').map_or(backend, |(pool, _)| pool);
    ProblemSubject::pool(&pool.into())
}

/// What to do when a resource is nearly used up.
fn remedy(resource: Resource) -> &'static str {
    match resource {
        Resource::Connections => {
            "at the limit new clients wait: raise `runtime.max_connections` and the limit of open files, lower \
             `timeouts.idle`, or add an instance"
        }
        Resource::ListenerConnections => {
            "at the limit new clients are reset: raise `max_connections` of the listener; `pointsman connections` shows \
             the clients"
        }
        Resource::OpenFiles => {
            "raise the limit (LimitNOFILE= of systemd, `ulimits` of Compose) and restart, or lower \
             `runtime.max_connections`"
        }
        Resource::SourcePorts => {
            "add addresses to `connect.source` of the pool, widen net.ipv4.ip_local_port_range, or add backends"
        }
        Resource::AcceptQueue => {
            "the workers accept too slowly, or wait because the connection limit is reached: add workers, or raise `backlog`"
        }
        Resource::Conntrack => {
            "the kernel drops packets when the table is full: raise net.netfilter.nf_conntrack_max, or exempt these \
             connections from tracking"
        }
        Resource::Memory => {
            "raise the limit of the container or service, lower `runtime.max_connections`, or add an instance"
        }
        Resource::LogDisk => {
            "when it is full, log lines are dropped: free space, or lower `log.max_size` and `log.keep`"
        }
    }
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
