//! The target of a test: an HTTP request, or a TCP connection with an optional exchange.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::str::FromStr;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Method, Uri};

/// The request of a test.
#[derive(Clone, Debug)]
pub enum BenchTarget {
    /// A request and its response.
    Http(Request),
    /// A connection.
    Tcp(TcpExchange),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// An HTTP request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The server.
    pub host_port: HostPort,
    /// The path and query.
    pub path: PathAndQuery,
    /// The method.
    pub method: Method,
    /// All header fields but `Connection`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A TCP connection: what is sent, and when it counts as a success.
#[derive(Clone, Debug)]
pub struct TcpExchange {
    /// The server.
    pub host_port: HostPort,
    /// The data that is sent first.
    pub send: Bytes,
    /// When it succeeds.
    pub until: TcpUntil,
}

/// When a TCP connection counts as a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpUntil {
    /// When it is open and everything is sent.
    Connected,
    /// When the first byte arrives.
    Byte,
    /// When the server closes it.
    Closed,
}

/// The URL of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetUrl {
    /// `http://HOST[:PORT][/PATH]`.
    Http(HostPort, PathAndQuery),
    /// `tcp://HOST:PORT`.
    Tcp(HostPort),
}

impl BenchTarget {
    /// Its host and port.
    pub fn host_port(&self) -> &HostPort {
        match self {
            Self::Http(request) => &request.host_port,
            Self::Tcp(exchange) => &exchange.host_port,
        }
    }
}

impl Display for BenchTarget {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(request) => write!(f, "http://{}{}", request.host_port.authority(), request.path),
            Self::Tcp(exchange) => write!(f, "tcp://{}", exchange.host_port),
        }
    }
}

impl HostPort {
    /// As in a URL of HTTP, and in its Host.
    fn authority(&self) -> String {
        let text = self.to_string();
        match text.strip_suffix(":80") {
            Some(host) if self.port == 80 => host.to_owned(),
            _ => text,
        }
    }
}

impl Display for HostPort {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for TargetUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("the target is http://HOST[:PORT][/PATH] or tcp://HOST:PORT, not {text:?}");
        if !text.contains("://") {
            return Err(format!("{}; did you mean http://{text}?", wanted()));
        }
        let uri: Uri = text.parse().map_err(|error| format!("{}: {error}", wanted()))?;
        let authority = uri.authority().ok_or_else(wanted)?;
        if authority.as_str().contains('@') {
            return Err("a user in the URL is not sent: give -H 'Authorization: Basic …' instead".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port needs digits; `Uri` also accepts an empty port after the colon.
        let port = match authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, after)| after) {
            after if after.contains(':') => match authority.port_u16() {
                Some(port) if port > 0 => Some(port),
                _ => return Err(format!("{}: a port is a number from 1 to 65535", wanted())),
            },
            _ => None,
        };
        if host.is_empty() {
            return Err(wanted());
        }
        match (uri.scheme(), port) {
            (Some(scheme), port) if *scheme == Scheme::HTTP => {
                let path = uri.path_and_query().cloned();
                let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
                Ok(Self::Http(HostPort { host, port: port.unwrap_or(80) }, path))
            }
            (Some(scheme), _) if *scheme == Scheme::HTTPS => Err(format!(
                "https:// is not supported: use http:// behind TLS termination, or tcp://{host}:{}, which only opens and \
                 closes connections",
                port.unwrap_or(443)
            )),
            (Some(scheme), Some(port)) if scheme.as_str() == "tcp" => {
                // A TCP connection has no requests, so a path must be a mistake.
                if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
                    return Err(format!("{}: a TCP connection has no path", wanted()));
                }
                Ok(Self::Tcp(HostPort { host, port }))
            }
            (Some(scheme), None) if scheme.as_str() == "tcp" => {
                Err(format!("{}: tcp:// needs a port", wanted()))
            }
            _ => Err(wanted()),
        }
    }
}

