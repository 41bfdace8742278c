//! Text from outside (a server's error, a cause from an operator or a source) that is stored, logged and shown: bounded,
//! and without characters that a terminal would interpret.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::sanitize;

/// The longest [`Cause`], in characters. Pointsman's own longest causes, lists of errors in a file of backends, have
/// about 900. The journal keeps 4,096 events, so that all their causes take at most 4 MiB, or 16 MiB of four-byte
/// characters.
pub const LONGEST: usize = 1024;

/// Marks where a text is cut.
const CUT: char = '…';

/// The reason for a state, possibly written by another party: at most [`LONGEST`] characters, on one line, without
/// control or format characters. It has no other constructor, so this holds for every stored or logged cause.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Cause(Arc<str>);

impl Default for Cause {
    fn default() -> Self {
        Self("".into())
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl Deref for Cause {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for Cause {
    fn from(text: T) -> Self {
        Self(bounded(text.as_ref(), LONGEST).into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The text in at most `limit` characters, ending with an ellipsis if it was cut, and safe to show
/// ([`sanitize::shown`]). It reads no further than that: megabytes cost no more than a short text.
pub fn bounded(text: &str, limit: usize) -> String {
    let mut characters = text.chars();
    let mut kept: String = characters.by_ref().take(limit).map(sanitize::shown).collect();
    if characters.next().is_some() && kept.pop().is_some() {
        kept.push(CUT);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_is_never_longer_than_its_limit_and_harmless(text in any::<String>(), limit in 0usize..40) {
            let kept = bounded(&text, limit);
            prop_assert!(kept.chars().count() <= limit);
            prop_assert!(!kept.chars().any(sanitize::is_unsafe), "{kept:?}");
            // The kept part is the beginning of the text.
            let clean: String = text.chars().map(sanitize::shown).collect();
            match kept.strip_suffix(CUT) {
                Some(part) if !clean.starts_with(&kept) => prop_assert!(clean.starts_with(part)),
                _ => prop_assert!(clean.starts_with(&kept)),
            }
        }

        #[test]
        fn a_harmless_text_that_fits_stays_as_it_is(text in "[a-zA-Z0-9 äöüß中文.,:;!?\"'-]{0,40}") {
            prop_assert_eq!(bounded(&text, 40), text.clone());
            prop_assert_eq!(&*Cause::from(&text), &*text);
            // Bounding it again changes nothing.
            let once = bounded(&text, 7);
            prop_assert_eq!(bounded(&once, 7), once);
        }
    }

    #[test]
    fn a_long_text_ends_with_an_ellipsis() {
        assert_eq!(bounded("abcdef", 6), "abcdef");
        assert_eq!(bounded("abcdefg", 6), "abcde…");
        assert_eq!(bounded("äöü", 2), "ä…");
        assert_eq!(bounded("a", 0), "");
        assert_eq!(bounded("", 0), "");
        let long = Cause::from("é".repeat(8 << 20));
        assert_eq!((long.chars().count(), long.ends_with('…')), (LONGEST, true));
    }

    #[test]
    fn a_text_stays_on_one_line_and_does_not_control_the_terminal() {
        assert_eq!(bounded("no\r\nlevel=ERROR forged\tline", 99), "no  level=ERROR forged line");
        assert_eq!(bounded("\x1b[2Jred\x07\x7f\u{9b}0m", 99), " [2Jred   0m");
        assert_eq!(bounded("a\u{202e}b\u{feff}c", 99), "a\u{fffd}b\u{fffd}c");
    }
}
