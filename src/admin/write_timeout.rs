//! A time limit for writes, as hyper has time limits for reads only. A connection is closed when its peer reads nothing
//! for too long while there is something to send, but not when the peer reads slowly or waits for the next bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream whose writes time out when its peer reads nothing.
pub(super) struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    /// The timer of the pending write.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Whether a write waits for the client; shared with the connection's slot.
    blocked: Arc<AtomicBool>,
}

impl<S: AsyncWrite + Unpin> WriteTimeout<S> {
    /// Each write times out after `limit`. `blocked` is set while one waits.
    pub(super) fn new(stream: S, limit: Duration, blocked: Arc<AtomicBool>) -> Self {
        Self { stream, limit, waiting: None, blocked }
    }

    /// Writes with `write`; `TimedOut` if nothing could be written for too long.
    fn write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.stream), cx) {
            self.waiting = None;
            self.blocked.store(false, Ordering::Relaxed);
            return Poll::Ready(written);
        }
        self.blocked.store(true, Ordering::Relaxed);
        let limit = self.limit;
        ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "write timed out: the peer reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_with(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_with(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A socket has no buffer to flush: neither a flush nor a shutdown waits for the peer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::testing::in_time;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_write_times_out_if_the_peer_reads_nothing_and_not_if_it_reads_slowly() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = WriteTimeout::new(ours, LIMIT, Arc::default());
        let began = tokio::time::Instant::now();
        let reading = async {
            for _ in 0..4 {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 24]), reading);
        written.unwrap();
        assert!(!ours.blocked.load(Ordering::Relaxed));
        assert!(began.elapsed() > 3 * LIMIT);
        // Without anything to send, no time limit runs.
        tokio::time::sleep(3 * LIMIT).await;
        let began = tokio::time::Instant::now();
        assert_eq!(ours.write_all(&[0; 24]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((LIMIT..2 * LIMIT).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_write_to_a_socket_times_out() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let began = Instant::now();
        let (limit, blocked) = (Duration::from_millis(50), Arc::<AtomicBool>::default());
        let (mut ours, all) = (WriteTimeout::new(ours, limit, Arc::clone(&blocked)), vec![0; 16 << 20]);
        let error = in_time("a write is given up", ours.write_all(&all)).await.unwrap_err();
        assert!(blocked.load(Ordering::Relaxed));
        assert!(error.kind() == io::ErrorKind::TimedOut && began.elapsed() >= limit);
    }
}
