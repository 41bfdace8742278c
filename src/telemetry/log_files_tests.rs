//! Log files in the test's own directory, with a test clock.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.get())
}

/// Sets the clock.
fn at(time: &str) {
    let time = humantime::parse_rfc3339(time).unwrap();
    NOW.set(time.duration_since(UNIX_EPOCH).unwrap().as_secs());
}

fn plan(rotation: Rotation, max_size: u64, keep: usize) -> Plan {
    Plan { rotation, max_size: Some(max_size), keep }
}

fn open(directory: &Path, plan: Plan) -> LogFiles {
    LogFiles::open(directory.to_owned(), plan, clock).unwrap()
}

fn log(files: &mut LogFiles, line: &str) {
    files.prepare(line.len()).unwrap();
    assert_eq!(files.write(line.as_bytes()).unwrap(), line.len());
}

/// The contents of the files, without links.
fn contents(directory: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = files.filter(|entry| !entry.file_type().unwrap().is_symlink());
    files
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect()
}

fn expect(directory: &Path, files: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> =
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(contents(directory), expected);
}

#[test]
fn each_period_has_its_file_and_the_latest_has_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    at("2026-11-22T23:59:59Z");
    let mut files = open(directory, plan(Rotation::Daily, 1000, 2));
    log(&mut files, "one\n");
    at("2026-11-23T00:00:00Z");
    log(&mut files, "two\n");
    expect(directory, &[("pointsman.2026-11-22.log", "one\n"), ("pointsman.2026-11-23.log", "two\n")]);
    assert_eq!(fs::read_to_string(directory.join("pointsman.log")).unwrap(), "two\n");
    assert_eq!(
        fs::read_link(directory.join("pointsman.log")).unwrap(),
        Path::new("pointsman.2026-11-23.log")
    );
    // The oldest file is removed; files that are not of the log stay.
    fs::write(directory.join("pointsman.notes.log"), "mine\n").unwrap();
    at("2026-11-24T12:00:00Z");
    log(&mut files, "three\n");
    let kept = [
        ("pointsman.2026-11-23.log", "two\n"),
        ("pointsman.2026-11-24.log", "three\n"),
        ("pointsman.notes.log", "mine\n"),
    ];
    expect(directory, &kept);
}

#[test]
fn an_hour_can_be_a_period() {
    let folder = tempfile::tempdir().unwrap();
    at("2026-11-22T09:30:00Z");
    let mut files = open(folder.path(), plan(Rotation::Hourly, 1000, 7));
    log(&mut files, "one\n");
    at("2026-11-22T10:00:00Z");
    log(&mut files, "two\n");
    expect(
        folder.path(),
        &[("pointsman.2026-11-22-09.log", "one\n"), ("pointsman.2026-11-22-10.log", "two\n")],
    );
}

#[test]
fn a_file_that_would_grow_too_large_is_followed_by_another_and_a_restart_goes_on_with_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    at("2026-11-22T12:00:00Z");
    let plan = plan(Rotation::Daily, 10, 3);
    let mut files = open(directory, plan);
    for line in ["aaaa\n", "bbbb\n", "cccc\n", "a line that is longer than a whole file\n"] {
        log(&mut files, line);
    }
    drop(files);
    let mut files = open(directory, plan);
    log(&mut files, "dddd\n");
    log(&mut files, "eeee\n");
    drop(files);
    let mut files = open(directory, plan);
    log(&mut files, "ffff\n");
    expect(
        directory,
        &[
            ("pointsman.2026-11-22.2.log", "a line that is longer than a whole file\n"),
            ("pointsman.2026-11-22.3.log", "dddd\neeee\n"),
            ("pointsman.2026-11-22.4.log", "ffff\n"),
        ],
    );
    // The first file of a later period has no number.
    at("2026-11-23T12:00:00Z");
    log(&mut files, "gggg\n");
    assert!(contents(directory).contains_key("pointsman.2026-11-23.log"));
}

#[test]
fn a_file_without_rotation_that_another_program_has_moved_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    at("2026-11-22T12:00:00Z");
    let mut files = open(folder.path(), plan(Rotation::Never, 10, 3));
    log(&mut files, "aaaa\n");
    std::fs::rename(folder.path().join("pointsman.log"), folder.path().join("moved")).unwrap();
    log(&mut files, "bbbb\n");
    log(&mut files, "cccc\n");
    expect(folder.path(), &[("moved", "aaaa\nbbbb\n"), ("pointsman.log", "cccc\n")]);
}

