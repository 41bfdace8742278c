//! The TCP check: a connection can be opened. It says that the kernel listens, not that the program answers.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Opens a connection and ends it with a reset, which leaves no TIME_WAIT behind on either side.
pub(super) async fn check(address: SocketAddr) -> Result<(), String> {
    let stream = connect(address).await?;
    // Only an economy: without it the check is as good.
    let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    Ok(())
}

/// Opens a connection for a check.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))
}
