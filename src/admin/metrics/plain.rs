//! The older text format of Prometheus (version 0.0.4), made from OpenMetrics.
//!
//! In the older format the name of a counter's family ends with `_total`, as that of its series, and there are no lines
//! for units and for the end. A reader of the older format would take the counters of OpenMetrics for metrics of an
//! unknown type.

/// Converts OpenMetrics to the older format.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut plain = String::with_capacity(text.len() + text.len() / 64);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // The line with the help text precedes that with the type.
        let counter = match (line.strip_prefix("# HELP "), lines.peek()) {
            (Some(_), Some(next)) => next.starts_with("# TYPE ") && next.ends_with(" counter"),
            _ => line.starts_with("# TYPE ") && line.ends_with(" counter"),
        };
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => {}
            (Some("#"), Some(keyword), Some(name), rest) if counter => {
                plain += &format!("# {keyword} {name}_total {}\n", rest.unwrap_or_default());
            }
            _ => {
                plain += line;
                plain.push('\n');
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_the_name_of_their_series_and_the_rest_stays() {
        let open = "\
# HELP a_bytes Bytes, of any counter
# TYPE a_bytes counter
# UNIT a_bytes bytes
a_bytes_total{pool=\"# EOF\"} 1
# HELP b_seconds Times
# TYPE b_seconds histogram
b_seconds_sum 0.5
b_seconds_count 1
b_seconds_bucket{le=\"+Inf\"} 1
# HELP c A counter
# TYPE c gauge
c 1
# HELP d_empty Nothing yet
# TYPE d_empty counter
# EOF
";
        let plain = "\
# HELP a_bytes_total Bytes, of any counter
# TYPE a_bytes_total counter
a_bytes_total{pool=\"# EOF\"} 1
# HELP b_seconds Times
# TYPE b_seconds histogram
b_seconds_sum 0.5
b_seconds_count 1
b_seconds_bucket{le=\"+Inf\"} 1
# HELP c A counter
# TYPE c gauge
c 1
# HELP d_empty_total Nothing yet
# TYPE d_empty_total counter
";
        assert_eq!(from_open_metrics(open), plain);
    }
}
