//! A panel of a chart: bars side by side, in groups, above an axis of their own.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, Drawn, FAINT, INK, MARGIN, WIDTH, shortened, text};

/// The height of a panel, in pixels.
pub const ROW: u32 = 132;
/// The height of one whose bars are compared with each other.
pub const TALL_ROW: u32 = 220;
const AXIS: u32 = 64;
/// How wide a letter is at most in the smallest font.
const LETTER: f64 = 7.0;

/// Bars side by side, in groups.
#[derive(Debug)]
pub struct Panel {
    /// What the bars are.
    pub title: String,
    /// Before the title, if the whole panel is of one color.
    pub swatch: Option<RGBColor>,
    /// From the left to the right.
    pub groups: Vec<Group>,
    /// The greatest value of all that this is to be compared with.
    pub greatest: f64,
    /// What a value is called at the axis.
    pub unit: fn(f64) -> String,
    /// In pixels.
    pub height: u32,
}

/// Bars with one name.
#[derive(Debug)]
pub struct Group {
    /// Below the bars.
    pub label: String,
    /// From the left to the right.
    pub bars: Vec<Bar>,
    /// What the bars should be.
    pub mark: Option<f64>,
}

/// One bar.
#[derive(Debug)]
pub struct Bar {
    /// What it is filled with.
    pub color: RGBColor,
    /// How high it is.
    pub value: f64,
    /// Above the bar: the first of these that is not too wide.
    pub labels: Vec<String>,
}

fn centered(size: i32, vertical: VPos) -> TextStyle<'static> {
    text(size, INK).pos(Pos::new(HPos::Center, vertical))
}

impl Panel {
    /// A panel that is compared with no other.
    pub fn new(title: String, groups: Vec<Group>, unit: fn(f64) -> String, height: u32) -> Self {
        let values = groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.value).chain(group.mark));
        let greatest = values.fold(0.0, f64::max);
        Self { title, swatch: None, groups, greatest, unit, height }
    }

    pub(super) fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
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
            let fits = |label: &&String| label.chars().count() as f64 * LETTER <= width + 6.0;
            if let Some(label) = bar.labels.iter().find(fits) {
                let above = bar.value.max(self.mark.unwrap_or(0.0));
                let at = ((from + width / 2.0) as i32, scale.y(above) - 4);
                area.draw_text(label, &centered(11, VPos::Bottom), at)?;
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
