//! The two byte streams of one connection, until both have ended or one has failed.
//!
//! Bytes go through the worker's one buffer and are written on at once. When reads keep filling it, a burst is
//! under way, and the bytes take the shorter way through a pipe, within the kernel (`splice.rs`). Only what
//! the other side does not take is kept, and then nothing more is read from this side: the kernel's window
//! closes, and a slow reader slows down its sender instead of growing our memory. An idle connection has neither
//! buffer nor pipe.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;

use super::progress::Progress;
use super::quiet::{Look, Quiet, delivered};
use super::sockets;
use super::splice::{Pipe, Pipes};
use super::stream::Stream;
use crate::telemetry::CloseReason;

/// Size of a worker's buffer: as much as one read takes.
pub const BUFFER: usize = 64 * 1024;
/// After so many reads or bytes in a row a connection lets the worker's others have their turn.
const ROUNDS: usize = 16;
const TURN: usize = 256 * 1024;
/// So many reads in a row that fill the buffer are the beginning of a burst …
const BURST: u32 = 2;
/// … and so many in a row that move less than this are its end.
const SMALL: usize = 16 * 1024;
const CALM: u32 = 4;
/// Who takes nothing of a broken peer's last words for so long learns of the break without them.
const PATIENCE: Duration = Duration::from_millis(40);

/// The buffer that all connections of a worker share.
pub type Buffer = RefCell<Box<[u8]>>;

/// Which side of the connection.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Backend,
}

/// A side that failed.
struct Broken(Side);

/// What failed in moving bytes.
enum Failed {
    Read(io::Error),
    Write,
}

/// One direction of the relay.
struct Direction<'a> {
    from: Side,
    sender: &'a Stream,
    receiver: &'a Stream,
    progress: &'a Progress,
    buffer: &'a Buffer,
    pipes: &'a Pipes,
    /// What was read and not yet taken by the other side; unread from `sent` on.
    kept: Vec<u8>,
    sent: usize,
    /// What a burst flows through, while it does.
    pipe: Option<Pipe>,
    /// A burst is under way.
    burst: bool,
    /// Reads in a row that speak for a change of that.
    signs: u32,
    /// The sender has finished, and all it sent is read.
    ended: bool,
    /// The receiver was told so.
    told: bool,
}

/// Relays until both sides are done or one fails, and says which.
pub async fn relay(
    client: &Stream,
    backend: &Stream,
    progress: &Progress,
    buffer: &Buffer,
    pipes: &Pipes,
) -> CloseReason {
    let direction = |from, sender, receiver| Direction {
        from,
        sender,
        receiver,
        progress,
        buffer,
        pipes,
        kept: Vec::new(),
        sent: 0,
        pipe: None,
        burst: false,
        signs: 0,
        ended: false,
        told: false,
    };
    let mut up = direction(Side::Client, client, backend);
    let mut down = direction(Side::Backend, backend, client);
    let Broken(side) = match both(&mut up, &mut down).await {
        Ok(reason) => return reason,
        Err(broken) => broken,
    };
    // What it said before it broke is on its way, or lies with the kernel: an answer in the middle of an upload, say.
    match side {
        Side::Client => up.last_words().await,
        Side::Backend => down.last_words().await,
    }
    side.reset()
}

/// Relays until both directions are done, or a side is broken.
async fn both(up: &mut Direction<'_>, down: &mut Direction<'_>) -> Result<CloseReason, Broken> {
    let (client, backend, progress) = (up.sender, down.sender, up.progress);
    let mut first = None;
    let mut probed = false;
    let quiet = Quiet::default();
    // Rarely needed, and as large as all the rest: made when they are.
    let (mut client_broken, mut backend_broken) = (None, None);
    poll_fn(|cx| {
        up.run(cx)?;
        down.run(cx)?;
        if first.is_none() {
            first = match (up.ended, down.ended) {
                (true, _) => Some(CloseReason::ClientClosed),
                (_, true) => Some(CloseReason::BackendClosed),
                (false, false) => None,
            };
            progress.half_closed.set(first.is_some());
        }
        match (first, up.passed_on(), down.passed_on()) {
            // Closing the two sockets tells both peers.
            (Some(reason), true, true) => return Poll::Ready(Ok(reason)),
            (_, true, false) => up.tell()?,
            (_, false, true) => down.tell()?,
            (_, false, false) | (None, ..) => {}
        }
        if !probed && let Some(keepalive) = progress.keepalive_due() {
            probed = true;
            // It fails only on a socket that is about to tell so itself.
            let _ = sockets::set_keepalive(&SockRef::from(backend), Some(keepalive));
        }
        if let Some(times) = progress.look_due() {
            match quiet.look([client, backend], times == 1, progress.keepalives()) {
                Look::Still => {}
                Look::Moves => progress.moved.set(true),
                Look::ClientVanished => return Poll::Ready(Ok(CloseReason::ClientReset)),
                Look::BackendVanished => return Poll::Ready(Ok(CloseReason::BackendReset)),
            }
        }
        // A side that is not being read would not tell that it broke.
        if !up.reading() {
            let broken = client_broken.get_or_insert_with(|| Box::pin(client.broken()));
            if broken.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken(Side::Client)));
            }
        }
        if !down.reading() {
            let broken = backend_broken.get_or_insert_with(|| Box::pin(backend.broken()));
            if broken.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken(Side::Backend)));
            }
        }
        Poll::Pending
    })
    .await
}

