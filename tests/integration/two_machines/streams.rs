//! Downloads and uploads that go on until the test has seen enough of them, each compared byte by byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::eventually;

const PIECE: usize = 4096;
/// The time between two pieces of a stream.
const PAUSE: Duration = Duration::from_millis(40);
/// The content of a stream's last piece. The others have the numbers before it, again and again.
const LAST: u8 = u8::MAX;
/// How many pieces a stream receives until it counts as moving.
const MOVING: usize = 10;

/// The streams with a lower index are to end. Each test has a process of its own (`is_inside`).
static ENDING: AtomicUsize = AtomicUsize::new(0);
/// How many streams end at once. In a user namespace the kernel keeps some hundred events only until they are read.
const END_AT_ONCE: usize = 10;
/// The number of pieces that each stream has received, by its index.
static RECEIVED: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// Sends a stream.
fn send(stream: &mut TcpStream, index: u8) -> std::io::Result<()> {
    for number in (0..LAST).cycle() {
        let is_last = usize::from(index) < ENDING.load(Ordering::Relaxed);
        stream.write_all(&[if is_last { LAST } else { number }; PIECE])?;
        if is_last {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Receives a whole stream; returns the longest time without a piece.
fn receive(stream: &mut TcpStream, index: u8) -> Result<Duration, String> {
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    for number in (0..LAST).cycle() {
        let mut bytes = [0; PIECE];
        stream.read_exact(&mut bytes).map_err(|error| format!("piece {number}: {error}"))?;
        gap = gap.max(last.elapsed());
        last = Instant::now();
        RECEIVED[usize::from(index)].fetch_add(1, Ordering::Relaxed);
        if bytes == [LAST; PIECE] {
            break;
        }
        if bytes != [number; PIECE] {
            return Err(format!("piece {number} has other bytes"));
        }
    }
    Ok(gap)
}

/// Streams with an even index are downloads.
fn is_download(index: u8) -> bool {
    index.is_multiple_of(2)
}

/// The backend's end of a stream.
pub(super) fn serve(mut stream: TcpStream) {
    let mut index = [0];
    if stream.read_exact(&mut index).is_err() {
        return;
    }
    if is_download(index[0]) {
        let _ = send(&mut stream, index[0]);
    } else if receive(&mut stream, index[0]).is_ok() {
        let _ = stream.write_all(b"whole");
    }
}

/// The client's end.
fn transfer(mut stream: TcpStream, index: u8) -> Result<Duration, String> {
    stream.write_all(&[index]).map_err(|error| error.to_string())?;
    if is_download(index) {
        return receive(&mut stream, index);
    }
    send(&mut stream, index).map_err(|error| format!("sending: {error}"))?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).map_err(|error| format!("the answer: {error}"))?;
    Ok(Duration::ZERO)
}

/// The streams of a client.
pub(super) struct Streams(Vec<JoinHandle<Result<Duration, String>>>);

impl Streams {
    /// A stream for each connection, of which there are at most 256.
    pub(super) fn start(connections: Vec<TcpStream>) -> Self {
        let start = |(index, stream)| std::thread::spawn(move || transfer(stream, index));
        Self((0..=u8::MAX).zip(connections).map(start).collect())
    }

    /// Waits until each stream has received some more pieces.
    pub(super) fn when_all_move(&self) {
        let received = || RECEIVED[..self.0.len()].iter().map(|pieces| pieces.load(Ordering::Relaxed));
        let before: Vec<usize> = received().collect();
        eventually("all streams move", || {
            received().zip(&before).all(|(now, before)| now >= before + MOVING).then_some(())
        });
    }

    /// Ends the streams, which must all be whole; returns the longest time in which a download received nothing.
    pub(super) fn finish(self) -> Duration {
        let (mut longest, mut broken) = (Duration::ZERO, Vec::new());
        for (index, stream) in (0..=u8::MAX).zip(self.0) {
            let ending = (usize::from(index) / END_AT_ONCE + 1) * END_AT_ONCE;
            ENDING.store(ending, Ordering::Relaxed);
            match stream.join().unwrap() {
                Ok(gap) => longest = longest.max(gap),
                Err(error) => {
                    let direction = if is_download(index) { "download" } else { "upload" };
                    broken.push(format!("{direction}: {error}"));
                }
            }
        }
        assert!(broken.is_empty(), "{broken:#?}");
        longest
    }
}
