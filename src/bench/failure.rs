//! Why a request failed.

use std::error::Error as _;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::time::Duration;

use hyper::StatusCode;

use crate::telemetry::ConnectError;

/// Why a request failed. Failures of one kind are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// It was not over in time.
    Timeout,
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer was whole.
    ClosedEarly,
    /// An answer of status 400 or above.
    Status(u16),
    /// What came is no HTTP.
    BadAnswer,
    /// No way there.
    Unreachable,
    /// This machine has no local port left to connect from.
    NoAddress,
    /// This process may not open more files.
    NoFile,
    /// Anything else, in the system's words.
    Other(String),
}

impl Failure {
    /// The word for it in JSON; it stays.
    pub fn kind(&self) -> String {
        let word = match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::ClosedEarly => "closed_early",
            Self::Status(status) => return format!("status_{status}"),
            Self::BadAnswer => "bad_answer",
            Self::Unreachable => "unreachable",
            Self::NoAddress => "no_address",
            Self::NoFile => "no_file",
            Self::Other(_) => "other",
        };
        word.to_owned()
    }

    /// The failure in words; `timeout` is how long a request may take.
    pub fn explain(&self, timeout: Duration) -> String {
        match self {
            Self::Timeout => format!("not over in time ({})", humantime::format_duration(timeout)),
            Self::NoAddress => {
                format!("{self}: widen net.ipv4.ip_local_port_range, or try --keep-alive")
            }
            Self::NoFile => format!("{self}: raise the open-file limit, or lower -c"),
            _ => self.to_string(),
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Timeout => "not over in time",
            Self::Reset => "connection reset",
            Self::ClosedEarly => "closed before the answer was whole",
            Self::Status(status) => {
                let known = StatusCode::from_u16(*status).ok();
                let reason = known.and_then(|status| status.canonical_reason()).unwrap_or_default();
                return f.write_str(format!("status {status} {reason}").trim_end());
            }
            Self::BadAnswer => "the answer is not HTTP/1.1",
            Self::Unreachable => "unreachable",
            Self::NoAddress => "no local port left",
            Self::NoFile => "too many open files",
            Self::Other(words) => words,
        })
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        match (ConnectError::from(error), error.kind()) {
            (ConnectError::Refused, _) => Self::Refused,
            (ConnectError::Timeout, _) => Self::Timeout,
            (ConnectError::Unreachable, _) => Self::Unreachable,
            (ConnectError::Reset, _) | (_, io::ErrorKind::BrokenPipe) => Self::Reset,
            (ConnectError::Local, io::ErrorKind::AddrNotAvailable) => Self::NoAddress,
            (ConnectError::Local, _) => Self::NoFile,
            (_, io::ErrorKind::UnexpectedEof) => Self::ClosedEarly,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<&hyper::Error> for Failure {
    fn from(error: &hyper::Error) -> Self {
        if error.is_parse() {
            return Self::BadAnswer;
        }
        if error.is_incomplete_message() {
            return Self::ClosedEarly;
        }
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Self::from(error);
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>() {
                return Self::from(error);
            }
            cause = error.source();
        }
        match error {
            error if error.is_canceled() || error.is_closed() => Self::ClosedEarly,
            error if error.is_user() => Self::Other(error.to_string()),
            // Something came before anything was asked.
            _ => Self::BadAnswer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn the_systems_errors_have_the_kinds_that_people_know() {
        for (errno, failure) in [
            (Errno::CONNREFUSED, Failure::Refused),
            (Errno::CONNRESET, Failure::Reset),
            (Errno::PIPE, Failure::Reset),
            (Errno::TIMEDOUT, Failure::Timeout),
            (Errno::HOSTUNREACH, Failure::Unreachable),
            (Errno::ADDRNOTAVAIL, Failure::NoAddress),
            (Errno::MFILE, Failure::NoFile),
        ] {
            assert_eq!(Failure::from(&io::Error::from(errno)), failure, "{errno}");
        }
        assert!(matches!(Failure::from(&io::Error::from(Errno::ACCESS)), Failure::Other(_)));
    }

    #[test]
    fn a_status_is_told_with_its_reason_if_it_has_one() {
        assert_eq!(Failure::Status(503).to_string(), "status 503 Service Unavailable");
        assert_eq!(Failure::Status(599).to_string(), "status 599");
        assert_eq!(Failure::Status(503).kind(), "status_503");
    }
}
