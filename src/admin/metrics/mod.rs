//! `/metrics`: each request reads the program's own counters, so nothing is counted twice, nothing is stale, and the
//! series of a backend end when it leaves.
//!
//! Names, units and labels follow Prometheus' conventions (<https://prometheus.io/docs/practices/naming/>). The values
//! of every label come from the configuration, from a list in this program, or from the present backends. They never
//! come from clients or connections, so their number is bounded.

mod backends;
mod balancer;
mod plain;
mod series;

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::registry::Registry;

use crate::overview::Overview;
use crate::problems::Problems;
use crate::telemetry::process::Process;

/// The metrics of the process.
#[derive(Debug)]
pub(crate) struct Metrics(Registry);

/// The format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.0, which Prometheus requests.
    OpenMetrics,
    /// The older text format of Prometheus, version 0.0.4.
    Plain,
}

impl Format {
    /// The format for a client that sends this `Accept` header: OpenMetrics, unless the header has only other text
    /// types, as that of tools that read only the older format and of browsers, which would download OpenMetrics.
    pub(crate) fn accepted_by(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default().to_ascii_lowercase();
        let accepted = |kind: &str| accept.split(',').any(|one| one.trim_start().starts_with(kind));
        if !accepted("application/openmetrics-text") && accepted("text/") {
            Self::Plain
        } else {
            Self::OpenMetrics
        }
    }

    /// Its content type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Metrics {
    /// Metrics of what `overview` shows, and of its problems.
    pub(crate) fn new(overview: Arc<Overview>, problems: Problems) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(balancer::Balancer::new(overview, problems)));
        registry.register_collector(Box::new(Process::new()));
        Self(registry)
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self, format: Format) -> Result<String, Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Plain => plain::from_open_metrics(&text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_names_only_the_older_format_gets_it_and_any_other_open_metrics() {
        for (accept, format) in [
            (None, Format::OpenMetrics),
            (Some("*/*"), Format::OpenMetrics),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            // Prometheus 2 and 3.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                     text/plain;version=1.0.0;q=0.3, text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (Some("text/plain"), Format::Plain),
            (Some("Text/Plain; version=0.0.4"), Format::Plain),
            (
                Some(
                    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.7,\
                     text/plain;version=0.0.4;q=0.3",
                ),
                Format::Plain,
            ),
            (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), Format::Plain),
        ] {
            assert_eq!(Format::accepted_by(accept), format, "{accept:?}");
        }
    }
}
