//! The check of a request's Host header (RFC 9110, 7.2).
//!
//! With DNS rebinding, a page of another site points its own name to this server, so that the browser lets the page
//! read the answers. Such a name has a dot. So a request may use a name with a dot only if it is below `localhost` or
//! listed in `admin.hosts`. An attacker cannot point a name without a dot, such as that of a Compose service, to this
//! server; over loopback such a name is refused too, as no client on this machine needs it.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::access::Peer;
use super::{ApiError, App};

/// The paths that may be requested with any Host header: they show only liveness and readiness, and the Host headers of
/// health checks vary.
pub(super) const FOR_ALL: [&str; 2] = ["/heartbeat", "/ready"];

/// Handles requests with an accepted Host header, or with the token, which no page of another site has.
pub(super) async fn known(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if FOR_ALL.contains(&path) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().copied();
    let over_loopback = peer.is_some_and(|peer| matches!(peer, Peer::Tcp(_)) && peer.is_local());
    let names = app.access.hosts();
    let Some(foreign) = foreign_host(request.headers(), &names, over_loopback) else {
        return next.run(request).await;
    };
    let message = format!("this server is not {foreign:?}");
    let path = path.to_owned();
    if let Some(peer) = peer
        && app.access.has_token(peer, request.headers()).await
    {
        return next.run(request).await;
    }
    let hint = if over_loopback {
        "over loopback, ask for an address or localhost, such as http://127.0.0.1:9900, or list the name in admin.hosts"
    } else {
        "ask for an address or a name without a dot, or list the name in admin.hosts"
    };
    ApiError::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", message, hint).at(&path)
}

/// The Host header, if it is neither an address nor an accepted name. A missing (HTTP/1.0) or empty one is accepted, as
/// browsers always send one.
fn foreign_host(headers: &HeaderMap, names: &[String], over_loopback: bool) -> Option<String> {
    let hosts = headers.get_all(header::HOST).iter();
    hosts.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).find(|host| {
        let named = |name: &String| name.eq_ignore_ascii_case(without_dot(bare(host)));
        let known =
            is_address_or_localhost(host) || names.iter().any(named) || !over_loopback && has_no_dot(host);
        !host.is_empty() && !known
    })
}

/// Whether a Host header has an address, `localhost` or a name below that, with or without a port. No DNS
/// server can point those names elsewhere (RFC 6761, 6.3).
pub(super) fn is_address_or_localhost(host: &str) -> bool {
    let bare = bare(host);
    let ip = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(bare);
    let last = without_dot(bare).rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

/// Whether a Host header has a name of one label, with or without a port.
fn has_no_dot(host: &str) -> bool {
    let name = without_dot(bare(host));
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.bytes().all(of_names)
}

/// A host without its port, which may be empty (RFC 3986, 3.2.3).
fn bare(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    }
}

/// A name without the trailing dot of a fully qualified name.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_under_a_foreign_name_is_refused() {
        let names = ["lb.example.com".to_owned()];
        let is_foreign = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            [true, false].map(|over_loopback| foreign_host(&headers, &names, over_loopback).is_some())
        };
        for host in [
            "127.0.0.1:9900",
            "10.0.0.7",
            "[::1]:9900",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "localhost.:80",
            "pointsman.localhost:9900",
            "lb.example.com",
            "LB.example.com.:443",
            "localhost:",
            "",
        ] {
            assert_eq!(is_foreign(&[host]), [false, false], "{host}");
        }
        for host in ["pointsman", "pointsman:9900", "my_service", "web-1.:80", "evil-localhost"] {
            assert_eq!(is_foreign(&[host]), [true, false], "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "x.lb.example.com",
            "example.com",
            "127.0.0.1:9900:evil",
            "[evil]",
            ":",
            ".",
        ] {
            assert_eq!(is_foreign(&[host]), [true, true], "{host}");
        }
        assert_eq!(is_foreign(&[]), [false, false]);
        assert_eq!(is_foreign(&["127.0.0.1", "evil.example"]), [true, true]);
    }
}
