//! The ClientHello, the first message of a TLS client (RFC 8446, section 4.1.2): the server name in it (SNI, RFC 6066,
//! section 3) and the application protocols (ALPN, RFC 7301). The message is only read: what does not concern these two
//! extensions is left to the server, so that clients of every version of TLS are understood.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use crate::domain::PrefaceError;
use crate::domain::PrefaceKind::Tls;

/// The most bytes that are read for a ClientHello, as many as nginx reads. One with post-quantum keys has about 2,000.
pub const LONGEST: usize = 16 * 1024;
/// The type of records with handshake messages (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// The major version in all records since SSL 3.0.
const MAJOR_VERSION: u8 = 3;
/// The most bytes in a record.
const LONGEST_RECORD: usize = 1 << 14;
/// The type of the message.
const CLIENT_HELLO: u8 = 1;
/// The bytes before the body of a message: its type and its length.
const MESSAGE_HEADER: usize = 4;
/// The extension with the server name.
const SERVER_NAME: u16 = 0;
/// The extension with the application protocols.
const ALPN: u16 = 16;
/// The most characters of a name in DNS.
const LONGEST_NAME: usize = 253;

/// The most records of a ClientHello: the bytes of each are copied again whenever more arrive.
const MOST_RECORDS: usize = 64;

/// Why a client is refused, as a fatal alert (RFC 8446, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// No server has the name that it asks for (RFC 6066, section 3).
    UnrecognizedName = 112,
    /// It offers application protocols, and none is known (RFC 7301, section 3.2).
    NoApplicationProtocol = 120,
    /// It names neither.
    HandshakeFailure = 40,
}

impl Alert {
    /// The record with it.
    pub fn record(self) -> [u8; 7] {
        [21, MAJOR_VERSION, 1, 0, 2, 2, self as u8]
    }
}

/// What a ClientHello contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, in lower case, without a dot at its end; with Encrypted Client Hello it is the outer name.
    /// `None`: there is none, or it is not a DNS name.
    pub server_name: Option<String>,
    /// The application protocols that the client offers.
    pub protocols: Protocols,
}

/// Application protocols in the client's order of preference, in the form of the extension: each name after its length
/// in one byte. There may be thousands of short ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols(Vec<u8>);

impl Protocols {
    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut list = Parser(&self.0);
        std::iter::from_fn(move || list.short_vector())
    }
}

#[cfg(test)]
impl<'a> FromIterator<&'a [u8]> for Protocols {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(names: I) -> Self {
        Self(names.into_iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect())
    }
}

/// Reads a ClientHello at the beginning of `bytes`, in one record or several; `None`: more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, PrefaceError> {
    let needs_more = if bytes.len() < LONGEST { Ok(None) } else { Err(PrefaceError::TooLong(Tls)) };
    // The type of the message, behind the header of the first record.
    if bytes.get(5).is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(PrefaceError::Missing(Tls));
    }
    let mut records = Parser(bytes);
    // Most messages are in a single record and are read where they are.
    let mut message = Cow::Borrowed(&[][..]);
    let mut count = 0;
    while let Some(content) = record(&mut records)? {
        count += 1;
        if count > MOST_RECORDS {
            return Err(PrefaceError::TooLong(Tls));
        }
        match message.is_empty() {
            true => message = content.into(),
            false => message.to_mut().extend_from_slice(content),
        }
        match body(&message)? {
            Some(body) => return hello(body).map(Some).ok_or(PrefaceError::Malformed(Tls)),
            None => continue,
        }
    }
    needs_more
}

