//! The new process: takes over from the running one.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::channel::Channel;
use super::{HandOver, HandedSocket, NewProcessReply, OldProcessMessage, Taken, VARIABLE};

/// How long each message of the running process may take.
const MESSAGE_TIME: Duration = Duration::from_secs(30);

/// The process that this one takes over from.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    /// Its process ID, known once it has sent everything.
    pub pid: u32,
}

impl Predecessor {
    /// The process that has started this one to take over from it; `None`: there is none. Standard input is `/dev/null`
    /// afterwards.
    pub(crate) fn from_environment() -> io::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let connection = io::stdin().as_fd().try_clone_to_owned()?;
        let stream = UnixStream::from(connection);
        // Something else has set the variable if it is no Unix socket.
        if stream.peer_addr().is_err() {
            return Err(io::Error::other(format!("{VARIABLE} is set, and standard input is no Unix socket")));
        }
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Self::new(stream).map(Some)
    }

    fn new(stream: UnixStream) -> io::Result<Self> {
        let channel = Channel::new(stream)?;
        channel.set_time_limit(MESSAGE_TIME)?;
        Ok(Self { channel, pid: 0 })
    }

    /// Receives everything that the running process hands over.
    pub(crate) fn receive(&mut self) -> io::Result<HandOver> {
        let mut received = HandOver::default();
        loop {
            let (message, files) = self.channel.receive().map_err(explained)?;
            match message {
                OldProcessMessage::Sockets(described) if described.len() == files.len() => {
                    let sockets = described.into_iter().zip(files);
                    let sockets = sockets.map(|((place, role), socket)| HandedSocket { place, role, socket });
                    received.sockets.extend(sockets);
                }
                OldProcessMessage::Rest { pid, pools, draining, next_conn } => {
                    self.pid = pid;
                    received.pools = pools;
                    received.draining = draining;
                    received.next_conn = next_conn;
                    received.state = files.into_iter().next();
                    return Ok(received);
                }
                OldProcessMessage::Refused { reason } => {
                    return Err(io::Error::other(format!("it reports: {reason}")));
                }
                OldProcessMessage::Sockets(_) | OldProcessMessage::Confirmed => {
                    return Err(io::Error::new(ErrorKind::InvalidData, "sockets are missing"));
                }
            }
        }
    }

    /// Reports that this process accepts connections, and waits until the running one stops accepting.
    pub(crate) fn ready(&self, taken: Taken) -> io::Result<()> {
        self.channel.send(&NewProcessReply::Ready(taken), &[])?;
        match self.channel.receive().map_err(explained)? {
            (OldProcessMessage::Confirmed, _) => Ok(()),
            (message, _) => Err(io::Error::new(ErrorKind::InvalidData, format!("unexpected: {message:?}"))),
        }
    }

    /// Reports why this process cannot start.
    pub(crate) fn failed(&self, reason: String) {
        // The running process also sees that this one ends.
        let _ = self.channel.send(&NewProcessReply::Failed { reason }, &[]);
    }
}

/// The error with its usual cause, if the connection has ended.
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ ErrorKind::UnexpectedEof => {
            io::Error::new(kind, "it has ended the hand-over; its log has the reason")
        }
        _ => error,
    }
}

/// Where a process that wants to take over waits for the running one: a Unix socket in a folder of its own, which only
/// its user can open.
#[derive(Debug)]
pub(crate) struct Invitation {
    listener: UnixListener,
    folder: PathBuf,
    path: PathBuf,
}

impl Invitation {
    /// Creates the folder and the socket in the folder for temporary files.
    pub(crate) fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = std::env::temp_dir().join(format!("pointsman-take-over-{:016x}", rand::random::<u64>()));
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let path = folder.join("socket");
        let bound = UnixListener::bind(&path).map(|listener| Self { listener, folder: folder.clone(), path });
        if bound.is_err() {
            let _ = std::fs::remove_dir(&folder);
        }
        bound
    }

    /// The path of the socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts the running process, which has been asked to connect: it has done so when it replies to the request.
    pub(crate) fn accept(self) -> io::Result<Predecessor> {
        self.listener.set_nonblocking(true)?;
        let (stream, _) = self.listener.accept()?;
        Predecessor::new(stream)
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        // What is left in the folder for temporary files does no harm.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_dir(&self.folder);
    }
}
