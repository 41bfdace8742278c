//! Sockets that the service manager passes to this process: those that it has opened itself (socket activation), and those
//! that it has kept of a process that ended (FDSTORE in sd_notify(3)), so that a crash loses no listening socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use sd_notify::NotifyState::{FdName, FdStore, FdStoreRemove};
use socket2::SockRef;
use tracing::warn;

use super::{HandedSocket, SocketOwner, SocketPlace, SocketRole};
use crate::domain::SocketAddress;

/// The name under which the service manager keeps the sockets.
const NAME: &str = "pointsman";
/// The maximum number of files in a message (SCM_MAX_FD in the kernel).
const AT_ONCE: usize = 253;

/// The listening sockets that the service manager has passed to this process. It is called once.
pub(crate) fn passed() -> io::Result<Vec<HandedSocket>> {
    let mut sockets = Vec::new();
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        #[allow(unsafe_code)]
        // SAFETY: the service manager has opened it for this process (sd_listen_fds(3)), and nothing else uses it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        match place(socket.as_fd()) {
            Some(place) => sockets.push(HandedSocket { place, role: SocketRole::Listening, socket }),
            None => warn!(name, "the service manager passed a file that is no listening socket: ignored"),
        }
    }
    Ok(sockets)
}

/// Where a listening TCP or Unix socket belongs.
fn place(socket: BorrowedFd<'_>) -> Option<SocketPlace> {
    let socket = SockRef::from(&socket);
    if !socket.is_listener().ok()? || socket.r#type().ok()? != socket2::Type::STREAM {
        return None;
    }
    let address = socket.local_addr().ok()?;
    let address = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => SocketAddress::Tcp(address),
        (None, Some(path)) => SocketAddress::Unix(path.into()),
        (None, None) => return None,
    };
    Some(SocketPlace { owner: SocketOwner::AtItsAddress, configured: address.clone(), address })
}

/// Whether there is a service manager.
pub(crate) fn is_present() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Gives the service manager the listening sockets to keep, instead of those before.
pub(crate) fn keep(sockets: &[HandedSocket]) -> io::Result<()> {
    sd_notify::notify(&[FdStoreRemove, FdName(NAME)])?;
    let listening: Vec<_> =
        sockets.iter().filter(|one| one.role == SocketRole::Listening).map(AsFd::as_fd).collect();
    listening.chunks(AT_ONCE).try_for_each(|some| sd_notify::notify_with_fds(&[FdStore, FdName(NAME)], some))
}
