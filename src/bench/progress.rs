//! How a test goes while it runs: one line that is drawn again and again on a terminal, a line every few seconds
//! elsewhere.

use std::io::Write;
use std::time::Duration;

/// Between two lines where none can be drawn again.
const SELDOM: Duration = Duration::from_secs(5);
/// Over which the rate is measured.
const RECENTLY: Duration = Duration::from_secs(1);
/// The beginning of a line, and the end of what was there before (ECMA-48, EL).
const AGAIN: &str = "\r\x1b[K";

/// How far a test has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since its beginning.
    pub elapsed: Duration,
    /// Requests that have ended.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Requests that there are to be, if that is known.
    pub total: Option<u64>,
    /// How long it takes at least, if that is known.
    pub time: Option<Duration>,
}

impl Progress {
    /// The part that is over: of the requests, or of the time if nobody knows their number.
    fn part(&self) -> Option<f64> {
        let by_time = || self.time.map(|time| self.elapsed.as_secs_f64() / time.as_secs_f64().max(1e-9));
        let part = match self.total {
            Some(total) => Some(self.done as f64 / total.max(1) as f64),
            None => by_time(),
        };
        part.map(|part| part.clamp(0.0, 1.0))
    }

    /// How long it will still take, at `rate` requests a second.
    fn left(&self, rate: f64) -> Option<Duration> {
        let by_time = self.time.map(|time| time.saturating_sub(self.elapsed));
        let by_number = self.total.filter(|_| rate > 0.0).and_then(|total| {
            Duration::try_from_secs_f64(total.saturating_sub(self.done) as f64 / rate).ok()
        });
        // What has a rate or an end of its own takes at least so long.
        by_time.max(by_number)
    }
}

/// Writes how a test goes.
#[derive(Debug)]
pub struct Meter {
    terminal: bool,
    /// What was done at some moments, the oldest about [`RECENTLY`] ago.
    recent: std::collections::VecDeque<(Duration, u64)>,
    written: Duration,
    /// Something stands on the line that is drawn again.
    drawn: bool,
}

impl Meter {
    /// For a terminal, or for something that keeps all lines.
    pub fn new(terminal: bool) -> Self {
        Self { terminal, recent: std::collections::VecDeque::new(), written: Duration::ZERO, drawn: false }
    }

    /// Writes a line, if it is time for one.
    pub fn show(&mut self, progress: &Progress, to: &mut impl Write) -> std::io::Result<()> {
        self.recent.push_back((progress.elapsed, progress.done));
        while self.recent.get(1).is_some_and(|(at, _)| progress.elapsed.saturating_sub(*at) >= RECENTLY) {
            self.recent.pop_front();
        }
        if self.terminal {
            self.drawn = true;
            write!(to, "{AGAIN}{}", self.line(progress))?;
        } else if progress.elapsed >= self.written + SELDOM {
            self.written = progress.elapsed;
            writeln!(to, "{}", self.line(progress))?;
        }
        to.flush()
    }

    /// Leaves nothing on a terminal.
    pub fn clear(&mut self, to: &mut impl Write) -> std::io::Result<()> {
        if std::mem::take(&mut self.drawn) {
            to.write_all(AGAIN.as_bytes())?;
        }
        to.flush()
    }

    fn line(&self, progress: &Progress) -> String {
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

/// Seconds are enough for who waits.
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

    fn at(millis: u64, done: u64) -> Progress {
        Progress { elapsed: Duration::from_millis(millis), done, total: Some(1000), ..Progress::default() }
    }

    fn shown(meter: &mut Meter, progress: &Progress) -> String {
        let mut text = Vec::new();
        meter.show(progress, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_terminal_has_one_line_that_is_drawn_again_and_nothing_of_it_stays() {
        let mut meter = Meter::new(true);
        shown(&mut meter, &at(0, 0));
        let line = shown(&mut meter, &Progress { failed: 3, ..at(1000, 100) });
        assert_eq!(line, "\r\x1b[K100 of 1000 requests (10 %), 100 a second, 3 failed, 9 s left");
        let mut end = Vec::new();
        meter.clear(&mut end).unwrap();
        assert_eq!(end, b"\r\x1b[K");
    }

    #[test]
    fn elsewhere_there_is_a_line_every_few_seconds() {
        let mut meter = Meter::new(false);
        let lines: Vec<_> = (0..=11).map(|s| shown(&mut meter, &at(s * 1000, s * 10))).collect();
        let written: Vec<_> = (0..lines.len()).filter(|nth| !lines[*nth].is_empty()).collect();
        assert_eq!(written, [5, 10]);
        assert_eq!(lines[10], "100 of 1000 requests (10 %), 10 a second, 1 min 30 s left\n");
    }

    #[test]
    fn what_ends_by_time_tells_the_part_of_the_time() {
        let time = Some(Duration::from_secs(100));
        let mut meter = Meter::new(true);
        let line = shown(&mut meter, &Progress { total: None, time, ..at(25_000, 7) });
        assert!(line.contains("7 requests (25 %)") && line.ends_with("1 min 15 s left"), "{line}");
    }

    proptest! {
        #[test]
        fn whatever_happens_a_line_is_short_and_whole(
            steps in proptest::collection::vec((0u64..3_600_000, 0u64..1_000_000), 1..20),
            total in proptest::option::of(0u64..10_000_000), time in proptest::option::of(0u64..100_000),
        ) {
            let mut meter = Meter::new(true);
            let mut progress = Progress { total, time: time.map(Duration::from_secs), ..Progress::default() };
            for (millis, done) in steps {
                progress.elapsed += Duration::from_millis(millis);
                progress.done += done;
                let line = shown(&mut meter, &progress);
                prop_assert!(line.chars().count() < 100 && !line.contains("NaN") && !line.contains("inf"), "{line}");
            }
        }
    }
}
