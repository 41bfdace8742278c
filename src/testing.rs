//! Helpers for unit tests with real sockets and threads: waits with a time limit.

use std::future::Future;
use std::io::Write;
use std::time::Duration;

/// The time limit of a wait, long enough for a busy machine.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The future's result; panics with `what` if it takes too long.
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TEST_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => panic!("it did not happen within {TEST_TIMEOUT:?}: {what}"),
    }
}

/// Prints on the real standard error, which is not captured, that this thread's test is skipped, and why.
pub(crate) fn skip(missing: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = std::io::stderr().write_all(format!("skipped: {test}: {missing}\n").as_bytes());
}
