//! Which requests may change something.
//!
//! With a token: requests that carry it, from any address. Without one: requests from this machine, over loopback or
//! over a Unix socket, whose permissions limit its users. A page in a browser may not act for its user: its `Origin`
//! must be this server, and without a token the request's `Host` must be an address or `localhost`, as any other name
//! can be made to resolve to this server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::warn;

use super::host::is_address_or_localhost;
use super::origin::Ends;
use super::token::Token;
use super::{ApiError, App};
use crate::config::Admin;

/// The delay before the reply to a wrong token, so that trying many takes long.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(250);
/// The headers that proxies add to a forwarded request (RFC 7239, RFC 9110, and de facto ones). Through a proxy on this
/// machine every remote client would look local.
const FORWARDING_HEADERS: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
/// The shortest time between log lines about wrong tokens.
const WRONG_TOKEN_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Decides which requests may change something. Clones share the rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    token: ArcSwapOption<Token>,
    /// Names in the Host header that the server accepts.
    hosts: ArcSwap<Vec<String>>,
    wrong: Mutex<WrongTokens>,
}

/// The wrong tokens since the last log line about them, and the time of that line.
#[derive(Debug, Default)]
struct WrongTokens {
    times: u64,
    logged_at: Option<Instant>,
}

/// The rules of a configuration: validated, but not necessarily in effect.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessRules {
    token: Option<Token>,
    hosts: Vec<String>,
}

impl Access {
    /// Reads the rules from `admin`; an error describes the problem with the token file.
    pub(crate) fn read_rules(admin: Option<&Admin>) -> Result<AccessRules, String> {
        let file = admin.and_then(|admin| admin.token_file.as_deref());
        let token = file.map(Token::read).transpose()?;
        Ok(AccessRules { token, hosts: admin.map(|admin| admin.hosts.clone()).unwrap_or_default() })
    }

    /// Puts these rules in effect.
    pub(crate) fn apply(&self, rules: AccessRules) {
        self.0.token.store(rules.token.map(Arc::new));
        self.0.hosts.store(Arc::new(rules.hosts));
    }

    /// Names in the Host header that the server accepts.
    pub(super) fn hosts(&self) -> Arc<Vec<String>> {
        self.0.hosts.load_full()
    }

    /// Whether a request has the token. With a wrong one it returns after `WRONG_TOKEN_DELAY`.
    pub(super) async fn has_token(&self, peer: Peer, headers: &HeaderMap) -> bool {
        let token = self.0.token.load().as_deref().copied();
        let Some((token, sent)) = token.zip(bearer(headers)) else { return false };
        let right = token.is(sent);
        if !right {
            self.count_wrong(peer);
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        }
        right
    }

    async fn check(&self, head: &Parts) -> Result<Operator, ApiError> {
        let Some(peer) = head.extensions.get::<Peer>().copied() else { return Err(not_from_here()) };
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let origin = head.headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
        if origin.is_some_and(|origin| !is_of(origin, host)) {
            let message = "changes are not made for pages of other servers";
            let hint = "use the dashboard at this address, or a program that is no browser";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", message, hint));
        }
        if self.0.token.load().is_none() {
            if FORWARDING_HEADERS.iter().any(|name| head.headers.contains_key(*name)) {
                let message = "changes through a proxy need a token: the client is unknown";
                let hint = "give Pointsman an admin.token_file, or ask it directly";
                return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message, hint));
            }
            if !peer.may_change(host) {
                return Err(not_from_here());
            }
            if let Some(ends) = head.extensions.get::<Ends>()
                && !ends.are_of_another_process().await
            {
                return Err(relayed());
            }
            return Ok(Operator(peer.name()));
        }
        let refused = |message| {
            let hint = "send the header Authorization: Bearer TOKEN, with what is in admin.token_file";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message, hint))
        };
        match bearer(&head.headers) {
            Some(_) if self.has_token(peer, &head.headers).await => Ok(Operator(peer.name())),
            Some(_) => refused("the token is wrong"),
            None => refused("changes need a token"),
        }
    }

    fn count_wrong(&self, peer: Peer) {
        let mut wrong = self.0.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.times += 1;
        if wrong.logged_at.is_none_or(|at| at.elapsed() >= WRONG_TOKEN_LOG_INTERVAL) {
            let times = std::mem::take(&mut wrong.times);
            wrong.logged_at = Some(Instant::now());
            drop(wrong);
            warn!(who = &*peer.name(), times, "a wrong token was sent to the admin server");
        }
    }
}

fn relayed() -> ApiError {
    let message = "changes are allowed for other programs on this machine: this connection was opened by Pointsman itself, \
                   for a client of a listener, or its program has gone";
    let hint = "a backend leads to the admin server: see /api/v1/status, and the firewall's rules that redirect; or use \
                an admin.token_file";
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", message, hint)
}

fn not_from_here() -> ApiError {
    let message =
        "changes are allowed from this machine only: over loopback by address, or over a Unix socket";
    let hint =
        "request http://127.0.0.1 on the machine that Pointsman runs on, or give it an admin.token_file";
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", message, hint)
}

/// The token that a request has (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
}

/// Whether a page was loaded from the server that a request is for (RFC 6454, 7).
fn is_of(origin: &str, host: Option<&str>) -> bool {
    let from = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    from.zip(host).is_some_and(|(from, host)| from.eq_ignore_ascii_case(host))
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over TCP, from this address.
    Tcp(SocketAddr),
    /// Over the Unix socket.
    Unix,
}

