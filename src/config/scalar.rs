//! Kinds of single values. An error states what the value must be: "must be …".

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::kind::Kind;
use super::model::{ByteRate, Factor, Percent, SocketMode};
use super::outline::Outline;
use super::yaml::YamlNode;

/// A shorter interval would be a busy loop.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);
/// More connections, clients or checks than one process has.
pub(super) const MOST: u64 = 1_000_000;
/// A longer time is a typing error, and would overflow in arithmetic with clocks.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Text that `check` accepts; `must` states what it must be, as in "must be a path".
pub(super) fn text_that(
    must: &'static str,
    schema: impl Fn() -> Value + 'static,
    check: impl Fn(&str) -> bool + 'static,
) -> Kind<String> {
    let parse = move |node: &YamlNode| match node.text() {
        Some(text) if check(text) => Ok(text.to_owned()),
        _ => Err(must.to_owned()),
    };
    Kind::scalar(parse, |text| Outline::text(text), schema)
}

/// Any text.
pub(super) fn text() -> Kind<String> {
    text_that("must be text", any_text, |_| true)
}

/// The schema of any text.
pub(super) fn any_text() -> Value {
    json!({"type": "string", "minLength": 1})
}

/// The schema of text with a pattern.
pub(super) fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

/// A file's path.
pub(super) fn path() -> Kind<PathBuf> {
    text().map(PathBuf::from, |path| path.to_string_lossy().into_owned())
}

/// A type of whole numbers.
pub(super) trait Whole: Copy + 'static {
    fn of(number: u64) -> Option<Self>;
    fn number(self) -> u64;
}

macro_rules! whole {
    ($($type:ty: $of:expr, $number:expr;)*) => {
        $(impl Whole for $type {
            fn of(number: u64) -> Option<Self> {
                number.try_into().ok().and_then($of)
            }

            fn number(self) -> u64 {
                $number(self)
            }
        })*
    };
}

whole! {
    u16: Some, u64::from;
    u32: Some, u64::from;
    usize: Some, |number| number as u64;
    NonZeroU16: NonZeroU16::new, |number: Self| number.get().into();
    NonZeroU32: NonZeroU32::new, |number: Self| number.get().into();
    NonZeroUsize: NonZeroUsize::new, |number: Self| number.get() as u64;
}

/// A whole number in a range, which the type must be able to hold.
pub(super) fn whole<T: Whole>(range: RangeInclusive<u64>) -> Kind<T> {
    let (least, most) = range.into_inner();
    let parse = move |node: &YamlNode| {
        let number = node.text().and_then(|text| text.parse().ok()).filter(|n| (least..=most).contains(n));
        number.and_then(T::of).ok_or_else(|| match most {
            u64::MAX => format!("must be a whole number from {least} up"),
            most => format!("must be a whole number from {least} to {most}"),
        })
    };
    let schema = move || match most {
        u64::MAX => json!({"type": "integer", "minimum": least}),
        most => json!({"type": "integer", "minimum": least, "maximum": most}),
    };
    Kind::scalar(parse, |number| Outline::Number(number.number()), schema)
}

/// A port.
pub(super) fn port() -> Kind<u16> {
    whole(1..=65535)
}

/// A number with at most two digits after the decimal point, in [`Factor::RANGE`].
pub(super) fn factor() -> Kind<Factor> {
    let (least, most) = (Factor::RANGE.start().get(), Factor::RANGE.end().get());
    let parse = move |node: &YamlNode| {
        let factor = node.text().and_then(|text| text.parse().ok());
        factor.filter(|factor| Factor::RANGE.contains(factor)).ok_or_else(|| {
            format!("must be a number from {least} to {most} with at most two digits after the decimal point")
        })
    };
    let schema = move || json!({"type": "number", "minimum": least, "maximum": most});
    Kind::scalar(parse, |factor| Outline::Decimal(factor.get()), schema)
}

