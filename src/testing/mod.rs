//! Helpers for unit tests: waits with a time limit, captured log lines, the inputs of the fuzzer, and the reference pages
//! of the book.

#![expect(clippy::unwrap_used, reason = "a test fails there")]

pub mod corpus;
pub mod reference;

use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The time limit of a wait, long enough for a busy machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The future's result; panics with `what` if it takes too long.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TEST_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => panic!("it did not happen within {TEST_TIMEOUT:?}: {what}"),
    }
}

/// Prints on the real standard error, which is not captured, that this thread's test is skipped, and why.
pub fn skip(missing: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = std::io::stderr().write_all(format!("skipped: {test}: {missing}\n").as_bytes());
}

/// What a subscriber of `tracing` writes. Clones share the same text.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// The text so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