impl Peer {
    fn name(self) -> Arc<str> {
        match self {
            Self::Tcp(address) => format!("an operator at {}", address.ip().to_canonical()).into(),
            Self::Unix => "an operator on this machine".into(),
        }
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(self) -> bool {
        match self {
            Self::Unix => true,
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
        }
    }

    /// Whether it may make changes without a token in a request with this Host header.
    fn may_change(self, host: Option<&str>) -> bool {
        self == Self::Unix || self.is_local() && host.is_some_and(is_address_or_localhost)
    }
}

/// One value for the peers on this machine and one for all other peers: remote peers cannot exhaust what the local
/// operator needs.
#[derive(Clone, Debug, Default)]
pub(super) struct PerOrigin<T> {
    pub(super) local: T,
    pub(super) remote: T,
}

impl<T> PerOrigin<T> {
    /// The value for that peer. An unknown peer counts as remote.
    pub(super) fn of(&self, peer: Option<Peer>) -> &T {
        if peer.is_some_and(Peer::is_local) { &self.local } else { &self.remote }
    }
}

/// A peer that may make changes, by its name in the log. The check needs only the head of a request and runs before its
/// body is read.
pub(super) struct Operator(pub(super) Arc<str>);

impl FromRequestParts<App> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(head: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let operator = app.access.check(head).await?;
        if app.overview.is_handing_over() {
            let message = "another process is taking over: the change would be lost";
            let hint = "retry in a few seconds";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "handing_over", message, hint));
        }
        Ok(operator)
    }
}

/// Handles requests that change nothing, and those of an operator.
pub(super) async fn guard(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    if !head.method.is_safe() {
        app.access.check(&head).await?;
    }
    Ok(next.run(Request::from_parts(head, body)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_requests_by_address_may_change_anything() {
        let peer = |address: &str| Peer::Tcp(address.parse().unwrap());
        for host in ["127.0.0.1:9900", "localhost", "localhost:9900", "[::1]:9900", "[::1]", "LOCALHOST:1"] {
            assert!(peer("127.0.0.1:1").may_change(Some(host)), "{host}");
        }
        assert!(peer("[::ffff:127.0.0.1]:1").may_change(Some("127.0.0.1")));
        assert!(Peer::Unix.may_change(None));
        for host in [Some("evil.example:9900"), Some("localhost.evil.example"), Some(""), None] {
            assert!(!peer("127.0.0.1:1").may_change(host), "{host:?}");
        }
        assert!(!peer("10.0.0.1:1").may_change(Some("127.0.0.1")));
    }

    fn head(peer: Peer, headers: &[(&'static str, &str)]) -> Parts {
        let mut request = axum::http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        head.extensions.insert(peer);
        head
    }

    fn with_token(token: &str) -> Access {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, token).unwrap();
        let bind = crate::config::bind_address(":0").unwrap();
        let access = Access::default();
        access
            .apply(Access::read_rules(Some(&Admin { token_file: Some(path), ..Admin::new(bind) })).unwrap());
        access
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_token_only_requests_that_carry_it_may_change_something() {
        let access = with_token("a-token-that-is-long-enough\n");
        let far = Peer::Tcp("10.0.0.1:1".parse().unwrap());
        let near = Peer::Tcp("127.0.0.1:1".parse().unwrap());
        let host = ("host", "lb.example.com");
        for peer in [far, near, Peer::Unix] {
            for right in ["Bearer a-token-that-is-long-enough", "bearer  a-token-that-is-long-enough"] {
                assert!(
                    access.check(&head(peer, &[host, ("authorization", right)])).await.is_ok(),
                    "{peer:?}"
                );
            }
            for wrong in
                ["Bearer a-token-that-is-long", "Bearer ", "Basic a-token-that-is-long-enough", "x", ""]
            {
                let failure =
                    access.check(&head(peer, &[host, ("authorization", wrong)])).await.err().unwrap();
                assert_eq!(failure.status, StatusCode::UNAUTHORIZED, "{wrong:?}");
            }
            assert!(access.check(&head(peer, &[("host", "127.0.0.1")])).await.is_err());
        }
        access.apply(AccessRules::default());
        assert!(access.check(&head(near, &[("host", "127.0.0.1")])).await.is_ok());
        assert!(access.check(&head(far, &[("host", "127.0.0.1")])).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_from_a_proxy_on_this_machine_needs_a_token() {
        let (open, closed) = (Access::default(), with_token("a-token-that-is-long-enough"));
        let right = ("authorization", "Bearer a-token-that-is-long-enough");
        for peer in [Peer::Tcp("127.0.0.1:1".parse().unwrap()), Peer::Unix] {
            for name in FORWARDING_HEADERS {
                let head = head(peer, &[("host", "127.0.0.1:9900"), (name, "203.0.113.7"), right]);
                assert_eq!(
                    (open.check(&head).await.is_ok(), closed.check(&head).await.is_ok()),
                    (false, true)
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_of_another_server_changes_nothing() {
        let near = Peer::Tcp("127.0.0.1:1".parse().unwrap());
        let (open, closed) = (Access::default(), with_token("a-token-that-is-long-enough"));
        let may = async |origin: &str, host: &'static str| {
            let headers =
                [("host", host), ("origin", origin), ("authorization", "Bearer a-token-that-is-long-enough")];
            let head = head(near, &headers);
            (open.check(&head).await.is_ok(), closed.check(&head).await.is_ok())
        };
        assert_eq!(may("http://127.0.0.1:9900", "127.0.0.1:9900").await, (true, true));
        assert_eq!(may("https://lb.example.com", "lb.example.com").await, (false, true));
        for origin in ["http://evil.example", "http://127.0.0.1:8080", "null", "", "127.0.0.1:9900"] {
            assert_eq!(may(origin, "127.0.0.1:9900").await, (false, false), "{origin}");
        }
    }
}
