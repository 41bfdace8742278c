//! Why the preface of a connection was not accepted.

use std::fmt;

/// Why a listener with `proxy_protocol` closed a connection before it was routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefaceError {
    /// The peer is not in `proxy_protocol.trust`.
    Untrusted,
    /// The first bytes are not a PROXY header.
    Missing,
    /// The PROXY header is longer than is accepted.
    TooLong,
    /// The PROXY header violates the specification.
    Malformed,
    /// The checksum of the PROXY header is wrong.
    Checksum,
    /// The peer closed the connection before the end of the PROXY header.
    Truncated,
}

impl fmt::Display for PrefaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untrusted => "the peer is not in proxy_protocol.trust",
            Self::Missing => "the first bytes are not a PROXY header",
            Self::TooLong => {
                "the PROXY header is too long (at most 107 bytes in version 1, 4096 in version 2)"
            }
            Self::Malformed => "the PROXY header is malformed",
            Self::Checksum => "the checksum of the PROXY header is wrong",
            Self::Truncated => "the peer closed before the end of the PROXY header",
        })
    }
}
