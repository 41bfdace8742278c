//! The exchange check: what is sent is answered with what is wanted, byte for byte, somewhere in the answer.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, LONGEST, shown};
use super::{CheckError, tcp};
use crate::config::Exchange;

/// `deadline` is the check's own: what came until then is told.
pub(super) async fn check(
    address: SocketAddr,
    exchange: &Exchange,
    deadline: Instant,
) -> Result<(), CheckError> {
    let mut stream = tcp::connect(address, LONGEST as u64).await?;
    let sent = stream.write_all(&exchange.send).await;
    let mut answer = Answer::new(&exchange.expect);
    let mut buffer = [0; 4096];
    let end = loop {
        if answer.full() {
            break String::new();
        }
        match timeout_at(deadline, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => break " and closed the connection".to_owned(),
            Ok(Ok(n)) if answer.take(&buffer[..n]) => return Ok(()),
            Ok(Ok(_)) => {}
            // Who cannot be written to may have said why.
            Ok(Err(error)) => break format!(", then {}", sent.err().unwrap_or(error)),
            Err(_) => break " within the time limit".to_owned(),
        }
    };
    Err(format!("{address} answered {}{end}, not {}", answer.shown(), shown(&exchange.expect)).into())
}
