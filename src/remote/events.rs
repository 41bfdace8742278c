//! A client of Server-Sent Events (HTML Living Standard, 9.2.6).

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Error, LONGEST, Remote};

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its kind.
    pub kind: String,
    /// Its data.
    pub data: String,
    /// Its number, if it has one.
    pub id: Option<String>,
}

/// A server's stream of events.
#[derive(Debug)]
pub(crate) struct Events {
    remote: Remote,
    body: Incoming,
    silence: Duration,
    parser: Parser,
}

impl Events {
    pub(super) fn new(remote: Remote, body: Incoming, silence: Duration) -> Self {
        Self { remote, body, silence, parser: Parser::default() }
    }

    /// The next event; `None`: the server has ended the stream. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.parser.ready.pop_front() {
                return Ok(Some(event));
            }
            let lost = |error: String| self.remote.no_answer(&error);
            let frame = match timeout(self.silence, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|error| lost(error.to_string()))?,
                Err(_) => {
                    let silence = humantime::format_duration(self.silence);
                    return Err(lost(format!("no data for {silence}")));
                }
            };
            let Some(bytes) = frame.data_ref() else { continue };
            self.parser.take(bytes);
            if self.parser.size() > LONGEST {
                return Err(lost("an event without an end".to_owned()));
            }
        }
    }
}

/// Parses events from bytes, wherever those are split.
#[derive(Debug, Default)]
struct Parser {
    /// The incomplete line.
    line: Vec<u8>,
    /// Whether the byte before was a carriage return, which a line feed may follow.
    returned: bool,
    event: Event,
    has_data: bool,
    ready: VecDeque<Event>,
}

impl Parser {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.returned, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    self.end_line(&String::from_utf8_lossy(&line));
                }
                _ => self.line.push(byte),
            }
        }
    }

    fn size(&self) -> usize {
        self.line.len() + self.event.data.len()
    }

    fn end_line(&mut self, line: &str) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) {
                self.ready.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {} // a comment, which keeps the connection alive, or `retry`
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = ": hello\nretry: 1000\n\nevent: hello\ndata: {\"a\": 1}\n\nid: 7\r\nevent:event\r\ndata: one\r\ndata:two\r\n\r\n:\n\nevent: nothing\n\ndata\n\nevent: half\ndata: x\n";

    fn event(kind: &str, data: &str, id: Option<&str>) -> Event {
        Event { kind: kind.into(), data: data.into(), id: id.map(str::to_owned) }
    }

    proptest! {
        #[test]
        fn events_are_parsed_wherever_the_bytes_are_split(cuts in prop::collection::vec(1..20_usize, 1..60)) {
            let mut parser = Parser::default();
            let mut rest = STREAM.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                parser.take(now);
                rest = later;
            }
            let read: Vec<_> = parser.ready.into_iter().collect();
            prop_assert_eq!(read, vec![
                event("hello", "{\"a\": 1}", None),
                event("event", "one\ntwo", Some("7")),
                event("", "", None),
            ]);
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut parser = Parser::default();
            parser.take(&bytes);
        }
    }
}
