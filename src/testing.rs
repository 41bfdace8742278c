//! What unit tests with real sockets and threads share: waits that end.

use std::future::Future;
use std::io::Write;
use std::time::Duration;

/// How long something may take on a busy machine before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the future gives; fails with `what` if that takes too long.
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => panic!("it did not happen within {PATIENCE:?}: {what}"),
    }
}

/// Says on the real standard error, which is not captured, that the test of this thread is skipped, and why.
pub(crate) fn skip(missing: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = std::io::stderr().write_all(format!("skipped: {test}: {missing}\n").as_bytes());
}
