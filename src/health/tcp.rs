//! The TCP check: a connection can be opened. It says that the kernel listens, not that the program answers.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::CheckError;
use crate::telemetry::{ConnectError, not_with_itself};

/// Opens a connection and ends it with a reset, which leaves no TIME_WAIT behind on either side.
pub(super) async fn check(address: SocketAddr) -> Result<(), CheckError> {
    let stream = connect(address).await?;
    // Only an economy: without it the check is as good.
    let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    Ok(())
}

/// Opens a connection for a check.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, CheckError> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.and_then(|stream| not_with_itself(address, || stream.local_addr()).map(|()| stream));
    stream.map_err(|error| {
        let kind = ConnectError::from(&error);
        let why = format!("connect to {address}: {}", kind.explain(&error));
        if kind == ConnectError::Local { CheckError::Local(why.into()) } else { why.into() }
    })
}
