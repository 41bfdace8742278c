//! The common terminal output of all commands: colors and marks of states, bars, and short numbers.

use std::io::{self, IsTerminal};

use ratatui::Frame;
use ratatui::style::Color;

use super::Failure;
use crate::domain::BackendState;
pub(super) use crate::names::width;
use crate::sanitize;

/// A terminal in full-screen mode. It is restored on drop, and by the library's panic hook.
#[derive(Debug)]
pub(super) struct Screen(ratatui::DefaultTerminal);

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(ratatui::try_init()?))
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Whether the operator can be asked: input and messages are on a terminal.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks the operator to confirm. Anything but yes is an error.
pub(super) fn confirm(question: &str) -> Result<(), Failure> {
    eprint!("{} [y/N] ", clean(question));
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::Invalid("nothing was done".to_owned()))
}

/// The color of a state; `None`: a state that this version does not know.
pub(super) fn color(state: Option<BackendState>) -> Color {
    match state {
        Some(BackendState::Up) => Color::Green,
        Some(BackendState::Joining) => Color::Cyan,
        Some(BackendState::Down | BackendState::Ejected) => Color::Red,
        Some(BackendState::Draining | BackendState::Maintenance) => Color::Yellow,
        Some(BackendState::Gone) | None => Color::Gray,
    }
}

/// The mark of a state, for readers who cannot distinguish the colors.
pub(super) fn mark(state: Option<BackendState>) -> char {
    match state {
        Some(BackendState::Up) => '●',
        Some(BackendState::Joining) => '◌',
        Some(BackendState::Down) => '✖',
        Some(BackendState::Ejected) => '▲',
        Some(BackendState::Draining) => '◐',
        Some(BackendState::Maintenance) => '■',
        Some(BackendState::Gone) | None => '·',
    }
}

/// A share from 0 to 1 as a bar of that many characters.
pub(super) fn bar(share: f64, width: usize) -> String {
    let filled = ((share * width as f64).round() as usize).min(width);
    format!("{}{}", "█".repeat(filled), "·".repeat(width - filled))
}

/// Bytes in at most five characters: `999B`, `1.5K`, `12M`, `1023G`.
pub(super) fn bytes(number: f64) -> String {
    short(number, 1024.0, ["B", "K", "M", "G", "T", "P"])
}

/// A number in at most five characters: `999`, `1.5k`, `12M`.
pub(super) fn count(number: f64) -> String {
    short(number, 1000.0, ["", "k", "M", "G", "T", "P"])
}

fn short(number: f64, step: f64, units: [&str; 6]) -> String {
    let mut number = number.max(0.0);
    let mut unit = 0;
    // A number that rounds up to a whole step has the next unit.
    while number.round() >= step && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && number < 9.95);
    format!("{number:.digits$}{}", units[unit])
}

/// A time in at most four characters: `0s`, `59s`, `5m`, `23h`, `99d`.
pub(super) fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Milliseconds in at most five characters: `0.21`, `1.5`, `15`, `1200`, `30s`.
pub(super) fn millis(time: f64) -> String {
    match time {
        ..0.995 => format!("{time:.2}"),
        ..9.95 => format!("{time:.1}"),
        ..10_000.0 => format!("{time:.0}"),
        _ => age(time / 1e3),
    }
}

/// A time of day in UTC, as in the log.
pub(super) fn time_of_day(unix: f64) -> String {
    let seconds = unix.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A sparkline of the last `width` numbers, scaled to the highest.
pub(super) fn spark(
    numbers: impl DoubleEndedIterator<Item = f64> + ExactSizeIterator,
    width: usize,
) -> String {
    const COLUMNS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let skip = numbers.len().saturating_sub(width);
    let numbers: Vec<f64> = numbers.skip(skip).collect();
    let most = numbers.iter().copied().fold(0.0, f64::max);
    let column = |number: f64| {
        let height = if most > 0.0 { (number.max(0.0) / most * 7.0).round() } else { 0.0 };
        COLUMNS[(height as usize).min(COLUMNS.len() - 1)]
    };
    numbers.into_iter().map(column).collect()
}

/// Text in exactly this many columns: cut at its end with an ellipsis, or padded. A name is cut before, by
/// [`names::shortened`](crate::names::shortened).
pub(super) fn fit(text: &str, columns: usize, right: bool) -> String {
    let mut taken = text.to_owned();
    if width(&taken) > columns {
        taken.clear();
        for c in text.chars() {
            let next = width(&taken) + width(c.encode_utf8(&mut [0; 4]));
            if next + 1 > columns {
                break;
            }
            taken.push(c);
        }
        if width(&taken) < columns {
            taken.push('…');
        }
    }
    let padding = " ".repeat(columns - width(&taken));
    if right { padding + &taken } else { taken + &padding }
}

/// Text in lines of at most this many columns, broken at spaces where possible; all but the first one are indented.
pub(super) fn wrap(text: &str, columns: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut rest = word;
        loop {
            let start = if lines.is_empty() { 0 } else { indent.min(columns.saturating_sub(1)) };
            let gap = usize::from(!line.is_empty());
            let room = columns.saturating_sub(start + width(&line) + gap);
            if width(rest) <= room {
                line.push_str(&" ".repeat(gap));
                line.push_str(rest);
                break;
            }
            if line.is_empty() {
                // A word that is longer than a line.
                let mut end = 0;
                for (at, c) in rest.char_indices() {
                    if end > 0 && width(&rest[..at + c.len_utf8()]) > room {
                        break;
                    }
                    end = at + c.len_utf8();
                }
                line.push_str(&rest[..end]);
                rest = &rest[end..];
                if rest.is_empty() {
                    break;
                }
            }
            lines.push(" ".repeat(start) + &std::mem::take(&mut line));
        }
    }
    if !line.is_empty() {
        let start = if lines.is_empty() { 0 } else { indent.min(columns.saturating_sub(1)) };
        lines.push(" ".repeat(start) + &line);
    }
    lines
}

