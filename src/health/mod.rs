//! Active checks (one file per kind), their schedule, rise and fall; passive ejection.
//!
//! Each check of each backend has a [`Checker`]. All kinds connect through `connection.rs`, with TLS if that is configured. The pool's state machine decides what a result means. To add a kind: a
//! file here, a [`Check`] variant, and a line in `check`.

mod check_slots;
mod checker;
mod connection;
mod eject;
mod exchange;
mod files;
mod http;
pub mod late;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
mod pace;
mod postgres;
mod redis;
mod response;
mod rise_fall;
mod schedule;
mod tcp;

use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Check, SourceAddress};
use crate::domain::{Cause, CheckFailure, CheckKind, SocketAddress};
use crate::protocol::proxy_header::ProxyVersion;
use crate::tls::TlsClient;
pub use checker::Checker;
pub use eject::{Ejection, HandedEjection};
pub use files::problems as file_problems;
pub use pace::Pace;
pub use pace::PoolPace;
pub use rise_fall::{RiseFall, Run, Verdict};

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its kind.
    pub kind: CheckKind,
    /// `Err`: why it did not pass.
    pub result: Result<(), CheckError>,
    /// How long it waited for a slot (`runtime.max_checks`).
    pub waited: Duration,
    /// How long it took after it started.
    pub took: Duration,
}

/// Why a check did not pass, for messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The backend fails.
    #[error("{0}")]
    Failed(CheckFailure),
    /// A local error, such as a missing password file or no free port. It is no evidence against the backend, which
    /// keeps its state: otherwise one local mistake would take out all backends. Meanwhile no failure is detected, so
    /// it is counted, and logged every minute.
    #[error("{0}")]
    Local(Cause),
}

impl From<String> for CheckError {
    fn from(error: String) -> Self {
        Self::Failed(CheckFailure::new(error))
    }
}

impl From<CheckFailure> for CheckError {
    fn from(failure: CheckFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Where a check connects to, and what precedes it on the connection.
#[derive(Debug)]
struct CheckTarget {
    address: SocketAddress,
    /// The address that it comes from; `None`: the kernel chooses.
    source: Option<SourceAddress>,
    /// The PROXY header that it sends first.
    proxy_header: Option<ProxyVersion>,
    /// Encrypts the connection.
    tls: Option<TlsClient>,
}

/// Checks once. The caller stops waiting at `deadline`.
async fn check(target: &CheckTarget, kind: &Check, deadline: Instant) -> Result<(), CheckError> {
    match kind {
        Check::Tcp => tcp::check(target).await,
        Check::Http(wanted) => http::check(target, wanted).await,
        Check::Exchange(exchange) => exchange::check(target, exchange, deadline).await,
        Check::Postgres(wanted) => postgres::check(target, wanted).await,
        Check::Redis(wanted) => redis::check(target, wanted).await,
    }
}
