//! What a request calls this server (RFC 9110, 7.2).
//!
//! A page of somebody else's site whose name is made to point to loopback (DNS rebinding) is, to a browser, of the same
//! origin as the answers it gets from here: it could read them. So a request over loopback must not call the server by a
//! name, but for `localhost` and those that `admin.hosts` lists. What comes from elsewhere is not concerned: in a network of
//! containers, names are what one has.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::access::Peer;
use super::{App, Failure};

/// What may be asked by any name: it tells nothing but that the process lives, and health checks have odd names for it.
pub(super) const FOR_ALL: [&str; 2] = ["/heartbeat", "/ready"];

/// Answers what calls the server as it is called, or what has the token, which no page of another site has.
pub(super) async fn known(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let peer = request.extensions().get::<Peer>().copied();
    let over_loopback = peer.filter(|peer| matches!(peer, Peer::Tcp(_)) && peer.is_local());
    let Some(peer) = over_loopback.filter(|_| !FOR_ALL.contains(&path)) else {
        return next.run(request).await;
    };
    let names = app.access.hosts();
    let Some(stranger) = stranger(request.headers(), &names) else { return next.run(request).await };
    let message = format!("this server is not {stranger:?}");
    let path = path.to_owned();
    if app.access.has_token(peer, request.headers()).await {
        return next.run(request).await;
    }
    let hint = "over loopback, ask for an address or localhost, such as http://127.0.0.1:9900, or list the name in admin.hosts";
    Failure::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", message, hint).at(&path)
}

/// What the server is called, if it is neither an address nor one of its names. Without a Host header (HTTP/1.0), or with an empty
/// one, it is not called anything: no browser does that.
fn stranger(headers: &HeaderMap, names: &[String]) -> Option<String> {
    let hosts = headers.get_all(header::HOST).iter();
    hosts.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).find(|host| {
        let named = |name: &String| name.eq_ignore_ascii_case(without_dot(bare(host)));
        !host.is_empty() && !no_name(host) && !names.iter().any(named)
    })
}

/// Whether a Host header has an address, `localhost` or a name below that, with or without a port. Those names are
/// nobody's to point elsewhere (RFC 6761, 6.3).
pub(super) fn no_name(host: &str) -> bool {
    let bare = bare(host);
    let ip = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(bare);
    let last = without_dot(bare).rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

/// A host without its port.
fn bare(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if port.parse::<u16>().is_ok() => bare,
        _ => host,
    }
}

/// A name without the dot that says that it is a whole one.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_calls_the_server_by_a_name_of_somebody_else_is_a_stranger() {
        let names = ["lb.example.com".to_owned()];
        let is_strange = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            stranger(&headers, &names).is_some()
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
            "",
        ] {
            assert!(!is_strange(&[host]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil-localhost",
            "x.lb.example.com",
            "example.com",
            "127.0.0.1:9900:evil",
            "[evil]",
            ":",
            ".",
        ] {
            assert!(is_strange(&[host]), "{host}");
        }
        assert!(!is_strange(&[]));
        assert!(is_strange(&["127.0.0.1", "evil.example"]));
    }
}
