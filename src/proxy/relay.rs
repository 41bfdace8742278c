//! The two byte streams of one connection, until both have ended or one has failed.
//!
//! Bytes are read into the worker's one buffer and forwarded at once. When reads keep filling it, a burst begins, and
//! its bytes go through a pipe within the kernel (`splice.rs`). Only bytes that the receiver does not take are kept,
//! and then nothing more is read from the sender: the kernel's window closes, and a slow reader slows down its sender
//! instead of filling the process's memory. An idle connection has neither buffer nor pipe.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;

use super::busy_poll::Pulse;
use super::clock::Moment;
use super::idle_probe::{IdleProbe, ProbeResult, delivered};
use super::progress::Progress;
use super::replay::{Replay, Sent};
use super::sockets;
use super::splice::{Pipe, Pipes};
use super::stream::{Push, Stream};
use super::throttle::Throttle;
use super::unsent::Unsent;
use super::visits::{Visit, Visits};
use crate::domain::CloseReason;

/// Size of a worker's buffer: as much as one read takes.
const BUFFER: usize = 64 * 1024;
/// After this many reads or bytes in a row a connection yields to the worker's other connections.
const ROUNDS: usize = 16;
const TURN: usize = 256 * 1024;
/// This many reads in a row that fill the buffer begin a burst …
const BURST: u8 = 2;
/// … and this many in a row that move less than `SMALL` bytes end it.
const SMALL: usize = 16 * 1024;
const CALM: u8 = 4;
/// After this many bytes in a direction, what the kernel queues for its receiver is limited.
const LIMITED_FROM: u64 = 128 * 1024;
/// A receiver that takes no byte for this long is reset without the rest of what its broken peer had sent.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(40);

/// The buffer and pipes that relay the bytes of all connections of a worker.
#[derive(Debug)]
pub struct RelayBuffers {
    /// The buffer that they read into.
    pub(super) buffer: RefCell<Box<[u8]>>,
    /// The pipes of bursts.
    pub(super) pipes: Pipes,
    /// Records activity whenever a relay is polled.
    pub(super) pulse: Rc<Pulse>,
    /// Which connections the next tick concerns.
    pub(super) visits: Rc<Visits>,
}

impl RelayBuffers {
    /// One buffer and `pipes`.
    pub fn new(pipes: Pipes) -> Self {
        Self {
            buffer: RefCell::new(vec![0; BUFFER].into_boxed_slice()),
            pipes,
            pulse: Rc::default(),
            visits: Rc::default(),
        }
    }
}

/// Which side of the connection.
#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Backend,
}

/// A side that failed.
#[derive(Debug)]
pub struct Broken(Side);

/// What failed in moving bytes.
enum Failed {
    Read(io::Error),
    Write,
}

/// Two streams that are being relayed. Small, as an idle connection consists of little else: rarely needed parts are
/// allocated on demand.
pub struct Relay<'a> {
    client: &'a Stream,
    backend: &'a Stream,
    progress: &'a Progress,
    buffers: &'a RelayBuffers,
    up: Direction,
    down: Direction,
    /// What the client has sent, until the backend's first byte.
    replay: Replay,
    keepalive_set: bool,
    idle_probe: IdleProbe,
    watches: Option<Box<Watches<'a>>>,
    /// The throttle of both directions, if the listener limits the bandwidth.
    throttles: Option<Box<[Throttle; 2]>>,
}

/// Detect a side that breaks while it is not being read.
#[derive(Default)]
struct Watches<'a> {
    client: Option<Watch<'a>>,
    backend: Option<Watch<'a>>,
}

type Watch<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The bytes that one direction of a relay holds, and its state.
#[derive(Default)]
struct Direction {
    /// Bytes that were read and that the receiver has not taken yet.
    kept: Vec<u8>,
    /// What only a direction has that has moved many bytes.
    bulk: Option<Box<Bulk>>,
    /// A burst is under way.
    burst: bool,
    /// Reads in a row that indicate a change of `burst`.
    signs: u8,
    /// The sender has sent bytes that a bandwidth limit does not let through yet.
    throttled: bool,
    /// The sender has finished, and all that it sent is read.
    ended: bool,
    /// The receiver's side is shut down.
    shut_down: bool,
}

/// The part of a direction that is allocated when many bytes have moved, or when its receiver does not take all bytes.
#[derive(Default)]
struct Bulk {
    /// The pipe of a burst.
    pipe: Option<Pipe>,
    /// What the kernel may queue for the receiver.
    unsent: Option<Unsent>,
}

/// The two ends of a direction.
#[derive(Clone, Copy)]
struct Half<'a> {
    from: Side,
    sender: &'a Stream,
    receiver: &'a Stream,
    progress: &'a Progress,
    buffers: &'a RelayBuffers,
}

