//! A panel of a chart: horizontal bars in groups, on their own axis.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::canvas::{Canvas, Drawn};
use super::{FAINT, INK, MARGIN, WIDTH};
use crate::names::{shortened, width};

/// In pixels.
const TITLE: i32 = 30;
const AXIS: i32 = 30;
/// The height of a group's only bar, and of each of several.
const BAR: i32 = 16;
const THIN_BAR: i32 = 14;
const GAP: i32 = 6;
/// The average width of a letter of a label.
const LETTER: f64 = 6.6;
/// The widest column of names: 64 letters.
const WIDEST: i32 = 430;
/// The space behind the longest bar, for its value.
const VALUE: i32 = 110;
/// More groups than this are not drawn, but counted.
const MAX_GROUPS: usize = 100;

/// Horizontal bars in groups.
#[derive(Debug)]
pub struct Panel {
    /// What the bars show.
    pub title: String,
    /// A square before the title, if all bars of the panel have one color.
    pub swatch: Option<RGBColor>,
    /// From top to bottom.
    pub groups: Vec<BarGroup>,
    /// The value of the longest bar, of all panels that are compared.
    pub greatest: f64,
    /// Formats a value of the axis.
    pub unit: fn(f64) -> String,
}

/// The bars of one name.
#[derive(Debug)]
pub struct BarGroup {
    /// The name, before the bars.
    pub label: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
    /// The expected value, drawn as a line.
    pub mark: Option<f64>,
}

/// One bar.
#[derive(Debug)]
pub struct Bar {
    /// Its color.
    pub color: RGBColor,
    /// Its length.
    pub value: f64,
    /// The text behind it.
    pub label: String,
}

impl BarGroup {
    fn bar_height(&self) -> i32 {
        if self.bars.len() > 1 { THIN_BAR } else { BAR }
    }

    fn height(&self) -> i32 {
        self.bar_height() * self.bars.len() as i32 + GAP
    }
}

/// The horizontal extent of the bars.
#[derive(Clone, Copy, Debug)]
struct Scale {
    left: i32,
    width: i32,
    greatest: f64,
}

impl Scale {
    fn x(self, value: f64) -> i32 {
        self.left + (value / self.greatest * f64::from(self.width)).round() as i32
    }
}

impl Panel {
    /// A panel that is compared with no other.
    pub fn new(title: String, groups: Vec<BarGroup>, unit: fn(f64) -> String) -> Self {
        let values = groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.value).chain(group.mark));
        let greatest = values.fold(0.0, f64::max);
        Self { title, swatch: None, groups, greatest, unit }
    }

    fn drawn(&self) -> &[BarGroup] {
        &self.groups[..self.groups.len().min(MAX_GROUPS)]
    }

    pub(super) fn height(&self) -> i32 {
        TITLE + self.drawn().iter().map(BarGroup::height).sum::<i32>() + AXIS
    }

    pub(super) fn draw<B: DrawingBackend>(&self, canvas: Canvas<'_, B>, top: i32) -> Drawn<B> {
        let mut x = MARGIN;
        if let Some(color) = self.swatch {
            canvas.rectangle(color, (x, top + 8), (x + 12, top + 20))?;
            x += 20;
        }
        let hidden = self.groups.len() - self.drawn().len();
        let more = if hidden > 0 { format!("; {hidden} more are not drawn") } else { String::new() };
        canvas.text(&format!("{}{more}", self.title), 13, (x, top + 7))?;

        let longest = self.drawn().iter().map(|group| width(&group.label)).max().unwrap_or(0);
        let names = ((longest as f64 * LETTER).ceil() as i32 + 8).clamp(40, WIDEST);
        let left = MARGIN + names;
        let scale = Scale { left, width: WIDTH - MARGIN - VALUE - left, greatest: self.greatest.max(1e-6) };
        let mut y = top + TITLE;
        self.draw_axis(canvas, scale, y)?;
        for group in self.drawn() {
            group.draw(canvas, scale, y)?;
            y += group.height();
        }
        Ok(())
    }

    /// Lines behind the bars, with their values below.
    fn draw_axis<B: DrawingBackend>(&self, canvas: Canvas<'_, B>, scale: Scale, top: i32) -> Drawn<B> {
        let bottom = top + self.height() - TITLE - AXIS;
        for tick in RangedCoordf64::from(0.0..scale.greatest).key_points(8) {
            let x = scale.x(tick);
            canvas.line(FAINT, 1, (x, top), (x, bottom))?;
            canvas.text_beside(&(self.unit)(tick), 11, (x, bottom + 9), HPos::Center)?;
        }
        Ok(())
    }
}

impl BarGroup {
    fn draw<B: DrawingBackend>(&self, canvas: Canvas<'_, B>, scale: Scale, top: i32) -> Drawn<B> {
        let top = top + GAP / 2;
        let bottom = top + self.height() - GAP;
        let fits = (f64::from(scale.left - MARGIN - 8) / LETTER) as usize;
        let label = shortened(&self.label, fits.max(4));
        canvas.text_beside(&label, 12, (scale.left - 8, (top + bottom) / 2), HPos::Right)?;
        for (bar, y) in self.bars.iter().zip((top..).step_by(self.bar_height() as usize)) {
            let right = scale.x(bar.value);
            canvas.rectangle(
                bar.color,
                (scale.left, y + 1),
                (right.max(scale.left + 1), y + self.bar_height() - 1),
            )?;
            // Behind the mark, if that is further right.
            let behind = right.max(self.mark.map_or(right, |mark| scale.x(mark)));
            canvas.text_beside(&bar.label, 11, (behind + 6, y + self.bar_height() / 2), HPos::Left)?;
        }
        match self.mark {
            Some(mark) => canvas.line(INK, 2, (scale.x(mark), top - 1), (scale.x(mark), bottom + 1)),
            None => Ok(()),
        }
    }
}
