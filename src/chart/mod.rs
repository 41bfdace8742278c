//! Charts of bars, as SVG or PNG: what `pointsman simulate` and `pointsman bench` draw.
//!
//! A [`Chart`] is a title and [`Panel`]s below each other; who draws one says what stands in it, and how it looks is
//! decided here.

mod panel;
mod pixels;

use std::path::Path;

use plotters::prelude::*;

pub use panel::{Bar, Group, Panel, ROW, TALL_ROW};
use pixels::Pixels;

/// Pixels.
const WIDTH: u32 = 960;
const MARGIN: u32 = 16;
const TITLE: u32 = 40;
const LINE: u32 = 20;
/// Letters that fit into a title.
const TITLE_LETTERS: usize = 88;

/// What bars are filled with. Okabe and Ito, "Color Universal Design", 2008, without their yellow, which does not show
/// on white, and two more: most who are color-blind can tell them apart.
pub const COLORS: [RGBColor; 8] = [
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

/// What is drawn.
#[derive(Debug)]
pub struct Chart {
    /// The first line, in large letters.
    pub title: String,
    /// The lines below it.
    pub about: Vec<String>,
    /// What follows, from the top down.
    pub panels: Vec<Panel>,
}

impl Chart {
    /// The chart, as the content of a file.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, Error> {
        let height = self.header() + self.panels.iter().map(|panel| panel.height).sum::<u32>() + MARGIN;
        let failed = |error: &dyn std::fmt::Display| Error(error.to_string());
        match format {
            Format::Svg => {
                let mut svg = String::new();
                let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
                self.draw(&root).map_err(|error| failed(&error))?;
                drop(root);
                Ok(svg.into_bytes())
            }
            Format::Png => {
                let mut pixels = Pixels::new((WIDTH, height));
                self.draw(&(&mut pixels).into_drawing_area()).map_err(|error| failed(&error))?;
                pixels.png().map_err(|error| failed(&error))
            }
        }
    }

    fn header(&self) -> u32 {
        TITLE + LINE * self.about.len() as u32 + 4
    }

    fn draw<B: DrawingBackend>(&self, root: &Area<B>) -> Drawn<B> {
        root.fill(&PAPER)?;
        let title = shortened(&self.title, TITLE_LETTERS);
        root.draw_text(&title, &text(20, INK), (MARGIN as i32, 14))?;
        for (line, y) in self.about.iter().zip((TITLE as i32..).step_by(LINE as usize)) {
            root.draw_text(line, &text(13, INK), (MARGIN as i32, y))?;
        }
        let (_, mut rest) = root.split_vertically(self.header());
        for panel in &self.panels {
            let (area, below) = rest.split_vertically(panel.height);
            panel.draw(&area)?;
            rest = below;
        }
        root.present()
    }
}

type Area<B> = DrawingArea<B, plotters::coord::Shift>;
type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn text(size: i32, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color)
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
    use super::*;

    #[test]
    fn what_does_not_fit_is_shortened_or_left_out() {
        assert_eq!(shortened("backend", 7), "backend");
        assert_eq!(shortened("backend", 5), "back…");
        assert_eq!(shortened("backend", 2), "");
    }

    #[test]
    fn another_kind_of_picture_is_refused_with_what_to_do() {
        assert_eq!(Format::of(Path::new("a.SVG")), Ok(Format::Svg));
        assert_eq!(Format::of(Path::new("a.b.png")), Ok(Format::Png));
        assert!(Format::of(Path::new("a.gif")).is_err_and(|error| error.contains("a.svg")));
        assert!(Format::of(Path::new("a")).is_err_and(|error| error.contains("a.svg")));
    }
}
