//! Why a connection to a backend could not be opened.

use std::io;

/// Why an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No socket listens there.
    Refused,
    /// No answer within `connect.timeout`.
    Timeout,
    /// No route, or no host has the address.
    Unreachable,
    /// Reset while it was being opened.
    Reset,
    /// A local resource (ports, files, memory) is exhausted: no evidence against the backend.
    Local,
    /// Anything else.
    Other,
}

impl ConnectError {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::Timeout, Self::Unreachable, Self::Reset, Self::Local, Self::Other];

    /// The word in `pointsman_connect_failures_total{error}`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

impl ConnectError {
    /// The text of an error of this kind, with advice.
    pub fn explain(self, error: &io::Error) -> String {
        match self {
            Self::Refused if error.raw_os_error().is_some() => "connection refused".to_owned(),
            Self::Local if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                format!("{error}: no local port is left for this backend; widen net.ipv4.ip_local_port_range")
            }
            // Not an error of the kernel: it says what to do.
            Self::Local if error.raw_os_error().is_none() => error.to_string(),
            Self::Local => format!("{error}: raise the open-file limit or lower runtime.max_connections"),
            _ => error.to_string(),
        }
    }
}

impl From<&io::Error> for ConnectError {
    fn from(error: &io::Error) -> Self {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(error);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => Self::Local,
            _ if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::AGAIN)) => {
                Self::Local
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_shortage_is_not_an_error_of_the_backend() {
        for errno in [rustix::io::Errno::ADDRNOTAVAIL, rustix::io::Errno::MFILE, rustix::io::Errno::NOBUFS] {
            assert_eq!(ConnectError::from(&io::Error::from(errno)), ConnectError::Local);
        }
    }
}
