//! The messages of PostgreSQL's protocol 3.0 that the check needs
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>). Pure: bytes in, messages out.

/// The longest message that is read, without its type byte, in bytes. libpq has the same limit for all messages except
/// rows, copy data and errors, and for errors during the login (fe-protocol3.c, fe-connect.c): a longer message means
/// that the server speaks another protocol or wants to fill the memory. The messages of a check have some 600 bytes.
pub(super) const LONGEST: usize = 30_000;

/// A message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Its type.
    pub(super) tag: u8,
    /// Its content after the length.
    pub(super) body: Vec<u8>,
}

/// Removes the first message from `received` if it is complete. A length above [`LONGEST`] is an error; no memory is
/// reserved for bytes that have not arrived.
pub(super) fn take(received: &mut Vec<u8>) -> Result<Option<Message>, String> {
    let Some((&tag, rest)) = received.split_first() else { return Ok(None) };
    // The first byte shows a server that does not speak the protocol.
    if !tag.is_ascii_alphanumeric() {
        return Err("it does not speak the PostgreSQL protocol".to_owned());
    }
    let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    // The length counts itself.
    let Some(length) = usize::try_from(length).ok().filter(|length| (4..=LONGEST).contains(length)) else {
        return Err(format!(
            "it announces a message of {length} bytes, where at most {LONGEST} are read; is it PostgreSQL?"
        ));
    };
    if received.len() <= length {
        return Ok(None);
    }
    let rest = received.split_off(1 + length);
    let body = std::mem::replace(received, rest).split_off(5);
    Ok(Some(Message { tag, body }))
}

/// Splits a NUL-terminated text off.
pub(super) fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The fields of an error with their letters, as far as they are readable.
pub(super) fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (letter, after) = rest.split_first()?;
        let (value, after) = text(after)?;
        rest = after;
        (*letter != 0).then_some((*letter, value))
    })
}

/// The first column of a row; `None` if there is none or it is null.
pub(super) fn first_column(body: &[u8]) -> Option<&[u8]> {
    let (columns, rest) = body.split_first_chunk::<2>()?;
    if u16::from_be_bytes(*columns) == 0 {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(i32::from_be_bytes(*length)).ok()?)
}

/// A message to the server.
pub(super) fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag][..], &counted(parts)].concat()
}

/// The first message, which has no type byte: the protocol version, and parameters. No text may contain a NUL.
pub(super) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    const VERSION: u32 = 3 << 16;
    let mut body = VERSION.to_be_bytes().to_vec();
    for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    counted(&[&body])
}

/// The parts after their length, which counts itself.
fn counted(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    // The messages have a few hundred bytes and the password, whose length is bounded.
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_are_read_as_sent_however_they_are_split(
            messages in prop::collection::vec((b'A'..=b'z', prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            sizes in prop::collection::vec(1usize..50, 1..20),
        ) {
            let messages: Vec<_> = messages
                .into_iter()
                .map(|(tag, body)| Message { tag: if tag.is_ascii_alphanumeric() { tag } else { b'Z' }, body })
                .collect();
            let sent: Vec<u8> =
                messages.iter().flat_map(|sent| message(sent.tag, &[&sent.body])).collect();
            let (mut received, mut came, mut rest) = (Vec::new(), Vec::new(), &sent[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                received.extend_from_slice(now);
                rest = later;
                while let Some(one) = take(&mut received).unwrap() {
                    came.push(one);
                }
            }
            prop_assert_eq!(came, messages);
            prop_assert!(received.is_empty());
        }

        #[test]
        fn no_input_panics_or_allocates_more_than_received(
            sent in prop::collection::vec(any::<u8>(), 0..200), length: u32,
        ) {
            let mut received = [&b"D"[..], &length.to_be_bytes(), &sent].concat();
            let came = received.len();
            while let Ok(Some(one)) = take(&mut received) {
                prop_assert!(one.body.len() < came);
                let _ = (first_column(&one.body), fields(&one.body).count());
            }
            prop_assert!(received.capacity() <= came);
            let _ = (first_column(&sent), fields(&sent).count(), text(&sent));
        }
    }

    #[test]
    fn an_invalid_length_is_refused_before_the_content_arrives() {
        for length in [0u32, 3, LONGEST as u32 + 1, 0x7fff_ffff, u32::MAX] {
            let mut received = [&b"E"[..], &length.to_be_bytes()].concat();
            let error = take(&mut received).unwrap_err();
            assert!(error.contains(&format!("a message of {length} bytes")), "{error}");
        }
        let mut received = [&b"E"[..], &(LONGEST as u32).to_be_bytes()].concat();
        assert_eq!(take(&mut received), Ok(None));
        received.resize(LONGEST, 0);
        assert_eq!(take(&mut received), Ok(None));
        received.push(0);
        assert_eq!(take(&mut received).unwrap().unwrap().body.len(), LONGEST - 4);
        assert!(take(&mut b"\x15\x03\x01".to_vec()).is_err(), "TLS");
    }

    #[test]
    fn the_parts_of_messages_are_found() {
        let error = b"SFATAL\0VFATAL\0C28P01\0Mno\0\0";
        let all: Vec<_> = fields(error).collect();
        let wanted: [(u8, &[u8]); 4] = [(b'S', b"FATAL"), (b'V', b"FATAL"), (b'C', b"28P01"), (b'M', b"no")];
        assert_eq!(all, wanted);
        assert_eq!(fields(b"Sendless").count(), 0);
        assert_eq!(first_column(b"\0\x01\0\0\0\x01t"), Some(&b"t"[..]));
        assert_eq!(first_column(b"\0\x01\xff\xff\xff\xff"), None);
        assert_eq!(first_column(b"\0\x01\0\0\0\x02t"), None);
        assert_eq!(first_column(b"\0\0"), None);
        assert_eq!(startup(&[("user", "a")]), b"\0\0\0\x10\0\x03\0\0user\0a\0\0");
        assert_eq!(message(b'Q', &[b"SELECT", b"\0"]), b"Q\0\0\0\x0bSELECT\0");
    }
}
