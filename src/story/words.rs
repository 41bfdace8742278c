//! Numbers, times and lists as a person says them.

use std::time::Duration;

use crate::domain::CloseReason;

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
    let named = if all.len() == named + 1 { all.len() } else { named }; // one more is named as soon as counted
    let mut words: Vec<String> = all[..named].iter().map(|one| one.as_ref().to_owned()).collect();
    if all.len() > named {
        words.push(format!("{} more", all.len() - named));
    }
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "nobody".to_owned(),
    }
}

/// Milliseconds: `0.31 ms`, `12 ms`, `3.4 s`, `2m 5s`.
pub fn millis(ms: f64) -> String {
    match ms {
        _ if ms < 10.0 => format!("{} ms", trimmed(ms, 2)),
        _ if ms < 100.0 => format!("{} ms", trimmed(ms, 1)),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => time(Duration::from_secs_f64(ms / 1000.0)),
    }
}

/// A time: `0 s`, `850 ms`, `3.4 s`, `2m 5s`, `1h 4m`, `3days 2h`.
pub fn time(time: Duration) -> String {
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

/// A number with at most so many digits behind the point, and none that say nothing.
fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Why a connection ended.
pub fn ending(reason: CloseReason, first: Option<CloseReason>) -> &'static str {
    use CloseReason as R;
    match (reason, first) {
        (R::ClientClosed, _) => "the client finished first, in order",
        (R::BackendClosed, _) => "the backend finished first, in order",
        (R::ClientReset, Some(R::BackendClosed)) => {
            "the backend had finished, and then the client reset the connection, or vanished"
        }
        (R::ClientReset, _) => "the client reset the connection, or vanished",
        (R::BackendReset, Some(R::ClientClosed)) => {
            "the client had finished, and then the backend reset the connection, or vanished"
        }
        (R::BackendReset, _) => "the backend reset the connection, or vanished",
        (R::ConnectFailed, _) => "no backend that was tried could be reached, so the client was turned away",
        (R::NoBackend, _) => "no backend was up, so the client was turned away",
        (R::Limited, _) => "a limit was reached, so the client was turned away",
        (R::IdleTimeout, _) => "we ended it: no byte had moved for timeouts.idle",
        (R::HalfClosedTimeout, _) => {
            "we ended it: one side had finished, and nothing had moved for timeouts.half_closed"
        }
        (R::Lifetime, _) => "we ended it: it was as old as timeouts.lifetime allows",
        (R::BackendDown, _) => "we ended it: its backend went down, and on_down says so",
        (R::BackendLeft, _) => "we ended it: its backend left, and on_leave says so",
        (R::Operator, _) => "we ended it: an operator said so",
        (R::DrainTimeout, _) => "we ended it: Pointsman was stopping, and the drain's time was up",
        (R::Internal, _) => "it was cut off by the end of Pointsman or by a fault of its own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lists_read_as_a_person_says_them() {
        assert_eq!((count(1, "byte"), count(2, "byte")), ("1 byte".into(), "2 bytes".into()));
        let list = |n: usize| list(&["a", "b", "c", "d", "e"][..n], 3);
        assert_eq!([list(0), list(1), list(2)], ["nobody", "a", "a and b"]);
        assert_eq!([list(4), list(5)], ["a, b, c and d", "a, b, c and 2 more"]);
        let times =
            [0, 850, 1000, 3_420, 60_000, 125_000, 93_784_000].map(|ms| time(Duration::from_millis(ms)));
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

    #[test]
    fn every_reason_has_words() {
        for reason in CloseReason::ALL {
            assert!(!ending(reason, None).is_empty());
        }
    }
}