/// Untrusted text, without the control characters that a terminal would execute.
pub(super) fn clean(text: &str) -> String {
    sanitize::line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_short() {
        let text = |numbers: &[f64], form: fn(f64) -> String| {
            numbers.iter().map(|number| form(*number)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            text(&[0.0, 1023.0, 1023.9, 1536.0, 10_240.0, 1e15], bytes),
            "0B 1023B 1.0K 1.5K 10K 909T"
        );
        assert_eq!(text(&[0.0, 999.0, 999.9, 1500.0, 25e3, 1e9], count), "0 999 1.0k 1.5k 25k 1.0G");
        assert_eq!(text(&[-1.0, 0.4, 59.9, 60.0, 7199.0, 172_800.0], age), "0s 0s 59s 1m 1h 2d");
        assert_eq!(text(&[0.0, 0.214, 1.54, 15.4, 1234.0, 65e3], millis), "0.00 0.21 1.5 15 1234 1m");
    }

    proptest! {
        #[test]
        fn every_number_fits_its_column(number in 0.0..1e15_f64) {
            prop_assert!(bytes(number).len() <= 5 && count(number).len() <= 5 && millis(number / 1e3).len() <= 7);
        }

        #[test]
        fn a_text_is_cut_or_padded_to_its_column(text in "[a-zß漢 ]{0,30}", columns in 0..20_usize, right: bool) {
            let fitted = fit(&text, columns, right);
            prop_assert_eq!(width(&fitted), columns);
            if width(&text) <= columns {
                prop_assert_eq!(fitted.trim(), text.trim());
            }
        }

        #[test]
        fn a_bar_has_the_requested_width(share in -1.0..3.0_f64, columns in 0..40_usize) {
            prop_assert_eq!(width(&bar(share, columns)), columns);
        }
    }

    proptest! {
        #[test]
        fn wrapped_text_keeps_its_words_and_its_columns(
            text in "[a-zß]{0,12}( [a-z]{1,30}){0,8}", columns in 1..60_usize, indent in 0..8_usize,
        ) {
            let lines = wrap(&text, columns, indent);
            prop_assert!(lines.iter().all(|line| width(line) <= columns), "{:?}", lines);
            let letters = |text: &str| text.replace(' ', "");
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }

    #[test]
    fn text_is_broken_at_spaces_and_indented() {
        assert_eq!(wrap("00:01 to a backend", 10, 3), ["00:01 to a", "   backend"]);
        assert_eq!(wrap("abcdefgh i", 4, 0), ["abcd", "efgh", "i"]);
        assert!(wrap("", 4, 0).is_empty());
    }

    #[test]
    fn a_sparkline_is_scaled_to_its_highest_number() {
        assert_eq!(spark([0.0, 7.0, 3.5, -1.0].into_iter(), 3), "█▅▁");
        assert_eq!(spark([0.0, 0.0].into_iter(), 5), "▁▁");
        assert_eq!(spark([].into_iter(), 5), "");
        assert_eq!(time_of_day(86_400.0 * 365.0 + 3_723.9), "01:02:03");
    }

    #[test]
    fn untrusted_text_has_no_control_characters() {
        assert_eq!(clean("a\x1b[31m\tb\u{9b}c\u{202e}d"), "a [31m b c\u{fffd}d");
    }
}
