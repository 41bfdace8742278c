//! Lines at a sink whose failures the test scripts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

/// The result of one write: some of the bytes, or an error.
#[derive(Clone, Copy, Debug)]
enum Does {
    Takes(usize),
    IsFull,
    Blocks,
    Interrupts,
}

/// A disk with scripted results, which accepts everything after them.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    written: Vec<u8>,
    does: VecDeque<Does>,
    full: bool,
    takes_back: bool,
    prepared: Vec<bool>,
}

impl LogSink for Disk {
    fn prepare(&mut self, bytes: usize) -> io::Result<()> {
        assert!(bytes > 0);
        let disk = &mut *self.0.lock().unwrap();
        assert!(disk.written.last().is_none_or(|byte| *byte == b'\n'), "in the middle of a line");
        if disk.prepared.pop() == Some(false) { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let disk = &mut *self.0.lock().unwrap();
        let does =
            if disk.full { Does::IsFull } else { disk.does.pop_front().unwrap_or(Does::Takes(usize::MAX)) };
        let taken = match does {
            Does::Takes(most) => bytes.len().min(most),
            Does::IsFull => return Err(io::ErrorKind::StorageFull.into()),
            Does::Blocks => return Err(io::ErrorKind::WouldBlock.into()),
            Does::Interrupts => return Err(io::ErrorKind::Interrupted.into()),
        };
        disk.written.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn take_back(&mut self, bytes: usize) -> bool {
        let disk = &mut *self.0.lock().unwrap();
        if disk.takes_back {
            let left = disk.written.len() - bytes;
            disk.written.truncate(left);
        }
        disk.takes_back
    }
}

type WrittenLines = Arc<Mutex<Vec<String>>>;

fn lines() -> (Lines<Disk>, Disk, WrittenLines) {
    let (disk, reported) = (Disk::default(), WrittenLines::default());
    let changes = Arc::clone(&reported);
    let report = move |change: SinkChange| changes.lock().unwrap().push(format!("{change:?}"));
    let condition = Box::leak(Box::default());
    (Lines::new(disk.clone(), None, condition, report), disk, reported)
}

/// Makes a retry due now.
fn attempt(lines: &mut Lines<Disk>) -> Attempt {
    lines.next_try = None;
    lines.attempt()
}

#[test]
fn lines_on_a_full_disk_are_whole_counted_and_reported_and_continue_with_free_space() {
    for takes_back in [true, false] {
        let (mut log, disk, reported) = lines();
        disk.0.lock().unwrap().takes_back = takes_back;
        disk.0.lock().unwrap().does.extend([Does::Takes(20), Does::Takes(3), Does::IsFull]);
        for n in 0..3 {
            log.write_all(format!("line {n}.......\n").as_bytes()).unwrap();
        }
        assert_eq!(log.attempt(), Attempt::Failed);
        assert!(log.condition.fails());
        let reported_at = |at: usize| reported.lock().unwrap().get(at).cloned().unwrap_or_default();
        assert!(
            reported_at(0).starts_with("Failed(") && reported_at(0).contains("StorageFull"),
            "{reported:?}"
        );
        let written = if takes_back { "line 0.......\n" } else { "line 0.......\nline 1..." };
        assert_eq!(disk.0.lock().unwrap().written, written.as_bytes());
        // While it is full, lines wait and then are lost.
        disk.0.lock().unwrap().full = true;
        let long = format!("{}\n", "x".repeat(999));
        for _ in 0..200 {
            log.write_all(long.as_bytes()).unwrap();
            attempt(&mut log);
        }
        let lost_now = log.condition.lost();
        assert!((200 - 66..200 - 60).contains(&lost_now), "{lost_now}");
        assert_eq!(reported.lock().unwrap().len(), 1, "reported once: {reported:?}");
        disk.0.lock().unwrap().full = false;
        assert_eq!(attempt(&mut log), Attempt::Done);
        assert!(!log.condition.fails());
        assert_eq!(reported_at(1), format!("Works {{ lost: {lost_now} }}"));
        let written = String::from_utf8(disk.0.lock().unwrap().written.clone()).unwrap();
        let expected = "line 0.......\nline 1.......\nline 2.......\n".to_owned()
            + &long.repeat(200 - lost_now as usize);
        assert_eq!(written, expected);
    }
}

#[test]
fn a_sink_that_would_block_is_retried_without_a_report() {
    let (mut log, disk, reported) = lines();
    disk.0.lock().unwrap().does.extend([Does::Takes(3), Does::Blocks, Does::Interrupts, Does::Blocks]);
    log.write_all(b"one\ntwo\n").unwrap();
    log.flush().unwrap();
    assert_eq!(disk.0.lock().unwrap().written, b"one\ntwo\n");
    assert!(reported.lock().unwrap().is_empty(), "{reported:?}");
}

#[test]
fn a_file_that_cannot_be_created_is_reported_once_and_the_lines_are_still_written() {
    let (mut log, disk, reported) = lines();
    disk.0.lock().unwrap().prepared = vec![true, false, false];
    for _ in 0..3 {
        log.write_all(b"line\n").unwrap();
        assert_eq!(log.attempt(), Attempt::Done);
    }
    assert_eq!(disk.0.lock().unwrap().written, b"line\n".repeat(3));
    assert_eq!(reported.lock().unwrap().len(), 2, "{reported:?}");
    assert_eq!(reported.lock().unwrap()[1], "Prepared");
}

#[test]
fn a_sink_that_has_failed_is_not_tried_for_every_line() {
    let (mut log, disk, _reported) = lines();
    disk.0.lock().unwrap().does.push_back(Does::IsFull);
    log.write_all(b"line\n").unwrap();
    assert_eq!(log.attempt(), Attempt::Failed);
    assert!(log.next_try.is_some());
    assert_eq!(log.attempt(), Attempt::Failed, "although there is room by now");
    log.flush().unwrap();
    assert_eq!(attempt(&mut log), Attempt::Done);
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        4 => (1..40_usize).prop_map(Does::Takes),
        2 => Just(Does::IsFull),
        1 => Just(Does::Interrupts),
        1 => Just(Does::Blocks),
    ]
}

proptest! {
    /// However a sink fails: it receives whole lines in order, each once, and missing lines are counted.
    #[test]
    fn no_line_is_torn_doubled_or_lost_without_a_count(
        batches in prop::collection::vec((prop::collection::vec(1..30_000_usize, 0..4), prop::collection::vec(does(), 0..6)), 1..20),
        takes_back: bool,
    ) {
        let (mut log, disk, reported) = lines();
        disk.0.lock().unwrap().takes_back = takes_back;
        let mut number = 0;
        for (sizes, does) in batches {
            disk.0.lock().unwrap().does = does.into();
            for size in sizes {
                log.next_try = None;
                log.write_all(format!("{number} {}\n", "z".repeat(size)).as_bytes()).unwrap();
                number += 1;
            }
            attempt(&mut log);
            if takes_back && log.written == 0 {
                prop_assert!(disk.0.lock().unwrap().written.last().is_none_or(|byte| *byte == b'\n'));
            }
        }
        disk.0.lock().unwrap().does.clear();
        prop_assert_eq!(attempt(&mut log), Attempt::Done);
        let written = String::from_utf8(disk.0.lock().unwrap().written.clone()).unwrap();
        prop_assert!(written.is_empty() || written.ends_with('\n'));
        let numbers: Vec<u64> = written
            .lines()
            .map(|line| line.strip_suffix(line.split_once(' ').unwrap().1).unwrap().trim().parse().unwrap())
            .collect();
        prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert_eq!(numbers.len() as u64 + log.condition.lost(), number);
        let reported = reported.lock().unwrap();
        let (failed, works): (Vec<_>, Vec<_>) = reported.iter().partition(|change| change.starts_with("Failed"));
        prop_assert_eq!(failed.len(), works.len(), "{:?}", reported);
        let reported_lost: u64 = works.iter().map(|change| {
            change.trim_start_matches("Works { lost: ").trim_end_matches(" }").parse::<u64>().unwrap()
        }).sum();
        prop_assert_eq!(reported_lost + log.condition.too_slow(), log.condition.lost());
    }
}
