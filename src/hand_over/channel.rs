//! A Unix connection that carries messages and open files between two processes of Pointsman.
//!
//! Each message is its length and then JSON; files travel with the length, as SCM_RIGHTS (unix(7)).

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The maximum number of files in a message; the kernel allows 253 (SCM_MAX_FD).
pub(super) const MOST_FILES: usize = 64;
/// The longest message, in bytes: the states of 100,000 backends fit.
const LONGEST: usize = 64 * 1024 * 1024;

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Both ends of a new connection.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self(ours), theirs.into()))
    }

    /// One end of a connection.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self(stream))
    }

    /// Limits how long each wait for the other process lasts.
    pub(super) fn set_time_limit(&self, limit: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(limit))?;
        self.0.set_write_timeout(Some(limit))
    }

    /// Whether the other process runs as the same user as this one, or as root.
    pub(super) fn is_trusted(&self) -> io::Result<bool> {
        let peer = rustix::net::sockopt::socket_peercred(&self.0)?.uid;
        Ok(peer.is_root() || peer == rustix::process::geteuid())
    }

    /// Sends a message and at most [`MOST_FILES`] files, which stay open here.
    pub(super) fn send(&self, message: &impl Serialize, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let fits = files.len() <= MOST_FILES;
        if !fits || !files.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "too many files for one message"));
        }
        // The files travel with the first byte, so that the rest may follow without them.
        let sent = sendmsg(&self.0, &[IoSlice::new(&length)], &mut rights, SendFlags::NOSIGNAL)?;
        (&self.0).write_all(&length[sent..])?;
        (&self.0).write_all(&body)
    }

    /// Receives a message and its files. An error of the kind `UnexpectedEof`: the other process has closed the
    /// connection, or has ended.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut length = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut length)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
        let mut files = Vec::new();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        (&self.0).read_exact(&mut length[received.bytes..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(io::Error::new(ErrorKind::InvalidData, "the other process sent something else"));
        }
        let mut body = vec![0; length];
        (&self.0).read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, files))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    fn pair() -> [Channel; 2] {
        let (ours, theirs) = Channel::pair().unwrap();
        [ours, Channel::new(UnixStream::from(theirs)).unwrap()]
    }

    #[test]
    fn messages_arrive_in_order_each_with_its_files() {
        let [from, to] = pair();
        let mut files: Vec<_> = (0..MOST_FILES).map(|_| tempfile::tempfile().unwrap()).collect();
        for (n, file) in files.iter_mut().enumerate() {
            write!(file, "{n}").unwrap();
            file.rewind().unwrap();
        }
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        from.send(&"all", &borrowed).unwrap();
        from.send(&"none", &[]).unwrap();
        from.send(&"one", &borrowed[7..8]).unwrap();
        drop(from);
        let numbers = |files: Vec<OwnedFd>| -> Vec<String> {
            files.into_iter().map(|fd| io::read_to_string(std::fs::File::from(fd)).unwrap()).collect()
        };
        let (message, received) = to.receive::<String>().unwrap();
        assert_eq!(message, "all");
        assert_eq!(numbers(received), (0..MOST_FILES).map(|n| n.to_string()).collect::<Vec<_>>());
        let (message, received) = to.receive::<String>().unwrap();
        assert_eq!((&*message, received.len()), ("none", 0));
        let (message, received) = to.receive::<String>().unwrap();
        // Both descriptors are of one open file, which the first reading left at its end.
        assert_eq!((&*message, numbers(received)), ("one", vec![String::new()]));
        assert_eq!(to.receive::<String>().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_long_message_arrives_whole_and_a_silent_process_ends_the_wait() {
        let [from, to] = pair();
        let long = "x".repeat(3_000_000);
        std::thread::scope(|scope| {
            scope.spawn(|| from.send(&long, &[]).unwrap());
            assert_eq!(to.receive::<String>().unwrap().0, long);
        });
        to.set_time_limit(Duration::from_millis(10)).unwrap();
        assert_eq!(to.receive::<String>().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(to.is_trusted().unwrap());
    }

    #[test]
    fn bytes_of_another_protocol_are_an_error() {
        let [from, to] = pair();
        (&from.0).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(to.receive::<String>().unwrap_err().kind(), ErrorKind::InvalidData);
        let [from, to] = pair();
        let files = vec![to.as_fd(); MOST_FILES + 1];
        assert_eq!(from.send(&"too many", &files).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
