//! The series of listeners, pools and the process as a whole.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use litemap::LiteMap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::backends;
use super::series::{counter, counters, gauge, gauges, histograms, timestamp};
use crate::domain::{CloseReason, ListenerState, ServingTier, Severity, SocketAddress};
use crate::overview::Overview;
use crate::pool::Pool;
use crate::problems::Problems;
use crate::proxy::listener::Listener;
use crate::replicas::FleetStatus;
use crate::telemetry::flow::Reading;
use crate::telemetry::log;

/// Collects the metrics of an overview.
#[derive(Debug)]
pub(super) struct Balancer(Arc<Overview>, Problems);

type Pools = LiteMap<Arc<str>, Arc<Pool>>;
type Listeners = [(Arc<Listener>, Vec<SocketAddress>)];

/// Counters by listener, pool and backend; the backend is empty for connections that reached none, and the pool for those
/// that ended before it was known.
type FlowReadings = BTreeMap<(Arc<str>, Arc<str>, Arc<str>), Reading>;

fn flow_readings(pools: &Pools, listeners: &Listeners) -> FlowReadings {
    let mut readings = FlowReadings::new();
    let none: Arc<str> = Arc::from("");
    for (listener, _) in listeners {
        let reading = listener.without_pool.read();
        if reading.total() > 0 || listener.settings.load().routing.only().is_none() {
            let key = (Arc::clone(&listener.name), Arc::clone(&none), Arc::clone(&none));
            readings.insert(key, reading);
        }
    }
    for pool in pools.values() {
        let mut add = |backend: &Arc<str>, by_listener: &mut dyn Iterator<Item = (Arc<str>, Reading)>| {
            for (listener, reading) in by_listener {
                let key = (listener, Arc::clone(&pool.name), Arc::clone(backend));
                *readings.entry(key).or_default() += reading;
            }
        };
        add(&none, &mut pool.unserved.read().into_iter());
        for (name, totals) in pool.status().totals() {
            add(&name, &mut totals.by_listener.into_iter());
        }
    }
    readings
}

impl Collector for Balancer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let e = &mut encoder;
        let pools = self.0.pools.load();
        connections(e, &flow_readings(&pools, &self.0.listeners.load()))?;
        durations(e, &pools)?;
        of_pools(e, &pools, &self.0.listeners.load())?;
        backends::encode(e, &pools)?;
        replicas(e, &self.0)?;
        self.listeners(e)?;
        self.configuration(e)?;
        self.process(e)
    }
}

fn connections(e: &mut DescriptorEncoder<'_>, readings: &FlowReadings) -> Result<(), Error> {
    counters(
        e,
        "pointsman_connections_opened",
        "Connections that were routed to a backend; without a backend: that reached none",
        readings.iter().map(|((listener, pool, backend), reading)| {
            let labels = [("listener", &**listener), ("pool", &**pool), ("backend", &**backend)];
            (labels, reading.total())
        }),
    )?;
    counters(
        e,
        "pointsman_connections_closed",
        "Connections that were closed, by reason",
        readings.iter().flat_map(|((listener, pool, backend), reading)| {
            let ended = CloseReason::ALL.into_iter().filter(|reason| reading.closed[reason.index()] > 0);
            ended.map(move |reason| {
                let labels = [
                    ("listener", &**listener),
                    ("pool", &**pool),
                    ("backend", &**backend),
                    ("reason", reason.name()),
                ];
                (labels, reading.closed[reason.index()])
            })
        }),
    )?;
    gauges(
        e,
        "pointsman_connections_open",
        "Open connections, by listener, pool and backend",
        readings.iter().map(|((listener, pool, backend), reading)| {
            ([("listener", &**listener), ("pool", &**pool), ("backend", &**backend)], reading.active)
        }),
    )?;
    counters(
        e,
        "pointsman_relayed_bytes",
        "Bytes written; in: from clients to backends, out: from backends to clients",
        readings.iter().flat_map(|((listener, pool, backend), reading)| {
            let labels = move |direction| {
                [
                    ("listener", &**listener),
                    ("pool", &**pool),
                    ("backend", &**backend),
                    ("direction", direction),
                ]
            };
            [(labels("in"), reading.bytes_in), (labels("out"), reading.bytes_out)]
        }),
    )
}

fn durations(e: &mut DescriptorEncoder<'_>, pools: &Pools) -> Result<(), Error> {
    let each = || pools.values().map(|pool| (&*pool.name, &pool.counters));
    histograms(
        e,
        "pointsman_connection_duration_seconds",
        "Time from accept to end",
        each().map(|(name, c)| (name, &c.connection)),
    )?;
    histograms(
        e,
        "pointsman_health_check_duration_seconds",
        "Duration of health checks",
        each().map(|(name, c)| (name, &c.check)),
    )?;
    histograms(
        e,
        "pointsman_health_check_delay_seconds",
        "Time that health checks waited for a free check slot (runtime.max_checks)",
        each().map(|(name, c)| (name, &c.check_delay)),
    )
}

