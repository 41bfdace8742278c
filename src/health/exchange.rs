//! The exchange check: sends bytes, and expects bytes somewhere in the response.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::connection::connect;
use super::response::{CheckResponse, LONGEST, quoted};
use super::{CheckError, CheckTarget};
use crate::config::Exchange;
use crate::domain::{CheckFailure, CheckStep};

/// Ends at `deadline` at the latest, with the response until then in the error.
pub(super) async fn check(
    target: &CheckTarget,
    exchange: &Exchange,
    deadline: Instant,
) -> Result<(), CheckError> {
    let mut stream = connect(target, LONGEST as u64).await?;
    let sent = stream.write_all(&exchange.send).await;
    let mut response = CheckResponse::new(&exchange.expect);
    let mut buffer = [0; 4096];
    let end = loop {
        if response.full() {
            break String::new();
        }
        match timeout_at(deadline, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => break " and closed the connection".to_owned(),
            Ok(Ok(n)) if response.push(&buffer[..n]) => return Ok(()),
            Ok(Ok(_)) => {}
            // After a write error the backend may have sent the reason.
            Ok(Err(error)) => break format!(", then {}", sent.err().unwrap_or(error)),
            Err(_) => break " within the time limit".to_owned(),
        }
    };
    let error = format!("answered {}{end}, not {}", response.quoted(), quoted(&exchange.expect));
    Err(CheckFailure::at(CheckStep::Exchange, target.address.clone(), error).into())
}
