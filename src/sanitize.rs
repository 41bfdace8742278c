//! Makes text from outside (DNS names, container labels, answers of a remote instance, a line of a file) safe to show.
//! Pure, and below all other modules: configuration errors quote lines of the file, too.

use std::borrow::Cow;

/// Replaces a format character. If it were removed, `web` and `web` with a trailing zero-width space would look alike.
const PLACEHOLDER: char = char::REPLACEMENT_CHARACTER;

/// The format characters of Unicode 16 (general category Cf): bidirectional controls, zero-width characters, tags …
/// They are invisible and change how other text is shown.
const FORMAT: [(char, char); 21] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{2064}'),
    ('\u{2066}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0001}', '\u{e0001}'),
    ('\u{e0020}', '\u{e007f}'),
];

/// Whether a terminal or a line reader may act on this character instead of showing it: a control character (C0, DEL,
/// C1), a line or paragraph separator, or a format character.
pub fn is_unsafe(c: char) -> bool {
    match c {
        ' '..='~' => false,
        '\u{2028}' | '\u{2029}' => true,
        _ => c.is_control() || is_format(c),
    }
}

fn is_format(c: char) -> bool {
    c >= FORMAT[0].0 && FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// One line of text that is safe on a terminal: control characters and separators become spaces, format characters a
/// replacement character. An escape sequence loses its ESC or CSI and so its meaning; the rest stays visible.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, |_| false)
}

/// The same for text of several lines, which keeps its line feeds and tabs.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c == '\n' || c == '\t')
}

fn replaced(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let replace = |c: char| is_unsafe(c) && !keep(c);
    if !text.contains(replace) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if replace(c) { shown(c) } else { c }).collect())
}

/// The replacement of a character: a space for a control character or a separator, a replacement character for a format
/// character.
pub fn shown(c: char) -> char {
    if !is_unsafe(c) {
        c
    } else if is_format(c) {
        PLACEHOLDER
    } else {
        ' '
    }
}

/// The same JSON, safe on a terminal: outside its strings JSON has only white space of these characters, and inside a
/// string each becomes an escape (RFC 8259, 7).
pub fn json(text: &str) -> Cow<'_, str> {
    let acts = |c: char| is_unsafe(c) && !matches!(c, '\n' | '\r' | '\t');
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// The first `characters` of a text, with an ellipsis if it was cut.
pub fn shortened(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// A server's text without a secret that it was sent: some servers repeat what they received.
pub fn without_secret(secret: Option<&str>, text: &str) -> String {
    match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "***"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terminal_control_characters_are_replaced() {
        for (text, safe) in [
            ("plain, größer, 服务", "plain, größer, 服务"),
            ("a\x1b[31m\tb\u{9b}c\x7f", "a [31m b c "),
            ("two\nlines\r\n", "two lines  "),
            ("\x1b]0;title\x07", " ]0;title "),
            ("sep\u{2028}ara\u{2029}tors\u{85}", "sep ara tors "),
            ("\u{202e}gnp.exe\u{202c}", "\u{fffd}gnp.exe\u{fffd}"),
            ("zero\u{200b}width\u{feff}", "zero\u{fffd}width\u{fffd}"),
            ("tag\u{e0041}", "tag\u{fffd}"),
        ] {
            assert_eq!(line(text), safe, "{text:?}");
        }
        assert_eq!(lines("a\tb\n\x1b[2Jc\r\n"), "a\tb\n [2Jc \n");
    }

    #[test]
    fn safe_text_is_not_copied() {
        assert!(matches!(line("routed conn=5"), Cow::Borrowed(_)));
        assert!(matches!(json("{\"a\": 1}\n"), Cow::Borrowed(_)));
        assert!(matches!(shortened("ab", 2), Cow::Borrowed("ab")));
    }

    #[test]
    fn the_table_of_format_characters_is_in_order() {
        assert!(FORMAT.iter().all(|(first, last)| first <= last));
        assert!(FORMAT.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shortened("größer", 3), "grö…");
        assert_eq!(shortened("größer", 0), "…");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_unicode_format_character_is_unsafe(c in r"\p{Cf}") {
            prop_assert!(c.chars().all(is_unsafe), "{c:?}");
        }

        #[test]
        fn every_control_character_and_separator_is_unsafe(c in r"[\p{Cc}\p{Zl}\p{Zp}]") {
            prop_assert!(c.chars().all(is_unsafe), "{c:?}");
        }

        #[test]
        fn letters_digits_marks_and_symbols_are_safe(c in r"[\p{L}\p{N}\p{M}\p{S}\p{P}]") {
            prop_assert!(!c.chars().any(is_unsafe), "{c:?}");
            prop_assert_eq!(line(&c), c.as_str());
        }

        #[test]
        fn a_line_stays_one_line_of_as_many_characters(text in any::<String>()) {
            let safe = line(&text);
            prop_assert!(!safe.contains(is_unsafe));
            prop_assert_eq!(safe.chars().count(), text.chars().count());
            prop_assert_eq!(line(&safe), safe.as_ref());
        }

        #[test]
        fn lines_keep_their_number(text in r"(\PC|\n|\t|\x1b|\u{202e}){0,40}") {
            let safe = lines(&text);
            prop_assert!(!safe.contains(|c| is_unsafe(c) && c != '\n' && c != '\t'));
            prop_assert_eq!(safe.split('\n').count(), text.split('\n').count());
        }

        #[test]
        fn json_keeps_its_meaning(text in r"(\PC|\p{C}|\p{Z}){0,40}", key in r"\p{Cf}{0,3}") {
            let value = serde_json::json!({ key: [text, 1, null] });
            for written in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let safe = json(&written);
                prop_assert!(!safe.contains(|c| is_unsafe(c) && c != '\n'));
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&safe).unwrap(), &value);
            }
        }
    }
}
