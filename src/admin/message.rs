//! The checks that a request must pass before it is handled (RFC 9112, 3.2 and 6.1), where hyper does not make them.

use axum::Extension;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;

use super::ApiError;
use super::framing::{Framing, Framings};
use super::request::bad_request;

/// Passes on well-formed requests and refuses all others. A request without a length is the last one of its connection.
pub(super) async fn well_formed(
    Extension(framings): Extension<Framings>,
    mut request: Request,
    next: Next,
) -> Response {
    let framing = framings.next();
    let checked = check(framing, request.version(), request.headers());
    let failed = checked.is_err();
    let mut response = match checked {
        Ok(()) => {
            // An absolute target takes precedence over Host (RFC 9112, 3.2.2).
            if let Some(authority) = request.uri().authority()
                && let Ok(host) = HeaderValue::from_str(authority.as_str())
            {
                request.headers_mut().insert(header::HOST, host);
            }
            next.run(request).await
        }
        Err(failure) => failure.at(request.uri().path()),
    };
    if failed || framing != Some(Framing::Length) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn check(framing: Option<Framing>, version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    if framing.is_none_or(|framing| framing == Framing::Both) {
        return Err(bad_request("a request has a Content-Length or a Transfer-Encoding, not both"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        let message = "the only supported Transfer-Encoding is chunked";
        let hint = "send the body as it is, with its Content-Length";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message, hint));
    }
    if headers.get_all(header::TRANSFER_ENCODING).iter().count() > 1 {
        return Err(bad_request("there is more than one Transfer-Encoding"));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(bad_request("there is more than one Host header")),
        (None, None) if version == Version::HTTP_11 => {
            Err(bad_request("a request of HTTP/1.1 needs a Host header"))
        }
        (Some(host), None) if !is_host(host) => {
            Err(bad_request("the Host header is not a host with an optional port"))
        }
        _ => Ok(()),
    }
}

/// Whether it is a host with or without a port, or empty, as for a target without a host.
fn is_host(host: &HeaderValue) -> bool {
    let valid = |bytes: &[u8]| Authority::try_from(bytes).is_ok_and(|host| !host.as_str().contains('@'));
    host.is_empty() || valid(host.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(framing: Framing, version: Version, sent: &[(header::HeaderName, &str)]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name, value.parse().unwrap());
        }
        check(Some(framing), version, &headers).err().map(|failure| failure.status.as_u16())
    }

    #[test]
    fn a_request_names_one_host_and_is_framed_in_one_way() {
        use header::{HOST, TRANSFER_ENCODING};
        let (host, chunked) = ((HOST, "x"), (TRANSFER_ENCODING, "chunked"));
        let good = [
            (Framing::Length, Version::HTTP_11, vec![host.clone()]),
            (Framing::Length, Version::HTTP_11, vec![(HOST, "")]),
            (Framing::Length, Version::HTTP_11, vec![(HOST, "[::1]:9900")]),
            (Framing::Length, Version::HTTP_10, vec![]),
            (Framing::Coding, Version::HTTP_11, vec![host.clone(), (TRANSFER_ENCODING, " Chunked ")]),
        ];
        for (framing, version, sent) in good {
            assert_eq!(status(framing, version, &sent), None, "{sent:?}");
        }
        let bad = [
            (Framing::Length, Version::HTTP_11, vec![], 400),
            (Framing::Length, Version::HTTP_11, vec![host.clone(), host.clone()], 400),
            (Framing::Length, Version::HTTP_10, vec![host.clone(), (HOST, "y")], 400),
            (Framing::Length, Version::HTTP_11, vec![(HOST, "a b")], 400),
            (Framing::Length, Version::HTTP_11, vec![(HOST, "user@x")], 400),
            (Framing::Length, Version::HTTP_11, vec![(HOST, "x/y")], 400),
            (Framing::Both, Version::HTTP_11, vec![host.clone(), chunked.clone()], 400),
            (Framing::Coding, Version::HTTP_11, vec![host.clone(), chunked.clone(), chunked], 400),
            (Framing::Coding, Version::HTTP_11, vec![host, (TRANSFER_ENCODING, "gzip, chunked")], 501),
        ];
        for (framing, version, sent, wanted) in bad {
            assert_eq!(status(framing, version, &sent), Some(wanted), "{sent:?}");
        }
    }
}
