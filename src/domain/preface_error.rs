//! Why the preface of a connection was rejected.

use std::fmt;

/// What a listener reads before it routes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefaceKind {
    /// The PROXY header (`proxy_protocol`).
    Proxy,
    /// The TLS ClientHello (`sni`, `alpn`, `hash.key: sni`).
    Tls,
}

impl fmt::Display for PrefaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxy => "PROXY header",
            Self::Tls => "ClientHello",
        })
    }
}

/// Why a listener closed a connection after its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefaceError {
    /// The peer is not in `proxy_protocol.trust`.
    Untrusted,
    /// The first bytes are not the expected preface.
    Missing(PrefaceKind),
    /// It is longer than is accepted.
    TooLong(PrefaceKind),
    /// It violates the specification.
    Malformed(PrefaceKind),
    /// The peer closed the connection before the end of it.
    Truncated(PrefaceKind),
    /// The checksum of the PROXY header is wrong.
    Checksum,
}

impl fmt::Display for PrefaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => f.write_str("the peer is not in proxy_protocol.trust"),
            Self::Missing(PrefaceKind::Proxy) => f.write_str("the first bytes are not a PROXY header"),
            Self::Missing(PrefaceKind::Tls) => f.write_str("the first bytes are not a TLS ClientHello"),
            Self::TooLong(PrefaceKind::Proxy) => f.write_str(
                "the PROXY header is too long (at most 107 bytes in version 1, 4096 in version 2)",
            ),
            Self::TooLong(PrefaceKind::Tls) => f.write_str("the ClientHello is longer than 16 KiB"),
            Self::Malformed(kind) => write!(f, "the {kind} is malformed"),
            Self::Truncated(kind) => write!(f, "the peer closed before the end of the {kind}"),
            Self::Checksum => f.write_str("the checksum of the PROXY header is wrong"),
        }
    }
}
