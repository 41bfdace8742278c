//! The last lines of the log, kept in memory for `logs`. The thread that writes the log feeds it, so
//! that logging a line costs nothing more.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// How many bytes of lines are kept.
const KEPT: usize = 256 * 1024;

/// The last lines. They are numbered, the first of a process is 1.
#[derive(Debug)]
pub struct Tail {
    kept: Mutex<Kept>,
    added: Notify,
}

#[derive(Debug)]
struct Kept {
    /// The lines, concatenated.
    bytes: VecDeque<u8>,
    /// The length of each, in bytes.
    lengths: VecDeque<usize>,
    /// The number of the latest.
    latest: u64,
}

/// Lines that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// How many before these are not kept any more.
    pub skipped: u64,
    /// The lines, oldest first.
    pub lines: Vec<String>,
    /// The number of the last line: where to continue reading.
    pub latest: u64,
}

impl Tail {
    /// A tail without lines.
    pub const fn new() -> Self {
        let kept = Kept { bytes: VecDeque::new(), lengths: VecDeque::new(), latest: 0 };
        Self { kept: Mutex::new(kept), added: Notify::const_new() }
    }

    /// Adds what is written to the log, whole lines, without their colors, and drops the oldest.
    pub fn add(&self, written: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for line in written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            kept.add(line);
        }
        drop(kept);
        self.added.notify_waiters();
    }

    /// The number of the latest line; 0: there is none.
    pub fn latest(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).latest
    }

    /// The number of the line before the last `count` lines that are kept.
    pub fn before_last(&self, count: usize) -> u64 {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.latest - kept.lengths.len().min(count) as u64
    }

    /// The lines after that number: at most `bytes` of them, or a single longer one.
    pub fn after(&self, number: u64, bytes: usize) -> Lines {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).after(number, bytes)
    }

    /// Waits until there are lines after that number.
    pub async fn wait(&self, number: u64) {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable(); // lines added from here on wake it
            if self.latest() > number {
                return;
            }
            added.await;
        }
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self::new()
    }
}

impl Kept {
    fn add(&mut self, line: &[u8]) {
        let before = self.bytes.len();
        let plain = |line: &[u8]| !line.iter().any(|byte| byte.is_ascii_control());
        if plain(line) {
            self.bytes.extend(&line[..line.len().min(KEPT)]);
        } else {
            self.bytes.extend(without_colors(line).take(KEPT));
        }
        self.lengths.push_back(self.bytes.len() - before);
        self.latest += 1;
        while self.bytes.len() > KEPT {
            let oldest = self.lengths.pop_front().unwrap_or(0);
            self.bytes.drain(..oldest);
        }
    }

    fn after(&self, number: u64, bytes: usize) -> Lines {
        let newer = self.latest.saturating_sub(number);
        let count = usize::try_from(newer).map_or(self.lengths.len(), |newer| newer.min(self.lengths.len()));
        let from = self.lengths.len() - count;
        let mut at: usize = self.bytes.len() - self.lengths.range(from..).sum::<usize>();
        let (mut lines, mut room) = (Vec::new(), bytes);
        for length in self.lengths.range(from..) {
            if *length > room && !lines.is_empty() {
                break;
            }
            let bytes: Vec<u8> = self.bytes.range(at..at + length).copied().collect();
            lines.push(String::from_utf8_lossy(&bytes).into_owned());
            at += length;
            room = room.saturating_sub(*length);
        }
        let skipped = newer - count as u64;
        Lines { skipped, latest: number.min(self.latest) + skipped + lines.len() as u64, lines }
    }
}

