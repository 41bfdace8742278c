//! Bar charts as SVG or PNG, for `pointsman simulate` and `pointsman bench`.
//!
//! A [`Chart`] is a title above [`Panel`]s. Its user decides on the content, this module on the layout. Bars are
//! horizontal, so that long names of many backends are legible.

mod canvas;
mod panel;

use std::path::Path;
use std::sync::Once;

use plotters::prelude::*;
use plotters::style::register_font;

use crate::names::shortened;
use canvas::{Canvas, Drawn};
pub use panel::{Bar, BarGroup, Panel};

/// The width of a chart and the sizes below, in pixels of an SVG; a PNG has [`PNG_SCALE`] times as many.
const WIDTH: i32 = 960;
const MARGIN: i32 = 16;
const TITLE: i32 = 40;
const LINE: i32 = 20;
/// A PNG is often viewed on a screen with two physical pixels per pixel.
const PNG_SCALE: i32 = 2;
/// In a PNG, the size of a font is its line height, which is 1.36 em for Noto Sans; in an SVG it is the em.
const PNG_FONT_SCALE: f64 = PNG_SCALE as f64 * 1.36;
/// Characters that fit into a title, and into a line below it.
const TITLE_LENGTH: usize = 88;
const LINE_LENGTH: usize = 130;

/// The colors of bars: those of Okabe and Ito ("Color Universal Design", 2008), which most color-blind readers can
/// distinguish, without yellow, which is invisible on white, and two more.
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
/// Explicit, so that the chart is legible on a dark page.
const PAPER: RGBColor = RGBColor(255, 255, 255);

/// Why a chart could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the chart cannot be drawn: {0}")]
pub struct Error(String);

/// The format of a chart's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Lines and text, sharp at any size.
    Svg,
    /// Pixels.
    Png,
}

impl ImageFormat {
    /// The format of a file of this name; the error gives an alternative.
    pub fn of(path: &Path) -> Result<Self, String> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "svg" => Ok(Self::Svg),
            "png" => Ok(Self::Png),
            _ => Err(format!(
                "--chart writes SVG or PNG: name a file such as {}, not {}",
                path.with_extension("svg").display(),
                path.display()
            )),
        }
    }
}

/// A chart.
#[derive(Debug)]
pub struct Chart {
    /// The first line, in large letters.
    pub title: String,
    /// The lines below it.
    pub about: Vec<String>,
    /// The panels, from top to bottom.
    pub panels: Vec<Panel>,
}

impl Chart {
    /// The chart, as the content of a file.
    pub fn render(&self, format: ImageFormat) -> Result<Vec<u8>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error(error.to_string());
        register_fonts();
        let height = self.header() + self.panels.iter().map(Panel::height).sum::<i32>() + MARGIN;
        let size = |scale| ((WIDTH * scale) as u32, (height * scale) as u32);
        match format {
            ImageFormat::Svg => {
                let mut svg = String::new();
                let area = SVGBackend::with_string(&mut svg, size(1)).into_drawing_area();
                self.draw(Canvas::new(&area, 1, 1.0)).map_err(|error| failed(&error))?;
                drop(area);
                Ok(svg.into_bytes())
            }
            ImageFormat::Png => {
                let (width, height) = size(PNG_SCALE);
                let mut pixels = vec![0; 3 * width as usize * height as usize];
                let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
                self.draw(Canvas::new(&area, PNG_SCALE, PNG_FONT_SCALE)).map_err(|error| failed(&error))?;
                drop(area);
                png(&pixels, width, height).map_err(|error| failed(&error))
            }
        }
    }

    fn header(&self) -> i32 {
        TITLE + LINE * self.about.len() as i32 + 4
    }

    fn draw<B: DrawingBackend>(&self, canvas: Canvas<'_, B>) -> Drawn<B> {
        canvas.fill(PAPER)?;
        canvas.text(&shortened(&self.title, TITLE_LENGTH), 20, (MARGIN, 14))?;
        for (line, y) in self.about.iter().zip((TITLE..).step_by(LINE as usize)) {
            canvas.text(&shortened(line, LINE_LENGTH), 13, (MARGIN, y))?;
        }
        let mut top = self.header();
        for panel in &self.panels {
            panel.draw(canvas, top)?;
            top += panel.height();
        }
        canvas.present()
    }
}

/// Registers the shipped font for all charts: PNGs look the same on each machine, whatever fonts it has.
fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only if the bytes are not a font.
        let _ = register_font("sans-serif", FontStyle::Normal, ttf_noto_sans::REGULAR);
    });
}

/// Plotters' own encoder needs the `image` crate, with a second version of `png` and more formats.
fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused_with_an_alternative() {
        assert_eq!(ImageFormat::of(Path::new("a.SVG")), Ok(ImageFormat::Svg));
        assert_eq!(ImageFormat::of(Path::new("a.b.png")), Ok(ImageFormat::Png));
        assert!(ImageFormat::of(Path::new("a.gif")).is_err_and(|error| error.contains("a.svg")));
        assert!(ImageFormat::of(Path::new("a")).is_err_and(|error| error.contains("a.svg")));
    }

    #[test]
    fn a_png_has_letters() {
        let chart = |title: &str| Chart { title: title.to_owned(), about: Vec::new(), panels: Vec::new() };
        let png = |title| chart(title).render(ImageFormat::Png).unwrap();
        assert!(png("").starts_with(b"\x89PNG") && png("a") != png("") && png("a") != png("b"));
    }
}
