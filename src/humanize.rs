//! Numbers, times and lists as text for readers.

use std::time::Duration;

/// Milliseconds in a suitable unit, with three digits or more, for tables.
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

/// A share from 0 to 1, in percent.
pub fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// The last line of a table that lists only some backends; empty if it lists all.
pub fn unlisted(all: usize, listed: usize) -> String {
    match all.checked_sub(listed) {
        Some(more @ 1..) => format!("  and {more} more: --json lists them all\n"),
        _ => String::new(),
    }
}

/// `1 backend`, `2 backends`.
pub fn count(n: u64, one: &str) -> String {
    let end = match one {
        _ if n == 1 => "",
        "has" | "was" => "",
        _ if one.ends_with("ss") || one.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{n} {one}{end}")
}

/// `a`, `a and b`, `a, b and c`; after `most` of them `and 7 more`.
pub fn list<T: AsRef<str>>(all: &[T], most: usize) -> String {
    let named = all.len().min(most);
    let named = if all.len() == named + 1 { all.len() } else { named }; // naming the last one takes no more room than counting it
    let mut words: Vec<String> = all[..named].iter().map(|one| one.as_ref().to_owned()).collect();
    if all.len() > named {
        words.push(format!("{} more", all.len() - named));
    }
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "none".to_owned(),
    }
}

/// Milliseconds: `0.31 ms`, `12 ms`, `3.4 s`, `2m 5s`.
pub fn millis(ms: f64) -> String {
    match ms {
        _ if ms < 10.0 => format!("{} ms", trimmed(ms, 2)),
        _ if ms < 100.0 => format!("{} ms", trimmed(ms, 1)),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => duration(Duration::from_secs_f64(ms / 1000.0)),
    }
}

/// A duration: `0 s`, `850 ms`, `3.4 s`, `2m 5s`, `1h 4m`, `3days 2h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds < 0.0005 => "0 s".to_owned(),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 60.0 => format!("{} s", trimmed(seconds, 1)),
        _ => {
            // The two largest units are enough.
            let whole = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
            whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
        }
    }
}

/// Bytes: `812 bytes`, `1.4 KiB`, `30 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return count(n, "byte");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{} {}", trimmed(value, usize::from(value < 100.0)), UNITS[unit])
}

/// A number with at most so many decimals, without trailing zeros.
fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlisted_backends_are_counted() {
        assert_eq!([unlisted(9, 10), unlisted(10, 10)], ["", ""]);
        assert!(unlisted(12, 10).contains("and 2 more"));
        assert_eq!(percent(0.256_7), "25.7 %");
    }

    #[test]
    fn times_are_in_a_suitable_unit() {
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

    #[test]
    fn numbers_and_lists_read_like_english() {
        assert_eq!((count(1, "byte"), count(2, "byte")), ("1 byte".into(), "2 bytes".into()));
        let list = |n: usize| list(&["a", "b", "c", "d", "e"][..n], 3);
        assert_eq!([list(0), list(1), list(2)], ["none", "a", "a and b"]);
        assert_eq!([list(4), list(5)], ["a, b, c and d", "a, b, c and 2 more"]);
        let times =
            [0, 850, 1000, 3_420, 60_000, 125_000, 93_784_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(times, ["0 s", "850 ms", "1 s", "3.4 s", "1m", "2m 5s", "1day 2h"]);
        assert_eq!(
            [0.0, 0.3, 12.34, 250.4, 2500.0].map(millis),
            ["0 ms", "0.3 ms", "12.3 ms", "250 ms", "2.5 s"]
        );
        assert_eq!(
            [1, 1023, 1024, 1_500_000, 5 << 40].map(bytes),
            ["1 byte", "1023 bytes", "1 KiB", "1.4 MiB", "5 TiB"]
        );
    }
}
