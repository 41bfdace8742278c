//! The TCP check: a connection can be opened, and with TLS the backend identified. The kernel listens, but the program may
//! not respond.

use super::connection::connect;
use super::{CheckError, CheckTarget};

/// Opens a connection and ends it at once.
pub(super) async fn check(target: &CheckTarget) -> Result<(), CheckError> {
    connect(target, 0).await?.end_at_once().await;
    Ok(())
}
