//! The figures, drawn: one row of shares for each algorithm, then waiting times and moved clients side by side.

use std::path::Path;

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::pixels::Pixels;
use super::report::{Figures, Report, Spread};
use super::table::time;

/// Pixels.
const WIDTH: u32 = 960;
const HEADER: u32 = 64;
const ROW: u32 = 132;
const TALL_ROW: u32 = 220;
const MARGIN: u32 = 16;
const AXIS: u32 = 64;
/// How wide a letter is at most in the smallest font.
const LETTER: f64 = 7.0;

/// Okabe and Ito, "Color Universal Design", 2008, without their yellow, which does not show on white, and two more:
/// most who are color-blind can tell them apart.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(110, 110, 110),
    RGBColor(140, 109, 49),
];
const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(225, 225, 225);
/// Explicit, so that the chart is as legible on a dark page.
const PAPER: RGBColor = RGBColor(255, 255, 255);

/// Why there is no drawing.
#[derive(Debug, thiserror::Error)]
#[error("it could not be drawn: {0}")]
pub struct Error(String);

/// What a chart is drawn as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines and letters, sharp at any size.
    Svg,
    /// Pixels.
    Png,
}

impl Format {
    /// The format of a file of this name; the error says what to do instead.
    pub fn of(path: &Path) -> Result<Self, String> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "svg" => Ok(Self::Svg),
            "png" => Ok(Self::Png),
            _ => Err(format!(
                "--chart draws SVG or PNG: give a file that ends so, such as {}, not {}",
                path.with_extension("svg").display(),
                path.display()
            )),
        }
    }
}

/// Bars side by side, in groups.
#[derive(Debug)]
struct Panel {
    title: String,
    /// Before the title, if the whole panel is of one algorithm.
    swatch: Option<RGBColor>,
    groups: Vec<Group>,
    /// The greatest value of all that this is to be compared with.
    greatest: f64,
    /// What a value is called at the axis.
    unit: fn(f64) -> String,
    height: u32,
}

#[derive(Debug)]
struct Group {
    label: String,
    bars: Vec<Bar>,
    /// What the bars should be.
    mark: Option<f64>,
}

#[derive(Debug)]
struct Bar {
    color: RGBColor,
    value: f64,
    /// Above the bar.
    label: String,
}

impl Report {
    /// The chart, as the content of a file.
    pub fn chart(&self, format: Format) -> Result<Vec<u8>, Error> {
        let panels = self.panels();
        let height = HEADER + panels.iter().map(|panel| panel.height).sum::<u32>() + MARGIN;
        let failed = |error: &dyn std::fmt::Display| Error(error.to_string());
        match format {
            Format::Svg => {
                let mut svg = String::new();
                let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
                self.draw(&root, &panels).map_err(|error| failed(&error))?;
                drop(root);
                Ok(svg.into_bytes())
            }
            Format::Png => {
                let mut pixels = Pixels::new((WIDTH, height));
                self.draw(&(&mut pixels).into_drawing_area(), &panels).map_err(|error| failed(&error))?;
                pixels.png().map_err(|error| failed(&error))
            }
        }
    }

