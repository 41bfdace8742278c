//! A watchdog for hanging tests: the harness records what each test waits for, and the watchdog ends the process with
//! that record if a test takes far too long. Waits have shorter deadlines (`deadlines.rs`).

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::Location;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// The time limit of a test. The slowest takes half a minute on an idle machine.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// The margin between a wait's deadline and the watchdog: the wait fails first.
const MARGIN: Duration = Duration::from_secs(60);
/// The exit code of a test binary with failed tests.
const FAILED: i32 = 101;

/// The state of a running test.
struct RunningTest {
    began: Instant,
    /// Its deadline.
    end: Instant,
    /// Its last action in the harness, and where.
    last: String,
}

static RUNNING: Mutex<BTreeMap<String, RunningTest>> = Mutex::new(BTreeMap::new());

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

/// The name of this thread's test.
pub fn test() -> Option<String> {
    std::thread::current().name().map(str::to_owned)
}

/// Registers the test of this thread; threads that tests start have no name and are not watched.
fn register() -> Option<Registration> {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| _ = std::thread::spawn(watch));
    test().map(Registration)
}

/// Records what the test does, and where.
#[track_caller]
pub fn note(what: &str) {
    note_with(what, |_| ());
}

/// The same for a wait with a time limit: the watchdog waits at least as long.
#[track_caller]
pub fn note_wait(what: &str, limit: Duration) {
    note_with(what, |entry| entry.end = entry.end.max(Instant::now() + limit + MARGIN));
}

/// Extends the deadline of this thread's test to at least `limit` from now.
#[track_caller]
pub fn allow(limit: Duration) {
    note_with("a longer limit", |entry| entry.end = entry.end.max(Instant::now() + limit));
}

#[track_caller]
fn note_with(what: &str, change: impl FnOnce(&mut RunningTest)) {
    let last = format!("{what} ({})", Location::caller());
    // The thread-local is gone once the thread ends.
    let _ = REGISTRATION.try_with(|test| {
        let Some(Registration(test)) = test else { return };
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let new = || RunningTest { began: now, end: now + LIMIT, last: String::new() };
        let entry = running.entry(test.clone()).or_insert_with(new);
        entry.last = last;
        // With `--test-threads=1` all tests run in one thread, whose name does not identify the test.
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

/// Writes to the real standard error, which libtest does not capture, in one write: other lines cannot interleave.
fn print_now(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Kills the processes that the tests have started.
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

/// Prints on the real standard error that this thread's test is skipped, the missing tool, and how to install it. Fails
/// instead if the environment variable `required` is 1; an empty name requires nothing.
#[track_caller]
pub fn skip(required: &str, missing: &str) {
    let test = test().unwrap_or_default();
    let is_required = !required.is_empty() && std::env::var_os(required).is_some_and(|value| value == "1");
    assert!(!is_required, "{required}=1, and {missing}");
    // With one thread the harness has begun a line.
    let begin = if test == "main" { "\n" } else { "" };
    print_now(&format!("{begin}skipped: {test}: {missing}\n"));
}