impl<'a> Relay<'a> {
    /// A relay that begins with bytes that were read from the client.
    pub fn new(
        client: &'a Stream,
        backend: &'a Stream,
        progress: &'a Progress,
        buffers: &'a RelayBuffers,
        preread: Vec<u8>,
    ) -> Self {
        let relay = Self {
            client,
            backend,
            progress,
            buffers,
            up: Direction { kept: preread, ..Direction::default() },
            down: Direction::default(),
            replay: Replay::Impossible,
            keepalive_set: false,
            idle_probe: IdleProbe::default(),
            watches: None,
            throttles: None,
        };
        relay.half(Side::Client).received(relay.up.kept.len());
        relay
    }

    /// Keeps what the client sends in `replay`, which has the bytes that the relay began with.
    pub(super) fn allow_replay(&mut self, replay: Replay) {
        self.replay = replay;
    }

    /// Applies the listener's bandwidth limits.
    pub(super) fn limit_bandwidth(&mut self) {
        self.throttles = Some(Box::new(Throttle::pair(&self.progress.listener)));
    }

    /// Passes on what a side had sent before it broke, as long as the other side takes some of it: a server may answer
    /// in the middle of an upload and reset.
    pub(super) async fn flush_before_reset(&mut self, Broken(side): Broken) -> CloseReason {
        let half = self.half(side);
        match side {
            Side::Client => self.up.flush_before_reset(half).await,
            Side::Backend => self.down.flush_before_reset(half).await,
        }
        side.reset()
    }

    fn half(&self, from: Side) -> Half<'a> {
        let (sender, receiver) = match from {
            Side::Client => (self.client, self.backend),
            Side::Backend => (self.backend, self.client),
        };
        Half { from, sender, receiver, progress: self.progress, buffers: self.buffers }
    }

    /// Moves what can be moved; ready when both directions are done, or a side is broken.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<CloseReason, Broken>> {
        self.buffers.pulse.beat();
        let (upward, downward) = (self.half(Side::Client), self.half(Side::Backend));
        let (up, down) = match self.throttles.as_deref_mut() {
            Some([up, down]) => (Some(up), Some(down)),
            None => (None, None),
        };
        self.up.run(upward, up, &mut self.replay, cx)?;
        self.down.run(downward, down, &mut Replay::Impossible, cx)?;
        if self.replay.is_possible() && self.progress.has_answer() {
            self.replay = Replay::Impossible; // frees its memory
        }
        let first = &self.progress.first_closed;
        if first.get().is_none() && (self.up.ended || self.down.ended) {
            let reason = if self.up.ended { CloseReason::ClientClosed } else { CloseReason::BackendClosed };
            first.set(Some(reason));
            // Another time limit applies now.
            self.buffers.visits.set(self.progress.key(), Visit::Next);
        }
        if self.replay.is_possible()
            && self.down.ended
            && !self.up.ended
            && self.progress.is_recently_routed()
        {
            return Poll::Ready(Ok(CloseReason::BackendClosed));
        }
        match (first.get(), self.up.passed_on(), self.down.passed_on()) {
            // Closing the two sockets shuts both down.
            (Some(reason), true, true) => return Poll::Ready(Ok(reason)),
            (_, true, false) => self.up.shut_down(upward)?,
            (_, false, true) => self.down.shut_down(downward)?,
            (_, false, false) | (None, ..) => {}
        }
        if let Some(vanished) = self.attend() {
            return Poll::Ready(Ok(vanished));
        }
        // A side that is not being read does not report that it broke.
        if !self.up.reading() && self.broken(Side::Client, cx) {
            return Poll::Ready(Err(Broken(Side::Client)));
        }
        if !self.down.reading() && self.broken(Side::Backend, cx) {
            return Poll::Ready(Err(Broken(Side::Backend)));
        }
        Poll::Pending
    }

    /// What the client has sent, if the backend has ended the relay before its first byte and another backend can get it;
    /// and how it ended it.
    pub(super) fn unanswered(
        &mut self,
        ended: &Result<CloseReason, Broken>,
    ) -> Option<(CloseReason, Box<Sent>)> {
        let reason = match ended {
            Ok(CloseReason::BackendClosed) => CloseReason::BackendClosed,
            Err(Broken(Side::Backend)) => CloseReason::BackendReset,
            Ok(_) | Err(Broken(Side::Client)) => return None,
        };
        if self.up.ended || self.progress.has_answer() {
            return None;
        }
        Some((reason, self.replay.take()?))
    }

    /// Whether a side broke; the task will be woken if it does.
    fn broken(&mut self, side: Side, cx: &mut Context<'_>) -> bool {
        let watches = self.watches.get_or_insert_default();
        let (watch, stream) = match side {
            Side::Client => (&mut watches.client, self.client),
            Side::Backend => (&mut watches.backend, self.backend),
        };
        watch.get_or_insert_with(|| Box::pin(stream.broken())).as_mut().poll(cx).is_ready()
    }

    /// Does what is due according to the worker's tick. A peer that has vanished ends the relay.
    fn attend(&mut self) -> Option<CloseReason> {
        if !self.keepalive_set
            && let Some(keepalive) = self.progress.keepalive_due()
        {
            self.keepalive_set = true;
            // It fails only on a socket that is broken, which is found when it is read.
            let _ = sockets::set_keepalive(&SockRef::from(self.backend), Some(keepalive));
        }
        let first = self.progress.take_probe()?;
        match self.idle_probe.run([self.client, self.backend], first, self.progress.keepalives()) {
            ProbeResult::Still => None,
            ProbeResult::Moves => {
                self.progress.note_moved(&self.buffers.visits);
                None
            }
            ProbeResult::ClientVanished => Some(CloseReason::ClientReset),
            ProbeResult::BackendVanished => Some(CloseReason::BackendReset),
        }
    }
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

