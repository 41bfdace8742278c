//! What a PostgreSQL client may send first: a request for encryption, before its ClientHello, or to cancel a query ("Message
//! Formats" in PostgreSQL's documentation of its frontend/backend protocol).

/// A request for TLS: its length, and a code in place of the version.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// A request for encryption by GSSAPI.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// The server's answer that it is ready for a ClientHello.
pub const ACCEPTED: u8 = b'S';
/// The server's answer that it does not offer the encryption.
pub const NOT_OFFERED: u8 = b'N';

/// The length of a request to cancel a query: its length, a code, and the process ID and the key of a session.
pub const CANCEL_REQUEST: usize = 16;

/// The request to cancel a query, if `bytes` are one.
pub fn cancel_request(bytes: &[u8]) -> Option<[u8; CANCEL_REQUEST]> {
    bytes.try_into().ok().filter(|_| bytes.starts_with(&[0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e]))
}

/// Whether `bytes` are a request for encryption and nothing else.
pub fn is_request(bytes: &[u8]) -> bool {
    [SSL_REQUEST, GSS_REQUEST].iter().any(|request| bytes == request)
}

/// Whether `bytes` are a whole startup message (of protocol version 3) and nothing else. The server answers it before the
/// client may go on.
pub fn is_startup(bytes: &[u8]) -> bool {
    let Some(([a, b, c, d, 0, 3], _)) = bytes.split_first_chunk() else { return false };
    u32::from_be_bytes([*a, *b, *c, *d]) as usize == bytes.len()
}

/// What the first bytes of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// A request for TLS.
    SslRequest,
    /// A request for encryption by GSSAPI.
    GssRequest,
    /// The beginning of one of them: more bytes are needed.
    Incomplete,
    /// Neither.
    Other,
}

impl FirstBytes {
    /// What `bytes` begin with.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes.first_chunk() {
            Some(&SSL_REQUEST) => Self::SslRequest,
            Some(&GSS_REQUEST) => Self::GssRequest,
            None if SSL_REQUEST.starts_with(bytes) || GSS_REQUEST.starts_with(bytes) => Self::Incomplete,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_request_is_recognized_whole() {
        let request = [0, 0, 0, 16, 4, 210, 22, 46, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(cancel_request(&request), Some(request));
        for other in [&request[..15], &[&request[..], b"x"].concat(), &[0; 16]] {
            assert_eq!(cancel_request(other), None);
        }
    }

    #[test]
    fn a_startup_message_is_recognized_whole() {
        let startup = [&[0, 0, 0, 22, 0, 3, 0, 0][..], b"user\0postgres\0"].concat();
        let startup = [&[0, 0, 0, startup.len() as u8][..], &startup[4..]].concat();
        assert!(is_startup(&startup));
        assert!(!is_startup(&startup[..startup.len() - 1]) && !is_startup(&[&startup[..], b"Q"].concat()));
        assert!(!is_startup(&SSL_REQUEST) && !is_startup(b"") && !is_startup(b"GET / "));
        assert!(is_request(&SSL_REQUEST) && is_request(&GSS_REQUEST) && !is_request(&startup));
    }

    #[test]
    fn a_request_is_recognized_when_it_is_complete() {
        for (request, expected) in
            [(SSL_REQUEST, FirstBytes::SslRequest), (GSS_REQUEST, FirstBytes::GssRequest)]
        {
            for part in 0..request.len() {
                assert_eq!(FirstBytes::of(&request[..part]), FirstBytes::Incomplete);
            }
            assert_eq!(FirstBytes::of(&request), expected);
            assert_eq!(FirstBytes::of(&[&request[..], b"more"].concat()), expected);
        }
        // A ClientHello, a CancelRequest, a StartupMessage of version 3.0.
        for other in [&[22, 3, 1][..], &[0, 0, 0, 16, 4, 210, 22, 46], &[0, 0, 0, 8, 0, 3, 0, 0], b"GET "] {
            assert_eq!(FirstBytes::of(other), FirstBytes::Other, "{other:?}");
        }
    }
}
