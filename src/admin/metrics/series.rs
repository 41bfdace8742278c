//! Writes families of series from values that were counted elsewhere.

use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::telemetry::histogram::DurationCounts;

/// The labels of one series.
pub(super) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// A counter without labels.
pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), Error> {
    ConstCounter::new(value).encode(describe(encoder, name, help, MetricType::Counter)?)
}

/// A gauge without labels.
pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), Error> {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    ConstGauge::new(value).encode(describe(encoder, name, help, MetricType::Gauge)?)
}

/// A gauge without labels for a time, in seconds since the epoch.
pub(super) fn timestamp(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    seconds: f64,
) -> Result<(), Error> {
    ConstGauge::new(seconds).encode(describe(encoder, name, help, MetricType::Gauge)?)
}

/// Counters of one name.
pub(super) fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
) -> Result<(), Error> {
    let mut family = describe(encoder, name, help, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Gauges of one name.
pub(super) fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
) -> Result<(), Error> {
    let mut family = describe(encoder, name, help, MetricType::Gauge)?;
    for (labels, value) in series {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Histograms of one name, one for each pool.
pub(super) fn histograms<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (&'a str, &'a Histogram)>,
) -> Result<(), Error> {
    let mut family = describe(encoder, name, help, MetricType::Histogram)?;
    for (pool, histogram) in series {
        histogram.encode(family.encode_family(&[("pool", pool)])?)?;
    }
    Ok(())
}

/// Histograms of one name, one for each backend with at least one value.
pub(super) fn durations<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a, 2>, DurationCounts)>,
) -> Result<(), Error> {
    let mut family = describe(encoder, name, help, MetricType::Histogram)?;
    for (labels, counts) in series.into_iter().filter(|(_, counts)| counts.total() > 0) {
        let mut series = family.encode_family(&labels)?;
        series.encode_histogram::<NoLabelSet>(counts.seconds(), counts.total(), &counts.buckets(), None)?;
    }
    Ok(())
}

/// Begins a family. Its name ends with its unit, if it has one.
fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, Error> {
    for (suffix, unit) in [("_seconds", &Unit::Seconds), ("_bytes", &Unit::Bytes)] {
        if let Some(name) = name.strip_suffix(suffix) {
            return encoder.encode_descriptor(name, help, Some(unit), kind);
        }
    }
    encoder.encode_descriptor(name, help, None, kind)
}
