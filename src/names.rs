//! Names in tables: their order, and how a long one is cut. Names of containers differ at their end.

use std::borrow::Cow;
use std::cmp::Ordering;

use unicode_width::UnicodeWidthStr;

/// The natural order: digits compare as a number, so that `web-2` comes before `web-10`, and all else in ASCII order.
/// Names that differ only in leading zeros are ordered as text.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let order = match (left.first().copied(), right.first().copied()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y) = (take_number(&mut left), take_number(&mut right));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            (Some(x), Some(y)) => {
                (left, right) = (&left[1..], &right[1..]);
                x.cmp(&y)
            }
            (x, y) => return x.cmp(&y).then_with(|| a.cmp(b)),
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the digits at the start of a text, and returns them without leading zeros.
fn take_number<'t>(text: &mut &'t [u8]) -> &'t [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

/// A name in at most this many columns: a longer one is cut in the middle, with an ellipsis (`a-rat…-name`).
pub fn shortened(name: &str, columns: usize) -> Cow<'_, str> {
    if width(name) <= columns {
        return Cow::Borrowed(name);
    }
    let Some(room) = columns.checked_sub(1) else { return Cow::Borrowed("") };
    let fits = |part: &str, columns: usize| width(part) <= columns;
    let bounds: Vec<usize> = name.char_indices().map(|(at, _)| at).chain([name.len()]).collect();
    let end = bounds.iter().rev().find(|end| fits(&name[..**end], room - room / 2)).copied().unwrap_or(0);
    let start = bounds.iter().find(|start| fits(&name[**start..], room / 2)).copied().unwrap_or(name.len());
    // A combining character whose letter is cut off would change the ellipsis.
    let tail = name[start..].trim_start_matches(|c: char| width(c.encode_utf8(&mut [0; 4])) == 0);
    Cow::Owned(format!("{}…{tail}", &name[..end]))
}

/// The width of a text in columns of a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(mut names: Vec<&str>) -> Vec<&str> {
        names.sort_by(|a, b| natural_order(a, b));
        names
    }

    #[test]
    fn digits_compare_as_numbers_and_letters_in_ascii_order() {
        let names =
            vec!["web-10", "web-2", "web", "Web-3", "web-1b", "web-1", "web-1a2", "web-1a10", "-", "10"];
        let expected =
            ["-", "10", "Web-3", "web", "web-1", "web-1a2", "web-1a10", "web-1b", "web-2", "web-10"];
        assert_eq!(sorted(names), expected);
        let addresses = vec!["10.0.0.10:80", "10.0.0.9:443", "10.0.0.9:80", "9.0.0.1:80"];
        assert_eq!(sorted(addresses), ["9.0.0.1:80", "10.0.0.9:80", "10.0.0.9:443", "10.0.0.10:80"]);
        let zeros = vec!["a1", "a01", "a001b", "a0", "a2"];
        assert_eq!(sorted(zeros), ["a0", "a01", "a1", "a001b", "a2"]);
        let long = ["n99999999999999999999999999", "n100000000000000000000000000"];
        assert_eq!(sorted(vec![long[1], long[0]]), long);
    }

    #[test]
    fn a_long_name_keeps_both_ends() {
        assert_eq!(shortened("a-rather-long-container-1", 9), "a-ra…er-1");
        assert_eq!(shortened("a-rather-long-name", 11), "a-rat…-name");
        assert!(matches!(shortened("web-1", 5), Cow::Borrowed("web-1")));
        assert_eq!([3, 2, 1, 0].map(|columns| shortened("web-1", columns)), ["w…1", "w…", "…", ""]);
        assert_eq!(shortened("漢漢漢漢", 5), "漢…漢");
        assert_eq!(shortened("abcdefe\u{301}", 4), "ab…e\u{301}");
    }

    /// Texts in which digits, zeros and letters meet often.
    fn name() -> impl Strategy<Value = String> {
        "[01aB2-]{0,6}".prop_map(String::from)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_natural_order_is_total(a in name(), b in name(), c in name()) {
            prop_assert_eq!(natural_order(&a, &b), natural_order(&b, &a).reverse());
            prop_assert_eq!(natural_order(&a, &b).is_eq(), a == b);
            if natural_order(&a, &b).is_le() && natural_order(&b, &c).is_le() {
                prop_assert!(natural_order(&a, &c).is_le(), "{a:?} {b:?} {c:?}");
            }
        }

        #[test]
        fn numbered_names_are_in_the_order_of_their_numbers(a: u64, b: u64, prefix in "[a-z-]{0,5}", end in "[a-z]{0,3}") {
            let order = natural_order(&format!("{prefix}{a}{end}"), &format!("{prefix}{b}{end}"));
            prop_assert_eq!(order, a.cmp(&b));
        }

        #[test]
        fn a_shortened_name_is_never_wider_and_keeps_both_ends(name in "[a-zß漢e\u{301}0-9_-]{0,40}", columns in 0..30_usize) {
            let short = shortened(&name, columns);
            prop_assert!(width(&short) <= columns, "{short:?}");
            if width(&name) <= columns {
                prop_assert_eq!(&*short, &*name);
            } else if columns > 0 {
                let (head, tail) = short.split_once('…').unwrap();
                prop_assert!(name.starts_with(head) && name.ends_with(tail), "{short:?}");
                // A wide letter that does not fit leaves a column free at each end.
                prop_assert!(width(head) + 1 >= columns / 2, "{short:?}");
                prop_assert!(width(tail) + 1 >= (columns - 1) / 2, "{short:?}");
            }
        }

        #[test]
        fn any_text_is_cut_to_its_columns(text in r"\PC{0,20}", columns in 0..12_usize) {
            prop_assert!(width(&shortened(&text, columns)) <= columns);
        }
    }
}
