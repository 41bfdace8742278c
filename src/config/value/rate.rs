//! Numbers per unit of time.

use super::super::kind::Kind;
use super::super::model::Rate;
use super::super::outline::Outline;
use super::super::scalar::pattern;

/// A rate such as `10/s`.
pub(in crate::config) fn rate() -> Kind<Rate> {
    Kind::scalar(
        |node| node.text().unwrap_or_default().parse(),
        |rate: &Rate| Outline::text(rate.to_string()),
        || pattern("^[0-9]+/(s|m|h)$"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_has_a_number_and_a_unit() {
        for (text, interval) in [
            ("10/s", Duration::from_millis(100)),
            ("600/m", Duration::from_millis(100)),
            ("1/h", Duration::from_secs(3600)),
            ("1000000/s", Duration::from_micros(1)),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.interval(), rate.to_string()), (interval, text.to_owned()));
        }
        for wrong in
            ["", "10", "10/", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "10/d", "10 / s", "10/S", "1000001/s"]
        {
            assert!(wrong.parse::<Rate>().unwrap_err().starts_with("must be a number"), "{wrong}");
        }
    }
}
