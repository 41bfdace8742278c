//! Lines as a subscriber writes them, and the way back.

use std::sync::Arc;

use proptest::prelude::*;
use tracing::info;

use super::*;
use crate::testing::Written;

/// The text that `log` logs.
fn written(ansi: bool, log: impl FnOnce()) -> String {
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .fmt_fields(TextFields)
        .with_ansi(ansi)
        .without_time()
        .with_target(false)
        .with_level(false)
        .with_writer(written.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    written.text()
}

#[test]
fn the_line_of_a_connection_does_not_change() {
    let backend: Arc<str> = "web-1.net".into();
    let line = written(false, || {
        info!(
            conn = 5_u64,
            client = %"127.0.0.1:57428",
            listener = %"web",
            backend = %backend,
            address = Some(display("[::1]:5000")),
            none = None::<u64>,
            algorithm = %"round-robin",
            skipped = "a: down (3 failures in a row: connection refused)",
            attempts = 1,
            connect_ms = 0.15,
            ready = true,
            path = %"unix:/run/x_y.sock",
            "routed"
        );
    });
    assert_eq!(
        line,
        "routed conn=5 client=127.0.0.1:57428 listener=web backend=web-1.net address=[::1]:5000 \
         algorithm=round-robin skipped=\"a: down (3 failures in a row: connection refused)\" attempts=1 \
         connect_ms=0.15 ready=true path=unix:/run/x_y.sock\n"
    );
}

#[test]
fn more_than_word_characters_are_quoted() {
    let line = written(false, || {
        let words = format_args!("{}{}", "Address already", " in use");
        info!(backend = %"Server 1", empty = %"", umlaut = %"ß", equals = %"a=b", error = %words, text = "x", "m");
    });
    assert_eq!(
        line,
        "m backend=\"Server 1\" empty=\"\" umlaut=\"ß\" equals=\"a=b\" error=\"Address already in use\" text=\"x\"\n"
    );
}

#[test]
fn no_value_or_message_begins_a_line_or_controls_the_terminal() {
    let evil = "a\nINFO closed backend=b \x1b[2J\u{202e}\u{9b}\u{2028}\" x=\"y";
    for ansi in [false, true] {
        let line = written(ansi, || info!(backend = %evil, text = evil, "up {evil}"));
        let (body, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        let body = if ansi {
            body.replace("\x1b[3m", "").replace("\x1b[0m", "").replace("\x1b[2m", "")
        } else {
            body.to_owned()
        };
        assert!(!body.contains(sanitize::is_unsafe), "{body:?}");
        assert!(
            body.contains(
                "backend=\"a\\nINFO closed backend=b \\u{1b}[2J\\u{202e}\\u{9b}\\u{2028}\\\" x=\\\"y\""
            ),
            "{body}"
        );
    }
}

#[test]
fn names_are_colored_for_a_terminal() {
    let line = written(true, || info!(backend = %"a b", n = 1, "up"));
    assert_eq!(line, "up \x1b[3mbackend\x1b[0m\x1b[2m=\x1b[0m\"a b\" \x1b[3mn\x1b[0m\x1b[2m=\x1b[0m1\n");
}

#[test]
fn a_value_that_logs_while_it_is_formatted_is_written() {
    struct Logs;
    impl Debug for Logs {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatted(&format_args!("inner"), |text| f.write_str(text))
        }
    }
    let mut seen = String::new();
    formatted(&Logs, |text| seen.write_str(text)).unwrap();
    assert_eq!(seen, "inner");
}

proptest! {
    #[test]
    fn every_value_reads_back_from_its_line(text in r"(\PC|\p{C}|\p{Z}|[a-z=: ]){0,30}", after in "[a-z]{1,5}") {
        let line = written(false, || info!(backend = %text, after = %after, "m"));
        let rest = line.strip_prefix("m backend=").unwrap();
        let (read, rest) = value(rest.trim_end_matches('\n'));
        prop_assert_eq!(read.as_ref(), text.as_str());
        prop_assert_eq!(rest, format!(" after={after}"));
        prop_assert!(!line[..line.len() - 1].contains(sanitize::is_unsafe));
    }

    #[test]
    fn any_text_can_be_read(text in any::<String>()) {
        let _ = value(&text);
        let _ = value(&format!("\"{text}"));
    }
}
