//! What a backend answers, searched as it comes for what it should contain.

/// So much of an answer is looked at, in bytes.
pub(super) const LONGEST: usize = 64 * 1024;

/// So much of an answer is shown to a person, in bytes.
const SHOWN: usize = 100;

/// An answer that is coming in.
pub(super) struct Answer<'a> {
    wanted: &'a [u8],
    came: Vec<u8>,
}

impl<'a> Answer<'a> {
    /// Nothing has come yet.
    pub(super) fn new(wanted: &'a [u8]) -> Self {
        Self { wanted, came: Vec::new() }
    }

    /// Takes in what came next; whether the answer contains by now what is wanted.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        // What is wanted may have begun in what came before.
        let from = self.came.len().saturating_sub(self.wanted.len());
        let room = LONGEST - self.came.len();
        self.came.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.wanted.is_empty() || self.came[from..].windows(self.wanted.len()).any(|part| part == self.wanted)
    }

    /// Whether as much has come as is looked at.
    pub(super) fn full(&self) -> bool {
        self.came.len() == LONGEST
    }

    /// What came, for a person.
    pub(super) fn shown(&self) -> String {
        if self.came.is_empty() { "nothing".to_owned() } else { shown(&self.came) }
    }
}

/// Bytes for a person: printable, in quotes, not too many.
pub(super) fn shown(bytes: &[u8]) -> String {
    let (part, rest) = match bytes.get(..SHOWN) {
        Some(part) if bytes.len() > SHOWN => (part, "…"),
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
        fn what_is_wanted_is_found_however_the_answer_is_cut_up(
            chunks in prop::collection::vec(prop::collection::vec(0u8..3, 0..6), 0..40),
            wanted in prop::collection::vec(0u8..3, 1..6),
        ) {
            let mut answer = Answer::new(&wanted);
            let mut whole = Vec::new();
            for chunk in chunks {
                let before = whole.windows(wanted.len()).any(|part| part == wanted);
                whole.extend_from_slice(&chunk);
                let now = whole.windows(wanted.len()).any(|part| part == wanted);
                // Whoever asks stops at the first yes.
                if !before {
                    prop_assert_eq!(answer.take(&chunk), now);
                } else {
                    answer.take(&chunk);
                }
            }
        }
    }

    #[test]
    fn it_looks_at_so_much_and_no_more() {
        let mut answer = Answer::new(b"end");
        assert!(!answer.take(&vec![b'.'; LONGEST - 2]));
        assert!(!answer.full());
        assert!(!answer.take(b"end"), "its last byte is beyond");
        assert!(answer.full());
        assert!(!answer.take(b"end"));
        let mut answer = Answer::new(b"end");
        assert!(!answer.take(&vec![b'.'; LONGEST - 3]));
        assert!(answer.take(b"end"));
    }

    #[test]
    fn an_answer_is_shown_printable_and_short() {
        assert_eq!(Answer::new(b"x").shown(), "nothing");
        assert_eq!(shown(b"-ERR no\r\n\x00\xff"), r#""-ERR no\r\n\x00\xff""#);
        assert_eq!(shown(b"say 'no'"), r#""say 'no'""#);
        assert_eq!(shown(&[b'a'; SHOWN + 1]), format!("\"{}…\"", "a".repeat(SHOWN)));
        assert_eq!(shown(&[b'a'; SHOWN]), format!("\"{}\"", "a".repeat(SHOWN)));
    }
}
