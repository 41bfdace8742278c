//! The series of listeners, pools and the process as a whole.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::backends;
use super::series::{counter, counters, gauge, gauges, histograms, timestamp};
use crate::discovery::Outcome;
use crate::domain::CloseReason;
use crate::overview::Overview;
use crate::pool::Pool;
use crate::replicas::FleetStatus;
use crate::telemetry::flow::Reading;
use crate::telemetry::log;

/// Collects what an overview shows.
#[derive(Debug)]
pub(super) struct Balancer(Arc<Overview>);

type Pools = BTreeMap<Arc<str>, Arc<Pool>>;

/// The counters of each way: listener, pool and backend; the backend is empty for those that reached none.
type Ways = BTreeMap<(Arc<str>, Arc<str>, Arc<str>), Reading>;

fn ways(pools: &Pools) -> Ways {
    let mut ways = Ways::new();
    for pool in pools.values() {
        let mut add = |backend: &Arc<str>, readings: &mut dyn Iterator<Item = (Arc<str>, Reading)>| {
            for (listener, reading) in readings {
                *ways.entry((listener, Arc::clone(&pool.name), Arc::clone(backend))).or_default() += reading;
            }
        };
        add(&Arc::from(""), &mut pool.unserved.read().into_iter());
        for (name, totals) in pool.status().totals() {
            add(&name, &mut totals.ways.into_iter());
        }
    }
    ways
}

impl Collector for Balancer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let e = &mut encoder;
        let pools = self.0.pools.load();
        connections(e, &pools)?;
        durations(e, &pools)?;
        of_pools(e, &pools)?;
        backends::encode(e, &pools)?;
        replicas(e, &self.0)?;
        self.listeners(e)?;
        self.configuration(e)?;
        self.process(e)
    }
}

fn connections(e: &mut DescriptorEncoder<'_>, pools: &Pools) -> Result<(), Error> {
    let ways = ways(pools);
    counters(
        e,
        "pointsman_connections",
        "Connections that ended, by reason",
        ways.iter().flat_map(|((listener, pool, backend), reading)| {
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
        "pointsman_connections_active",
        "Connections that are open",
        ways.iter().map(|((listener, pool, backend), reading)| {
            ([("listener", &**listener), ("pool", &**pool), ("backend", &**backend)], reading.active)
        }),
    )?;
    counters(
        e,
        "pointsman_bytes",
        "Bytes written; in: from clients to backends, out: from backends to clients",
        ways.iter().flat_map(|((listener, pool, backend), reading)| {
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
        "pointsman_connect_duration_seconds",
        "Time to connect to a backend",
        each().map(|(name, c)| (name, &c.connect)),
    )?;
    histograms(
        e,
        "pointsman_first_byte_duration_seconds",
        "Time from the routing decision to the backend's first byte",
        each().map(|(name, c)| (name, &c.first_byte)),
    )?;
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
        "Time that health checks waited for a place among those under way (runtime.max_checks)",
        each().map(|(name, c)| (name, &c.check_delay)),
    )
}

fn of_pools(e: &mut DescriptorEncoder<'_>, pools: &Pools) -> Result<(), Error> {
    let each = || pools.values().map(|pool| (&*pool.name, &pool.counters));
    counters(
        e,
        "pointsman_failures_masked",
        "Failed attempts that no client learned of, because another backend served it",
        each().map(|(name, c)| ([("pool", name)], c.failures_masked())),
    )?;
    counters(
        e,
        "pointsman_failures_seen",
        "Failures that clients met",
        each().flat_map(|(name, c)| {
            c.failures_seen().map(move |(reason, n)| ([("pool", name), ("reason", reason.name())], n))
        }),
    )?;
    counters(
        e,
        "pointsman_resolutions",
        "Rounds of discovery, by what they found",
        each().flat_map(|(name, c)| {
            let found = c.resolutions();
            Outcome::RESULTS.map(|result| {
                ([("pool", name), ("result", result)], found.get(result).copied().unwrap_or_default())
            })
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
        "Sources of backends whose last answer says nothing about who is there",
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
        "Clients that wait for a place at a backend",
        pools.values().map(|pool| ([("pool", &*pool.name)], pool.queue.len() as u64)),
    )?;
    gauges(
        e,
        "pointsman_pool_service",
        "1 for those who serve a pool's clients, 0 for the others; all: too few are up, so all backends are used",
        pools.values().flat_map(|pool| {
            let snapshot = pool.snapshot();
            let now = match () {
                () if snapshot.is_empty() => "nobody",
                () if snapshot.panic => "all",
                () if snapshot.backups => "backups",
                () => "primaries",
            };
            ["nobody", "primaries", "backups", "all"]
                .map(|mode| ([("pool", &*pool.name), ("mode", mode)], u64::from(mode == now)))
        }),
    )
}

/// Those that Pointsman itself starts.
fn replicas(e: &mut DescriptorEncoder<'_>, overview: &Overview) -> Result<(), Error> {
    let replicas = overview.replicas.load();
    let boards: Vec<_> = replicas.iter().map(|(pool, replicas)| (&**pool, replicas.status())).collect();
    let each = |value: fn(&FleetStatus) -> usize| {
        boards.iter().map(move |(pool, board)| ([("pool", *pool)], value(board) as u64)).collect::<Vec<_>>()
    };
    gauges(
        e,
        "pointsman_replicas",
        "Containers of the pool's own that run and are not being taken out",
        each(|board| board.group.running),
    )?;
    let help = "Containers of its own that it is to have";
    gauges(e, "pointsman_replicas_wanted", help, each(|board| board.group.wanted))?;
    counters(
        e,
        "pointsman_replica_respawns",
        "Containers of its own that died and were replaced",
        boards.iter().map(|(pool, board)| ([("pool", *pool)], board.group.respawns)),
    )
}

impl Balancer {
    /// Of what `overview` shows.
    pub(super) fn new(overview: Arc<Overview>) -> Self {
        Self(overview)
    }

    fn listeners(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let listeners = self.0.listeners.load();
        let each = || listeners.iter().map(|(listener, _)| (&*listener.name, listener));
        gauges(
            e,
            "pointsman_listener_connections",
            "Connections of a listener that are open",
            each().map(|(name, listener)| ([("listener", name)], listener.active() as u64)),
        )?;
        gauges(
            e,
            "pointsman_listener_max_connections",
            "Connections that a listener admits at once, where it has a limit of its own",
            each().filter_map(|(name, listener)| {
                let limit = listener.settings.load().max_connections?;
                Some(([("listener", name)], limit as u64))
            }),
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
            "Whether the configuration that was given last is the one at work",
            u64::from(reloads.last_succeeded()),
        )?;
        timestamp(
            e,
            "pointsman_config_last_reload_success_timestamp_seconds",
            "When the configuration at work was read, in seconds since the epoch",
            reloads.last_success(),
        )
    }

    fn process(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        gauge(e, "pointsman_ready", "Whether traffic should be sent here", u64::from(self.0.ready()))?;
        gauge(
            e,
            "pointsman_connections_open",
            "Connections that count towards pointsman_max_connections, of pools that were removed too",
            self.0.limit.open() as u64,
        )?;
        gauge(
            e,
            "pointsman_max_connections",
            "Connections that the process relays at once",
            self.0.limit.connections as u64,
        )?;
        let copied = self.0.workers.iter().map(|worker| worker.bursts_copied.load(Ordering::Relaxed)).sum();
        counter(
            e,
            "pointsman_bursts_copied",
            "Bursts that were copied through memory, for want of a pipe to splice them through",
            copied,
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
