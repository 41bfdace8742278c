//! Which process owns the table: one in each network namespace.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The name of the abstract socket (unix(7)) that the owner holds. The kernel frees it when the process ends, however it ends.
const NAME: &str = "pointsman/kernel-plane";

/// Held by the process that owns the table.
#[derive(Debug)]
pub(super) struct Ownership {
    _socket: UnixDatagram,
}

impl Ownership {
    /// Takes it; `None`: another process has it.
    pub(super) fn take() -> io::Result<Option<Self>> {
        match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(NAME)?) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}
