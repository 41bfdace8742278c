//! Waits with a deadline, for connections, children and threads. The [`watchdog`](super::watchdog) ends all other
//! waits.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{TIME_LIMIT, watchdog};

/// The time limit of programs that the tests use: an expression compiler, a browser driver, a fuzzer, a
/// build of an image.
pub const TOOL: Duration = Duration::from_secs(30 * 60);

/// The error of connect(2) at its time limit.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
/// How often a condition is checked.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` returns a value; panics with `what` at the time limit.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(TIME_LIMIT, what, condition)
}

/// The same with another time limit.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    watchdog::note_wait(what, limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came true within {limit:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Connects. The connect, each read and each write fail after [`TIME_LIMIT`].
#[track_caller]
pub fn connect_to(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    watchdog::note("a connection");
    let mut result = Err(io::Error::new(io::ErrorKind::InvalidInput, "no address"));
    for address in address.to_socket_addrs()? {
        result = connect(address);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Connects with the kernel's time limit for a blocking socket (socket(7), `SO_SNDTIMEO`): `TcpStream::connect_timeout`
/// reports a connection that is reset at once as not connected.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_write_timeout(Some(TIME_LIMIT))?;
    socket.set_read_timeout(Some(TIME_LIMIT))?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection to {address} within {TIME_LIMIT:?}"),
        )),
        Err(error) => Err(error),
    }
}

/// The next connection to this listener. Each read and each write on it fails after [`TIME_LIMIT`].
#[track_caller]
pub fn accept_within(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let accepted = eventually("a connection is accepted", || match listener.accept() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    });
    listener.set_nonblocking(false).unwrap();
    let (stream, peer) = accepted.unwrap();
    (limited(stream).unwrap(), peer)
}

/// Sets the time limit of a connection's reads and writes.
pub fn limited(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    Ok(stream)
}

/// Waits for the end of a thread and returns its result, or propagates its panic.
#[track_caller]
pub fn join_within<T>(thread: JoinHandle<T>, what: &str) -> T {
    eventually(&format!("the thread has ended: {what}"), || thread.is_finished().then_some(()));
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Sets a flag on drop, also during a panic: threads in a scope run until the flag is set.
pub struct SetAtTheEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Kills a child and waits until it is gone.
pub fn end_child(child: &mut Child) {
    let _ = child.kill();
    let deadline = Instant::now() + TIME_LIMIT;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            eprintln!("process {} was killed and is still there after {TIME_LIMIT:?}", child.id());
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Commands with a deadline. Standard input is empty, standard output and error are read.
pub trait Limited {
    /// As `output`, but fails after two minutes, with the output so far; its commands take seconds on an idle machine.
    #[track_caller]
    fn output_in_time(&mut self) -> io::Result<Output> {
        self.output_within(6 * TIME_LIMIT)
    }

    /// The same with another time limit.
    fn output_within(&mut self, limit: Duration) -> io::Result<Output>;
}

impl Limited for Command {
    #[track_caller]
    fn output_within(&mut self, limit: Duration) -> io::Result<Output> {
        let child = self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(output_of(child, limit, &format!("{self:?}")))
    }
}

/// As `wait_with_output`; at the limit it kills the child and fails with the output so far.
#[track_caller]
pub fn output_of(mut child: Child, limit: Duration, what: &str) -> Output {
    watchdog::note_wait(what, limit);
    drop(child.stdin.take());
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() >= deadline {
            end_child(&mut child);
            break None;
        }
        std::thread::sleep(PAUSE);
    };
    // A grandchild may hold the pipes open.
    let text = |pipe: &Option<Receiver<Vec<u8>>>| pipe.as_ref().map(|pipe| rest(pipe, deadline + TIME_LIMIT));
    let (stdout, stderr) = (text(&stdout).unwrap_or_default(), text(&stderr).unwrap_or_default());
    let Some(status) = status else {
        let [stdout, stderr] = [&stdout, &stderr].map(|text| String::from_utf8_lossy(text));
        panic!("it did not end within {limit:?}: {what}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    };
    Output { status, stdout, stderr }
}

/// Reads a pipe in a thread.
fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (parts, read) = channel();
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut part) {
            if parts.send(part[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    read
}

/// All output until the pipe closes or the deadline.
fn rest(pipe: &Receiver<Vec<u8>>, deadline: Instant) -> Vec<u8> {
    let mut text = Vec::new();
    loop {
        match pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(part) => text.extend(part),
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return text,
        }
    }
}
