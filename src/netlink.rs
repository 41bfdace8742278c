//! Messages of netlink sockets (netlink(7)) and their attributes. Both are padded to four bytes.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

/// The length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// The length of the header of an attribute (`struct nlattr`).
const ATTRIBUTE_HEADER: usize = 4;
/// The bits of an attribute's type that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const ATTRIBUTE_FLAGS: u16 = 0xc000;
/// `NLA_F_NESTED`: the value consists of attributes.
const NESTED: u16 = 0x8000;

/// Opens a socket to a part of the kernel (`NETLINK_…`).
pub fn open(protocol: libc::c_int) -> io::Result<Socket> {
    Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, Some(Protocol::from(protocol)))
}

/// The most datagrams that one system call reads.
const BATCH: usize = 64;
/// Room for each: notifications and answers about one entry have less than a kilobyte.
const DATAGRAM: usize = 4096;

/// Room for the datagrams of one system call.
#[derive(Debug)]
pub struct Datagrams {
    buffer: Box<[u8]>,
    lengths: Vec<usize>,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self { buffer: vec![0; BATCH * DATAGRAM].into(), lengths: Vec::with_capacity(BATCH) }
    }
}

impl Datagrams {
    /// Reads as many datagrams as there are, at most 64, and waits for the first one unless the socket does not block
    /// (recvmmsg(2)).
    #[allow(unsafe_code)]
    pub fn receive(&mut self, socket: &Socket) -> io::Result<()> {
        self.lengths.clear();
        let place =
            |chunk: &mut [u8]| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() };
        let mut places: Vec<_> = self.buffer.chunks_exact_mut(DATAGRAM).map(place).collect();
        let header = |place: &mut libc::iovec| {
            // SAFETY: a header of zeros is valid: without an address, without room, without control data. Its fields cannot all
            // be named, as some C libraries have private ones.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (place, 1);
            header
        };
        let mut headers: Vec<_> = places.iter_mut().map(header).collect();
        let (first, count) = (headers.as_mut_ptr(), headers.len() as libc::c_uint);
        // SAFETY: `headers` has `count` headers, each of which points to one element of `places`, and that to a part of
        // `buffer` of its own; all of them live until the call returns.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), first, count, libc::MSG_WAITFORONE as _, std::ptr::null_mut())
        };
        let Ok(received) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
        self.lengths.extend(headers[..received].iter().map(|header| header.msg_len as usize));
        Ok(())
    }

    /// The messages of all of them.
    pub fn messages(&self) -> impl Iterator<Item = NetlinkMessage<'_>> {
        let datagrams = self.buffer.chunks_exact(DATAGRAM).zip(&self.lengths);
        datagrams.flat_map(|(buffer, length)| {
            let mut rest = &buffer[..*length];
            std::iter::from_fn(move || {
                let (message, after) = split(rest)?;
                rest = after;
                Some(message)
            })
        })
    }
}

/// A message that the kernel has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetlinkMessage<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags (`NLM_F_…`).
    pub flags: u16,
    /// The number of the request that it replies to; 0 for a notification.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Splits off the first message; `None`: it is cut off or malformed.
pub fn split(bytes: &[u8]) -> Option<(NetlinkMessage<'_>, &[u8])> {
    let header = bytes.get(..HEADER)?;
    let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let length = number(0) as usize;
    let message = NetlinkMessage {
        kind: half(4),
        flags: half(6),
        sequence: number(8),
        body: bytes.get(HEADER..length)?,
    };
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The error number in the body of a message of the type `NLMSG_ERROR`; 0: it confirms a request.
pub fn error_number(body: &[u8]) -> i32 {
    let number = body.get(..4).and_then(|number| number.try_into().ok());
    -number.map_or(0, i32::from_ne_bytes)
}

/// The attributes, each with its type and its value, up to the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..ATTRIBUTE_HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !ATTRIBUTE_FLAGS;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(of, _)| *of == kind).map(|(_, value)| value)
}

/// A request, as it is built.
#[derive(Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// A request of that type, flags (without `NLM_F_REQUEST`, which it gets) and number.
    pub fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        // The kernel fills in the port.
        Self(bytes)
    }

    /// Adds bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute that consists of those that `inner` adds.
    pub fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.attribute(kind | NESTED, &[]);
        inner(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// The whole request.
    pub fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_read_as_it_was_built() {
        let mut request = Request::new(7, 0x300, 9);
        request.put(&[1, 2, 3, 4]);
        request.attribute(5, b"abc");
        request.nested(6, |inner| inner.attribute(8, b"x"));
        let bytes = request.finish();
        let (message, rest) = split(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!((message.kind, message.flags, message.sequence), (7, 0x301, 9));
        let (fixed, attributes) = message.body.split_at(4);
        assert_eq!(fixed, [1, 2, 3, 4]);
        assert_eq!(attribute(attributes, 5), Some(&b"abc"[..]));
        assert_eq!(attribute(attribute(attributes, 6).unwrap(), 8), Some(&b"x"[..]));
        assert_eq!(attribute(attributes, 7), None);
    }

    #[test]
    fn one_call_reads_all_datagrams_that_are_there() {
        let (to, from) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        let mut datagrams = Datagrams::default();
        for count in [3, 1, BATCH] {
            for n in 0..count {
                to.send(&Request::new(7, 0, n as u32).finish()).unwrap();
            }
            datagrams.receive(&from).unwrap();
            let sequences: Vec<_> = datagrams.messages().map(|message| message.sequence as usize).collect();
            assert_eq!(sequences, (0..count).collect::<Vec<_>>());
        }
        from.set_nonblocking(true).unwrap();
        assert_eq!(datagrams.receive(&from).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(datagrams.messages().count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_their_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while let Some((message, after)) = split(rest) {
                prop_assert!(attributes(message.body).count() <= message.body.len());
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
        }
    }
}
