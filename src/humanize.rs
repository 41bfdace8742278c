//! How figures are written for people.

/// Milliseconds in the unit that suits them, of three digits or more.
pub fn time(milliseconds: f64) -> String {
    let (number, unit) = match milliseconds {
        0.0 => return "0".to_owned(),
        ..0.001 => (milliseconds * 1e6, "ns"),
        ..1.0 => (milliseconds * 1e3, "µs"),
        ..1_000.0 => (milliseconds, "ms"),
        _ => (milliseconds / 1e3, "s"),
    };
    let digits = usize::from(number < 100.0) + usize::from(number < 10.0);
    format!("{number:.digits$} {unit}")
}

/// A part of one whole, in percent.
pub fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// The last line of a table of backends of which it lists so many; nothing if it lists all.
pub fn unlisted(all: usize, listed: usize) -> String {
    match all.checked_sub(listed) {
        Some(more @ 1..) => format!("  and {more} more: --json lists them all\n"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_listed_is_counted() {
        assert_eq!([unlisted(9, 10), unlisted(10, 10)], ["", ""]);
        assert!(unlisted(12, 10).contains("and 2 more"));
        assert_eq!(percent(0.256_7), "25.7 %");
    }

    #[test]
    fn times_are_in_the_unit_that_suits_them() {
        for (milliseconds, text) in [
            (0.0, "0"),
            (0.000_5, "500 ns"),
            (0.012_34, "12.3 µs"),
            (1.234, "1.23 ms"),
            (987.6, "988 ms"),
            (12_345.0, "12.3 s"),
        ] {
            assert_eq!(time(milliseconds), text);
        }
    }
}
