//! Laws of the parsers that hold for any bytes. Property tests and the fuzzer (`tests/fuzz`) assert them.

use std::fmt::Debug;

use super::client_hello::{self, is_dns_name};
use super::postgres::{FirstBytes, cancel_request};
use super::proxy_header::{self, ProxyVersion};

/// Asserts the laws of all parsers for `bytes`.
///
/// # Panics
/// If a law does not hold.
pub fn check(bytes: &[u8]) {
    extends(bytes, |bytes| client_hello::parse(bytes).map(|hello| hello.is_some()));
    if let Ok(Some(hello)) = client_hello::parse(bytes) {
        assert!(hello.server_name.is_none_or(|name| is_dns_name(&name) && name == name.to_ascii_lowercase()));
        assert!(hello.protocols.iter().all(|name| !name.is_empty()));
    }
    extends(bytes, |bytes| proxy_header::parse(bytes).map(|header| header.is_some()));
    if let Ok(Some((header, length))) = proxy_header::parse(bytes) {
        assert!(length <= bytes.len().min(proxy_header::LONGEST));
        // What was understood is written so that it is understood in the same way.
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let written = proxy_header::write(version, &header);
            let read = proxy_header::parse(&written);
            assert!(
                matches!(&read, Ok(Some((again, n))) if again.endpoints == header.endpoints && *n == written.len()),
                "{header:?} was written as {written:?} and read as {read:?}"
            );
        }
    }
    if cancel_request(bytes).is_some() {
        assert!(matches!(FirstBytes::of(bytes), FirstBytes::Other));
    }
    extends(bytes, |bytes| match FirstBytes::of(bytes) {
        FirstBytes::Incomplete => Ok(false),
        _ => Ok::<_, ()>(true),
    });
}

/// Asserts that bytes which follow do not change a result: once a parser does not ask for more, it is done.
fn extends<E: Debug>(bytes: &[u8], complete: impl Fn(&[u8]) -> Result<bool, E>) {
    let whole = complete(bytes);
    let mut length = bytes.len();
    while length > 0 {
        length /= 2;
        let part = complete(&bytes[..length]);
        let agrees = matches!((&part, &whole), (Ok(false), _) | (Ok(true), Ok(true)) | (Err(_), Err(_)));
        assert!(agrees, "{length} of {bytes:?}: {part:?}, and then {whole:?}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_parsers_agree_on_all_inputs_of_the_fuzzer() {
        crate::testing::corpus::hold("protocols", super::check);
    }
}