/// A share of at least `least`.
pub(super) fn share(least: Percent) -> Kind<Percent> {
    let parse = move |node: &YamlNode| {
        let number = node.text().and_then(|text| text.strip_suffix('%')?.trim_end().parse().ok());
        let percent = number.map(Percent).filter(|percent| (least..=Percent(100)).contains(percent));
        percent.ok_or_else(|| format!("must be a share from {}% to 100%", least.0))
    };
    let schema = || pattern("^([0-9]|[1-9][0-9]|100) *%$");
    Kind::scalar(parse, |percent| Outline::Text(format!("{}%", percent.0)), schema)
        .with_range(format!("From {}% to 100%.", least.0))
}

/// Yes or no.
pub(super) fn flag() -> Kind<bool> {
    let parse = |node: &YamlNode| match node.text() {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        _ => Err("must be true or false".to_owned()),
    };
    Kind::scalar(parse, |value| Outline::Bool(*value), || json!({"type": "boolean"}))
}

/// Any duration.
pub(super) fn time() -> Kind<Duration> {
    time_within(Duration::ZERO..=LONGEST)
}

/// A duration of at least [`SHORTEST`].
pub(super) fn interval() -> Kind<Duration> {
    time_from(SHORTEST)
}

/// A duration of at least `least`.
pub(super) fn time_from(least: Duration) -> Kind<Duration> {
    time_within(least..=LONGEST)
}

/// A duration in a range.
pub(super) fn time_within(range: RangeInclusive<Duration>) -> Kind<Duration> {
    let (least, most) = range.into_inner();
    let shown = humantime::format_duration;
    let (error, note) = if most < LONGEST {
        let range = format!("from {} to {}", shown(least), shown(most));
        (format!(", {range}"), format!("F{}.", &range[1..]))
    } else {
        let (least, note) = match least {
            Duration::ZERO => (String::new(), String::new()),
            least => (format!(", at least {}", shown(least)), format!("At least {}.", shown(least))),
        };
        (format!("{least}, such as 500ms, 2s, 1m30s or 1h"), note)
    };
    let parse = move |node: &YamlNode| {
        let duration = node.text().and_then(|text| humantime::parse_duration(text).ok());
        let duration = duration.filter(|duration| (least..=most).contains(duration));
        duration.ok_or_else(|| format!("must be a duration with its unit{error}"))
    };
    let print = move |time: &Duration| Outline::Text(shown(*time).to_string());
    Kind::scalar(parse, print, || json!({"$ref": "#/$defs/duration"})).with_range(note)
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

/// A size of at least `least` bytes, with its unit.
pub(super) fn size(least: u64) -> Kind<u64> {
    let parse = move |node: &YamlNode| {
        let bytes = node.text().and_then(bytes_of);
        bytes.filter(|bytes| *bytes >= least).ok_or_else(|| {
            let least = in_bytes(least);
            format!("must be a size with its unit, such as 500KiB, 100MiB or 1GB, at least {least}")
        })
    };
    Kind::scalar(parse, |size| Outline::Text(in_bytes(*size)), || size_pattern(""))
        .with_range(format!("At least {}.", in_bytes(least)))
}

/// A size per second.
pub(super) fn byte_rate() -> Kind<ByteRate> {
    let least = in_bytes(ByteRate::LEAST.0.get());
    let must = format!("must be a size per second, such as 500KiB/s or 10MB/s, at least {least}/s");
    let parse = move |node: &YamlNode| {
        let bytes = node.text().and_then(|text| bytes_of(text.strip_suffix("/s")?.trim_end()));
        let rate = bytes.and_then(NonZeroU64::new).map(ByteRate).filter(|rate| *rate >= ByteRate::LEAST);
        rate.ok_or_else(|| must.clone())
    };
    let print = |rate: &ByteRate| Outline::Text(format!("{}/s", in_bytes(rate.0.get())));
    Kind::scalar(parse, print, || size_pattern(r"\s*/s")).with_range(format!("At least {least}/s."))
}

/// The bytes of a size with its unit.
fn bytes_of(text: &str) -> Option<u64> {
    let (number, unit) = SIZES.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let number = number.trim_end();
    let digits = number.bytes().all(|digit| digit.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(*unit)
}

/// The schema of a size that `end` follows.
fn size_pattern(end: &str) -> Value {
    let units = SIZES.map(|(name, _)| name).join("|");
    pattern(&format!(r"^[0-9]+\s*({units}){end}$"))
}

/// A size in the largest binary unit of which it is a multiple.
fn in_bytes(size: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| size > 0 && size.is_multiple_of(*unit));
    let (name, unit) = whole.unwrap_or(("B", 1));
    format!("{}{name}", size / unit)
}

/// A file mode, in octal and in quotes: YAML passes on only the value of a bare number, and `0660` is 660 in one YAML
/// version and 432 in another.
pub(super) fn file_mode() -> Kind<SocketMode> {
    let parse = |node: &YamlNode| {
        let digits = node.text().and_then(|text| text.strip_prefix("0o").or(text.strip_prefix('0')));
        let three =
            digits.filter(|digits| digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()));
        let mode = three.and_then(|digits| u32::from_str_radix(digits, 8).ok());
        mode.map(SocketMode).ok_or_else(|| {
            "must be a mode in quotes, of three octal digits after a 0, such as \"0660\" (user and group)"
                .to_owned()
        })
    };
    Kind::scalar(parse, |mode| Outline::text(mode.to_string()), || pattern("^0o?[0-7]{3}$"))
}