impl Request {
    /// A request with these header fields in addition to the usual ones.
    pub fn new(
        host_port: HostPort,
        path: PathAndQuery,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Self {
        let mut all = HeaderMap::new();
        // A host that is not a valid header value cannot be resolved either.
        if let Ok(host) = HeaderValue::try_from(host_port.authority()) {
            all.insert(header::HOST, host);
        }
        let agent = concat!("pointsman-bench/", env!("CARGO_PKG_VERSION"));
        all.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        all.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        // A given field replaces the default; one given twice stays twice.
        for name in headers.keys() {
            all.remove(name);
        }
        for (name, value) in headers {
            all.append(name, value.clone());
        }
        Self { host_port, path, method, headers: all, body }
    }
}

/// Reads a header field, as `Name: value`.
pub fn header_field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wanted = || format!("a header is 'Name: value', not {text:?}");
    let (name, value) = text.split_once(':').ok_or_else(wanted)?;
    let name: HeaderName = name.trim().parse().map_err(|_| wanted())?;
    if name == header::CONNECTION {
        return Err("--keep-alive decides about the connection, not a header".to_owned());
    }
    if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
        return Err(format!("{name} follows from --body"));
    }
    let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| wanted())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn http(text: &str) -> (String, u16, String) {
        match text.parse().unwrap() {
            TargetUrl::Http(host_port, path) => (host_port.host, host_port.port, path.to_string()),
            TargetUrl::Tcp(_) => panic!("{text} is no TCP"),
        }
    }

    #[test]
    fn urls_have_optional_parts() {
        let of = |host: &str, port, path: &str| (host.to_owned(), port, path.to_owned());
        assert_eq!(http("http://localhost"), of("localhost", 80, "/"));
        assert_eq!(http("http://a.b:8080/x?y=1"), of("a.b", 8080, "/x?y=1"));
        assert_eq!(http("HTTP://[::1]:81?q"), of("::1", 81, "/?q"));
        assert_eq!(
            "tcp://[::1]:6379".parse(),
            Ok(TargetUrl::Tcp(HostPort { host: "::1".into(), port: 6379 }))
        );
    }

    #[test]
    fn an_unusable_url_is_refused_with_a_remedy() {
        for (text, word) in [
            ("https://a/", "tcp://a:443"),
            ("127.0.0.1:8080", "did you mean http://127.0.0.1:8080?"),
            ("ftp://a/", "http://HOST"),
            ("tcp://a", "needs a port"),
            ("tcp://a:1/x", "no path"),
            ("http://a:99999/", "1 to 65535"),
            ("http://a:0/", "1 to 65535"),
            ("http://a:/", "1 to 65535"),
            ("http://:80/", "http://HOST"),
            ("http://u:p@a/", "Authorization"),
            ("http:///x", "http://HOST"),
            ("://", "http://HOST"),
        ] {
            let error = text.parse::<TargetUrl>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_given_header_replaces_the_default() {
        let host_port = HostPort { host: "::1".into(), port: 80 };
        let given = HeaderMap::from_iter(["Host: other", "X-A: 1"].map(|text| header_field(text).unwrap()));
        let path = PathAndQuery::from_static("/");
        let of = |headers| {
            Request::new(host_port.clone(), path.clone(), Method::GET, headers, Bytes::new()).headers
        };
        let (usual, ours) = (of(&HeaderMap::new()), of(&given));
        assert_eq!((usual["host"].as_bytes(), ours["host"].as_bytes()), (&b"[::1]"[..], &b"other"[..]));
        assert_eq!(ours["x-a"], "1");
        for text in ["Connection: close", "X", "X Y: 1", "Content-Length: 3", "X: a\nb"] {
            assert!(header_field(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_host_and_port_is_parsed_as_it_is_printed(
            host in prop_oneof![
                "[a-z][a-z0-9-]{0,9}(\\.[a-z][a-z0-9]{0,5}){0,2}",
                any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
                any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
            ],
            port in 1u16..,
        ) {
            let host_port = HostPort { host, port };
            prop_assert_eq!(format!("tcp://{host_port}").parse(), Ok(TargetUrl::Tcp(host_port.clone())));
            let path = PathAndQuery::from_static("/");
            prop_assert_eq!(format!("http://{host_port}").parse(), Ok(TargetUrl::Http(host_port, path)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(http|tcp|https)://[a-z0-9:@\\[\\]/?.]{0,16}|\\PC{0,20}") {
            let _ = text.parse::<TargetUrl>();
            let _ = header_field(&text);
        }
    }
}
