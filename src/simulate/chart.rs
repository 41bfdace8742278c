//! The result as a chart: the shares of each algorithm, then waiting times and moved clients of all.

use plotters::style::RGBColor;

use super::report::{Figures, SimulationReport, Spread};
use crate::chart::{Bar, BarGroup, COLORS, Chart, Error, ImageFormat, Panel};
use crate::humanize::time;

impl SimulationReport {
    /// The chart, as the content of a file.
    pub fn chart(&self, format: ImageFormat) -> Result<Vec<u8>, Error> {
        let facts = &self.scenario;
        let length = match (facts.connections, facts.duration_s) {
            (Some(connections), _) => format!("{connections} connections"),
            (None, duration) => format!("{} s", duration.unwrap_or_default()),
        };
        let about = format!(
            "{length}, {:.0} a second, {}; clients {}; seed {}",
            facts.rate, facts.arrivals, facts.clients, facts.seed
        );
        let chart =
            Chart { title: "pointsman simulate".to_owned(), about: vec![about], panels: self.panels() };
        chart.render(format)
    }

    fn panels(&self) -> Vec<Panel> {
        let mut panels: Vec<Panel> = self.colored().map(|(figures, color)| shares(figures, color)).collect();
        let greatest = panels.iter().map(|panel| panel.greatest).fold(0.0, f64::max);
        panels.iter_mut().for_each(|panel| panel.greatest = greatest);
        panels.push(self.waiting());
        panels.extend(self.moved());
        panels
    }

    fn colored(&self) -> impl Iterator<Item = (&Figures, RGBColor)> {
        self.algorithms.iter().zip(COLORS.into_iter().cycle())
    }

    fn waiting(&self) -> Panel {
        let group = |label: &str, of: fn(&Spread) -> f64| {
            let bar = |(figures, color): (&Figures, RGBColor)| {
                let value = figures.waiting_ms.as_ref().map_or(0.0, of);
                Bar { color, value, label: time(value) }
            };
            BarGroup { label: label.to_owned(), bars: self.colored().map(bar).collect(), mark: None }
        };
        let groups = vec![group("p50", |s| s.p50), group("p90", |s| s.p90), group("p99", |s| s.p99)];
        Panel::new("waiting time".to_owned(), groups, time)
    }

    /// `None`: there were no events, or no algorithm hashes clients.
    fn moved(&self) -> Option<Panel> {
        let events = &self.algorithms.first()?.events;
        let group = |nth: usize| {
            let bar = |(figures, color): (&Figures, RGBColor)| {
                let keys = figures.events[nth].keys?;
                Some(Bar { color, value: keys.share, label: percent(keys.share) })
            };
            let label = format!("{} s {}", events[nth].at_s, events[nth].event);
            BarGroup { label, bars: self.colored().filter_map(bar).collect(), mark: Some(events[nth].ideal) }
        };
        let groups: Vec<_> = (0..events.len()).map(group).filter(|group| !group.bars.is_empty()).collect();
        let title = "clients moved by each event; the line is the least that must move".to_owned();
        (!groups.is_empty()).then(|| Panel::new(title, groups, percent))
    }
}

fn shares(figures: &Figures, color: RGBColor) -> Panel {
    let group = |backend: &super::report::BackendFigures| BarGroup {
        label: backend.name.to_string(),
        bars: vec![Bar { color, value: backend.share, label: percent(backend.share) }],
        mark: Some(backend.promised),
    };
    let title = format!("{}: share of each backend; the line is what its weight promises", figures.algorithm);
    let groups = figures.backends.iter().map(group).collect();
    Panel { swatch: Some(color), ..Panel::new(title, groups, percent) }
}

fn percent(part: f64) -> String {
    let digits = usize::from(part < 0.1 && part > 0.0);
    format!("{:.digits$} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::super::{PlannedEvent, SimulationPlan, Until, notation};
    use super::*;
    use crate::config::Algorithm;

    fn chart(backends: &str, algorithms: &[Algorithm]) -> String {
        let event = PlannedEvent {
            at: std::time::Duration::from_millis(1),
            changes: notation::changes("join=new").unwrap(),
        };
        let plan = SimulationPlan { events: vec![event], until: Until::Connections(2_000), ..plan(backends) };
        let report = SimulationReport::new(&plan.scenario().unwrap(), algorithms);
        String::from_utf8(report.chart(ImageFormat::Svg).unwrap()).unwrap()
    }

    #[test]
    fn the_chart_names_all_algorithms_and_backends_and_shows_moved_clients_if_any() {
        let svg = chart("a*3,b", &Algorithm::ALL);
        for word in Algorithm::ALL.map(Algorithm::name).iter().chain(&[
            "new",
            "p99",
            "0.001 s join=new",
            "clients moved",
        ]) {
            assert!(svg.contains(word), "{word} is not in the chart");
        }
        let svg = chart("a*3,b", &[Algorithm::RoundRobin]);
        assert!(!svg.contains("clients moved"));
    }

    #[test]
    fn long_names_of_thirty_backends_are_shown_in_full() {
        let names: Vec<_> =
            (10..40).map(|n| format!("backend-{n}.production.eu-central-1.example.internal:8443")).collect();
        let svg = chart(&names.join(","), &[Algorithm::RoundRobin]);
        assert!(names.iter().all(|name| svg.contains(name)), "{svg}");
    }

    #[test]
    fn of_very_many_backends_a_hundred_are_drawn() {
        let names: Vec<_> = (0..300).map(|n| format!("backend-{n}.")).collect();
        let svg = chart(&names.join(","), &[Algorithm::RoundRobin]);
        assert!(
            svg.contains("backend-99.") && !svg.contains("backend-100.") && svg.contains("201 more"),
            "{svg}"
        );
    }
}