    fn draw<B: DrawingBackend>(&self, root: &Area<B>, panels: &[Panel]) -> Drawn<B> {
        root.fill(&PAPER)?;
        let facts = &self.scenario;
        root.draw_text("pointsman simulate", &text(20, INK), (MARGIN as i32, 14))?;
        let length = match (facts.connections, facts.duration_s) {
            (Some(connections), _) => format!("{connections} connections"),
            (None, duration) => format!("{} s", duration.unwrap_or_default()),
        };
        let about = format!(
            "{length}, {:.0} a second, {}; clients {}; seed {}",
            facts.rate, facts.arrivals, facts.clients, facts.seed
        );
        root.draw_text(&about, &text(13, INK), (MARGIN as i32, 40))?;
        let (_, mut rest) = root.split_vertically(HEADER);
        for panel in panels {
            let (area, below) = rest.split_vertically(panel.height);
            panel.draw(&area)?;
            rest = below;
        }
        root.present()
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
            Group { label: label.to_owned(), bars: self.colored().map(bar).collect(), mark: None }
        };
        let groups = vec![group("p50", |s| s.p50), group("p90", |s| s.p90), group("p99", |s| s.p99)];
        Panel::new("waiting time".to_owned(), groups, time, TALL_ROW)
    }

    /// `None`: nothing happened, or nobody keeps clients at a backend.
    fn moved(&self) -> Option<Panel> {
        let events = &self.algorithms.first()?.events;
        let group = |nth: usize| {
            let bar = |(figures, color): (&Figures, RGBColor)| {
                let keys = figures.events[nth].keys?;
                Some(Bar { color, value: keys.share, label: percent(keys.share) })
            };
            let label = format!("{} s {}", events[nth].at_s, events[nth].event);
            Group { label, bars: self.colored().filter_map(bar).collect(), mark: Some(events[nth].ideal) }
        };
        let groups: Vec<_> = (0..events.len()).map(group).filter(|group| !group.bars.is_empty()).collect();
        let title = "clients moved by each event; the line is what has to move".to_owned();
        (!groups.is_empty()).then(|| Panel::new(title, groups, percent, TALL_ROW))
    }
}

fn shares(figures: &Figures, color: RGBColor) -> Panel {
    let group = |backend: &super::report::BackendFigures| Group {
        label: backend.name.to_string(),
        bars: vec![Bar { color, value: backend.share, label: percent(backend.share) }],
        mark: Some(backend.promised),
    };
    let title = format!("{}: share of each backend; the line is what its weight promises", figures.algorithm);
    let groups = figures.backends.iter().map(group).collect();
    Panel { swatch: Some(color), ..Panel::new(title, groups, percent, ROW) }
}

fn percent(part: f64) -> String {
    let digits = usize::from(part < 0.1 && part > 0.0);
    format!("{:.digits$} %", part * 100.0)
}

type Area<B> = DrawingArea<B, plotters::coord::Shift>;
type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn text(size: i32, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color)
}

fn centered(size: i32, vertical: VPos) -> TextStyle<'static> {
    text(size, INK).pos(Pos::new(HPos::Center, vertical))
}

impl Panel {
    fn new(title: String, groups: Vec<Group>, unit: fn(f64) -> String, height: u32) -> Self {
        let values = groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.value).chain(group.mark));
        let greatest = values.fold(0.0, f64::max);
        Self { title, swatch: None, groups, greatest, unit, height }
    }

    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let mut x = MARGIN as i32;
        if let Some(color) = self.swatch {
            area.draw(&Rectangle::new([(x, 9), (x + 12, 21)], color.filled()))?;
            x += 20;
        }
        area.draw_text(&self.title, &text(13, INK), (x, 8))?;
        // Some air above the highest bar, for its label.
        let top = self.greatest.max(1e-6) * 1.2;
        let scale = Scale {
            left: f64::from(AXIS + MARGIN),
            width: f64::from(WIDTH - AXIS - 2 * MARGIN) / self.groups.len() as f64,
            bottom: f64::from(self.height) - 26.0,
            height: f64::from(self.height) - 26.0 - 30.0,
            top,
        };
        self.draw_axis(area, &scale)?;
        for (nth, group) in self.groups.iter().enumerate() {
            group.draw(area, &scale, nth)?;
        }
        Ok(())
    }

    fn draw_axis<B: DrawingBackend>(&self, area: &Area<B>, scale: &Scale) -> Drawn<B> {
        let ticks = RangedCoordf64::from(0.0..scale.top).key_points(self.height as usize / 40);
        let style = text(11, INK).pos(Pos::new(HPos::Right, VPos::Center));
        for tick in ticks {
            let y = scale.y(tick);
            let right = WIDTH as i32 - MARGIN as i32;
            area.draw(&PathElement::new([(scale.left as i32, y), (right, y)], FAINT))?;
            area.draw_text(&(self.unit)(tick), &style, (scale.left as i32 - 6, y))?;
        }
        Ok(())
    }
}

