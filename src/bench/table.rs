//! The report as a table of at most 80 columns.

use std::fmt::Write;

use super::report::{BackendShares, BenchReport, Percentiles};
use crate::humanize::{percent, time, unlisted};
use crate::names::shortened;

/// More backends than this are not listed one by one.
const LISTED: usize = 40;
/// The widest name that keeps the columns aligned.
const NAME: usize = 20;
/// Characters of the longest bar.
const BAR: usize = 20;
/// Above this part of the machine's CPU, the test may measure itself.
const BUSY: f64 = 0.8;

impl BenchReport {
    /// The table for a terminal.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "{}", self.target)?;
        writeln!(to, "{}\n", self.plan())?;
        self.write_totals(to)?;
        self.write_latency(to)?;
        if let Some(backends) = &self.backends {
            write_backends(backends, self.latency_ms.is_some(), to)?;
        }
        if let Some(error) = &self.backends_error {
            writeln!(to)?;
            wrapped(&format!("The backends are unknown: {error}"), to)?;
        }
        writeln!(to)?;
        self.notes().iter().try_for_each(|note| wrapped(note, to))
    }

    /// The plan on one line.
    pub(super) fn plan(&self) -> String {
        let what = if self.is_http() { "requests" } else { "connections" };
        let mut words = match (self.requests, self.duration_s) {
            (Some(requests), None) => format!("{requests} {what}"),
            (_, duration) => format!("{what} for {} s", duration.unwrap_or_default()),
        };
        if let Some(per_second) = self.rate {
            let _ = write!(words, ", {} a second", rate(per_second));
        }
        let _ = write!(words, ", {} concurrent", self.concurrent);
        if self.is_http() {
            words +=
                if self.keep_alive { ", on kept-alive connections" } else { ", each on its own connection" };
        }
        words
    }

    fn write_totals(&self, to: &mut String) -> std::fmt::Result {
        let early = if self.interrupted { ", interrupted" } else { "" };
        let total =
            format!("in {}, {} a second{early}", time(self.elapsed_s * 1e3), rate(self.requests_per_second));
        writeln!(to, "{:12} {:>10}  {total}", "done", self.done)?;
        writeln!(to, "{:12} {:>10}  {}", "succeeded", self.succeeded, part(self.succeeded, self.done))?;
        writeln!(to, "{:12} {:>10}  {}", "failed", self.failed, part(self.failed, self.done))?;
        for failure in &self.failures {
            writeln!(to, "{:12} {:>10}  {}", "", failure.count, failure.what)?;
        }
        if let Some(late) = self.late.filter(|late| late.count > 0) {
            let words = format!(
                "sent over {} after they were due, at most {}",
                time(late.after_ms),
                time(late.most_ms)
            );
            writeln!(to, "{:12} {:>10}  {words}", "late", late.count)?;
        }
        if self.not_sent > 0 {
            writeln!(
                to,
                "{:12} {:>10}  were due, but no client was free before the end",
                "never sent", self.not_sent
            )?;
        }
        if self.given_up > 0 {
            writeln!(to, "{:12} {:>10}  were in flight when it was interrupted", "given up", self.given_up)?;
        }
        if self.keep_alive {
            writeln!(to, "{:12} {:>10}", "connections", self.connections)?;
        }
        Ok(())
    }

    fn write_latency(&self, to: &mut String) -> std::fmt::Result {
        let Some(latency) = &self.latency_ms else { return Ok(()) };
        let row = |to: &mut String, label: &str, cells: [String; 7]| {
            write!(to, "{label:12}")?;
            cells.iter().try_for_each(|cell| write!(to, " {cell:>8}"))?;
            writeln!(to)
        };
        writeln!(to)?;
        let names = ["min", "mean", "p50", "p90", "p99", "p99.9", "max"];
        row(to, "latency", names.map(str::to_owned))?;
        let first = if self.service_ms.is_some() { "  from due" } else { "" };
        row(to, first, cells(latency).map(time))?;
        match &self.service_ms {
            Some(service) => row(to, "  from sent", cells(service).map(time)),
            None => Ok(()),
        }
    }

    /// How to read the figures.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.push(match self.rate {
            None => "Closed loop: each client sends its next request after its response. While the server stalls, no \
                     requests are sent, so a stall counts once per client; --rate counts it for all requests that \
                     were due."
                .to_owned(),
            Some(_) => "Open loop: latency counts from when a request was due, also when no client was free to send it \
                        (no coordinated omission, as Gil Tene calls it); \"from sent\" is what a test without --rate \
                        measures."
                .to_owned(),
        });
        if self.not_sent > 0 {
            notes.push(
                "Requests that were never sent are not among the latencies, which would be longer."
                    .to_owned(),
            );
        }
        let timeouts: u64 = self.failures.iter().filter(|f| f.kind == "timeout").map(|f| f.count).sum();
        if timeouts > 0 {
            notes.push(format!(
                "The {timeouts} that timed out are not among the latencies, which would be longer."
            ));
        }
        if self.backends.as_ref().is_some_and(|backends| backends.all.len() == 1) {
            notes.push(
                "All responses look alike: --by header:NAME, body:REGEX or admin may distinguish backends."
                    .to_owned(),
            );
        }
        let share = self.cpu_share();
        let mut cpu = format!(
            "The test itself used {} of CPU, {:.0} % of {}.",
            time(self.cpu_s * 1e3),
            share * 100.0,
            if self.cores == 1 { "the core".to_owned() } else { format!("{} cores", self.cores) }
        );
        if share > BUSY {
            cpu += " It may have measured itself.";
        }
        notes.push(cpu);
        notes
    }
}

