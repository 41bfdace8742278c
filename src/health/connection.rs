//! The connections of checks: how they are opened, and how much is read from them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{CheckError, CheckTarget};
use crate::config::SourceAddress;
use crate::domain::{CheckFailure, CheckStep, SocketAddress};
use crate::outgoing::{bind_source, connect_unix, not_with_itself};
use crate::protocol::proxy_header::{self, Endpoints};
use crate::telemetry::ConnectError;
use crate::tls::TlsError;

/// Bytes read from a server besides what the check reads: the TLS handshake, whose largest part is the server's
/// certificates, and the framing.
const TLS_OVERHEAD: u64 = 128 * 1024;

/// A check's connection, of which the check reads a limited number of bytes.
pub(super) type CheckStream = BoundedStream<Either<PlainStream, TlsStream<BoundedStream<PlainStream>>>>;

/// A connection before TLS.
pub(super) type PlainStream = Either<TcpStream, UnixStream>;

/// Opens a connection for a check, which reads at most `most` bytes.
pub(super) async fn connect(target: &CheckTarget, most: u64) -> Result<CheckStream, CheckError> {
    secure(open(target).await?, target, most).await
}

/// Opens a connection, and sends the PROXY header. All checks connect through this function.
pub(super) async fn open(target: &CheckTarget) -> Result<PlainStream, CheckError> {
    begin(target).await.map_err(|error| {
        let kind = ConnectError::from(&error);
        let failure = CheckFailure::at(CheckStep::Connect, target.address.clone(), kind.explain(&error));
        if kind == ConnectError::Local { CheckError::Local(failure.text()) } else { failure.into() }
    })
}

async fn begin(target: &CheckTarget) -> io::Result<PlainStream> {
    let (mut stream, ends) = match &target.address {
        SocketAddress::Tcp(address) => {
            let stream = connect_tcp(*address, target.source).await?;
            let ends = Endpoints::new(stream.local_addr()?, *address);
            (Either::Left(stream), Some(ends))
        }
        SocketAddress::Unix(path) => (Either::Right(connect_unix(path).await?), None),
    };
    if let Some(version) = target.proxy_header {
        stream.write_all(&proxy_header::write_local(version, ends)).await?;
    }
    Ok(stream)
}

async fn connect_tcp(address: SocketAddr, source: Option<SourceAddress>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        bind_source(&socket, source)?;
    }
    let stream = socket.connect(address).await?;
    not_with_itself(address, || stream.local_addr())?;
    Ok(stream)
}

/// Encrypts an open connection, if TLS is configured.
pub(super) async fn secure(
    stream: PlainStream,
    target: &CheckTarget,
    most: u64,
) -> Result<CheckStream, CheckError> {
    let stream = match &target.tls {
        None => Either::Left(stream),
        Some(tls) => {
            let stream = BoundedStream::new(stream, TLS_OVERHEAD + 2 * most);
            Either::Right(tls.handshake(stream).await.map_err(|error| match error {
                TlsError::Local(what) => CheckError::Local(what.into()),
                TlsError::Handshake(what) => {
                    CheckFailure::at(CheckStep::Tls, target.address.clone(), what).into()
                }
            })?)
        }
    };
    Ok(BoundedStream::new(stream, most))
}

/// A connection with a limit on the bytes read: an endless response must neither block a check nor fill the memory.
#[derive(Debug)]
pub(super) struct BoundedStream<S> {
    stream: S,
    /// The limit of bytes.
    most: u64,
    /// The bytes left.
    left: u64,
}

impl<S> BoundedStream<S> {
    /// At most `most` bytes are read from `stream`.
    pub(super) fn new(stream: S, most: u64) -> Self {
        Self { stream, most, left: most }
    }
}

impl CheckStream {
    /// Resets the connection, which leaves no TIME_WAIT on either side; or closes TLS in order, as servers log the
    /// connection otherwise.
    pub(super) async fn end_at_once(self) {
        match self.stream {
            Either::Left(Either::Right(_)) => {} // a Unix socket has no TIME_WAIT
            Either::Left(Either::Left(stream)) => {
                // If this fails, the check is still valid and leaves a TIME_WAIT.
                let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
            }
            Either::Right(mut stream) => _ = stream.shutdown().await,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = usize::try_from(this.left).unwrap_or(usize::MAX);
        let length = buffer.remaining().min(left);
        if length == 0 && buffer.remaining() > 0 {
            let reason = format!("it sent more than {} bytes", this.most);
            return Poll::Ready(Err(io::Error::other(reason)));
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(length));
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
        let read = part.filled().len();
        this.left -= read as u64;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
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

    use tokio::io::AsyncReadExt;

    use super::*;

    /// Reads from a server that sends so many bytes and then closes.
    async fn read(most: u64, sent: usize) -> (io::Result<usize>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().into();
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let _ = peer.write_all(&vec![b'x'; sent]).await;
        });
        let target = CheckTarget { address, source: None, proxy_header: None, tls: None };
        let mut stream = connect(&target, most).await.unwrap();
        let mut received = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await;
        (end.unwrap(), received)
    }

    #[tokio::test]
    async fn a_check_reads_up_to_its_limit() {
        let (end, received) = read(1000, 999).await;
        assert_eq!((end.unwrap(), received.len()), (999, 999));
        for sent in [1001, 1 << 20] {
            let (end, received) = read(1000, sent).await;
            assert_eq!(end.unwrap_err().to_string(), "it sent more than 1000 bytes");
            assert_eq!(received.len(), 1000);
        }
    }
}
