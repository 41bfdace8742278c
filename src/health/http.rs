//! The HTTP check: one GET over HTTP/1.1; expects a status and, if configured, a text in the body.

use std::error::Error as _;
use std::ops::RangeInclusive;

use http_body_util::{BodyExt, Full};
use hyper::{Request, header};

use super::connection::connect;
use super::response::{CheckResponse, LONGEST};
use super::{CheckError, CheckTarget};
use crate::config::HttpCheck;
use crate::domain::{CheckFailure, CheckStep};
use crate::http1::handshake;
use crate::tls::LOCALHOST;

/// The longest head of a response (status line and header fields), in bytes: eight times the default limit of Apache
/// httpd and nginx for a request's head (8 KiB); responses have similar heads.
const LONGEST_HEAD: usize = 64 * 1024;

/// Bytes read from a server: a head, the part of the body that is examined, and as much again for chunk framing and
/// interim responses (1xx) of any number.
const MOST: u64 = (2 * LONGEST_HEAD + LONGEST) as u64;

pub(super) async fn check(target: &CheckTarget, config: &HttpCheck) -> Result<(), CheckError> {
    let address = &target.address;
    let stream = connect(target, MOST).await?;
    let (mut sender, _connection) = handshake(stream, Some(LONGEST_HEAD))
        .await
        .map_err(|error| CheckFailure::at(CheckStep::Http, address.clone(), explain(&error)))?;
    let host = config.host.clone();
    // Over a Unix socket, the same name as for TLS.
    let host = host.or_else(|| Some(address.tcp()?.to_string())).unwrap_or_else(|| LOCALHOST.to_owned());
    let request = Request::get(&config.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("pointsman/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Full::default())
        .map_err(|error| format!("GET {}: {error}", config.path))?;
    let failed =
        |error: String| CheckFailure::at(CheckStep::Get(config.path.as_str().into()), address.clone(), error);
    let response = sender.send_request(request).await.map_err(|error| failed(explain(&error)))?;
    let status = response.status();
    if !config.status.iter().any(|range| range.contains(&status.as_u16())) {
        let range = |r: &RangeInclusive<u16>| match (r.start(), r.end()) {
            (one, same) if one == same => one.to_string(),
            (from, to) if from % 100 == 0 && *to == from + 99 => format!("{}xx", from / 100),
            (from, to) => format!("{from}-{to}"),
        };
        let want = config.status.iter().map(range).collect::<Vec<_>>().join(" or ");
        return Err(failed(format!("status {}, not {want}", status.as_u16())).into());
    }
    let Some(expected) = &config.body else { return Ok(()) };
    let mut body = response.into_body();
    let mut text = CheckResponse::new(expected.as_bytes());
    // Even a body without a frame contains the empty text.
    let mut found = text.push(b"");
    while !found && !text.full() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| failed(format!("reading the body: {}", explain(&error))))?;
        found = frame.data_ref().is_some_and(|data| text.push(data));
    }
    if found {
        Ok(())
    } else {
        Err(failed(format!("the body does not contain {expected:?}; it is {}", text.quoted())).into())
    }
}

/// An error with its causes.
fn explain(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
