//! Reading single values. Each function makes a reader; its error says what the value must be.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::decode::nearest;
use super::model::{Factor, Percent, SocketMode};
use super::tree::{Node, Value};

/// Reads text.
pub(super) fn text(node: &Node) -> Result<&str, String> {
    match &node.value {
        Value::Scalar(text) if !text.is_empty() => Ok(text),
        _ => Err("must be text".to_owned()),
    }
}

/// Reads a whole number in a range, which the type must be able to hold.
pub(super) fn number<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Node) -> Result<T, String> {
    move |node| {
        let number = text(node).ok().and_then(|text| text.parse().ok()).filter(|n| range.contains(n));
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| match *range.end() {
            u64::MAX => format!("must be a whole number from {} up", range.start()),
            end => format!("must be a whole number from {} to {end}", range.start()),
        })
    }
}

/// Reads a number with at most two digits behind the point, in a range.
pub(super) fn factor(range: RangeInclusive<Factor>) -> impl Fn(&Node) -> Result<Factor, String> {
    move |node| {
        let factor = text(node).ok().and_then(|text| text.parse().ok());
        factor.filter(|factor: &Factor| range.contains(factor)).ok_or_else(|| {
            let (least, most) = (range.start().get(), range.end().get());
            format!("must be a number from {least} to {most} with at most two digits behind the point")
        })
    }
}

/// Reads a share of at least `least`.
pub(super) fn percent(least: Percent) -> impl Fn(&Node) -> Result<Percent, String> {
    move |node| {
        let number = text(node).ok().and_then(|text| text.strip_suffix('%')?.trim_end().parse().ok());
        let percent = number.map(Percent).filter(|percent| (least..=Percent(100)).contains(percent));
        percent.ok_or_else(|| format!("must be a share from {}% to 100%", least.0))
    }
}

/// Reads yes or no.
pub(super) fn boolean(node: &Node) -> Result<bool, String> {
    match text(node) {
        Ok("true") => Ok(true),
        Ok("false") => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Longer than this is a slip of the pen, and would overflow in arithmetic with clocks.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reads a duration of at least `least`.
pub(super) fn duration(least: Duration) -> impl Fn(&Node) -> Result<Duration, String> {
    duration_within(least..=LONGEST)
}

/// Reads a duration in a range.
pub(super) fn duration_within(range: RangeInclusive<Duration>) -> impl Fn(&Node) -> Result<Duration, String> {
    move |node| {
        let duration = text(node).ok().and_then(|text| humantime::parse_duration(text).ok());
        duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
            let (least, most) = (*range.start(), *range.end());
            let (shown, example) = (humantime::format_duration, ", such as 500ms, 2s, 1m30s or 1h");
            let end = if most < LONGEST {
                format!(", from {} to {}", shown(least), shown(most))
            } else if least.is_zero() {
                example.to_owned()
            } else {
                format!(", at least {}{example}", shown(least))
            };
            format!("must be a duration with its unit{end}")
        })
    }
}

/// Reads a duration of at least `least`, or `off`.
pub(super) fn duration_or_off(least: Duration) -> impl Fn(&Node) -> Result<Option<Duration>, String> {
    or_off(duration(least))
}

/// Reads what `read` reads, or `off`.
pub(super) fn or_off<T>(
    read: impl Fn(&Node) -> Result<T, String>,
) -> impl Fn(&Node) -> Result<Option<T>, String> {
    move |node| match text(node) {
        Ok("off") => Ok(None),
        _ => read(node).map(Some).map_err(|error| format!("{error}, or off")),
    }
}

/// Units of sizes, in bytes.
const SIZES: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Reads a size of at least `least` bytes, with its unit.
pub(super) fn size(least: u64) -> impl Fn(&Node) -> Result<u64, String> {
    move |node| {
        let bytes = text(node).ok().and_then(|text| {
            let (number, unit) =
                SIZES.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
            let number = number.trim_end();
            let digits = number.bytes().all(|digit| digit.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(*unit)
        });
        bytes.filter(|bytes| *bytes >= least).ok_or_else(|| {
            format!(
                "must be a size with its unit, such as 500KiB, 100MiB or 1GB, at least {}",
                in_bytes(least)
            )
        })
    }
}

/// A size in the largest binary unit of which it is a multiple.
pub(super) fn in_bytes(size: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| size > 0 && size.is_multiple_of(*unit));
    let (name, unit) = whole.unwrap_or(("B", 1));
    format!("{}{name}", size / unit)
}

