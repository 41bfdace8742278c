//! What checks send and expect.

use std::ops::RangeInclusive;

use serde_json::json;
use tokio_rustls::rustls::pki_types::ServerName;

use super::super::escape;
use super::super::kind::Kind;
use super::super::outline::Outline;
use super::super::scalar::{any_text, pattern, text_that};
use super::super::shape::ValueShape;
use super::super::yaml::{YamlNode, YamlValue};

/// The path of an HTTP request.
pub(in crate::config) fn http_path() -> Kind<String> {
    let must = "must be a path that begins with /, such as /health";
    text_that(must, || pattern("^/"), |path| path.starts_with('/') && path.parse::<hyper::Uri>().is_ok())
}

/// A Host header.
pub(in crate::config) fn http_host() -> Kind<String> {
    text_that("must be a host name", any_text, |host| hyper::header::HeaderValue::from_str(host).is_ok())
}

/// The name of a server in its certificate.
pub(in crate::config) fn server_name() -> Kind<String> {
    let good = |name: &str| matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)));
    text_that("must be a name in the DNS, such as db.example.com", || pattern("^[A-Za-z0-9._-]+$"), good)
}

/// HTTP statuses: `200`, `2xx` or `200-299`.
pub(in crate::config) fn status() -> Kind<RangeInclusive<u16>> {
    let parse = |node: &YamlNode| {
        let must = "must be from 100 to 599, as 200, 2xx, 200-299 or a list of these";
        node.text().and_then(statuses).ok_or_else(|| must.to_owned())
    };
    let print = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => Outline::Number((*first).into()),
        (first, last) => Outline::text(format!("{first}-{last}")),
    };
    Kind::scalar(parse, print, || {
        json!({"anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 599},
            pattern("^[1-5](xx|XX|[0-9]{2}(-[1-5][0-9]{2})?)$"),
        ]})
    })
}

fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    if let Some(class) = text.strip_suffix("xx").or(text.strip_suffix("XX")) {
        let first = code(&format!("{class}00"))?;
        return Some(first..=first + 99);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (code(first)?, code(last)?);
    (first <= last).then_some(first..=last)
}

/// Bytes, written as text with escapes; the key is omitted if there are none.
pub(in crate::config) fn bytes() -> Kind<Vec<u8>> {
    Kind::new(
        |found| {
            let YamlValue::Scalar(text) = &found.node.value else {
                found.wrong("must be text");
                return None;
            };
            // In double quotes YAML reads \xff as a character, which is two bytes.
            if !text.is_ascii() && found.double_quoted() {
                found.wrong("must be in single quotes, as double quotes have no bytes from \\x80 up");
                return None;
            }
            let wrong = |escape| {
                found.wrong(&format!(
                    "must have no other escapes than {} ({escape} is none of them)",
                    escape::KNOWN
                ));
            };
            escape::unescape(text).map_err(wrong).ok()
        },
        |bytes| (!bytes.is_empty()).then(|| Outline::text(escape::escape(bytes))),
        || ValueShape::Scalar { forms: vec![any_text()], range: String::new() },
    )
}

/// A name in a protocol that ends it with a NUL.
pub(in crate::config) fn protocol_word() -> Kind<String> {
    text_that("must be text", any_text, |word| !word.contains('\0'))
}