impl Direction {
    /// Whether it waits for its sender rather than for its receiver.
    fn reading(&self) -> bool {
        !self.ended && !self.holding() && !self.throttled
    }

    /// Whether the sender has finished, and all its bytes are with the kernel.
    fn passed_on(&self) -> bool {
        self.ended && !self.holding()
    }

    /// Whether bytes were read that the receiver has not taken yet.
    fn holding(&self) -> bool {
        !self.kept.is_empty() || self.bulk.as_ref().is_some_and(|bulk| bulk.holding())
    }

    /// Shuts the receiver's side down for writing, once.
    fn shut_down(&mut self, half: Half<'_>) -> Result<(), Broken> {
        if self.shut_down {
            return Ok(());
        }
        self.shut_down = true;
        half.receiver.finish().map_err(|_| Broken(half.from.other()))
    }

    async fn flush_before_reset(&mut self, half: Half<'_>) {
        loop {
            let before = half.total().get();
            let done = poll_fn(|cx| match self.run(half, None, &mut Replay::Impossible, cx) {
                Ok(()) if !self.passed_on() => Poll::Pending,
                Ok(()) | Err(_) => Poll::Ready(()),
            });
            if tokio::time::timeout(FLUSH_TIMEOUT, done).await.is_ok() || half.total().get() == before {
                break;
            }
        }
        // Bytes that wait for a FIN are sent now: the reset that follows would overtake them.
        half.receiver.push();
        delivered(half.receiver, FLUSH_TIMEOUT).await;
    }

