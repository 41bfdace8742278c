//! Detects a request with two framings, which hyper hides: it drops a `Content-Length` that comes with a
//! `Transfer-Encoding` (RFC 9112, 6.1). A proxy in front of this server may have read such a request as two (request
//! smuggling).
//!
//! So the bytes are scanned on their way to hyper, but only as far as the heads of the requests.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The framing of the requests that hyper has not passed on yet, oldest first. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Framings(Arc<Mutex<VecDeque<Framing>>>);

/// What marks the end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A Content-Length, or no body.
    Length,
    /// A Transfer-Encoding.
    Coding,
    /// Both.
    Both,
}

impl Framings {
    /// The framing of the next request.
    pub(super) fn next(&self) -> Option<Framing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn add(&self, framing: Framing) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(framing);
    }
}

/// The position of a scan in a connection's bytes.
#[derive(Debug)]
enum Scan {
    Head(Head),
    /// The bytes of a body that are left.
    Body(u64),
    /// No request can follow: the connection ends with this one.
    Done,
}

#[derive(Debug, Default)]
struct Head {
    line: Vec<u8>,
    /// Whether the request line has been read.
    started: bool,
    length: Option<u64>,
    coded: bool,
}

/// hyper refuses a longer line.
const LONGEST_LINE: usize = super::server::HEADER;

impl Scan {
    fn new() -> Self {
        Self::Head(Head::default())
    }

    /// Continues with these bytes.
    fn feed(&mut self, mut bytes: &[u8], found: &Framings) {
        while !bytes.is_empty() {
            match self {
                Self::Done => return,
                Self::Body(left) => {
                    let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        *self = Self::new();
                    }
                }
                Self::Head(head) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    head.line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                    bytes = end.map_or(&[], |end| &bytes[end + 1..]);
                    if head.line.len() > LONGEST_LINE {
                        *self = Self::Done;
                    } else if end.is_some()
                        && let Some(next) = head.end_of_line(found)
                    {
                        *self = next;
                    }
                }
            }
        }
    }
}

impl Head {
    /// Reads a line, and returns the next state if the line ends the head. A malformed line passes: hyper refuses it.
    fn end_of_line(&mut self, found: &Framings) -> Option<Scan> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() && self.started {
            let (framing, next) = match (self.length, self.coded) {
                (Some(_), true) => (Framing::Both, Scan::Done),
                (None, true) => (Framing::Coding, Scan::Done),
                (None | Some(0), false) => (Framing::Length, Scan::new()),
                (Some(length), false) => (Framing::Length, Scan::Body(length)),
            };
            found.add(framing);
            return Some(next);
        }
        if !self.started {
            self.started = !line.is_empty(); // hyper skips empty lines before a request
            return None;
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.coded = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.length =
                Some(std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(0));
        }
        None
    }
}

/// A stream that scans its requests as they are read.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    scan: Scan,
    found: Framings,
}

impl<S> Watched<S> {
    /// Reports the framing of its requests to `found`.
    pub(super) fn new(stream: S, found: Framings) -> Self {
        Self { stream, scan: Scan::new(), found }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let Self { scan, found, .. } = &mut *self;
        scan.feed(&into.filled()[before..], found);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(pieces: &[&[u8]]) -> Vec<Framing> {
        let (mut scan, framings) = (Scan::new(), Framings::default());
        pieces.iter().for_each(|piece| scan.feed(piece, &framings));
        std::iter::from_fn(|| framings.next()).collect()
    }

    const REQUESTS: &[u8] = b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n\
        POST / HTTP/1.1\r\ncontent-LENGTH:  27 \r\n\r\nPUT / HTTP/1.1\nA: b\n\n\r\n\r\n\r\n\
        POST / HTTP/1.1\nContent-Length: 0\n\n\
        POST / HTTP/1.1\r\nX: Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
        GET / HTTP/1.1\r\n\r\n";

    #[test]
    fn the_framing_of_each_request_is_found_until_one_has_no_length() {
        use Framing::{Both, Coding, Length};
        assert_eq!(found(&[REQUESTS]), [Length, Length, Length, Coding]);
        for both in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "TRANSFER-ENCODING: chunked\r\nHost: x\r\ncontent-length:5",
        ] {
            assert_eq!(found(&[format!("POST / HTTP/1.1\r\n{both}\r\n\r\n").as_bytes()]), [Both]);
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut scan = Scan::new();
        for _ in 0..100 {
            scan.feed(&[b'x'; 1000], &Framings::default());
        }
        assert!(matches!(scan, Scan::Done));
    }

    proptest! {
        #[test]
        fn the_framing_is_found_wherever_the_bytes_are_split(cuts in prop::collection::vec(1..40_usize, 1..300)) {
            let (mut rest, mut pieces) = (REQUESTS, Vec::new());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(found(&pieces), found(&[REQUESTS]));
        }
    }
}