fn of_pools(e: &mut DescriptorEncoder<'_>, pools: &Pools, listeners: &Listeners) -> Result<(), Error> {
    let mut without_pool: LiteMap<&str, u64> = LiteMap::new();
    for (reason, n) in listeners.iter().flat_map(|(listener, _)| listener.failures_without_pool()) {
        *without_pool.entry(reason.name()).or_default() += n;
    }
    let each = || pools.values().map(|pool| (&*pool.name, &pool.counters));
    counters(
        e,
        "pointsman_failures_retried",
        "Failed attempts that were retried on another backend with success, so that the client saw no error",
        each().map(|(name, c)| ([("pool", name)], c.failures_masked())),
    )?;
    counters(
        e,
        "pointsman_connections_overflowed",
        "Connections that a backup got because no other backend had room",
        each().map(|(name, c)| ([("pool", name)], c.overflowed())),
    )?;
    counters(
        e,
        "pointsman_client_visible_failures",
        "Failures that clients saw, by reason; without a pool: before it was known",
        each()
            .flat_map(|(name, c)| {
                c.failures_seen().map(move |(reason, n)| ([("pool", name), ("reason", reason.name())], n))
            })
            .chain(without_pool.iter().map(|(reason, n)| ([("pool", ""), ("reason", *reason)], *n))),
    )?;
    counters(
        e,
        "pointsman_connections_without_answer",
        "Connections that the client or the backend closed after the client had sent bytes and before any came back",
        each().map(|(name, c)| ([("pool", name)], c.unanswered())),
    )?;
    counters(
        e,
        "pointsman_resolutions",
        "Rounds of discovery, by what they found",
        each().flat_map(|(name, c)| {
            c.resolutions().map(move |(result, n)| ([("pool", name), ("result", result.name())], n))
        }),
    )?;
    counters(
        e,
        "pointsman_health_checks_late",
        "Health checks that began later than half of their interval after they were due",
        each().map(|(name, c)| ([("pool", name)], c.checks_late())),
    )?;
    gauges(
        e,
        "pointsman_sources_failing",
        "Sources of backends whose last query failed",
        each().map(|(name, c)| ([("pool", name)], c.sources_failing() as u64)),
    )?;
    counters(
        e,
        "pointsman_backends_joined",
        "Backends that were found",
        each().map(|(name, c)| ([("pool", name)], c.churn().0)),
    )?;
    counters(
        e,
        "pointsman_backends_left",
        "Backends that are gone",
        each().map(|(name, c)| ([("pool", name)], c.churn().1)),
    )?;
    gauges(
        e,
        "pointsman_queue_length",
        "Clients that wait in the queue",
        pools.values().map(|pool| ([("pool", &*pool.name)], pool.queue.len() as u64)),
    )?;
    gauges(
        e,
        "pointsman_pool_serving_tier",
        "1 for the tier that serves a pool's clients, 0 for the others; all: too few are up, so all backends are \
         used; all_zones: too few of the local zone are up, so other zones are used too",
        pools.values().flat_map(|pool| {
            let snapshot = pool.snapshot();
            let now = snapshot.serving_tier().name();
            ServingTier::ALL
                .map(ServingTier::name)
                .map(|tier| ([("pool", &*pool.name), ("tier", tier)], u64::from(tier == now)))
        }),
    )
}

/// The series of the replicas.
fn replicas(e: &mut DescriptorEncoder<'_>, overview: &Overview) -> Result<(), Error> {
    let replicas = overview.replicas.load();
    let statuses: Vec<_> = replicas.iter().map(|(pool, replicas)| (&**pool, replicas.status())).collect();
    let each = |value: fn(&FleetStatus) -> usize| {
        statuses
            .iter()
            .map(move |(pool, status)| ([("pool", *pool)], value(status) as u64))
            .collect::<Vec<_>>()
    };
    gauges(
        e,
        "pointsman_replicas",
        "Replicas of the pool that run, without those that are being removed",
        each(|status| status.group.running),
    )?;
    let help = "Replicas that the pool should have";
    gauges(e, "pointsman_replicas_wanted", help, each(|status| status.group.wanted))?;
    counters(
        e,
        "pointsman_replica_respawns",
        "Replicas that ended and were replaced",
        statuses.iter().map(|(pool, status)| ([("pool", *pool)], status.group.respawns)),
    )
}

impl Balancer {
    /// A collector of the metrics of `overview` and its problems.
    pub(super) fn new(overview: Arc<Overview>, problems: Problems) -> Self {
        Self(overview, problems)
    }