impl Side {
    fn reset(self) -> CloseReason {
        match self {
            Self::Client => CloseReason::ClientReset,
            Self::Backend => CloseReason::BackendReset,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

impl Direction<'_> {
    /// Whether it waits for its sender, and not for its receiver.
    fn reading(&self) -> bool {
        !self.ended && !self.holding()
    }

    /// Whether all that the sender had to say is with the kernel.
    fn passed_on(&self) -> bool {
        self.ended && !self.holding()
    }

    /// Whether something was read that the receiver has not taken yet.
    fn holding(&self) -> bool {
        !self.kept.is_empty() || self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    /// Tells the receiver that nothing more will come, once.
    fn tell(&mut self) -> Result<(), Broken> {
        if self.told {
            return Ok(());
        }
        self.told = true;
        self.receiver.finish().map_err(|_| Broken(self.from.other()))
    }

    /// Passes on what a broken sender said before it broke, for as long as the receiver takes some of it.
    async fn last_words(&mut self) {
        loop {
            self.progress.moved.set(false);
            let done = poll_fn(|cx| match self.run(cx) {
                Ok(()) if !self.passed_on() => Poll::Pending,
                Ok(()) | Err(_) => Poll::Ready(()),
            });
            if tokio::time::timeout(PATIENCE, done).await.is_ok() || !self.progress.moved.get() {
                break;
            }
        }
        // The reset that follows would overtake it.
        delivered(self.receiver, PATIENCE).await;
    }

    /// Moves bytes until one of the two sides has to be waited for; the task will be woken then.
    fn run(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let mut moved = 0;
        for _ in 0..ROUNDS {
            match self.flush(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
            if self.ended {
                self.rest();
                return Ok(());
            }
            match self.sender.poll_readable(cx) {
                Poll::Ready(result) => result.map_err(|_| Broken(self.from))?,
                Poll::Pending => {
                    self.rest();
                    return Ok(());
                }
            }
            let read = if self.burst { self.splice() } else { self.copy() };
            match read {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    self.count(n);
                    moved += n;
                    if moved >= TURN {
                        break;
                    }
                }
                Err(Failed::Read(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(Failed::Read(_)) => return Err(Broken(self.from)),
                Err(Failed::Write) => return Err(Broken(self.from.other())),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Nothing is there to be moved: the pipe is another connection's to use.
    fn rest(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            self.pipes.give_back(pipe);
        }
    }

    /// One read into the worker's buffer and one write of what it gave; what is not taken is kept.
    fn copy(&mut self) -> Result<usize, Failed> {
        let mut buffer = self.buffer.borrow_mut();
        let read = self.sender.read(&mut buffer).map_err(Failed::Read)?;
        if read > 0 {
            let taken = match self.receiver.write(&buffer[..read]) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Err(Failed::Write),
            };
            if taken < read {
                self.kept = buffer[taken..read].to_vec();
                self.sent = 0;
            }
        }
        self.judge(read == buffer.len(), BURST);
        Ok(read)
    }

    /// One read into the pipe; [`flush`](Self::flush) passes it on.
    fn splice(&mut self) -> Result<usize, Failed> {
        if self.pipe.is_none() {
            self.pipe = self.pipes.take();
        }
        let Some(pipe) = &mut self.pipe else {
            self.burst = false; // until the next signs of one
            return self.copy();
        };
        let read = self.sender.fill(pipe).map_err(Failed::Read)?;
        self.judge(read < SMALL, CALM);
        Ok(read)
    }

    /// Begins or ends a burst after `enough` signs of it in a row.
    fn judge(&mut self, sign: bool, enough: u32) {
        self.signs = if sign { self.signs + 1 } else { 0 };
        if self.signs >= enough {
            self.burst = !self.burst;
            self.signs = 0;
        }
    }

    /// Writes what was kept; ready when nothing is.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let broken = Broken(self.from.other());
        while self.holding() {
            if ready!(self.receiver.poll_writable(cx)).is_err() {
                return Poll::Ready(Err(broken));
            }
            let written = match &mut self.pipe {
                Some(pipe) if pipe.held() > 0 => self.receiver.empty(pipe),
                _ => self.receiver.write(&self.kept[self.sent..]).inspect(|n| self.sent += n),
            };
            match written {
                Ok(_) => self.progress.moved.set(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(broken)),
            }
            if self.sent == self.kept.len() {
                (self.kept, self.sent) = (Vec::new(), 0);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn count(&self, n: usize) {
        let progress = self.progress;
        progress.moved.set(true);
        let total = match self.from {
            Side::Client => &progress.bytes_in,
            Side::Backend => {
                progress.note_first_byte();
                &progress.bytes_out
            }
        };
        total.set(total.get() + n as u64);
    }
}
