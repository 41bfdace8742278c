//! The last lines of the log, kept in memory for those who look from afar. The thread that writes the log feeds it, so
//! that whoever logs a line pays nothing for it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// How many bytes of lines are kept.
const KEPT: usize = 256 * 1024;

/// The last lines. They are numbered, the first of a process is 1.
#[derive(Debug)]
pub struct Tail {
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Debug)]
struct Kept {
    /// The lines, one right behind the other.
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
    /// Where to read on: the number of the latest line.
    pub latest: u64,
}

impl Tail {
    /// One without a line.
    pub const fn new() -> Self {
        let kept = Kept { bytes: VecDeque::new(), lengths: VecDeque::new(), latest: 0 };
        Self { kept: Mutex::new(kept), news: Notify::const_new() }
    }

    /// Adds what is written to the log, whole lines, without their colours, and forgets the oldest.
    pub fn add(&self, written: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for line in written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            kept.add(line);
        }
        drop(kept);
        self.news.notify_waiters();
    }

    /// The number of the latest line; 0: there is none.
    pub fn latest(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).latest
    }

    /// The last `limit` lines that are kept.
    pub fn last(&self, limit: usize) -> Lines {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Lines { skipped: 0, ..kept.last(limit) }
    }

    /// The lines after that number.
    pub fn after(&self, number: u64) -> Lines {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let news = kept.latest.saturating_sub(number);
        let read = kept.last(usize::try_from(news).unwrap_or(usize::MAX));
        Lines { skipped: news - read.lines.len() as u64, ..read }
    }

    /// The lines after that number, once there are some.
    pub async fn next(&self, number: u64) -> Lines {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable(); // what is added from here on wakes it
            let read = self.after(number);
            if read.latest > number {
                return read;
            }
            news.await;
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
            self.bytes.extend(without_colours(line).take(KEPT));
        }
        self.lengths.push_back(self.bytes.len() - before);
        self.latest += 1;
        while self.bytes.len() > KEPT {
            let oldest = self.lengths.pop_front().unwrap_or(0);
            self.bytes.drain(..oldest);
        }
    }

    fn last(&self, limit: usize) -> Lines {
        let from = self.lengths.len().saturating_sub(limit);
        let mut at: usize = self.bytes.len() - self.lengths.range(from..).sum::<usize>();
        let mut lines = Vec::with_capacity(self.lengths.len() - from);
        for length in self.lengths.range(from..) {
            let bytes: Vec<u8> = self.bytes.range(at..at + length).copied().collect();
            lines.push(String::from_utf8_lossy(&bytes).into_owned());
            at += length;
        }
        Lines { skipped: 0, lines, latest: self.latest }
    }
}

/// The bytes of a line without the sequences that colour it (ECMA-48, 5.4) and without any other control byte.
fn without_colours(line: &[u8]) -> impl Iterator<Item = u8> {
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

    #[test]
    fn who_reads_on_misses_nothing() {
        let tail = Tail::new();
        assert_eq!(tail.last(10), Lines::default());
        tail.add(b"one\n");
        tail.add(b"two\nthree\n");
        let read = tail.last(2);
        assert_eq!((lines(&read), read.latest, read.skipped), (vec!["two", "three"], 3, 0));
        assert_eq!(tail.last(usize::MAX).lines.len(), 3);
        tail.add("vier €\n".as_bytes());
        let read = tail.after(read.latest);
        assert_eq!((lines(&read), read.latest, read.skipped), (vec!["vier €"], 4, 0));
        assert_eq!(tail.after(4), Lines { latest: 4, ..Lines::default() });
    }

    #[test]
    fn what_is_forgotten_is_counted() {
        let tail = Tail::new();
        let line = "x".repeat(1023);
        for number in 0..1000 {
            tail.add(format!("{number:>5}{line}\n").as_bytes());
        }
        let read = tail.after(10);
        assert_eq!(read.skipped + read.lines.len() as u64, 990);
        assert_eq!((read.latest, read.lines.len()), (1000, KEPT / 1028));
        assert!(read.lines.last().is_some_and(|last| last.starts_with("  999x")));
        // One that is longer than all that is kept.
        tail.add(&vec![b'y'; KEPT * 2]);
        let read = tail.after(1000);
        assert_eq!((read.lines.len(), read.lines[0].len(), read.skipped), (1, KEPT, 0));
    }

    #[test]
    fn colours_are_left_out() {
        let tail = Tail::new();
        tail.add(b"\x1b[2m12:00\x1b[0m \x1b[32m INFO\x1b[0m routed \x1b[3mconn\x1b[0m\x1b[2m=\x1b[0m1\r\n");
        tail.add(b"half \x1b[38;5\n");
        assert_eq!(lines(&tail.last(2)), ["12:00  INFO routed conn=1", "half "]);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let tail = std::sync::Arc::new(Tail::new());
        let waiting = tokio::spawn({
            let tail = std::sync::Arc::clone(&tail);
            async move { tail.next(0).await }
        });
        tokio::task::yield_now().await;
        tail.add(b"now\n");
        assert_eq!(lines(&crate::testing::in_time("it is woken", waiting).await.unwrap()), ["now"]);
    }

    proptest! {
        #[test]
        fn no_line_is_lost_or_doubled(sizes in prop::collection::vec(1..3000_usize, 1..300), every in 1..20_usize) {
            let tail = Tail::new();
            let (mut seen, mut skipped, mut latest) = (Vec::new(), 0, 0);
            for (number, size) in sizes.iter().enumerate() {
                tail.add(format!("{number} {}\n", "z".repeat(*size)).as_bytes());
                if number % every == 0 {
                    let read = tail.after(latest);
                    (skipped, latest) = (skipped + read.skipped, read.latest);
                    seen.extend(read.lines.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap()));
                }
            }
            prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(seen.len() as u64 + skipped, latest);
            let kept = tail.kept.lock().unwrap();
            prop_assert_eq!(kept.lengths.iter().sum::<usize>(), kept.bytes.len());
            prop_assert!(kept.bytes.len() <= KEPT);
        }
    }
}