    fn listeners(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let listeners = self.0.listeners.load();
        let each = || listeners.iter().map(|(listener, _)| (&*listener.name, listener));
        counters(
            e,
            "pointsman_listener_connections_accepted",
            "Connections that a listener accepted, whatever became of them",
            each().map(|(name, listener)| ([("listener", name)], listener.accepted())),
        )?;
        gauges(
            e,
            "pointsman_listener_connections_open",
            "Open connections of a listener",
            each().map(|(name, listener)| ([("listener", name)], listener.active() as u64)),
        )?;
        gauges(
            e,
            "pointsman_listener_draining",
            "Whether an operator drains a listener: it accepts no new connections",
            each().map(|(name, listener)| {
                ([("listener", name)], u64::from(listener.state() == ListenerState::Draining))
            }),
        )?;
        gauges(
            e,
            "pointsman_listener_connections_max",
            "The limit of open connections, of listeners that have their own",
            each().filter_map(|(name, listener)| {
                let limit = listener.settings.load().max_connections?;
                Some(([("listener", name)], limit as u64))
            }),
        )?;
        counters(
            e,
            "pointsman_listener_connections_over_client_limit",
            "Connections over a limit of per_client (connections, rate): reset, or with dry_run only counted",
            each().filter(|(_, listener)| listener.settings.load().per_client.is_some()).flat_map(
                |(name, listener)| {
                    listener.clients.over_limits().into_iter().flat_map(move |(limit, over)| {
                        let labels =
                            move |result| [("listener", name), ("limit", limit.name()), ("result", result)];
                        [(labels("reset"), over.reset), (labels("counted"), over.only_counted)]
                    })
                },
            ),
        )?;
        counters(
            e,
            "pointsman_listener_cancel_requests",
            "Requests to cancel a query of PostgreSQL, each of which all backends of its pool got",
            each()
                .map(|(name, listener)| {
                    (([("listener", name)]), listener.cancel_requests.load(Ordering::Relaxed))
                })
                .filter(|(_, requests)| *requests > 0),
        )?;
        counters(
            e,
            "pointsman_listener_bytes_delayed",
            "Bytes that a bandwidth limit of a listener has delayed",
            each().filter(|(_, listener)| listener.settings.load().bandwidth.is_some()).flat_map(
                |(name, listener)| {
                    let [up, down] = listener.bytes_delayed.each_ref().map(|n| n.load(Ordering::Relaxed));
                    let labels = |direction| [("listener", name), ("direction", direction)];
                    [(labels("in"), up), (labels("out"), down)]
                },
            ),
        )
    }

    fn configuration(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let reloads = &self.0.reloads;
        counters(
            e,
            "pointsman_config_reloads",
            "Reloads of the configuration, by what became of them",
            [([("result", "applied")], reloads.applied()), ([("result", "refused")], reloads.refused())],
        )?;
        gauge(
            e,
            "pointsman_config_last_reload_successful",
            "Whether the configuration that was given last is in effect",
            u64::from(reloads.last_succeeded()),
        )?;
        timestamp(
            e,
            "pointsman_config_last_reload_success_timestamp_seconds",
            "When the configuration in effect was read, in seconds since the epoch",
            reloads.last_success(),
        )
    }

    fn process(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        gauge(e, "pointsman_ready", "Whether traffic should be sent here", u64::from(self.0.ready()))?;
        gauges(
            e,
            "pointsman_problems",
            "Present problems by severity, as `pointsman doctor` lists them",
            Severity::ALL.map(|severity| ([("severity", severity.name())], self.1.count(severity))),
        )?;
        gauge(
            e,
            "pointsman_instance_connections_open",
            "Open connections of the whole process, including those of removed pools",
            self.0.limit.open() as u64,
        )?;
        gauge(
            e,
            "pointsman_instance_connections_max",
            "The limit of open connections of the whole process",
            self.0.limit.connections as u64,
        )?;
        let copied = self.0.workers.iter().map(|worker| worker.bursts_copied.load(Ordering::Relaxed)).sum();
        counter(
            e,
            "pointsman_bursts_copied",
            "Bursts that were copied through memory, because no pipe was available to splice them through",
            copied,
        )?;
        let lost = self.0.workers.iter().map(|worker| worker.events_lost.load(Ordering::Relaxed)).sum();
        counter(
            e,
            "pointsman_kernel_events_lost",
            "How often the kernel reported more about the connections that it forwards (plane: kernel) than could be read",
            lost,
        )?;
        let workers = self.0.workers.iter().enumerate().filter_map(|(index, worker)| {
            Some((format!("worker-{index}"), worker.runtime.get()?.num_alive_tasks()))
        });
        let control = ("control".to_owned(), self.0.control.num_alive_tasks());
        let tasks: Vec<_> = workers.chain([control]).collect();
        gauges(
            e,
            "pointsman_tasks",
            "Tasks of the workers, mainly one for each connection, and of the control plane: discovery, checks and pools",
            tasks.iter().map(|(thread, tasks)| ([("thread", thread.as_str())], *tasks as u64)),
        )?;
        counter(
            e,
            "pointsman_log_lines_dropped",
            "Log lines that were lost: they could not be written, or not in time",
            log::dropped_lines(),
        )?;
        gauges(
            e,
            "pointsman_build_info",
            "The running version",
            [([("version", env!("CARGO_PKG_VERSION"))], 1)],
        )
    }
}
