//! A time limit for writing, as hyper has limits for reading only. A peer that reads nothing for too long, while there is
//! something to send, loses its connection and its place. A peer that reads slowly, or waits for the next bytes, may stay.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that ends when its peer reads nothing.
pub(super) struct Patience<S> {
    stream: S,
    limit: Duration,
    /// While something waits to be taken: when it has waited long enough.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Whether a write waits for the client, visible to the connection's place.
    blocked: Arc<AtomicBool>,
}

impl<S: AsyncWrite + Unpin> Patience<S> {
    /// Waits for `limit` each time, and sets `blocked` while it waits.
    pub(super) fn new(stream: S, limit: Duration, blocked: Arc<AtomicBool>) -> Self {
        Self { stream, limit, waiting: None, blocked }
    }

    /// Writes with `write`, unless nothing could be written for too long.
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
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patience<S> {
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

    // A socket has nothing of its own to flush: neither this nor the end waits for the other side.
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
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = Patience::new(ours, LIMIT, Arc::default());
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
        // Nothing to take is nothing to wait for.
        tokio::time::sleep(3 * LIMIT).await;
        let began = tokio::time::Instant::now();
        assert_eq!(ours.write_all(&[0; 24]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((LIMIT..2 * LIMIT).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn it_is_so_with_sockets_too() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let began = Instant::now();
        let (limit, blocked) = (Duration::from_millis(50), Arc::<AtomicBool>::default());
        let (mut ours, all) = (Patience::new(ours, limit, Arc::clone(&blocked)), vec![0; 16 << 20]);
        let error = in_time("a write is given up", ours.write_all(&all)).await.unwrap_err();
        assert!(blocked.load(Ordering::Relaxed));
        assert!(error.kind() == io::ErrorKind::TimedOut && began.elapsed() >= limit);
    }
}