/// Whether `bytes` are a ClientHello or the beginning of one, and nothing else: without a record after it, such as one of
/// early data (RFC 8446, section 4.2.10).
pub fn is_alone(bytes: &[u8]) -> bool {
    if bytes.get(5) != Some(&CLIENT_HELLO) || bytes.len() > LONGEST {
        return false;
    }
    let (mut records, mut message) = (Parser(bytes), Vec::new());
    loop {
        match record(&mut records) {
            Ok(Some(content)) => message.extend_from_slice(content),
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    match body(&message) {
        Ok(Some(body)) => records.0.is_empty() && message.len() == MESSAGE_HEADER + body.len(),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// The content of the next record; `None`: it is not complete.
fn record<'a>(records: &mut Parser<'a>) -> Result<Option<&'a [u8]>, PrefaceError> {
    let expected = [HANDSHAKE, MAJOR_VERSION];
    if records.0.iter().zip(&expected).any(|(byte, expected)| byte != expected) {
        return Err(PrefaceError::Missing(Tls));
    }
    let mut next = Parser(records.0);
    let Some(length) = next.take(3).and_then(|_| next.u16()) else { return Ok(None) };
    let length = usize::from(length);
    if length == 0 || length > LONGEST_RECORD {
        return Err(PrefaceError::Malformed(Tls));
    }
    let content = next.take(length);
    if content.is_some() {
        *records = next;
    }
    Ok(content)
}

/// The body of the message; `None`: it is not complete.
fn body(message: &[u8]) -> Result<Option<&[u8]>, PrefaceError> {
    let mut message = Parser(message);
    let _kind = message.u8();
    let Some([high, middle, low]) = message.take(3).and_then(|bytes| bytes.first_chunk()) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
    if length > LONGEST {
        return Err(PrefaceError::TooLong(Tls));
    }
    Ok(message.take(length))
}

/// Reads the body of the message; `None`: it is malformed.
fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Parser(body);
    let _version_and_random = body.take(2 + 32)?;
    let _session_id = body.short_vector()?;
    let _cipher_suites = body.vector()?;
    let _compression_methods = body.short_vector()?;
    let (mut server_name, mut protocols) = (None, None);
    // Before TLS 1.3, extensions were optional.
    let mut extensions = if body.0.is_empty() { Parser(&[]) } else { Parser(body.vector()?) };
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector()?;
        // Two of one kind are not allowed (section 4.2): the server might take the other one.
        let twice = match kind {
            SERVER_NAME => server_name.replace(host_name(data)?).is_some(),
            ALPN => protocols.replace(protocol_names(data)?).is_some(),
            _ => false,
        };
        if twice {
            return None;
        }
    }
    let whole = body.0.is_empty();
    whole
        .then(|| ClientHello { server_name: server_name.flatten(), protocols: protocols.unwrap_or_default() })
}

/// The DNS name in the extension `server_name`; the inner `None`: it has another kind of name.
fn host_name(data: &[u8]) -> Option<Option<String>> {
    let mut extension = Parser(data);
    let mut names = Parser(extension.vector()?);
    let kind = names.u8()?;
    let name = names.vector()?;
    // Only one kind was ever defined, and a list has at most one name of a kind.
    (names.0.is_empty() && extension.0.is_empty()).then(|| if kind == 0 { normalized(name) } else { None })
}

/// A DNS name as names are compared; `None`: it is not a DNS name.
fn normalized(name: &[u8]) -> Option<String> {
    let name = str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    is_dns_name(name).then(|| name.to_ascii_lowercase())
}

/// Whether it is the name of a host in DNS, possibly with underscores, and without a dot at its end.
pub fn is_dns_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(good);
    name.len() <= LONGEST_NAME && name.split('.').all(label) && name.parse::<Ipv4Addr>().is_err()
}

/// The names in the extension `application_layer_protocol_negotiation`.
fn protocol_names(data: &[u8]) -> Option<Protocols> {
    let mut extension = Parser(data);
    let list = extension.vector()?;
    let mut names = Parser(list);
    while !names.0.is_empty() {
        names.short_vector().filter(|name| !name.is_empty())?;
    }
    (!list.is_empty() && extension.0.is_empty()).then(|| Protocols(list.to_vec()))
}

/// The bytes that have not been read.
struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes after their length in one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Bytes after their length in two bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
