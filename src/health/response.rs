//! Searches the response of a backend for an expected text while it arrives.

/// The part of a response that is searched, in bytes.
pub(super) const LONGEST: usize = 64 * 1024;

/// The part of a response that is quoted in a message, in bytes.
const QUOTED: usize = 100;

/// A response that is arriving.
pub(super) struct CheckResponse<'a> {
    expected: &'a [u8],
    received: Vec<u8>,
}

impl<'a> CheckResponse<'a> {
    /// Nothing has arrived yet.
    pub(super) fn new(expected: &'a [u8]) -> Self {
        Self { expected, received: Vec::new() }
    }

    /// Appends bytes; whether the response now contains the expected text.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        // A match may have begun in earlier bytes.
        let from = self.received.len().saturating_sub(self.expected.len());
        let room = LONGEST - self.received.len();
        self.received.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.expected.is_empty()
            || self.received[from..].windows(self.expected.len()).any(|part| part == self.expected)
    }

    /// Whether the part that is searched is complete.
    pub(super) fn full(&self) -> bool {
        self.received.len() == LONGEST
    }

    /// The response, quoted for a message.
    pub(super) fn quoted(&self) -> String {
        if self.received.is_empty() { "nothing".to_owned() } else { quoted(&self.received) }
    }
}

/// Bytes for a message: printable, in quotes, bounded.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let (part, rest) = match bytes.get(..QUOTED) {
        Some(part) if bytes.len() > QUOTED => (part, "…"),
        _ => (bytes, ""),
    };
    format!("\"{}{rest}\"", part.escape_ascii().to_string().replace("\\'", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_expected_text_is_found_however_the_response_is_split(
            chunks in prop::collection::vec(prop::collection::vec(0u8..3, 0..6), 0..40),
            expected in prop::collection::vec(0u8..3, 1..6),
        ) {
            let mut response = CheckResponse::new(&expected);
            let mut whole = Vec::new();
            for chunk in chunks {
                let before = whole.windows(expected.len()).any(|part| part == expected);
                whole.extend_from_slice(&chunk);
                let now = whole.windows(expected.len()).any(|part| part == expected);
                // Callers stop at the first match.
                if !before {
                    prop_assert_eq!(response.push(&chunk), now);
                } else {
                    response.push(&chunk);
                }
            }
        }
    }

    #[test]
    fn only_the_first_bytes_are_searched() {
        let mut response = CheckResponse::new(b"end");
        assert!(!response.push(&vec![b'.'; LONGEST - 2]));
        assert!(!response.full());
        assert!(!response.push(b"end"), "its last byte is beyond the limit");
        assert!(response.full());
        assert!(!response.push(b"end"));
        let mut response = CheckResponse::new(b"end");
        assert!(!response.push(&vec![b'.'; LONGEST - 3]));
        assert!(response.push(b"end"));
    }

    #[test]
    fn a_quoted_response_is_printable_and_short() {
        assert_eq!(CheckResponse::new(b"x").quoted(), "nothing");
        assert_eq!(quoted(b"-ERR no\r\n\x00\xff"), r#""-ERR no\r\n\x00\xff""#);
        assert_eq!(quoted(b"say 'no'"), r#""say 'no'""#);
        assert_eq!(quoted(&[b'a'; QUOTED + 1]), format!("\"{}…\"", "a".repeat(QUOTED)));
        assert_eq!(quoted(&[b'a'; QUOTED]), format!("\"{}\"", "a".repeat(QUOTED)));
    }
}
