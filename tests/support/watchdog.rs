//! The last line of defense against tests that hang: the harness notes what each test waits for, and a test that takes
//! far too long ends the process with that. Waits have deadlines of their own (`deadlines.rs`), which are shorter.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::Location;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// A test may take this long. The slowest takes half a minute on an idle machine.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// Between the end of a wait that has a limit and the end of its test by the watchdog: the wait fails first.
const MARGIN: Duration = Duration::from_secs(60);
/// The exit code of a test binary whose tests fail.
const FAILED: i32 = 101;

/// What is known of a test that runs.
struct Entry {
    began: Instant,
    /// It must have ended by then.
    end: Instant,
    /// What it did last with the harness, and where.
    last: String,
}

static RUNNING: Mutex<BTreeMap<String, Entry>> = Mutex::new(BTreeMap::new());

/// Removes a test when its thread ends.
struct Registration(String);

impl Drop for Registration {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

thread_local! {
    static REGISTRATION: Option<Registration> = register();
}

/// The name of the test that this thread runs.
pub fn test() -> Option<String> {
    std::thread::current().name().map(str::to_owned)
}

/// Registers the test of this thread; threads that tests start have no name and are not watched.
fn register() -> Option<Registration> {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| _ = std::thread::spawn(watch));
    test().map(Registration)
}

/// Notes what the test does, and where.
#[track_caller]
pub fn note(what: &str) {
    note_with(what, |_| ());
}

/// The same of a wait that has a limit of its own: until that is over, the watchdog waits too.
#[track_caller]
pub fn note_wait(what: &str, limit: Duration) {
    note_with(what, |entry| entry.end = entry.end.max(Instant::now() + limit + MARGIN));
}

/// Gives the test of this thread that much time from now on, if it has less.
#[track_caller]
pub fn allow(limit: Duration) {
    note_with("a longer limit", |entry| entry.end = entry.end.max(Instant::now() + limit));
}

#[track_caller]
fn note_with(what: &str, change: impl FnOnce(&mut Entry)) {
    let last = format!("{what} ({})", Location::caller());
    // There is none once the thread ends.
    let _ = REGISTRATION.try_with(|test| {
        let Some(Registration(test)) = test else { return };
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let new = || Entry { began: now, end: now + LIMIT, last: String::new() };
        let entry = running.entry(test.clone()).or_insert_with(new);
        entry.last = last;
        // With `--test-threads=1` all tests run in one thread, whose name does not tell them apart.
        if test == "main" {
            entry.end = entry.end.max(now + LIMIT);
        }
        change(entry);
    });
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((test, entry)) = running.iter().find(|(_, entry)| Instant::now() >= entry.end) else {
            continue;
        };
        let seconds = entry.began.elapsed().as_secs();
        let last = &entry.last;
        print_now(&format!(
            "\ntest {test} hangs: it has not ended within {seconds} s; its last wait was for {last}\n"
        ));
        end_children();
        std::process::exit(FAILED);
    }
}

/// Writes to the real standard error, which libtest does not capture, in one piece: other lines do not get into it.
fn print_now(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Ends the processes that the tests have started, which would go on.
fn end_children() {
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Says on the real standard error that the test of this thread is skipped, what is missing, and how to get it. Fails
/// instead if the environment variable `required` is 1; one without a name requires nothing.
#[track_caller]
pub fn skip(required: &str, missing: &str) {
    let test = test().unwrap_or_default();
    let is_required = !required.is_empty() && std::env::var_os(required).is_some_and(|value| value == "1");
    assert!(!is_required, "{required}=1, and {missing}");
    // With one thread the harness has begun a line.
    let begin = if test == "main" { "\n" } else { "" };
    print_now(&format!("{begin}skipped: {test}: {missing}\n"));
}
