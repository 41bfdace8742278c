//! What is asked: an HTTP request of a URL, or a TCP connection and what is said on it.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::str::FromStr;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Method, Uri};

/// What a request is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A request and its answer.
    Http(Request),
    /// A connection.
    Tcp(Exchange),
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// An HTTP request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it is sent.
    pub place: Place,
    /// What is asked for.
    pub path: PathAndQuery,
    /// How.
    pub method: Method,
    /// All header fields but those that say what becomes of the connection.
    pub headers: HeaderMap,
    /// What is sent along.
    pub body: Bytes,
}

/// A TCP connection: what is said, and when it counts as done.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Where it goes.
    pub place: Place,
    /// What is said at once.
    pub send: Bytes,
    /// What is waited for.
    pub until: TcpUntil,
}

/// When a TCP connection counts as a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpUntil {
    /// It is open, and what is to be sent is sent.
    Connected,
    /// Something came back.
    Byte,
    /// The other side has ended it.
    Closed,
}

/// Where the target is, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `http://HOST[:PORT][/PATH]`.
    Http(Place, PathAndQuery),
    /// `tcp://HOST:PORT`.
    Tcp(Place),
}

impl Target {
    /// Where it is.
    pub fn place(&self) -> &Place {
        match self {
            Self::Http(request) => &request.place,
            Self::Tcp(exchange) => &exchange.place,
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(request) => write!(f, "http://{}{}", request.place.authority(), request.path),
            Self::Tcp(exchange) => write!(f, "tcp://{}", exchange.place),
        }
    }
}

impl Place {
    /// As in a URL of HTTP, and in its Host.
    fn authority(&self) -> String {
        let text = self.to_string();
        match text.strip_suffix(":80") {
            Some(host) if self.port == 80 => host.to_owned(),
            _ => text,
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
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
        // Only digits are a port; `Uri` also takes none after the colon.
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
                Ok(Self::Http(Place { host, port: port.unwrap_or(80) }, path))
            }
            (Some(scheme), _) if *scheme == Scheme::HTTPS => Err(format!(
                "https:// is not spoken here: ask the service behind TLS by http://, or try tcp://{host}:{}, which \
                 opens and closes connections without looking into them",
                port.unwrap_or(443)
            )),
            (Some(scheme), Some(port)) if scheme.as_str() == "tcp" => {
                // A path on a connection without requests would be a misunderstanding.
                if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
                    return Err(format!("{}: a TCP connection has no path", wanted()));
                }
                Ok(Self::Tcp(Place { host, port }))
            }
            (Some(scheme), None) if scheme.as_str() == "tcp" => {
                Err(format!("{}: tcp:// needs a port", wanted()))
            }
            _ => Err(wanted()),
        }
    }
}

impl Request {
    /// A request with these header fields besides what every client sends.
    pub fn new(place: Place, path: PathAndQuery, method: Method, headers: &HeaderMap, body: Bytes) -> Self {
        let mut all = HeaderMap::new();
        // A name that is no header value is none that can be resolved either.
        if let Ok(host) = HeaderValue::try_from(place.authority()) {
            all.insert(header::HOST, host);
        }
        let agent = concat!("pointsman-bench/", env!("CARGO_PKG_VERSION"));
        all.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        all.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        // What is given replaces what is usual; a name that is given twice stays twice.
        for name in headers.keys() {
            all.remove(name);
        }
        for (name, value) in headers {
            all.append(name, value.clone());
        }
        Self { place, path, method, headers: all, body }
    }
}

/// Reads a header field, as `Name: value`.
pub fn header_field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wanted = || format!("a header is 'Name: value', not {text:?}");
    let (name, value) = text.split_once(':').ok_or_else(wanted)?;
    let name: HeaderName = name.trim().parse().map_err(|_| wanted())?;
    if name == header::CONNECTION {
        return Err("what becomes of the connection is said by --keep-alive, not by a header".to_owned());
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
            Address::Http(place, path) => (place.host, place.port, path.to_string()),
            Address::Tcp(_) => panic!("{text} is no TCP"),
        }
    }

    #[test]
    fn urls_are_read_with_what_may_be_left_out() {
        let of = |host: &str, port, path: &str| (host.to_owned(), port, path.to_owned());
        assert_eq!(http("http://localhost"), of("localhost", 80, "/"));
        assert_eq!(http("http://a.b:8080/x?y=1"), of("a.b", 8080, "/x?y=1"));
        assert_eq!(http("HTTP://[::1]:81?q"), of("::1", 81, "/?q"));
        assert_eq!("tcp://[::1]:6379".parse(), Ok(Address::Tcp(Place { host: "::1".into(), port: 6379 })));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_what_to_do() {
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
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_header_that_is_given_replaces_the_usual_one() {
        let place = Place { host: "::1".into(), port: 80 };
        let given = HeaderMap::from_iter(["Host: other", "X-A: 1"].map(|text| header_field(text).unwrap()));
        let path = PathAndQuery::from_static("/");
        let of =
            |headers| Request::new(place.clone(), path.clone(), Method::GET, headers, Bytes::new()).headers;
        let (usual, ours) = (of(&HeaderMap::new()), of(&given));
        assert_eq!((usual["host"].as_bytes(), ours["host"].as_bytes()), (&b"[::1]"[..], &b"other"[..]));
        assert_eq!(ours["x-a"], "1");
        for text in ["Connection: close", "X", "X Y: 1", "Content-Length: 3", "X: a\nb"] {
            assert!(header_field(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_place_is_read_as_it_is_written(
            host in prop_oneof![
                "[a-z][a-z0-9-]{0,9}(\\.[a-z][a-z0-9]{0,5}){0,2}",
                any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
                any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
            ],
            port in 1u16..,
        ) {
            let place = Place { host, port };
            prop_assert_eq!(format!("tcp://{place}").parse(), Ok(Address::Tcp(place.clone())));
            let path = PathAndQuery::from_static("/");
            prop_assert_eq!(format!("http://{place}").parse(), Ok(Address::Http(place, path)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(http|tcp|https)://[a-z0-9:@\\[\\]/?.]{0,16}|\\PC{0,20}") {
            let _ = text.parse::<Address>();
            let _ = header_field(&text);
        }
    }
}
