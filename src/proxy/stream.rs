//! One side of a connection: a TCP or a Unix stream, read and written through shared references, so that both
//! directions of a relay can use it.

use std::future::{pending, poll_fn};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::splice::Pipe;

/// One side of a connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// When written bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// At once.
    Now,
    /// With what is written next, or with the end of the stream, which must follow (MSG_MORE in send(2)).
    WithNext,
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self {
            Self::Tcp($stream) => $call,
            Self::Unix($stream) => $call,
        }
    };
}

impl Stream {
    /// Ready when a [`read`](Self::read) may succeed.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(cx))
    }

    /// Ready when a [`write`](Self::write) may succeed.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(cx))
    }

    /// Returns when the peer has reset the connection or vanished.
    pub async fn broken(&self) {
        // An error means that the runtime shuts down, and the connection ends with it.
        let _ = either!(self, stream => stream.ready(Interest::ERROR).await);
    }

    /// Returns when the peer has half-closed without sending a byte; never returns if the peer sent one.
    pub(super) async fn half_closed_without_data(&self) {
        while poll_fn(|cx| self.poll_readable(cx)).await.is_ok() {
            match self.once(Interest::READABLE, 1, |fd| Ok(recv(fd, &mut [0; 1][..], RecvFlags::PEEK)?.0)) {
                Ok(0) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It sent bytes; or it was reset, which the caller notices elsewhere.
                Ok(_) | Err(_) => break,
            }
        }
        pending::<()>().await;
    }

    /// Reads what has arrived; 0 at the end of the stream, `WouldBlock` when there is nothing yet.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len();
        self.once(Interest::READABLE, room, |fd| Ok(recv(fd, buffer, RecvFlags::empty())?.0))
    }

    /// Writes as much as the kernel takes; `WouldBlock` when that is nothing.
    pub fn write(&self, bytes: &[u8], push: Push) -> io::Result<usize> {
        let flags = match push {
            Push::Now => SendFlags::NOSIGNAL,
            Push::WithNext => SendFlags::NOSIGNAL | SendFlags::MORE,
        };
        self.once(Interest::WRITABLE, bytes.len(), |fd| Ok(send(fd, bytes, flags)?))
    }

    /// Sends the bytes that wait for the next write.
    pub(super) fn push(&self) {
        // Setting the option again sends them (tcp(7)). It fails only on a Unix socket, which never delays bytes.
        let _ = SockRef::from(self).set_tcp_nodelay(true);
    }

    /// Limits the bytes that were written and are not sent yet (TCP_NOTSENT_LOWAT; see `tcp_notsent_lowat` in
    /// ip-sysctl): with more, the stream is not writable.
    pub(super) fn limit_unsent(&self, bytes: Option<u64>) {
        // Zero is the system's default. It fails only on a Unix socket, which has no such limit.
        let limit = bytes.map_or(0, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        let _ = SockRef::from(self).set_tcp_notsent_lowat(limit);
    }

    /// Clears the readiness: the runtime treats an accepted stream as readable before the kernel has reported it. Call
    /// this before the worker polls the kernel again, or the result of that poll is lost.
    pub(super) fn clear_readable(&self) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = either!(self, stream => stream.try_io(Interest::READABLE, nothing));
    }

    /// Whether the peer is known to have half-closed. Valid only while the stream is [readable](Self::poll_readable).
    pub(super) fn finished(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = either!(self, stream => pin!(stream.ready(Interest::READABLE)).poll(&mut cx));
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Moves what has arrived into an empty pipe; 0 at the end of the stream, `WouldBlock` when there is nothing, `None`
    /// when urgent data comes next, which only a [`read`](Self::read) takes.
    pub(super) fn fill(&self, pipe: &mut Pipe, most: usize) -> io::Result<Option<usize>> {
        let fill = || match pipe.fill(self, most) {
            // Before urgent data, splice(2) reports that nothing has arrived, or after a FIN that the stream has ended.
            Ok(0) if self.has_bytes() => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.has_bytes() => Ok(None),
            filled => filled.map(Some),
        };
        either!(self, stream => stream.try_io(Interest::READABLE, fill))
    }

    /// Whether bytes have arrived that are not read yet.
    fn has_bytes(&self) -> bool {
        recv(self, &mut [0; 1][..], RecvFlags::PEEK).is_ok_and(|(n, _)| n > 0)
    }

    /// Moves what a pipe holds to the peer, as much as the kernel takes; `WouldBlock` when that is nothing.
    pub(super) fn empty(&self, pipe: &mut Pipe) -> io::Result<usize> {
        either!(self, stream => stream.try_io(Interest::WRITABLE, || pipe.empty(self)))
    }

    /// Half-closes: the peer receives a FIN.
    pub fn finish(&self) -> io::Result<()> {
        SockRef::from(self).shutdown(Shutdown::Write)
    }

    /// One system call that may move `whole` bytes. When it moves fewer, a TCP socket is empty (or full): with
    /// edge-triggered epoll (epoll(7), questions 9 and 10) the next call would only return `WouldBlock`, so the
    /// readiness is cleared at once, as the runtime does in its own reads, and that call is saved. Urgent data is the
    /// exception: a read stops before it, and it waits for the next event together with the bytes after it. To find out
    /// whether a read has stopped there would take a system call for each. A read from a Unix socket
    /// also stops where a descriptor was passed along (unix(7)), so there only `WouldBlock` clears the readiness.
    fn once(
        &self,
        interest: Interest,
        whole: usize,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if let Self::Unix(stream) = self {
            return stream.try_io(interest, || call(self.as_fd()));
        }
        let mut moved = None;
        let attempt = || match call(self.as_fd()) {
            Ok(n) if 0 < n && n < whole => {
                moved = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => result,
        };
        let result = either!(self, stream => stream.try_io(interest, attempt));
        moved.map_or(result, Ok)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_time;
    use std::io::Write;

    /// Whether the stream still counts as readable; makes no system call.
    fn readable(stream: &Stream) -> bool {
        stream.poll_readable(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn a_read_that_empties_the_socket_saves_the_next_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let stream = Stream::Tcp(tokio::net::TcpStream::from_std(accepted).unwrap());
        peer.write_all(b"abcdef").unwrap();
        in_time("bytes", poll_fn(|cx| stream.poll_readable(cx))).await.unwrap();
        // A full buffer: there may be more.
        assert_eq!(stream.read(&mut [0; 2]).unwrap(), 2);
        assert!(readable(&stream));
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 4);
        assert!(!readable(&stream));
    }
}