#[test]
fn numbers_are_ordered_as_numbers_not_as_text() {
    let folder = tempfile::tempdir().unwrap();
    at("2026-11-22T12:00:00Z");
    let mut files = open(folder.path(), plan(Rotation::Daily, 5, 2));
    for number in 0..12 {
        log(&mut files, &format!("{number:04}\n"));
    }
    expect(
        folder.path(),
        &[("pointsman.2026-11-22.10.log", "0010\n"), ("pointsman.2026-11-22.11.log", "0011\n")],
    );
}

#[test]
fn without_rotation_the_latest_keeps_its_name_and_full_ones_have_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let plan = plan(Rotation::Never, 10, 3);
    let mut files = open(directory, plan);
    for line in ["aaaa\n", "bbbb\n", "cccc\n", "dddd\n", "eeee\n"] {
        log(&mut files, line);
    }
    expect(
        directory,
        &[
            ("pointsman.1.log", "aaaa\nbbbb\n"),
            ("pointsman.2.log", "cccc\ndddd\n"),
            ("pointsman.log", "eeee\n"),
        ],
    );
    drop(files);
    let mut files = open(directory, plan);
    log(&mut files, "ffff\n");
    log(&mut files, "gggg\n");
    expect(
        directory,
        &[
            ("pointsman.2.log", "cccc\ndddd\n"),
            ("pointsman.3.log", "eeee\nffff\n"),
            ("pointsman.log", "gggg\n"),
        ],
    );
    // With one file, only the latest remains.
    drop(files);
    drop(open(directory, Plan { keep: 1, ..plan }));
    expect(directory, &[("pointsman.log", "gggg\n")]);
}

#[test]
fn without_a_limit_a_file_grows() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = open(folder.path(), Plan { rotation: Rotation::Never, max_size: None, keep: 2 });
    for _ in 0..1000 {
        log(&mut files, "a line\n");
    }
    assert_eq!(contents(folder.path()).len(), 1);
}

#[test]
fn another_rotation_loses_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    at("2026-11-22T12:00:00Z");
    log(&mut open(directory, plan(Rotation::Never, 1000, 9)), "one\n");
    log(&mut open(directory, plan(Rotation::Daily, 1000, 9)), "two\n");
    expect(directory, &[("pointsman.1.log", "one\n"), ("pointsman.2026-11-22.log", "two\n")]);
    log(&mut open(directory, plan(Rotation::Never, 1000, 9)), "three\n");
    expect(
        directory,
        &[("pointsman.1.log", "one\n"), ("pointsman.2026-11-22.log", "two\n"), ("pointsman.log", "three\n")],
    );
}

#[test]
fn a_torn_line_is_removed_and_one_of_an_earlier_run_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pointsman.log");
    let plan = plan(Rotation::Never, 1000, 2);
    fs::write(&path, "whole\nto").unwrap();
    let mut files = open(folder.path(), plan);
    log(&mut files, "one\ntw");
    assert!(files.take_back(2));
    log(&mut files, "two\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nto\none\ntwo\n");
    // Bytes of another process stay.
    log(&mut files, "thr");
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"theirs\n").unwrap();
    assert!(!files.take_back(3));
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nto\none\ntwo\nthrtheirs\n");
}

#[test]
fn if_no_file_can_be_created_the_old_one_continues_and_creation_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("logs");
    fs::create_dir(&directory).unwrap();
    at("2026-11-22T23:59:59Z");
    let mut files = open(&directory, plan(Rotation::Daily, 1000, 9));
    let away = folder.path().join("away");
    fs::rename(&directory, &away).unwrap();
    at("2026-11-23T00:00:00Z");
    assert!(files.prepare(4).is_err() && files.write(b"two\n").is_ok());
    fs::rename(&away, &directory).unwrap();
    assert!(files.prepare(4).is_err(), "so soon");
    at("2026-11-23T00:00:01Z");
    log(&mut files, "three\n");
    expect(&directory, &[("pointsman.2026-11-22.log", "two\n"), ("pointsman.2026-11-23.log", "three\n")]);
}