/// Reads a file mode, in octal and in quotes: YAML hands on only the value of a bare number, and `0660` is 660 in one
/// YAML version and 432 in another.
pub(super) fn file_mode(node: &Node) -> Result<SocketMode, String> {
    let digits = text(node).ok().and_then(|text| text.strip_prefix("0o").or(text.strip_prefix('0')));
    let three =
        digits.filter(|digits| digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()));
    let mode = three.and_then(|digits| u32::from_str_radix(digits, 8).ok());
    mode.map(SocketMode).ok_or_else(|| {
        "must be a mode in quotes, of three octal digits after a 0, such as \"0660\" (user and group)"
            .to_owned()
    })
}

/// Reads one of several words.
pub(super) fn choice<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Node) -> Result<T, String> {
    move |node| {
        let given = text(node).unwrap_or_default();
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
            return Ok(*value);
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let near = nearest(given, known.iter().copied())
            .map_or(String::new(), |near| format!(" (did you mean {near:?}?)"));
        Err(format!("must be one of {}{near}", known.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Place;
    use super::*;
    use proptest::prelude::*;

    fn node(text: &str) -> Node {
        Node { at: Place { line: 1, column: 1 }, value: Value::Scalar(text.to_string()) }
    }

    #[test]
    fn a_factor_is_a_plain_number() {
        let read = |text: &str| factor(Factor(101)..=Factor(10_000))(&node(text)).ok();
        assert_eq!(read("1.25"), Some(Factor(125)));
        assert_eq!(read("1.5"), Some(Factor(150)));
        assert_eq!(read("100"), Some(Factor(10_000)));
        for wrong in ["1", "1.0", "100.01", "1.255", "1.", ".5", "-2", "+2", "2e1", "1.+5", "", "99999999999"]
        {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_share_has_its_sign() {
        let read = |text: &str| percent(Percent(1))(&node(text)).ok();
        assert_eq!(read("50%"), Some(Percent(50)));
        assert_eq!(read("50 %"), Some(Percent(50)));
        for wrong in ["50", "0%", "101%", "-1%", "%", "12.5%", "300%"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_size_has_its_unit() {
        let read = |text: &str| size(100)(&node(text)).ok();
        assert_eq!(read("100B"), Some(100));
        assert_eq!(read("500 KiB"), Some(500 << 10));
        assert_eq!(read("100MiB"), Some(100 << 20));
        assert_eq!(read("1GB"), Some(1_000_000_000));
        for wrong in ["100", "99B", "MiB", "1.5MiB", "-1MiB", "+1MiB", "1 mib", "1M", "", "99999999999999GiB"]
        {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_quoted() {
        let read = |text: &str| file_mode(&node(text)).ok().map(|mode| mode.0);
        assert_eq!(read("0660"), Some(0o660));
        assert_eq!(read("0o600"), Some(0o600));
        assert_eq!(read(&SocketMode(0o7).to_string()), Some(0o7));
        for wrong in
            ["660", "432", "1224", "0860", "01660", "066", "00660", "rw-rw----", "0x1b0", "-0660", ""]
        {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back(bytes in any::<u64>(), shift in 0..64_u32) {
            let bytes = bytes >> shift;
            prop_assert_eq!(size(0)(&node(&in_bytes(bytes))), Ok(bytes));
        }

        #[test]
        fn a_factor_reads_back(hundredths in 0..10_000_000_u32) {
            let written = node(&format!("{}.{:02}", hundredths / 100, hundredths % 100));
            prop_assert_eq!(factor(Factor(0)..=Factor(u32::MAX))(&written), Ok(Factor(hundredths)));
            // As YAML hands a number on.
            let number = node(&Factor(hundredths).get().to_string());
            prop_assert_eq!(factor(Factor(0)..=Factor(u32::MAX))(&number), Ok(Factor(hundredths)));
        }

        #[test]
        fn a_number_is_within_its_range_and_its_type(n in any::<u64>(), least in 0..500_u64, most in 0..500_u64) {
            let number = number::<u8>(least..=most)(&node(&(n % 600).to_string()));
            let wanted = u8::try_from(n % 600).ok().filter(|n| (least..=most).contains(&u64::from(*n)));
            prop_assert_eq!(number.ok(), wanted);
        }
    }
}