fn cells(of: &Percentiles) -> [f64; 7] {
    [of.min, of.mean, of.p50, of.p90, of.p99, of.p999, of.max]
}

/// Requests a second.
pub(super) fn rate(number: f64) -> String {
    let digits = usize::from(number < 100.0 && number.fract() != 0.0);
    format!("{number:.digits$}")
}

fn part(number: u64, of: u64) -> String {
    if of == 0 { String::new() } else { percent(number as f64 / of as f64) }
}

fn write_backends(backends: &BackendShares, times: bool, to: &mut String) -> std::fmt::Result {
    let label = format!("by {}", backends.by);
    let short: String = label.chars().take(78).collect();
    let counted = if backends.by.starts_with("admin") { "connections" } else { "requests" };
    writeln!(to, "\n{:NAME$} {counted:>11} {:>8} {:>8} {:>7}", "backend", "share", "mean", "failed")?;
    let most = backends.all.iter().map(|share| share.requests).max().unwrap_or(0);
    for share in backends.all.iter().take(LISTED) {
        let mean = share.mean_ms.filter(|_| times).map_or("-".to_owned(), time);
        let failed = share.failed.map_or("-".to_owned(), |failed| failed.to_string());
        let line = format!(
            "  {:<width$} {:>11} {:>8} {mean:>8} {failed:>7}  {}",
            shortened(&share.name, NAME - 2),
            share.requests,
            percent(share.share),
            bar(share.requests, most),
            width = NAME - 2,
        );
        writeln!(to, "{}", line.trim_end())?;
    }
    to.write_str(&unlisted(backends.all.len(), LISTED))?;
    if backends.unknown > 0 {
        writeln!(to, "  {:<width$} {:>11}", "(unknown)", backends.unknown, width = NAME - 2)?;
    }
    writeln!(to, "  ({short})")
}

/// A bar in proportion to the greatest value, to an eighth of a character.
fn bar(value: u64, greatest: u64) -> String {
    let eighths = (value as f64 / greatest.max(1) as f64 * (BAR * 8) as f64).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + rest
}

/// Wraps at 80 columns.
fn wrapped(text: &str, to: &mut String) -> std::fmt::Result {
    let mut length = 0;
    for word in text.split(' ') {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > 80 {
            writeln!(to)?;
            length = 0;
        }
        let space = if length > 0 { " " } else { "" };
        write!(to, "{space}{word}")?;
        length += letters + space.len();
    }
    writeln!(to)
}

#[cfg(test)]
mod tests {
    use super::super::report::{FailureCount, LateRequests};
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_table_fits_eighty_columns_and_is_complete() {
        let mut report = report(&[("a", 6), ("b", 3), ("c", 0)]);
        let failed = |kind: &str, what: &str| FailureCount { kind: kind.into(), count: 4, what: what.into() };
        report.failures =
            vec![failed("refused", "connection refused"), failed("timeout", "timed out after 1s")];
        report.service_ms = report.latency_ms;
        report.rate = Some(1000.0);
        report.late = Some(LateRequests { count: 5, after_ms: 10.0, most_ms: 1234.0 });
        (report.not_sent, report.given_up, report.interrupted, report.keep_alive) = (77, 88, true, true);
        let table = report.table();
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        for words in [
            "connection refused",
            "at most 1.23 s",
            "77  were due",
            "88  were in flight",
            "interrupted",
            "1000 a second",
            "from due",
            "from sent",
            "p99.9",
            "66.7 %",
            "coordinated omission",
            "The 4 that timed out are",
            "████████████████████",
            "of CPU",
        ] {
            assert!(table.contains(words), "{words} is not in\n{table}");
        }
    }

    #[test]
    fn of_many_backends_some_are_listed_and_the_rest_counted() {
        let names: Vec<_> = (0..100).map(|n| format!("b{n}")).collect();
        let backends: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let table = report(&backends).table();
        assert!(table.contains("and 60 more") && table.lines().count() < 65, "{table}");
    }

    #[test]
    fn a_bar_is_proportional_to_its_value() {
        assert_eq!(bar(10, 10).chars().count(), 20);
        assert_eq!(bar(5, 10), "█".repeat(10));
        assert_eq!(bar(1, 160), "▏");
        assert_eq!((bar(0, 10), bar(0, 0)), (String::new(), String::new()));
    }
}
