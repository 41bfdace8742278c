//! `/metrics`: everything is read from the program's own counters when it is asked for, so nothing is counted
//! twice, nothing is stale, and the series of a backend end with it.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::overview::Overview;
use crate::pool::{Pool, State};
use crate::telemetry::flow::Reading;
use crate::telemetry::process::Process;
use crate::telemetry::{CloseReason, ConnectError, log};

/// The content type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of the process.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Metrics of what `overview` shows.
    pub fn new(overview: Arc<Overview>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Balancer(overview)));
        registry.register_collector(Box::new(Process::new()));
        Self(registry)
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> Result<String, Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Balancer(Arc<Overview>);

/// Labels and value of one series.
type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// A counter without labels.
fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), Error> {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

/// A gauge without labels.
fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), Error> {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn histograms<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (&'a str, &'a Histogram)>,
) -> Result<(), Error> {
    let mut family: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (pool, histogram) in series {
        histogram.encode(family.encode_family(&[("pool", pool)])?)?;
    }
    Ok(())
}

/// The counters of each way: listener, pool and backend; the backend is empty for those that reached none.
type Ways = BTreeMap<(Arc<str>, Arc<str>, Arc<str>), Reading>;

fn ways(pools: &BTreeMap<Arc<str>, Arc<Pool>>) -> Ways {
    let mut ways = Ways::new();
    for pool in pools.values() {
        let mut add = |backend: &Arc<str>, readings: &mut dyn Iterator<Item = (Arc<str>, Reading)>| {
            for (listener, reading) in readings {
                *ways.entry((listener, Arc::clone(&pool.name), Arc::clone(backend))).or_default() += reading;
            }
        };
        add(&Arc::from(""), &mut pool.unserved.read().into_iter());
        for (name, totals) in pool.roster().totals() {
            add(&name, &mut totals.ways.into_iter());
        }
    }
    ways
}

impl Collector for Balancer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let e = &mut encoder;
        let pools = self.0.pools.load();
        let ways = ways(&pools);
        counters(
            e,
            "pointsman_connections",
            "Connections that ended, by reason",
            ways.iter().flat_map(|((listener, pool, backend), reading)| {
                CloseReason::ALL.into_iter().filter(|reason| reading.closed[reason.index()] > 0).map(
                    move |reason| {
                        let labels = [
                            ("listener", &**listener),
                            ("pool", &**pool),
                            ("backend", &**backend),
                            ("reason", reason.name()),
                        ];
                        (labels, reading.closed[reason.index()])
                    },
                )
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
            "Bytes relayed; in: from clients to backends, out: back",
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
        )?;
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
        let resolutions: Vec<_> = each().map(|(name, c)| (name, c.resolutions())).collect();
        counters(
            e,
            "pointsman_resolutions",
            "Rounds of discovery, by what they found",
            resolutions.iter().flat_map(|(name, found)| {
                found.iter().map(move |(result, n)| ([("pool", *name), ("result", *result)], *n))
            }),
        )?;
        gauges(
            e,
            "pointsman_queue_length",
            "Clients that wait for a place at a backend",
            pools.values().map(|pool| ([("pool", &*pool.name)], pool.queue.len() as u64)),
        )?;
        self.backends(e, &pools)?;
        gauge(e, "pointsman_ready", "Whether traffic should be sent here", u64::from(self.0.ready()))?;
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
            "Log lines that could not be written in time",
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

impl Balancer {
    fn backends(
        &self,
        e: &mut DescriptorEncoder<'_>,
        pools: &BTreeMap<Arc<str>, Arc<Pool>>,
    ) -> Result<(), Error> {
        let rosters: Vec<_> = pools.iter().map(|(name, pool)| (name, pool.roster())).collect();
        let mut states: BTreeMap<(&str, &str), Vec<State>> = BTreeMap::new();
        let mut checks: BTreeMap<(&str, &str, &'static str), u64> = BTreeMap::new();
        let mut failures: BTreeMap<(&str, &str, &'static str), u64> = BTreeMap::new();
        for (pool, roster) in &rosters {
            for entry in &roster.members {
                let name = &*entry.backend.name;
                states.entry((pool, name)).or_default().push(entry.state);
            }
        }
        let totals: Vec<_> = rosters.iter().map(|(name, roster)| (name, roster.totals())).collect();
        for (pool, totals) in &totals {
            for (name, totals) in totals {
                checks.insert((pool, name, "pass"), totals.passed);
                checks.insert((pool, name, "fail"), totals.failed);
                checks.insert((pool, name, "local"), totals.local);
                let failed = ConnectError::ALL.into_iter().zip(totals.failures).filter(|(_, n)| *n > 0);
                failures.extend(failed.map(|(kind, n)| ((&****pool, &**name, kind.name()), n)));
            }
        }
        let living = || State::ALL.into_iter().filter(|state| *state != State::Gone);
        gauges(
            e,
            "pointsman_backend_state",
            "1 for the state that a backend is in, 0 for the others",
            states.iter().flat_map(|((pool, backend), now)| {
                living().map(move |state| {
                    let labels = [("pool", *pool), ("backend", *backend), ("state", state.name())];
                    (labels, u64::from(now.contains(&state)))
                })
            }),
        )?;
        gauges(
            e,
            "pointsman_backends",
            "Backends, by state",
            rosters.iter().flat_map(|(pool, roster)| {
                living().map(move |state| {
                    let n = roster.members.iter().filter(|entry| entry.state == state).count();
                    ([("pool", &***pool), ("state", state.name())], n as u64)
                })
            }),
        )?;
        counters(
            e,
            "pointsman_health_checks",
            "Health checks, by result; local: without one, for a reason of our own",
            checks.iter().map(|((pool, backend, result), n)| {
                ([("pool", *pool), ("backend", *backend), ("result", *result)], *n)
            }),
        )?;
        counters(
            e,
            "pointsman_connect_failures",
            "Attempts to connect to a backend that failed, by kind",
            failures.iter().map(|((pool, backend, error), n)| {
                ([("pool", *pool), ("backend", *backend), ("error", *error)], *n)
            }),
        )
    }
}
