//! A drawing as PNG. Plotters has pixels of its own, but its letters come from a font reader that is no longer kept up
//! (RUSTSEC-2026-0192); here they are bitmaps, and four pixels stand for each one that is drawn, so that they are sharp.

use std::convert::Infallible;

use embedded_graphics::mono_font::iso_8859_1::FONT_10X20;
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::{DrawTarget, OriginDimensions, Point, Size};
use embedded_graphics::text::{Baseline, Text};
use embedded_graphics::{Drawable, Pixel};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};

/// Pixels of the picture for each one that is drawn, in both directions.
const SCALE: i32 = 2;
const FONT: MonoFont<'_> = FONT_10X20;

/// A picture in pixels.
#[derive(Debug)]
pub(super) struct Pixels {
    /// As it is drawn.
    size: (u32, u32),
    rgb: Vec<u8>,
}

impl Pixels {
    /// A black picture for a drawing of this size.
    pub(super) fn new(size: (u32, u32)) -> Self {
        let scale = SCALE as usize;
        Self { size, rgb: vec![0; 3 * size.0 as usize * scale * size.1 as usize * scale] }
    }

    /// The picture as a PNG file.
    pub(super) fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let scale = SCALE as u32;
        let mut encoder = png::Encoder::new(&mut file, self.size.0 * scale, self.size.1 * scale);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(file)
    }

    /// Sets one pixel of the picture; one outside of it is nobody's.
    fn set(&mut self, (x, y): (i32, i32), color: BackendColor) {
        let (width, height) = (self.size.0 as i32 * SCALE, self.size.1 as i32 * SCALE);
        if x < 0 || y < 0 || x >= width || y >= height {
            return;
        }
        let at = 3 * (y as usize * width as usize + x as usize);
        let (red, green, blue) = color.rgb;
        for (old, new) in self.rgb[at..at + 3].iter_mut().zip([red, green, blue]) {
            *old = (f64::from(*old) * (1.0 - color.alpha) + f64::from(new) * color.alpha).round() as u8;
        }
    }
}

impl DrawingBackend for &mut Pixels {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn draw_pixel(
        &mut self,
        (x, y): BackendCoord,
        color: BackendColor,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        for down in 0..SCALE {
            (0..SCALE).for_each(|right| self.set((x * SCALE + right, y * SCALE + down), color));
        }
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        _fill: bool,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        for y in from.1.min(to.1)..=from.1.max(to.1) {
            for x in from.0.min(to.0)..=from.0.max(to.0) {
                self.draw_pixel((x, y), style.color())?;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): BackendCoord,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        // The font has one size, and twice that for titles.
        let times = if style.size() > 16.0 { 2 } else { 1 };
        let text = text.replace('…', "...");
        let letter = FONT.character_size;
        let width = text.chars().count() as i32 * letter.width as i32 * times;
        let height = letter.height as i32 * times;
        let anchor = style.anchor();
        let left = x * SCALE
            - match anchor.h_pos {
                HPos::Left => 0,
                HPos::Center => width / 2,
                HPos::Right => width,
            };
        let top = y * SCALE
            - match anchor.v_pos {
                VPos::Top => 0,
                VPos::Center => height / 2,
                VPos::Bottom => height,
            };
        let mut ink = Ink::default();
        let Ok(_) = Text::with_baseline(
            &text,
            Point::zero(),
            MonoTextStyle::new(&FONT, BinaryColor::On),
            Baseline::Top,
        )
        .draw(&mut ink);
        for point in ink.0 {
            for down in 0..times {
                for right in 0..times {
                    let at = (left + point.x * times + right, top + point.y * times + down);
                    self.set(at, style.color());
                }
            }
        }
        Ok(())
    }
}

/// Where a text has ink.
#[derive(Default)]
struct Ink(Vec<Point>);

impl DrawTarget for Ink {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<BinaryColor>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        let inked = pixels.into_iter().filter(|Pixel(_, color)| color.is_on());
        self.0.extend(inked.map(|Pixel(point, _)| point));
        Ok(())
    }
}

impl OriginDimensions for Ink {
    /// As large as it needs to be: a line of text is never cut off here.
    fn size(&self) -> Size {
        Size::new(u32::MAX / 4, FONT.character_size.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plotters::prelude::*;

    #[test]
    fn what_is_drawn_is_in_the_file_and_nothing_outside_of_it() {
        let mut pixels = Pixels::new((40, 20));
        {
            let root = (&mut pixels).into_drawing_area();
            root.fill(&WHITE).unwrap();
            root.draw(&Rectangle::new([(-5, 10), (9, 99)], RED.filled())).unwrap();
            root.draw_text("µ…", &("sans-serif", 11).into_font().color(&BLUE), (20, 2)).unwrap();
        }
        let file = pixels.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((info.width, info.height), (80, 40));
        let color = |x: usize, y: usize| [0, 1, 2].map(|part| rgb[3 * (y * 80 + x) + part]);
        assert_eq!([color(0, 39), color(19, 20), color(20, 20)], [[255, 0, 0], [255, 0, 0], [255; 3]]);
        let blue = rgb.chunks(3).filter(|rgb| *rgb == [0, 0, 255]).count();
        assert!((20..400).contains(&blue), "{blue} pixels of letters");
    }
}
