//! Active checks: one file per kind, and the rise/fall state machine.
//!
//! Each backend has one checker task, which runs one check after another: checks never pile up, and nothing but
//! the task's owner ends it. What a result means for the backend is the keeper's to decide. To add a kind: its
//! file here, its [`Check`] variant, and a line in `check`.

mod eject;
mod http;
mod tally;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Check, Health};
pub use eject::Ejection;
pub use tally::{Tally, Verdict};

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// `Err`: why it did not pass.
    pub result: Result<(), CheckError>,
    /// How long it took.
    pub took: Duration,
}

/// Why a check did not pass, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The backend is not as it should be.
    #[error("{0}")]
    Failed(String),
    /// Our own side is short of something: it says nothing about the backend.
    #[error("{0}")]
    Local(String),
}

impl From<String> for CheckError {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Where a checker puts its results.
pub type Sink = Box<dyn Fn(Checked) + Send>;

/// A running checker; it ends when this is dropped.
#[derive(Debug)]
pub struct Checker {
    check_now: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Checker {
    /// Checks `backend` at once and then every `health.every`; needs a tokio runtime.
    pub fn start(backend: SocketAddr, health: Health, sink: Sink) -> Self {
        let check_now = Arc::new(Notify::new());
        let task = tokio::spawn(run(backend, health, Arc::clone(&check_now), sink));
        Self { check_now, _task: AbortOnDropHandle::new(task) }
    }

    /// Checks again at once instead of at the next regular time.
    pub fn check_now(&self) {
        self.check_now.notify_one();
    }
}

async fn run(backend: SocketAddr, health: Health, check_now: Arc<Notify>, sink: Sink) {
    let address = SocketAddr::new(backend.ip(), health.port.unwrap_or(backend.port()));
    loop {
        let began = Instant::now();
        let result = match tokio::time::timeout(health.timeout, check(address, &health.check)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(health.timeout)).into()),
        };
        sink(Checked { result, took: began.elapsed() });
        // A tenth either way, so that the checks of many backends do not come in step.
        let pause = health.every.mul_f64(rand::rng().random_range(0.9..1.1)).saturating_sub(began.elapsed());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = check_now.notified() => {}
        }
    }
}

async fn check(address: SocketAddr, kind: &Check) -> Result<(), CheckError> {
    match kind {
        Check::Tcp => tcp::check(address).await,
        Check::Http(wanted) => http::check(address, wanted).await,
        // To be written.
        Check::Exchange(_) | Check::Postgres(_) | Check::Redis(_) => tcp::check(address).await,
    }
}
