//! Bytes as text, with escapes for unprintable ones.
//!
//! The escapes are decoded after YAML has read the text, so that they also work where YAML has none: in plain and in
//! single-quoted text. In double quotes YAML decodes them first, with the same meaning below `\x80`; a backslash is
//! written as `\\` (`\\\\` in double quotes).

/// The escapes that [`unescape`] accepts, for error messages.
pub const KNOWN: &str = r"\r \n \t \0 \\ \xHH";

/// Decodes the escapes in a text. The error is the first unknown escape.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let length = escape.chars().next().map_or(0, char::len_utf8);
        let (name, after) = escape.split_at(length);
        rest = after;
        bytes.push(match name {
            "r" => b'\r',
            "n" => b'\n',
            "t" => b'\t',
            "0" => b'\0',
            "\\" => b'\\',
            "x" => {
                let digits = after.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = after.get(2..).unwrap_or_default();
                byte.ok_or_else(|| format!("\\x{}", after.chars().take(2).collect::<String>()))?
            }
            other => return Err(format!("\\{other}")),
        });
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Encodes bytes as text of printable ASCII.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_stand_for_bytes() {
        assert_eq!(unescape(r"PING\r\n").unwrap(), b"PING\r\n");
        assert_eq!(unescape(r"\0\t\\\x00\xfF\\r").unwrap(), b"\0\t\\\x00\xff\\r");
        assert_eq!(unescape("PING\r\n").unwrap(), b"PING\r\n");
        assert_eq!(unescape("é").unwrap(), "é".as_bytes());
    }

    #[test]
    fn an_unknown_escape_is_an_error() {
        for (text, escape) in [
            (r"a\q", r"\q"),
            (r"a\", r"\"),
            (r"\x4", r"\x4"),
            (r"\x+1", r"\x+1"),
            (r"\é", r"\é"),
            (r"\xé", r"\xé"),
        ] {
            assert_eq!(unescape(text), Err(escape.to_owned()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_without_a_backslash_stays_as_it_is(text in r"[^\\]*") {
            prop_assert_eq!(unescape(&text).unwrap(), text.as_bytes());
        }

        #[test]
        fn all_bytes_can_be_written(bytes in any::<Vec<u8>>()) {
            let hex: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            prop_assert_eq!(&unescape(&hex).unwrap(), &bytes);
            let ascii: String = bytes.iter().map(|byte| byte.escape_ascii().to_string()).collect();
            // `escape_ascii` also escapes quotes, which need it nowhere here.
            let ascii = ascii.replace("\\'", "'").replace("\\\"", "\"");
            prop_assert_eq!(&unescape(&ascii).unwrap(), &bytes);
            let ours = escape(&bytes);
            prop_assert!(ours.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{ours}");
            prop_assert_eq!(unescape(&ours).unwrap(), bytes);
        }

        #[test]
        fn no_text_makes_it_panic(text in r"(\\|x|[0-9a-f]|.){0,20}") {
            let _ = unescape(&text);
        }
    }
}