#[cfg(test)]
mod tests {
    use super::super::decode::{Decoder, FoundValue};
    use super::super::problem::FilePosition;
    use super::super::yaml::YamlValue;
    use super::*;
    use proptest::prelude::*;

    fn read<T: 'static>(kind: &Kind<T>, text: &str) -> Option<T> {
        let at = FilePosition { line: 1, column: 1 };
        let node = YamlNode { at, value: YamlValue::Scalar(text.to_owned()) };
        kind.read(&FoundValue::root(&node, "it", &Decoder::new("")))
    }

    #[test]
    fn a_factor_is_a_plain_number() {
        let read = |text: &str| read(&factor(), text);
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
        let read = |text: &str| read(&share(Percent(1)), text);
        assert_eq!(read("50%"), Some(Percent(50)));
        assert_eq!(read("50 %"), Some(Percent(50)));
        for wrong in ["50", "0%", "101%", "-1%", "%", "12.5%", "300%"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_size_has_its_unit() {
        let read = |text: &str| read(&size(100), text);
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
    fn a_byte_rate_is_a_size_per_second() {
        let read = |text: &str| read(&byte_rate(), text).map(|rate| rate.0.get());
        assert_eq!(read("1KiB/s"), Some(1024));
        assert_eq!(read("10 MB /s"), Some(10_000_000));
        for wrong in ["1KiB", "1023B/s", "10MB/m", "/s", "10/s", "MB/s", "10MB/ s", "10Mbit/s", ""] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_quoted() {
        let read = |text: &str| read(&file_mode(), text).map(|mode| mode.0);
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
            prop_assert_eq!(read(&size(0), &in_bytes(bytes)), Some(bytes));
        }

        #[test]
        fn a_factor_reads_back(hundredths in 101..=10_000_u32) {
            let written = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            prop_assert_eq!(read(&factor(), &written), Some(Factor(hundredths)));
            // The form in which YAML passes on a number.
            let number = Factor(hundredths).get().to_string();
            prop_assert_eq!(read(&factor(), &number), Some(Factor(hundredths)));
        }

        #[test]
        fn a_number_is_within_its_range_and_its_type(n in 0..100_000_u64, least in 0..90_000_u64, most in 0..90_000_u64) {
            let number = read(&whole::<u16>(least..=most), &n.to_string());
            let wanted = u16::try_from(n).ok().filter(|n| (least..=most).contains(&u64::from(*n)));
            prop_assert_eq!(number, wanted);
        }
    }
}
