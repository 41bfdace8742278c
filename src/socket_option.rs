//! setsockopt(2) for the options that no safe wrapper offers.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets an option whose value is an integer.
#[allow(unsafe_code)]
pub fn set_option(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the pointer and length are those of a
    // live integer that the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
