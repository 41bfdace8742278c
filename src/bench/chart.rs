//! The report as a chart: the share of each backend, and the latency.

use super::report::{BackendShare, BackendShares, BenchReport, Percentiles};
use super::table::rate;
use crate::chart::{Bar, BarGroup, COLORS, Chart, Error, ImageFormat, Panel};
use crate::humanize::{percent, time};

impl BenchReport {
    /// The chart, as the content of a file.
    pub fn chart(&self, format: ImageFormat) -> Result<Vec<u8>, Error> {
        let mut totals = format!(
            "{} done in {}, {} a second; {} succeeded, {} failed",
            self.done,
            time(self.elapsed_s * 1e3),
            rate(self.requests_per_second),
            self.succeeded,
            self.failed
        );
        let kinds: Vec<_> = self.failures.iter().map(|f| format!("{} {}", f.count, f.kind)).take(3).collect();
        if !kinds.is_empty() {
            totals += &format!(" ({})", kinds.join(", "));
        }
        if self.interrupted {
            totals += "; interrupted";
        }
        let mut panels = Vec::new();
        panels.extend(self.backends.as_ref().filter(|backends| !backends.all.is_empty()).map(shares));
        panels.extend(self.latency_ms.map(|latency| self.latency(&latency)));
        let title = format!("pointsman bench {}", self.target);
        Chart { title, about: vec![self.plan(), totals], panels }.render(format)
    }

    fn latency(&self, latency: &Percentiles) -> Panel {
        type Of = fn(&Percentiles) -> f64;
        let of: [(&str, Of); 6] = [
            ("mean", |of| of.mean),
            ("p50", |of| of.p50),
            ("p90", |of| of.p90),
            ("p99", |of| of.p99),
            ("p99.9", |of| of.p999),
            ("max", |of| of.max),
        ];
        let series: Vec<&Percentiles> = [latency].into_iter().chain(&self.service_ms).collect();
        let group = |(label, of): (&str, Of)| {
            let bar = |(series, color): (&&Percentiles, _)| {
                let value = of(series);
                Bar { color, value, label: time(value) }
            };
            let bars = series.iter().zip([COLORS[2], COLORS[6]]).map(bar).collect();
            BarGroup { label: label.to_owned(), bars, mark: None }
        };
        let title = match self.service_ms {
            Some(_) => "latency since the request was due; gray: since it was sent",
            None => "latency since the request was sent (closed loop)",
        };
        Panel::new(title.to_owned(), of.map(group).into(), time)
    }
}

fn shares(backends: &BackendShares) -> Panel {
    let total: u64 = backends.all.iter().map(|share| share.requests).sum();
    let even = total as f64 / backends.all.len() as f64;
    let group = |share: &BackendShare| {
        let label = format!("{} ({})", share.requests, percent(share.share));
        let bars = vec![Bar { color: COLORS[0], value: share.requests as f64, label }];
        BarGroup { label: share.name.clone(), bars, mark: Some(even) }
    };
    let counted = if backends.by.starts_with("admin") { "connections of" } else { "requests answered by" };
    let mut title = format!("{counted} each backend (by {}); the line is an even share", backends.by);
    if backends.unknown > 0 {
        title += &format!("; {} by unknown ones", backends.unknown);
    }
    let groups = backends.all.iter().map(group).collect();
    Panel::new(title, groups, |number| format!("{number}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    fn svg(report: &BenchReport) -> String {
        String::from_utf8(report.chart(ImageFormat::Svg).unwrap()).unwrap()
    }

    #[test]
    fn a_chart_shows_the_share_of_each_backend_and_the_latency() {
        let svg = svg(&report(&[("one", 6), ("two", 3)]));
        for words in ["6 (66.7 %)", "3 (33.3 %)", "one", "two", "p99.9", "9 done", "pointsman bench http://"]
        {
            assert!(svg.contains(words), "{words} is not in\n{svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_backend_name_is_escaped() {
        let svg = svg(&report(&[("<script>&", 1), ("b", 1)]));
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;&amp;"), "{svg}");
    }

    #[test]
    fn a_test_without_responses_has_a_chart() {
        let mut report = report(&[]);
        (report.backends, report.latency_ms, report.succeeded) = (None, None, 0);
        assert!(svg(&report).contains("0 succeeded"));
        assert!(report.chart(ImageFormat::Png).is_ok());
    }
}
