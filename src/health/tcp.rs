//! The TCP check: a connection can be opened. It says that the kernel listens, not that the program answers.
//! Also opens the connections of all other checks, with a limit on the bytes read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::CheckError;
use crate::telemetry::{ConnectError, not_with_itself};

/// Opens a connection and ends it with a reset, which leaves no TIME_WAIT behind on either side.
pub(super) async fn check(address: SocketAddr) -> Result<(), CheckError> {
    let stream = connect(address, 0).await?.stream;
    // Only an economy: without it the check is as good.
    let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    Ok(())
}

/// Opens a connection for a check, which reads at most `most` bytes. All checks connect through this function.
pub(super) async fn connect(address: SocketAddr, most: u64) -> Result<Bounded, CheckError> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.and_then(|stream| not_with_itself(address, || stream.local_addr()).map(|()| stream));
    let stream = stream.map_err(|error| {
        let kind = ConnectError::from(&error);
        let why = format!("connect to {address}: {}", kind.explain(&error));
        if kind == ConnectError::Local { CheckError::Local(why.into()) } else { why.into() }
    })?;
    Ok(Bounded { stream, most, left: most })
}

/// A connection with a limit on the bytes read: an endless answer must neither block a check nor fill the memory.
#[derive(Debug)]
pub(super) struct Bounded {
    stream: TcpStream,
    /// The limit of bytes.
    most: u64,
    /// The bytes left.
    left: u64,
}

impl AsyncRead for Bounded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = usize::try_from(this.left).unwrap_or(usize::MAX);
        let room = buffer.remaining().min(left);
        if room == 0 && buffer.remaining() > 0 {
            let enough = format!("it sent {} bytes, and no more are read", this.most);
            return Poll::Ready(Err(io::Error::other(enough)));
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
        let read = part.filled().len();
        this.left -= read as u64;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What a check reads from a server that sends that much and then closes.
    async fn read(most: u64, sent: usize) -> (io::Result<usize>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let _ = peer.write_all(&vec![b'x'; sent]).await;
        });
        let mut stream = connect(address, most).await.unwrap();
        let mut came = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut came)).await;
        (end.unwrap(), came)
    }

    #[tokio::test]
    async fn a_check_reads_as_much_as_it_may_and_no_more() {
        let (end, came) = read(1000, 999).await;
        assert_eq!((end.unwrap(), came.len()), (999, 999));
        for sent in [1001, 1 << 20] {
            let (end, came) = read(1000, sent).await;
            assert_eq!(end.unwrap_err().to_string(), "it sent 1000 bytes, and no more are read");
            assert_eq!(came.len(), 1000);
        }
    }
}
