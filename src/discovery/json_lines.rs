//! A response that does not end, with a message in JSON on each line, as the watches of etcd and Kubernetes are.

use http_body_util::BodyExt;

use super::http_api::{ApiRequest, ApiResponse, HttpApi, HttpApiError, HttpApiErrorKind, explain};

/// The longest message, in bytes: more than ten times the longest transaction of etcd (1.5 MiB), in base64.
const LONGEST_MESSAGE: usize = 32 << 20;

/// An open watch.
pub(super) struct JsonWatch {
    pub(super) request: ApiRequest,
    response: ApiResponse,
    lines: JsonLines,
}

impl JsonWatch {
    pub(super) fn new(request: ApiRequest, response: ApiResponse) -> Self {
        Self { request, response, lines: JsonLines::default() }
    }

    /// The next message; `None` if the server has ended the watch. Cancel safe.
    pub(super) async fn next(&mut self, api: &HttpApi) -> Result<Option<Vec<u8>>, HttpApiError> {
        let failed = |what: &str| api.error(HttpApiErrorKind::Failed, &self.request, what);
        loop {
            if let Some(line) = self.lines.next() {
                return Ok(Some(line));
            }
            match self.response.body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
                    self.lines.push(data).map_err(|error| failed(&error))?;
                }
                Some(Err(error)) => return Err(failed(&format!("the watch ended: {}", explain(&error)))),
                None => return Ok(None),
            }
        }
    }
}

/// Splits a stream into its lines, each of which has a message.
#[derive(Debug, Default)]
struct JsonLines {
    /// What was not returned yet.
    buffer: Vec<u8>,
    /// How much of it is known to have no line end.
    searched: usize,
}

impl JsonLines {
    /// Adds bytes of the stream; an error if a message is too long.
    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > LONGEST_MESSAGE {
            return Err(format!("a message has more than {LONGEST_MESSAGE} bytes"));
        }
        Ok(())
    }

    /// The next line that is not empty, if it is complete.
    fn next(&mut self) -> Option<Vec<u8>> {
        while let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.buffer.drain(..=self.searched + length).collect();
            self.searched = 0;
            line.pop();
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
        self.searched = self.buffer.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_endless_message_is_an_error() {
        let mut lines = JsonLines::default();
        let part = vec![b'x'; LONGEST_MESSAGE];
        assert_eq!((lines.push(&part), lines.next()), (Ok(()), None));
        assert!(lines.push(b"x").is_err());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_is_cut(parts in prop::collection::vec("[ab \n]{0,5}", 0..20)) {
            let all = parts.concat();
            let mut lines = JsonLines::default();
            let mut seen = Vec::new();
            for part in &parts {
                lines.push(part.as_bytes()).unwrap();
                seen.extend(std::iter::from_fn(|| lines.next()).map(|line| String::from_utf8(line).unwrap()));
            }
            let complete = all.rsplit_once('\n').map_or("", |(complete, _)| complete);
            let expected: Vec<_> = complete.split('\n').filter(|line| !line.trim().is_empty()).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
