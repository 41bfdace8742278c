//! Why a request failed.

use std::error::Error as _;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::time::Duration;

use hyper::StatusCode;

use crate::telemetry::ConnectError;

/// Why a request failed. Failures of one kind are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestError {
    /// The connection was refused.
    Refused,
    /// It took longer than the timeout.
    Timeout,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the response was complete.
    ClosedEarly,
    /// A response of status 400 or above.
    Status(u16),
    /// The response is not HTTP.
    BadResponse,
    /// There is no route to the target.
    Unreachable,
    /// This machine has no free local port.
    NoAddress,
    /// This process is at its open-file limit.
    NoFile,
    /// Another error, with the system's message.
    Other(String),
}

impl RequestError {
    /// Its name in JSON, a stable interface.
    pub fn kind(&self) -> String {
        let word = match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::ClosedEarly => "closed_early",
            Self::Status(status) => return format!("status_{status}"),
            Self::BadResponse => "bad_answer",
            Self::Unreachable => "unreachable",
            Self::NoAddress => "no_address",
            Self::NoFile => "no_file",
            Self::Other(_) => "other",
        };
        word.to_owned()
    }

    /// The failure as a sentence, with advice; `timeout` is that of a request.
    pub fn explain(&self, timeout: Duration) -> String {
        match self {
            Self::Timeout => format!("timed out after {}", humantime::format_duration(timeout)),
            Self::NoAddress => {
                format!("{self}: widen net.ipv4.ip_local_port_range, or try --keep-alive")
            }
            Self::NoFile => format!("{self}: raise the open-file limit, or lower -c"),
            _ => self.to_string(),
        }
    }
}

impl Display for RequestError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Timeout => "timed out",
            Self::Reset => "connection reset",
            Self::ClosedEarly => "closed before the response was complete",
            Self::Status(status) => {
                let known = StatusCode::from_u16(*status).ok();
                let reason = known.and_then(|status| status.canonical_reason()).unwrap_or_default();
                return f.write_str(format!("status {status} {reason}").trim_end());
            }
            Self::BadResponse => "the response is not HTTP/1.1",
            Self::Unreachable => "unreachable",
            Self::NoAddress => "no local port left",
            Self::NoFile => "too many open files",
            Self::Other(words) => words,
        })
    }
}

impl From<&io::Error> for RequestError {
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

impl From<&hyper::Error> for RequestError {
    fn from(error: &hyper::Error) -> Self {
        if error.is_parse() {
            return Self::BadResponse;
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
            // The server sent something before the request.
            _ => Self::BadResponse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn system_errors_map_to_their_kinds() {
        for (errno, failure) in [
            (Errno::CONNREFUSED, RequestError::Refused),
            (Errno::CONNRESET, RequestError::Reset),
            (Errno::PIPE, RequestError::Reset),
            (Errno::TIMEDOUT, RequestError::Timeout),
            (Errno::HOSTUNREACH, RequestError::Unreachable),
            (Errno::ADDRNOTAVAIL, RequestError::NoAddress),
            (Errno::MFILE, RequestError::NoFile),
        ] {
            assert_eq!(RequestError::from(&io::Error::from(errno)), failure, "{errno}");
        }
        assert!(matches!(RequestError::from(&io::Error::from(Errno::ACCESS)), RequestError::Other(_)));
    }

    #[test]
    fn a_status_is_shown_with_its_reason_phrase() {
        assert_eq!(RequestError::Status(503).to_string(), "status 503 Service Unavailable");
        assert_eq!(RequestError::Status(599).to_string(), "status 599");
        assert_eq!(RequestError::Status(503).kind(), "status_503");
    }
}
