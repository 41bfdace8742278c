//! The figures as text, no wider than 80 columns.

use std::fmt::Write;

use super::report::{EventFigures, Figures, ScenarioFacts, SimulationReport, Spread};
use crate::humanize::{percent, time, unlisted};
use crate::names::shortened;

/// More backends than this are not listed one by one.
const LISTED: usize = 24;
/// The widest name that keeps the columns aligned.
const NAME: usize = 18;

impl SimulationReport {
    /// The table for a terminal.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        write_facts(&self.scenario, to)?;
        for figures in &self.algorithms {
            write_backends(figures, to)?;
        }
        self.write_comparison(to)?;
        self.write_events(to)
    }

    fn write_comparison(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "\n{:NAME$} {:>35}  {:>17}", "", "waiting time", "response time")?;
        writeln!(
            to,
            "{:NAME$} {:>8} {:>8} {:>8} {:>8}  {:>8} {:>8}",
            "", "p50", "p90", "p99", "max", "p50", "p99"
        )?;
        for figures in &self.algorithms {
            let cell =
                |spread: Option<Spread>, of: fn(Spread) -> f64| spread.map_or("-".into(), |s| time(of(s)));
            let (wait, response) = (figures.waiting_ms, figures.response_ms);
            writeln!(
                to,
                "{:NAME$} {:>8} {:>8} {:>8} {:>8}  {:>8} {:>8}",
                figures.algorithm,
                cell(wait, |s| s.p50),
                cell(wait, |s| s.p90),
                cell(wait, |s| s.p99),
                cell(wait, |s| s.max),
                cell(response, |s| s.p50),
                cell(response, |s| s.p99),
            )?;
        }
        writeln!(to, "\n{:NAME$} {:>28}", "", "imbalance")?;
        writeln!(
            to,
            "{:NAME$} {:>8} {:>8} {:>10}   {:>9} {:>9} {:>8}",
            "", "average", "peak", "variation", "served", "cut", "refused"
        )?;
        for figures in &self.algorithms {
            let ratio = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
            writeln!(
                to,
                "{:NAME$} {:>8} {:>8} {:>10}   {:>9} {:>9} {:>8}",
                figures.algorithm,
                ratio(figures.imbalance.average),
                ratio(figures.imbalance.peak),
                percent(figures.imbalance.variation),
                figures.served,
                figures.cut,
                figures.refused,
            )?;
        }
        Ok(())
    }

    fn write_events(&self, to: &mut String) -> std::fmt::Result {
        let Some(first) = self.algorithms.first() else { return Ok(()) };
        for (nth, event) in first.events.iter().enumerate() {
            writeln!(
                to,
                "\n{} {} (ideal: {} of the clients move)",
                seconds(event.at_s),
                event.event,
                percent(event.ideal)
            )?;
            for figures in &self.algorithms {
                writeln!(to, "  {:NAME$} {}", figures.algorithm, effect(&figures.events[nth]))?;
            }
        }
        Ok(())
    }
}

fn write_facts(facts: &ScenarioFacts, to: &mut String) -> std::fmt::Result {
    let length = match (facts.connections, facts.duration_s) {
        (Some(connections), _) => format!("{connections} connections"),
        (None, duration) => format!("{} of connections", seconds(duration.unwrap_or_default())),
    };
    writeln!(
        to,
        "{length}, {} a second, {}; clients {}; seed {}",
        short(facts.rate),
        facts.arrivals,
        facts.clients,
        facts.seed
    )
}

fn write_backends(figures: &Figures, to: &mut String) -> std::fmt::Result {
    writeln!(
        to,
        "\n{:NAME$} {:>12} {:>8} {:>9} {:>8} {:>6}",
        figures.algorithm, "connections", "share", "promised", "most", "busy"
    )?;
    for backend in figures.backends.iter().take(LISTED) {
        writeln!(
            to,
            "  {:<width$} {:>12} {:>8} {:>9} {:>8} {:>6}",
            shortened(&backend.name, NAME - 2),
            backend.connections,
            percent(backend.share),
            percent(backend.promised),
            backend.most,
            backend.utilization.map_or("-".into(), |part| format!("{:.0} %", part * 100.0)),
            width = NAME - 2,
        )?;
    }
    to.write_str(&unlisted(figures.backends.len(), LISTED))
}

fn effect(event: &EventFigures) -> String {
    let cut =
        if event.cut == 1 { "1 connection cut".to_owned() } else { format!("{} connections cut", event.cut) };
    match event.keys {
        Some(keys) => {
            format!("{} of {} clients moved ({}), {cut}", keys.moved, keys.seen, percent(keys.share))
        }
        None => format!("keeps no client at a backend, {cut}"),
    }
}

fn short(number: f64) -> String {
    let digits = if number >= 100.0 { 0 } else { 2 };
    format!("{number:.digits$}")
}

fn seconds(seconds: f64) -> String {
    format!("{seconds} s")
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::super::{PlannedEvent, SimulationPlan, Until, notation};
    use super::*;
    use crate::config::Algorithm;

    #[test]
    fn the_table_fits_eighty_columns_and_shows_each_backend_and_event() {
        let event = PlannedEvent {
            at: std::time::Duration::from_secs(1),
            changes: notation::changes("down=b,join=c*2").unwrap(),
        };
        let plan = SimulationPlan {
            events: vec![event],
            until: Until::Connections(5_000),
            ..plan("a*3,b,127.0.0.1:5000")
        };
        let table = SimulationReport::new(&plan.scenario().unwrap(), &Algorithm::ALL).table();
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        for word in Algorithm::ALL.map(Algorithm::name).iter().chain(&[
            "127.0.0.1:5000",
            "1 s down=b,join=c*2",
            "p99",
        ]) {
            assert!(table.contains(word), "{word} is not in\n{table}");
        }
    }

    #[test]
    fn of_many_backends_some_are_listed_and_the_rest_counted() {
        let names: Vec<_> = (0..100).map(|n| format!("b{n}")).collect();
        let plan = SimulationPlan { until: Until::Connections(10), ..plan(&names.join(",")) };
        let table = SimulationReport::new(&plan.scenario().unwrap(), &[Algorithm::RoundRobin]).table();
        assert!(table.contains("and 76 more") && table.lines().count() < 45, "{table}");
    }
}
