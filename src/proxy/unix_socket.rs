//! Unix sockets of listeners and the admin server: which file may be replaced, which users may connect, and which file
//! is removed at the end.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

use super::sockets::BACKLOG;
use crate::config::SocketMode;

/// A listening Unix socket, with its file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: Inode,
    /// Another process has the socket, too, and keeps the file.
    handed_over: AtomicBool,
}

/// Identifies a file, even if another file takes its path: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode(u64, u64);

impl From<&fs::Metadata> for Inode {
    fn from(file: &fs::Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

impl UnixSocket {
    /// Listens at `path`, without blocking. A socket that refuses connections is a leftover of a dead process and is
    /// replaced; any other file stays and causes an error.
    pub fn bind(path: &Path, mode: SocketMode) -> io::Result<Self> {
        remove_left_over(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        // The file gets the mode of the socket less the umask (unix_bind in the kernel), so it never grants too much.
        // The umask itself belongs to all threads and cannot be changed for this call.
        File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(Permissions::from_mode(mode.0))?;
        socket.bind(&SockAddr::unix(path)?)?;
        let inode = Inode::from(&fs::symlink_metadata(path)?);
        let bound = Self {
            listener: OwnedFd::from(socket).into(),
            path: path.to_owned(),
            inode,
            handed_over: AtomicBool::new(false),
        };
        // Until it listens every connection is refused: no client connects while the umask determines the mode.
        let listening = bound
            .set_mode(mode)
            .and_then(|()| rustix::net::listen(&bound.listener, BACKLOG).map_err(io::Error::from));
        if let Err(error) = listening {
            bound.remove();
            return Err(error);
        }
        Ok(bound)
    }

    /// Continues a socket that listens at `path` already, in the process before.
    pub fn inherit(path: &Path, socket: OwnedFd) -> io::Result<Self> {
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        let inode = Inode::from(&fs::symlink_metadata(path)?);
        Ok(Self { listener, path: path.to_owned(), inode, handed_over: AtomicBool::new(false) })
    }

    /// Leaves the file to the process that takes over: [`remove`](Self::remove) then does nothing.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::SeqCst);
    }

    /// Another handle of the socket.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Changes the mode of the file if the path still leads to this socket.
    pub fn set_mode(&self, mode: SocketMode) -> io::Result<()> {
        // The handle of the file is safe: the path may have become a link to another file.
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        let found = file.metadata()?;
        if Inode::from(&found) != self.inode {
            return Err(io::Error::other(format!("{} is no longer its socket", self.path.display())));
        }
        if found.mode() & 0o777 == mode.0 {
            return Ok(());
        }
        // fchmod(2) does not accept such a handle; /proc leads to the same file.
        let by_handle = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::set_permissions(by_handle, Permissions::from_mode(mode.0)).map_err(|error| {
            io::Error::new(error.kind(), format!("its mode cannot be set to {mode}: {error}"))
        })
    }

    /// Removes the file, unless the path now leads to another file.
    pub fn remove(&self) {
        if self.handed_over.load(Ordering::SeqCst) {
            return;
        }
        let ours = |found: fs::Metadata| Inode::from(&found) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // A missing file is fine.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The file at a path that prevents a socket there, in words. A socket does not prevent it, as it may be a leftover.
pub fn obstacle(path: &Path) -> Option<String> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    let what = match kind {
        kind if kind.is_socket() => return None,
        kind if kind.is_file() => "a file",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() => "a named pipe",
        _ => "a device",
    };
    Some(format!("there is {what} at this path, which is not replaced: remove it, or name another path"))
}

/// Removes a socket at `path` that refuses connections.
fn remove_left_over(path: &Path) -> io::Result<()> {
    if let Some(obstacle) = obstacle(path) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, obstacle));
    }
    let found = match fs::symlink_metadata(path) {
        Ok(found) => Inode::from(&found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Non-blocking: at a listening socket with a full queue, connect(2) would wait.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = "there is a socket at this path, and whether a process listens on it is unknown";
            return Err(io::Error::new(error.kind(), format!("{message}: {error}")));
        }
        // It was accepted, its queue is full, or it is a socket of another type that is in use (EPROTOTYPE).
        _ => return Err(io::ErrorKind::AddrInUse.into()),
    }
    // Another process may have replaced it in the meantime, as this one is about to do.
    match fs::symlink_metadata(path) {
        Ok(now) if Inode::from(&now) == found => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
#[path = "unix_socket_tests.rs"]
mod tests;