/// Where a value stands, in pixels of a panel.
#[derive(Debug)]
struct Scale {
    left: f64,
    /// Of one group.
    width: f64,
    bottom: f64,
    height: f64,
    /// The value at the upper end.
    top: f64,
}

impl Scale {
    fn y(&self, value: f64) -> i32 {
        (self.bottom - value / self.top * self.height).round() as i32
    }
}

impl Group {
    fn draw<B: DrawingBackend>(&self, area: &Area<B>, scale: &Scale, nth: usize) -> Drawn<B> {
        let left = scale.left + nth as f64 * scale.width;
        let gap = (scale.width * 0.12).min(24.0);
        // Few bars need not be as wide as the page.
        let width = ((scale.width - 2.0 * gap) / self.bars.len() as f64).min(90.0);
        let middle = left + scale.width / 2.0;
        let first = middle - width * self.bars.len() as f64 / 2.0;
        for (nth, bar) in self.bars.iter().enumerate() {
            let from = first + nth as f64 * width;
            let (from_x, to_x) = (from.round() as i32, (from + width).round() as i32 - 1);
            let corners = [(from_x, scale.y(bar.value)), (to_x.max(from_x + 1), scale.y(0.0))];
            area.draw(&Rectangle::new(corners, bar.color.filled()))?;
            if bar.label.chars().count() as f64 * LETTER <= width + 6.0 {
                let above = bar.value.max(self.mark.unwrap_or(0.0));
                let at = ((from + width / 2.0) as i32, scale.y(above) - 4);
                area.draw_text(&bar.label, &centered(11, VPos::Bottom), at)?;
            }
        }
        if let Some(mark) = self.mark {
            let ends = [first - 4.0, first + width * self.bars.len() as f64 + 3.0];
            let line = ends.map(|x| (x as i32, scale.y(mark)));
            area.draw(&PathElement::new(line, INK.stroke_width(2)))?;
        }
        let label = shortened(&self.label, (scale.width / LETTER) as usize);
        area.draw_text(&label, &centered(12, VPos::Top), (middle as i32, scale.bottom as i32 + 6))
    }
}

/// At most so many letters; nothing if that says nothing.
fn shortened(label: &str, letters: usize) -> String {
    if label.chars().count() <= letters {
        return label.to_owned();
    }
    if letters < 3 {
        return String::new();
    }
    label.chars().take(letters - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::super::{Event, Plan, Until, words};
    use super::*;
    use crate::config::Algorithm;

    fn chart(backends: &str, algorithms: &[Algorithm]) -> String {
        let event =
            Event { at: std::time::Duration::from_millis(1), changes: words::changes("join=new").unwrap() };
        let plan = Plan { events: vec![event], until: Until::Connections(2_000), ..plan(backends) };
        let report = Report::new(&plan.scenario().unwrap(), algorithms);
        String::from_utf8(report.chart(Format::Svg).unwrap()).unwrap()
    }

    #[test]
    fn every_algorithm_and_backend_is_named_and_moved_clients_only_where_there_are_some() {
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
    fn names_that_do_not_fit_are_shortened_or_left_out() {
        assert_eq!(shortened("backend", 7), "backend");
        assert_eq!(shortened("backend", 5), "back…");
        assert_eq!(shortened("backend", 2), "");
        let names: Vec<_> = (0..300).map(|n| format!("backend-{n}")).collect();
        assert!(!chart(&names.join(","), &[Algorithm::RoundRobin]).contains("backend-1"));
    }

    #[test]
    fn another_kind_of_picture_is_refused_with_what_to_do() {
        assert_eq!(Format::of(Path::new("a.SVG")), Ok(Format::Svg));
        assert_eq!(Format::of(Path::new("a.b.png")), Ok(Format::Png));
        assert!(Format::of(Path::new("a.gif")).is_err_and(|error| error.contains("a.svg")));
        assert!(Format::of(Path::new("a")).is_err_and(|error| error.contains("a.svg")));
    }
}
