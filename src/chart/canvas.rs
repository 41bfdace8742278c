//! The drawing area of panels: rectangles, lines and text at pixels of an SVG, scaled for a PNG.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::INK;

pub(super) type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A drawing area and its scale.
pub(super) struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: i32,
    /// Size of the font for one pixel of text.
    font_scale: f64,
}

impl<B: DrawingBackend> Clone for Canvas<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: DrawingBackend> Copy for Canvas<'_, B> {}

impl<'a, B: DrawingBackend> Canvas<'a, B> {
    pub(super) fn new(area: &'a DrawingArea<B, Shift>, scale: i32, font_scale: f64) -> Self {
        Self { area, scale, font_scale }
    }

    pub(super) fn fill(self, color: RGBColor) -> Drawn<B> {
        self.area.fill(&color)
    }

    pub(super) fn present(self) -> Drawn<B> {
        self.area.present()
    }

    /// A rectangle between two opposite corners.
    pub(super) fn rectangle(self, color: RGBColor, from: (i32, i32), to: (i32, i32)) -> Drawn<B> {
        self.area.draw(&Rectangle::new([self.scaled(from), self.scaled(to)], color.filled()))
    }

    /// A straight line, `width` wide.
    pub(super) fn line(self, color: RGBColor, width: u32, from: (i32, i32), to: (i32, i32)) -> Drawn<B> {
        let style = color.stroke_width(width * self.scale as u32);
        self.area.draw(&PathElement::new([self.scaled(from), self.scaled(to)], style))
    }

    /// Text from its upper left corner.
    pub(super) fn text(self, text: &str, size: i32, at: (i32, i32)) -> Drawn<B> {
        self.anchored(text, size, at, HPos::Left, VPos::Top)
    }

    /// Text whose anchor, the middle of its left edge, its right edge or its center, is at `at`.
    pub(super) fn text_beside(self, text: &str, size: i32, at: (i32, i32), anchor: HPos) -> Drawn<B> {
        self.anchored(text, size, at, anchor, VPos::Center)
    }

    fn anchored(self, text: &str, size: i32, at: (i32, i32), h: HPos, v: VPos) -> Drawn<B> {
        let style =
            ("sans-serif", f64::from(size) * self.font_scale).into_font().color(&INK).pos(Pos::new(h, v));
        self.area.draw_text(text, &style, self.scaled(at))
    }

    fn scaled(self, (x, y): (i32, i32)) -> (i32, i32) {
        (x * self.scale, y * self.scale)
    }
}
