//! The progress of a running test: one line that is redrawn on a terminal, a line every few seconds elsewhere.

use std::io::Write;
use std::time::Duration;

/// Between two lines where they cannot be redrawn.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// The window of the measured rate.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Returns to the start of the line and clears it (ECMA-48, EL).
const CLEAR_LINE: &str = "\r\x1b[K";

/// The progress of a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BenchProgress {
    /// Time since its start.
    pub elapsed: Duration,
    /// Requests that have ended.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
    /// All requests of the test, if known.
    pub total: Option<u64>,
    /// The least duration of the test, if known.
    pub time: Option<Duration>,
}

impl BenchProgress {
    /// The completed part: of the requests, or of the time if their number is unknown.
    fn part(&self) -> Option<f64> {
        let by_time = || self.time.map(|time| self.elapsed.as_secs_f64() / time.as_secs_f64().max(1e-9));
        let part = match self.total {
            Some(total) => Some(self.done as f64 / total.max(1) as f64),
            None => by_time(),
        };
        part.map(|part| part.clamp(0.0, 1.0))
    }

    /// The remaining time at `rate` requests a second.
    fn left(&self, rate: f64) -> Option<Duration> {
        let by_time = self.time.map(|time| time.saturating_sub(self.elapsed));
        let by_number = self.total.filter(|_| rate > 0.0).and_then(|total| {
            Duration::try_from_secs_f64(total.saturating_sub(self.done) as f64 / rate).ok()
        });
        // A test with a rate or a duration takes at least that long.
        by_time.max(by_number)
    }
}

/// Writes the progress.
#[derive(Debug)]
pub struct Meter {
    terminal: bool,
    /// Times and numbers of done requests, the oldest about [`RATE_WINDOW`] ago.
    recent: std::collections::VecDeque<(Duration, u64)>,
    written: Duration,
    /// Whether the line on the terminal has text.
    drawn: bool,
}

impl Meter {
    /// For a terminal, or for an output that keeps all lines.
    pub fn new(terminal: bool) -> Self {
        Self { terminal, recent: std::collections::VecDeque::new(), written: Duration::ZERO, drawn: false }
    }

    /// Writes a line if one is due.
    pub fn show(&mut self, progress: &BenchProgress, to: &mut impl Write) -> std::io::Result<()> {
        self.recent.push_back((progress.elapsed, progress.done));
        while self.recent.get(1).is_some_and(|(at, _)| progress.elapsed.saturating_sub(*at) >= RATE_WINDOW) {
            self.recent.pop_front();
        }
        if self.terminal {
            self.drawn = true;
            write!(to, "{CLEAR_LINE}{}", self.line(progress))?;
        } else if progress.elapsed >= self.written + LINE_INTERVAL {
            self.written = progress.elapsed;
            writeln!(to, "{}", self.line(progress))?;
        }
        to.flush()
    }

    /// Clears the line on a terminal.
    pub fn clear(&mut self, to: &mut impl Write) -> std::io::Result<()> {
        if std::mem::take(&mut self.drawn) {
            to.write_all(CLEAR_LINE.as_bytes())?;
        }
        to.flush()
    }

    fn line(&self, progress: &BenchProgress) -> String {
        let (at, done) = self.recent.front().copied().unwrap_or_default();
        let time = progress.elapsed.saturating_sub(at).as_secs_f64();
        let rate = if time > 0.0 { (progress.done - done) as f64 / time } else { 0.0 };
        let mut words = match progress.total {
            Some(total) => format!("{} of {total} requests", progress.done),
            None => format!("{} requests", progress.done),
        };
        if let Some(part) = progress.part() {
            words += &format!(" ({:.0} %)", (part * 100.0).floor());
        }
        words += &format!(", {rate:.0} a second");
        if progress.failed > 0 {
            words += &format!(", {} failed", progress.failed);
        }
        if let Some(left) = progress.left(rate) {
            words += &format!(", {} left", seconds(left));
        }
        words
    }
}

/// A remaining time, to the second.
fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64, done: u64) -> BenchProgress {
        BenchProgress {
            elapsed: Duration::from_millis(millis),
            done,
            total: Some(1000),
            ..BenchProgress::default()
        }
    }

    fn shown(meter: &mut Meter, progress: &BenchProgress) -> String {
        let mut text = Vec::new();
        meter.show(progress, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_terminal_has_one_redrawn_line_which_is_cleared_at_the_end() {
        let mut meter = Meter::new(true);
        shown(&mut meter, &at(0, 0));
        let line = shown(&mut meter, &BenchProgress { failed: 3, ..at(1000, 100) });
        assert_eq!(line, "\r\x1b[K100 of 1000 requests (10 %), 100 a second, 3 failed, 9 s left");
        let mut end = Vec::new();
        meter.clear(&mut end).unwrap();
        assert_eq!(end, b"\r\x1b[K");
    }

    #[test]
    fn without_a_terminal_there_is_a_line_every_five_seconds() {
        let mut meter = Meter::new(false);
        let lines: Vec<_> = (0..=11).map(|s| shown(&mut meter, &at(s * 1000, s * 10))).collect();
        let written: Vec<_> = (0..lines.len()).filter(|nth| !lines[*nth].is_empty()).collect();
        assert_eq!(written, [5, 10]);
        assert_eq!(lines[10], "100 of 1000 requests (10 %), 10 a second, 1 min 30 s left\n");
    }

    #[test]
    fn a_test_with_a_duration_shows_the_completed_part_of_it() {
        let time = Some(Duration::from_secs(100));
        let mut meter = Meter::new(true);
        let line = shown(&mut meter, &BenchProgress { total: None, time, ..at(25_000, 7) });
        assert!(line.contains("7 requests (25 %)") && line.ends_with("1 min 15 s left"), "{line}");
    }

    proptest! {
        #[test]
        fn a_line_is_always_short_and_complete(
            steps in proptest::collection::vec((0u64..3_600_000, 0u64..1_000_000), 1..20),
            total in proptest::option::of(0u64..10_000_000), time in proptest::option::of(0u64..100_000),
        ) {
            let mut meter = Meter::new(true);
            let mut progress = BenchProgress { total, time: time.map(Duration::from_secs), ..BenchProgress::default() };
            for (millis, done) in steps {
                progress.elapsed += Duration::from_millis(millis);
                progress.done += done;
                let line = shown(&mut meter, &progress);
                prop_assert!(line.chars().count() < 100 && !line.contains("NaN") && !line.contains("inf"), "{line}");
            }
        }
    }
}