    /// Moves bytes until it has to wait for one of the two sides; the task will be woken then.
    fn run(
        &mut self,
        half: Half<'_>,
        mut throttle: Option<&mut Throttle>,
        replay: &mut Replay,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        let mut moved = 0;
        for _ in 0..ROUNDS {
            match self.flush(half, cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
            if self.ended {
                self.rest(half.buffers);
                return Ok(());
            }
            match half.sender.poll_readable(cx) {
                Poll::Ready(result) => result.map_err(|_| Broken(half.from))?,
                Poll::Pending => {
                    self.rest(half.buffers);
                    return Ok(());
                }
            }
            let most = match throttle.as_deref_mut().map_or(Poll::Ready(usize::MAX), |t| t.poll_allowance(cx))
            {
                Poll::Ready(most) => most,
                Poll::Pending => {
                    self.throttled = true;
                    half.progress.throttled.set(true);
                    self.rest(half.buffers);
                    return Ok(());
                }
            };
            self.throttled = false;
            let read =
                if self.burst { self.splice(half, most, replay) } else { self.copy(half, most, replay) };
            if let Some(throttle) = &mut throttle {
                throttle.read(read.as_ref().map_or(0, |read| *read));
            }
            match read {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    half.received(n);
                    self.count(half, n);
                    moved += n;
                    if moved >= TURN {
                        break;
                    }
                }
                Err(Failed::Read(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(Failed::Read(_)) => return Err(Broken(half.from)),
                Err(Failed::Write) => return Err(Broken(half.from.other())),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Returns the pipe to the worker if there is nothing to move.
    fn rest(&mut self, buffers: &RelayBuffers) {
        if let Some(pipe) = self.bulk.as_mut().and_then(|bulk| bulk.pipe.take()) {
            buffers.pipes.give_back(pipe);
        }
    }

    /// One read of at most `most` bytes into the worker's buffer and one write; the bytes that the receiver does not
    /// take are kept.
    fn copy(&mut self, half: Half<'_>, most: usize, replay: &mut Replay) -> Result<usize, Failed> {
        let mut buffer = half.buffers.buffer.borrow_mut();
        let most = most.min(buffer.len());
        let read = half.sender.read(&mut buffer[..most]).map_err(Failed::Read)?;
        if read > 0 {
            replay.add(&buffer[..read]);
            // The last bytes leave in one packet with the FIN: `shut_down` follows at once.
            let push = if read < most && half.sender.finished() { Push::WithNext } else { Push::Now };
            let taken = match half.receiver.write(&buffer[..read], push) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Err(Failed::Write),
            };
            half.written(taken);
            if taken < read {
                self.kept = buffer[taken..read].to_vec();
            }
        }
        self.judge(read == buffer.len(), BURST);
        Ok(read)
    }

    /// One read of at most `most` bytes into the pipe; [`flush`](Self::flush) passes it on. The bytes are not seen here:
    /// before a burst, more were sent than can be sent again.
    fn splice(&mut self, half: Half<'_>, most: usize, replay: &mut Replay) -> Result<usize, Failed> {
        *replay = Replay::Impossible;
        let bulk = self.bulk.get_or_insert_default();
        if bulk.pipe.is_none() {
            bulk.pipe = half.buffers.pipes.take();
        }
        // The sender's receive buffer grows with what is read from it at once.
        let most = most.min(bulk.unsent.as_ref().map_or(usize::MAX, Unsent::most));
        let Some(pipe) = &mut bulk.pipe else {
            self.burst = false; // all pipes are in use
            return self.copy(half, most, replay);
        };
        let Some(read) = half.sender.fill(pipe, most).map_err(Failed::Read)? else {
            return self.copy(half, most, replay);
        };
        self.judge(read < SMALL, CALM);
        Ok(read)
    }

    /// Begins or ends a burst after `enough` signs in a row.
    fn judge(&mut self, sign: bool, enough: u8) {
        self.signs = if sign { self.signs + 1 } else { 0 };
        if self.signs >= enough {
            self.burst = !self.burst;
            self.signs = 0;
        }
    }

    /// Begins to limit what the kernel queues for the receiver: when many bytes have moved or the receiver does not take all,
    /// so that a connection of a few bytes is spared the system call.
    fn limit_unsent(&mut self, half: Half<'_>) {
        let bulk = self.bulk.get_or_insert_default();
        if bulk.unsent.is_none()
            && let Some(limit) = half.unsent_limit()
        {
            half.receiver.limit_unsent(Some(limit));
            bulk.unsent = Some(Unsent::new(limit, Moment::now()));
        }
    }

    /// Counts bytes that were read: the limit depends on how fast the receiver takes them.
    fn count(&mut self, half: Half<'_>, bytes: usize) {
        if let Some(unsent) = self.bulk.as_mut().and_then(|bulk| bulk.unsent.as_mut()) {
            if unsent.moved(bytes, Moment::now) {
                half.receiver.limit_unsent(unsent.limit());
            }
        } else if half.total().get() >= LIMITED_FROM {
            self.limit_unsent(half);
        }
    }

    /// Writes what is held; ready when nothing is left.
    fn flush(&mut self, half: Half<'_>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let broken = Broken(half.from.other());
        while self.holding() {
            match half.receiver.poll_writable(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    self.limit_unsent(half);
                    return Poll::Pending;
                }
            }
            let written = match self.bulk.as_mut().and_then(|bulk| bulk.pipe.as_mut()) {
                Some(pipe) if pipe.held() > 0 => half.receiver.empty(pipe),
                _ => half.receiver.write(&self.kept, Push::Now).inspect(|n| drop(self.kept.drain(..n))),
            };
            match written {
                Ok(n) => half.written(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(broken)),
            }
            if self.kept.is_empty() {
                self.kept = Vec::new(); // frees its memory
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Bulk {
    /// Whether the pipe has bytes that the receiver has not taken yet.
    fn holding(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }
}

impl Half<'_> {
    /// How many unsent bytes the kernel may queue for the receiver (`buffers.unsent`); `None`: as many as it likes.
    fn unsent_limit(&self) -> Option<u64> {
        match self.from {
            Side::Client => self.progress.relayed()?.settings.buffers.unsent,
            Side::Backend => self.progress.listener.settings.load().buffers.unsent,
        }
    }

    /// Records that `n` bytes were read from the sender.
    fn received(&self, n: usize) {
        if n == 0 {
            return;
        }
        self.progress.note_moved(&self.buffers.visits);
        if matches!(self.from, Side::Backend) {
            self.progress.answered();
        }
    }

    /// Counts `n` bytes that were written to the receiver.
    fn written(&self, n: usize) {
        if n == 0 {
            return;
        }
        self.progress.note_moved(&self.buffers.visits);
        self.total().set(self.total().get() + n as u64);
    }

    /// The bytes that were written to the receiver.
    fn total(&self) -> &Cell<u64> {
        match self.from {
            Side::Client => &self.progress.bytes_in,
            Side::Backend => &self.progress.bytes_out,
        }
    }
}
