//! The running process: starts or meets the process that takes over, and hands everything to it.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::channel::{Channel, MOST_FILES};
use super::{HandOver, NewProcessReply, OldProcessMessage, Taken, VARIABLE};

/// How long the new process may take until it accepts connections. It waits up to two seconds for its pools; the rest is
/// for large configurations and busy machines.
const READY_TIME: Duration = Duration::from_secs(30);

/// Variables that the service manager set for this process alone.
const OF_THIS_PROCESS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Why the hand-over failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOverError {
    /// The configuration was read from the standard input, and cannot be read again.
    #[error("the configuration was read from standard input: write it to a file")]
    NoFile,
    /// The new process cannot be started.
    #[error("{0} cannot be started: {1}")]
    Start(String, io::Error),
    /// The new process cannot be reached.
    #[error("the process that wants to take over cannot be reached at {0}: {1}")]
    Connect(String, io::Error),
    /// The new process belongs to another user.
    #[error("the process that wants to take over runs as another user")]
    OtherUser,
    /// The new process reported why it cannot start.
    #[error("the new process cannot start: {0}")]
    Refused(String),
    /// The new process ended.
    #[error("the new process ended before it accepted connections")]
    Ended,
    /// The new process did not report that it accepts connections.
    #[error("the new process did not accept connections within {}", humantime::format_duration(READY_TIME))]
    TimedOut,
    /// The hand-over was cancelled.
    #[error("this process was told to stop")]
    Cancelled,
    /// Sockets or messages cannot be passed.
    #[error("the sockets cannot be passed on: {0}")]
    Io(#[from] io::Error),
}

/// The process that takes over.
#[derive(Debug)]
pub(crate) struct Successor {
    channel: Channel,
    /// The process, if this one has started it.
    child: Option<Child>,
}

impl Drop for Successor {
    /// Without a confirmation the process must not go on: the hand-over has failed.
    fn drop(&mut self) {
        self.end();
    }
}

/// Cancels a hand-over from another thread.
#[derive(Debug)]
pub(crate) struct Canceller(UnixStream);

impl Canceller {
    /// Ends the hand-over with an error; a new process that this one has started is ended, too.
    pub(crate) fn cancel(&self) {
        // It fails only when the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Successor {
    /// Starts `program` with these arguments. It inherits the environment and the standard output; its standard input is
    /// the connection to this process.
    pub(crate) fn start(program: &Path, arguments: &[OsString]) -> Result<Self, HandOverError> {
        let failed = |error| HandOverError::Start(program.display().to_string(), error);
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(theirs).env(VARIABLE, "stdin");
        for name in OF_THIS_PROCESS {
            command.env_remove(name);
        }
        let child = Some(command.spawn().map_err(failed)?);
        Ok(Self { channel, child })
    }

    /// Meets a process that waits at this Unix socket.
    pub(crate) fn connect(path: &Path) -> Result<Self, HandOverError> {
        let failed = |error| HandOverError::Connect(path.display().to_string(), error);
        let channel = UnixStream::connect(path).and_then(Channel::new).map_err(failed)?;
        if !channel.is_trusted().map_err(failed)? {
            return Err(HandOverError::OtherUser);
        }
        Ok(Self { channel, child: None })
    }

    /// A handle that cancels [`hand_over`](Self::hand_over).
    pub(crate) fn canceller(&self) -> Result<Canceller, HandOverError> {
        Ok(Canceller(self.channel.as_fd().try_clone_to_owned()?.into()))
    }

    /// Reports why this process does not hand over. It fails only if the new process has ended.
    pub(crate) fn refuse(&self, error: &HandOverError) {
        let _ = self.channel.send(&OldProcessMessage::Refused { reason: error.to_string() }, &[]);
    }

    /// Hands everything over, and waits until the new process accepts connections. Then call
    /// [`confirm`](Self::confirm). After an error, a process that this one has started is ended.
    pub(crate) fn hand_over(&mut self, offer: HandOver) -> Result<Taken, HandOverError> {
        let taken = self.exchange(offer);
        if taken.is_err() {
            self.end();
        }
        taken
    }

    /// Tells the new process that it is in charge.
    pub(crate) fn confirm(mut self) -> Result<(), HandOverError> {
        self.channel.send(&OldProcessMessage::Confirmed, &[])?;
        self.child = None;
        Ok(())
    }

    /// Ends a process that this one has started.
    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails only if the process has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn exchange(&self, offer: HandOver) -> Result<Taken, HandOverError> {
        self.channel.set_time_limit(READY_TIME)?;
        let began = Instant::now();
        let result = self.send(offer).and_then(|()| Ok(self.channel.receive::<NewProcessReply>()?));
        match result {
            Ok((NewProcessReply::Ready(taken), _)) => Ok(taken),
            Ok((NewProcessReply::Failed { reason }, _)) => Err(HandOverError::Refused(reason)),
            Err(HandOverError::Io(error)) => Err(match error.kind() {
                // A process that has ended cannot be written to, either.
                ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                    // What it sent before it ended.
                    match self.channel.receive::<NewProcessReply>() {
                        Ok((NewProcessReply::Failed { reason }, _)) => HandOverError::Refused(reason),
                        _ => HandOverError::Ended,
                    }
                }
                ErrorKind::WouldBlock | ErrorKind::TimedOut if began.elapsed() >= READY_TIME => {
                    HandOverError::TimedOut
                }
                _ => HandOverError::Io(error),
            }),
            Err(error) => Err(error),
        }
    }

    fn send(
        &self,
        HandOver { sockets, pools, state, draining, next_conn }: HandOver,
    ) -> Result<(), HandOverError> {
        for sockets in sockets.chunks(MOST_FILES) {
            let described = sockets.iter().map(|one| (one.place.clone(), one.role)).collect();
            let files: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            self.channel.send(&OldProcessMessage::Sockets(described), &files)?;
        }
        let state: Vec<_> = state.iter().map(AsFd::as_fd).collect();
        self.channel
            .send(&OldProcessMessage::Rest { pid: std::process::id(), pools, draining, next_conn }, &state)?;
        Ok(())
    }
}