/// The bytes of a line without the sequences that color it (ECMA-48, 5.4) and without any other control byte.
fn without_colors(line: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = line;
    std::iter::from_fn(move || {
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            if byte == 0x1b && rest.first() == Some(&b'[') {
                let end = rest[1..].iter().position(|byte| (0x40..=0x7e).contains(byte));
                rest = end.map_or(&[], |end| &rest[end + 2..]);
            } else if byte == b'\t' {
                return Some(b' ');
            } else if !byte.is_ascii_control() {
                return Some(byte);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(read: &Lines) -> Vec<&str> {
        read.lines.iter().map(String::as_str).collect()
    }

    /// All kept lines after that number.
    fn after(tail: &Tail, number: u64) -> Lines {
        tail.after(number, usize::MAX)
    }

    #[test]
    fn a_reader_that_reads_on_misses_nothing() {
        let tail = Tail::new();
        assert_eq!((tail.before_last(10), after(&tail, 0)), (0, Lines::default()));
        tail.add(b"one\n");
        tail.add(b"two\nthree\n");
        let read = after(&tail, tail.before_last(2));
        assert_eq!((lines(&read), read.latest, read.skipped), (vec!["two", "three"], 3, 0));
        assert_eq!(tail.before_last(usize::MAX), 0);
        tail.add("vier €\n".as_bytes());
        let read = after(&tail, read.latest);
        assert_eq!((lines(&read), read.latest, read.skipped), (vec!["vier €"], 4, 0));
        for number in [4, 5, u64::MAX] {
            assert_eq!(after(&tail, number), Lines { latest: 4, ..Lines::default() });
        }
    }

    #[test]
    fn dropped_lines_are_counted() {
        let tail = Tail::new();
        let line = "x".repeat(1023);
        for number in 0..1000 {
            tail.add(format!("{number:>5}{line}\n").as_bytes());
        }
        let read = after(&tail, 10);
        assert_eq!(read.skipped + read.lines.len() as u64, 990);
        assert_eq!((read.latest, read.lines.len()), (1000, KEPT / 1028));
        assert!(read.lines.last().is_some_and(|last| last.starts_with("  999x")));
        // One that is longer than all that is kept.
        tail.add(&vec![b'y'; KEPT * 2]);
        let read = after(&tail, 1000);
        assert_eq!((read.lines.len(), read.lines[0].len(), read.skipped), (1, KEPT, 0));
    }

    #[test]
    fn a_read_is_limited_except_for_one_longer_line() {
        let tail = Tail::new();
        tail.add(b"12345\n12345\n1234567890\n1\n");
        let (mut read, mut pieces) = (Lines::default(), Vec::new());
        while read.latest < tail.latest() {
            read = tail.after(read.latest, 8);
            pieces.push(lines(&read).join(","));
        }
        assert_eq!(pieces, ["12345", "12345", "1234567890", "1"]);
        assert_eq!(lines(&tail.after(0, 10)), ["12345", "12345"]);
    }

    #[test]
    fn colors_are_removed() {
        let tail = Tail::new();
        tail.add(b"\x1b[2m12:00\x1b[0m \x1b[32m INFO\x1b[0m routed \x1b[3mconn\x1b[0m\x1b[2m=\x1b[0m1\r\n");
        tail.add(b"half \x1b[38;5\n");
        assert_eq!(lines(&after(&tail, 0)), ["12:00  INFO routed conn=1", "half "]);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let tail = std::sync::Arc::new(Tail::new());
        let waiting = tokio::spawn({
            let tail = std::sync::Arc::clone(&tail);
            async move { tail.wait(0).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        tail.add(b"now\n");
        crate::testing::in_time("it is woken", waiting).await.unwrap();
        crate::testing::in_time("a line that is there", tail.wait(0)).await;
    }

    proptest! {
        #[test]
        fn no_line_is_lost_or_doubled(sizes in prop::collection::vec(1..3000_usize, 1..300), every in 1..20_usize, most in 1..10_000_usize) {
            let tail = Tail::new();
            let (mut seen, mut skipped, mut latest) = (Vec::new(), 0, 0);
            for (number, size) in sizes.iter().enumerate() {
                tail.add(format!("{number} {}\n", "z".repeat(*size)).as_bytes());
                if number % every == 0 {
                    let read = tail.after(latest, most);
                    (skipped, latest) = (skipped + read.skipped, read.latest);
                    seen.extend(read.lines.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap()));
                }
            }
            prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(seen.len() as u64 + skipped, latest);
            prop_assert_eq!(seen.last().map_or(0, |last| *last as u64 + 1), latest);
            let kept = tail.kept.lock().unwrap();
            prop_assert_eq!(kept.lengths.iter().sum::<usize>(), kept.bytes.len());
            prop_assert!(kept.bytes.len() <= KEPT);
        }
    }
}
